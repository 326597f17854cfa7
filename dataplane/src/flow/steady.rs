//! Which packets leave their flow as it is: nearly all of them.
//!
//! A flow's time-out class tells its protocol and state, so one bit for every way, flag octet and
//! class says whether [`state::transition`] would give back the control word it was given. What it
//! says of is TCP and UDP; a packet with SYN is never steady, because it may begin a new connection.
//! A flow that was just made has a class of its own and is never steady either.

use super::{Control, Direction, Way, flag::NO_OUTPUT, tcp, timeout};

/// Bits by way and TCP's five flags that matter; a bit for each class below 64.
#[derive(Clone, Copy, Debug)]
pub struct Steady(&'static [[u64; 32]; WAYS]);

/// [`Way`], and one more: a packet of the real server in a flow that has seen none. It changes that.
const WAYS: usize = 4;

impl Steady {
    /// The bits, with or without `secure_tcp`.
    pub const fn new(secure_tcp: bool) -> Self {
        Self(&BITS[secure_tcp as usize])
    }

    /// Whether a packet with these TCP flags (of no meaning for UDP) changes nothing in the control word.
    #[inline(always)]
    pub const fn holds(self, control: Control, direction: Direction, flags: u8) -> bool {
        let no_output = control.has(NO_OUTPUT) as usize;
        let way = direction as usize + 2 * no_output;
        self.0[way & (WAYS - 1)][(flags & 0x1f) as usize] >> (control.class() & 63) & 1 != 0
    }
}

/// By `secure_tcp`.
#[expect(clippy::cast_possible_truncation, reason = "32 flag octets")]
static BITS: [[[u64; 32]; WAYS]; 2] = {
    let mut bits = [[[0; 32]; WAYS]; 2];
    let ways = [Way::ToReal, Way::ToClient, Way::ToRealOnly];
    let mut i = 0;
    while i < 2 * 3 * 32 {
        let (secure, way, flags) = (i % 2, ways[i / 2 % 3], i / 6);
        bits[secure][way as usize][flags] = steady(secure == 1, way, flags as u8);
        i += 1;
    }
    bits
};

/// The classes that a packet leaves alone.
const fn steady(secure: bool, way: Way, flags: u8) -> u64 {
    let mut bits = 1 << timeout::UDP;
    let mut i = 0;
    while i < tcp::STATES {
        let state = tcp::State::ALL[i] as u8;
        if flags & tcp::SYN == 0 && tcp::next(secure, way, flags, state) == state {
            bits |= 1 << (timeout::TCP + state);
        }
        i += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{
            flag::{HALF_OPEN, INACTIVE, LIVE},
            state::{self, Step},
        },
        wire::protocol,
    };

    /// What the long way makes of a control word, as `Pipeline::advance` puts it together.
    fn advanced(seen: Control, direction: Direction, flags: u8, secure_tcp: bool) -> Control {
        let protocol = if seen.class() == timeout::UDP { protocol::UDP } else { protocol::TCP };
        let next = state::transition(Step {
            protocol,
            direction,
            state: seen.state(),
            flags,
            no_output: seen.has(NO_OUTPUT),
            secure_tcp,
        });
        let set = |on: bool, flag: u16| if on { flag } else { 0 };
        let still_half_open = seen.has(HALF_OPEN) && state::is_half_open(protocol, next.state);
        let flags = set(still_half_open, HALF_OPEN)
            | set(!next.active, INACTIVE)
            | set(next.no_output, NO_OUTPUT);
        let rest = seen.without_flags(HALF_OPEN | INACTIVE | NO_OUTPUT);
        rest.with_state(next.state).with_class(next.class).with_flags(flags)
    }

    #[test]
    fn steady_packets_are_those_that_change_nothing_and_begin_nothing() {
        let mut steady = 0;
        for secure in [false, true] {
            for no_output in [0, NO_OUTPUT] {
                // Every control word that a packet can leave behind, and those of new flows.
                let mut seen =
                    vec![Control::new(9, 0, timeout::FRESH, LIVE | INACTIVE | no_output)];
                seen.push(Control::new(9, 0, timeout::UDP, LIVE | INACTIVE | no_output));
                for state in 0..11 {
                    let active = state::is_active(protocol::TCP, state);
                    let flags = LIVE | no_output | if active { 0 } else { INACTIVE };
                    seen.push(Control::new(9, state, timeout::TCP + state, flags));
                }
                for (control, flags) in seen.iter().flat_map(|&c| (0..=255).map(move |f| (c, f))) {
                    let udp = control.class() == timeout::UDP;
                    for direction in [Direction::ToReal, Direction::ToClient] {
                        let begins = !udp && flags & tcp::SYN != 0;
                        let ends_guess = direction == Direction::ToClient && no_output != 0;
                        let same = advanced(control, direction, flags, secure) == control;
                        let expected = same && !begins && !ends_guess;
                        let holds = Steady::new(secure).holds(control, direction, flags);
                        assert_eq!(holds, expected, "{control:?} {direction:?} {flags:#x}");
                        steady += u32::from(holds);
                    }
                }
            }
        }
        assert!(steady > 1000);
    }

    #[test]
    fn an_established_flow_is_steady_under_data() {
        let control = Control::new(1, 1, timeout::TCP + 1, LIVE);
        for direction in [Direction::ToReal, Direction::ToClient] {
            assert!(Steady::new(false).holds(control, direction, tcp::ACK | 0x08));
            assert!(!Steady::new(false).holds(control, direction, tcp::FIN | tcp::ACK));
        }
    }
}
