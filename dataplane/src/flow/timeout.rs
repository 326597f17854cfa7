//! How long a flow lives after its last packet: one table, looked up by time-out class.
//!
//! A class is an octet of the flow's control word, so that one load says when the flow is due
//! and a change of the table reaches living flows. `ipvsadm --set` changes three entries.
//! Source: the time-out tables of Linux `net/netfilter/ipvs/ip_vs_proto_{tcp,udp,sctp}.c`.

use super::{sctp, tcp};
use crate::clock::TICKS_PER_SECOND;

/// First class of TCP's states, by state number.
pub const TCP: u8 = 0;
/// UDP's only class.
pub const UDP: u8 = 16;
/// First class of SCTP's states, by state number.
pub const SCTP: u8 = 32;
/// A flow made without a packet of its own, for an ICMP error: 3 s.
pub const FRESH: u8 = 64;
/// A template that ran out while flows still hang on it: 60 s more, again and again.
pub const HELD: u8 = 65;
/// The entry brings its own time-out (templates: the service's `-p`); the table says nothing.
pub const OWN: u8 = 255;

/// Longest time-out, in seconds: more would not compare as a difference of ticks.
pub const SECONDS_MAX: u32 = u32::MAX / 2 / TICKS_PER_SECOND;

/// Ticks by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; 256]);

impl Default for Timeouts {
    /// IPVS's own values.
    fn default() -> Self {
        let mut table = Self([0; 256]);
        for state in tcp::State::ALL {
            table.put(TCP + state as u8, tcp_seconds(state));
        }
        for state in sctp::State::ALL {
            table.put(SCTP + state as u8, sctp_seconds(state));
        }
        table.put(UDP, 300);
        table.put(FRESH, 3);
        table.put(HELD, 60);
        table
    }
}

impl Timeouts {
    /// Ticks that a flow of this class lives after its last packet; 0 for [`OWN`] and for classes
    /// that nothing has.
    ///
    /// Runs on the packet path.
    #[inline]
    pub const fn ticks(&self, class: u8) -> u32 {
        self.0[class as usize]
    }

    /// The same in seconds.
    pub const fn seconds(&self, class: u8) -> u32 {
        self.ticks(class) / TICKS_PER_SECOND
    }

    /// `ipvsadm --set`: seconds for TCP's ESTABLISHED, TCP's FIN_WAIT and UDP. 0 keeps a value;
    /// more than [`SECONDS_MAX`] is taken as that.
    pub fn set(&mut self, tcp: u32, tcp_fin: u32, udp: u32) {
        for (class, seconds) in [
            (TCP + tcp::State::Established as u8, tcp),
            (TCP + tcp::State::FinWait as u8, tcp_fin),
            (UDP, udp),
        ] {
            if seconds != 0 {
                self.put(class, seconds);
            }
        }
    }

    /// The three values that [`Timeouts::set`] changes, in its order, in seconds.
    pub const fn changeable(&self) -> (u32, u32, u32) {
        (
            self.seconds(TCP + tcp::State::Established as u8),
            self.seconds(TCP + tcp::State::FinWait as u8),
            self.seconds(UDP),
        )
    }

    /// Seconds for one class, 1 at least; more than [`SECONDS_MAX`] is taken as that.
    pub fn set_class(&mut self, class: u8, seconds: u32) {
        self.put(class, seconds.max(1));
    }

    /// Stores seconds.
    fn put(&mut self, class: u8, seconds: u32) {
        self.0[usize::from(class)] = seconds.min(SECONDS_MAX) * TICKS_PER_SECOND;
    }
}

/// TCP's defaults.
const fn tcp_seconds(state: tcp::State) -> u32 {
    use tcp::State::{
        Close, CloseWait, Established, FinWait, LastAck, Listen, None, SynAck, SynRecv, SynSent,
        TimeWait,
    };
    match state {
        None => 2,
        Established => 900,
        SynRecv | CloseWait => 60,
        SynSent | FinWait | TimeWait | Listen | SynAck => 120,
        Close => 10,
        LastAck => 30,
    }
}

/// SCTP's defaults: the longest retransmission time-out (RFC 9260, section 16) and a second more
/// for all but a few.
const fn sctp_seconds(state: sctp::State) -> u32 {
    use sctp::State::{Established, Init1, None, Rejected};
    match state {
        None => 2,
        Init1 | Rejected => 4,
        Established => 900,
        _ => 61,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_changes_three_values_and_zero_keeps_one() {
        let mut table = Timeouts::default();
        table.set(100, 0, 20);
        assert_eq!(table.seconds(TCP + tcp::State::Established as u8), 100);
        assert_eq!(table.seconds(TCP + tcp::State::FinWait as u8), 120);
        assert_eq!(table.seconds(UDP), 20);
        assert_eq!(table.seconds(SCTP + sctp::State::Established as u8), 900);
        table.set(0, 7, 0);
        let mut other = Timeouts::default();
        other.set(100, 7, 20);
        assert_eq!(table, other);
    }

    #[test]
    fn the_longest_time_out_still_compares() {
        let mut table = Timeouts::default();
        table.set(u32::MAX, 0, 0);
        assert!(table.ticks(TCP + tcp::State::Established as u8) <= u32::MAX / 2);
    }
}
