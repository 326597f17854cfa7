//! What a packet does to the state of its flow: one pure function for all protocols.
//!
//! State, time-out class and whether the flow counts as active follow from the packet and the
//! state before it, nothing else. Also here: which packets may open a flow, and which ask for a
//! new one in place of a flow that is over.
//! Source: Linux `net/netfilter/ipvs/ip_vs_proto_{tcp,udp,sctp}.c`; `ip_vs_core.c`
//! (`is_new_conn`, `is_new_conn_expected`).

use super::{Direction, Way, sctp, tcp, timeout, udp};
use crate::wire::protocol;

/// One packet of a flow, as far as the state is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// IP protocol number.
    pub protocol: u8,
    /// Which way the packet travels.
    pub direction: Direction,
    /// The flow's state before it.
    pub state: u8,
    /// TCP's flag octet; SCTP's [`sctp::decisive_chunk`]; meaningless for UDP.
    pub flags: u8,
    /// The flow's `no_output`: set on a new flow whose replies do not come back through the box
    /// (every method but nat and fullnat), cleared by the first packet that comes nevertheless.
    pub no_output: bool,
    /// Whether `secure_tcp` is in force.
    pub secure_tcp: bool,
}

/// What the flow is after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its state.
    pub state: u8,
    /// Its time-out class, see [`timeout`]. Every packet starts the time-out anew.
    pub class: u8,
    /// Whether it counts as active.
    pub active: bool,
    /// Its `no_output`.
    pub no_output: bool,
    /// Whether the template that the flow hangs on, if any, becomes ASSURED by this packet.
    pub assures: bool,
}

/// State of a flow after a packet.
///
/// A packet whose transport header is cut short changes nothing: do not ask. Runs on the packet
/// path.
#[inline]
pub const fn transition(step: Step) -> Next {
    let output = matches!(step.direction, Direction::ToClient);
    let no_output = step.no_output && !output;
    let way = match step.direction {
        Direction::ToClient => Way::ToClient,
        Direction::ToReal if no_output => Way::ToRealOnly,
        Direction::ToReal => Way::ToReal,
    };
    match step.protocol {
        protocol::TCP => {
            let state = tcp::next(step.secure_tcp, way, step.flags, step.state);
            let assures = state == tcp::State::Established as u8 && state != step.state;
            let active = ACTIVE_TCP >> state & 1 != 0;
            Next { state, class: timeout::TCP + state, active, no_output, assures }
        }
        protocol::SCTP => {
            let state = sctp::next(way, step.flags, step.state);
            let established = state == sctp::State::Established as u8;
            let assures = established && state != step.state;
            Next { state, class: timeout::SCTP + state, active: established, no_output, assures }
        }
        _ => Next {
            state: udp::NORMAL,
            class: timeout::UDP,
            active: false,
            no_output: step.no_output,
            assures: output,
        },
    }
}

/// Bit N: TCP's state N counts as active.
const ACTIVE_TCP: u16 = {
    let mut bits = 0;
    let mut i = 0;
    while i < tcp::STATES {
        bits |= (tcp::State::ALL[i].is_active() as u16) << i;
        i += 1;
    }
    bits
};

/// Whether a flow in this state counts as active.
pub const fn is_active(protocol: u8, state: u8) -> bool {
    match protocol {
        protocol::TCP => state < 16 && ACTIVE_TCP >> state & 1 != 0,
        protocol::SCTP => state == sctp::State::Established as u8,
        _ => false,
    }
}

/// Whether a flow in this state has not been established yet: it is given up first when room is
/// short.
#[inline]
pub const fn is_half_open(protocol: u8, state: u8) -> bool {
    match protocol {
        protocol::TCP => {
            state == tcp::State::None as u8
                || (is_active(protocol, state) && state != tcp::State::Established as u8)
        }
        protocol::SCTP => state < sctp::State::Established as u8,
        _ => false,
    }
}

/// How `ipvsadm -Lc` calls a flow's state; templates have names of their own:
/// [`template_state_name`].
pub fn state_name(protocol: u8, state: u8) -> &'static str {
    let state = usize::from(state);
    match protocol {
        protocol::TCP => tcp::State::ALL.get(state).map_or("ERR!", |state| state.name()),
        protocol::SCTP => sctp::State::ALL.get(state).map_or("ERR!", |state| state.name()),
        protocol::UDP => udp::NAME,
        _ => "NONE",
    }
}

/// How `ipvsadm -Lc` calls a template's state. Assured: one of its flows was established.
pub const fn template_state_name(assured: bool) -> &'static str {
    if assured { "ASSURED" } else { "NONE" }
}

/// `sloppy_tcp` and `sloppy_sctp`: let a flow begin in its middle, after a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sloppy {
    /// Any TCP packet but a reset opens a flow.
    pub tcp: bool,
    /// Any SCTP packet but an ABORT opens a flow.
    pub sctp: bool,
}

/// Whether a packet that belongs to no flow may open one. `flags` are TCP's flag octet or the
/// type of SCTP's **first** chunk.
#[inline]
pub const fn opens(protocol: u8, flags: u8, sloppy: Sloppy) -> bool {
    match protocol {
        protocol::TCP => flags & tcp::RST == 0 && (sloppy.tcp || flags & tcp::SYN != 0),
        protocol::SCTP => {
            flags != sctp::chunk::ABORT && (sloppy.sctp || flags == sctp::chunk::INIT)
        }
        protocol::UDP => true,
        _ => false,
    }
}

/// Whether a packet begins a connection of its own: SYN, INIT. `flags` as for [`opens`].
#[inline]
pub const fn begins(protocol: u8, flags: u8) -> bool {
    match protocol {
        protocol::TCP => flags & tcp::SYN != 0,
        protocol::SCTP => flags == sctp::chunk::INIT,
        _ => false,
    }
}

/// Whether a flow in this state is over, so that a packet that [`begins`] one is scheduled anew.
/// `reuse_mode` is `conn_reuse_mode`: 0 never, bit 1 also TCP's FIN_WAIT while no packet of the
/// real server was seen. Never ask for a flow that hangs on a template: it stays.
#[inline]
pub const fn is_over(protocol: u8, state: u8, no_output: bool, reuse_mode: u8) -> bool {
    if reuse_mode == 0 {
        return false;
    }
    match protocol {
        protocol::TCP => {
            state == tcp::State::TimeWait as u8
                || state == tcp::State::Close as u8
                || (reuse_mode & 2 != 0 && state == tcp::State::FinWait as u8 && no_output)
        }
        protocol::SCTP => state == sctp::State::Closed as u8,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp::{ACK, FIN, RST, SYN};

    #[test]
    fn syn_opens_whatever_else_is_set_but_reset() {
        let strict = Sloppy::default();
        for flags in [SYN, SYN | ACK, SYN | FIN, SYN | 0x28] {
            assert!(opens(protocol::TCP, flags, strict));
        }
        for flags in [SYN | RST, ACK, FIN, RST, 0] {
            assert!(!opens(protocol::TCP, flags, strict));
        }
        let sloppy = Sloppy { tcp: true, sctp: true };
        assert!(opens(protocol::TCP, ACK, sloppy) && opens(protocol::TCP, 0, sloppy));
        assert!(!opens(protocol::TCP, RST | ACK, sloppy));
        assert!(opens(protocol::SCTP, 0, sloppy) && !opens(protocol::SCTP, 0, strict));
        assert!(!opens(protocol::SCTP, sctp::chunk::ABORT, sloppy));
        assert!(opens(protocol::UDP, 0, strict) && !opens(protocol::ICMP, 0, strict));
    }

    #[test]
    fn a_reply_that_comes_through_us_ends_no_output() {
        let step = Step {
            protocol: protocol::TCP,
            direction: Direction::ToReal,
            state: tcp::State::Established as u8,
            flags: FIN | ACK,
            no_output: true,
            secure_tcp: false,
        };
        assert_eq!(state_name(protocol::TCP, transition(step).state), "FIN_WAIT");
        let reply = transition(Step { direction: Direction::ToClient, flags: ACK, ..step });
        assert!(!reply.no_output);
        let fin = transition(Step { no_output: reply.no_output, ..step });
        assert_eq!(state_name(protocol::TCP, fin.state), "CLOSE_WAIT");
        assert!(!fin.active);
    }

    #[test]
    fn fin_wait_is_over_only_with_bit_two_and_one_direction_seen() {
        let fin_wait = tcp::State::FinWait as u8;
        assert!(is_over(protocol::TCP, fin_wait, true, 2));
        assert!(!is_over(protocol::TCP, fin_wait, true, 1));
        assert!(!is_over(protocol::TCP, fin_wait, false, 3));
        assert!(!is_over(protocol::TCP, tcp::State::TimeWait as u8, true, 0));
        assert!(is_over(protocol::TCP, tcp::State::Close as u8, false, 1));
        assert!(!is_over(protocol::UDP, 0, false, 3));
    }
}
