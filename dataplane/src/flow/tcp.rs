//! TCP's states as IPVS keeps them: a view from the middle, not an endpoint's state machine.
//!
//! A packet has one event, by precedence RST, SYN, FIN, ACK; a packet with none of them closes
//! any flow. Three sets of rules: for packets of the client, of the real server, and of the client
//! where the other side is never seen ([`Way`]). `secure_tcp` has rules of its own, which believe
//! in a connection only once the real server has acknowledged something.
//! Source: Linux `net/netfilter/ipvs/ip_vs_proto_tcp.c`; state numbers are the kernel's, because
//! the sync protocol carries them.

use super::Way;

/// FIN in the flag octet.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// State of a TCP flow, numbered as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nothing seen yet.
    #[default]
    None = 0,
    /// Data may flow.
    Established = 1,
    /// The real server opened it.
    SynSent = 2,
    /// The client opened it.
    SynRecv = 3,
    /// The real server, or with one direction seen the client, has closed.
    FinWait = 4,
    /// Both have closed.
    TimeWait = 5,
    /// Reset.
    Close = 6,
    /// The client has closed.
    CloseWait = 7,
    /// Unused by the rules.
    LastAck = 8,
    /// Unused but for active FTP.
    Listen = 9,
    /// `secure_tcp`: opened, not yet believed.
    SynAck = 10,
}

/// How many states there are.
pub const STATES: usize = 11;

use State::{
    Close, CloseWait, Established, FinWait, LastAck, Listen, SynAck, SynRecv, SynSent, TimeWait,
};

impl State {
    /// All of them, by number.
    pub const ALL: [Self; STATES] = [
        Self::None,
        Established,
        SynSent,
        SynRecv,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Listen,
        SynAck,
    ];

    /// Whether IPVS counts a flow in this state as active.
    pub const fn is_active(self) -> bool {
        matches!(self, Established | SynSent | SynRecv | SynAck)
    }

    /// How `ipvsadm -Lc` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Established => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            SynAck => "SYNACK",
        }
    }
}

/// The one thing that a packet's flags mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Event {
    Syn = 0,
    Fin = 1,
    Ack = 2,
    Rst = 3,
    Nothing = 4,
}

impl Event {
    /// By precedence.
    const fn of(flags: u8) -> Self {
        if flags & RST != 0 {
            Self::Rst
        } else if flags & SYN != 0 {
            Self::Syn
        } else if flags & FIN != 0 {
            Self::Fin
        } else if flags & ACK != 0 {
            Self::Ack
        } else {
            Self::Nothing
        }
    }
}

/// State after a packet with `flags` that travels `way`. A `state` out of range counts as the
/// state its low four bits name, or as closed.
///
/// Runs on the packet path: two loads from tables of one page.
#[inline]
pub const fn next(secure_tcp: bool, way: Way, flags: u8, state: u8) -> u8 {
    let event = EVENTS[(flags & 0x1f) as usize] as usize;
    NEXT[secure_tcp as usize][way as usize][event][(state & 15) as usize]
}

/// [`Event::of`] for the five flags that matter.
const EVENTS: [u8; 32] = {
    let mut events = [0; 32];
    let mut flags = 0;
    while flags < 32 {
        events[flags as usize] = Event::of(flags) as u8;
        flags += 1;
    }
    events
};

/// The rules below as a table: secure_tcp, way, event, state.
static NEXT: [[[[u8; 16]; 5]; 3]; 2] = {
    let mut table = [[[[Close as u8; 16]; 5]; 3]; 2];
    let events = [Event::Syn, Event::Fin, Event::Ack, Event::Rst];
    let ways = [Way::ToReal, Way::ToClient, Way::ToRealOnly];
    let mut i = 0;
    while i < 3 * 4 * STATES {
        let (way, event, state) = (ways[i % 3], events[i / 3 % 4], State::ALL[i / 12]);
        let (w, e, s) = (way as usize, event as usize, state as usize);
        table[0][w][e][s] = usual(way, event, state) as u8;
        table[1][w][e][s] = secure(way, event, state) as u8;
        i += 1;
    }
    table
};

/// The rules without `secure_tcp`.
const fn usual(way: Way, event: Event, state: State) -> State {
    match event {
        Event::Syn => syn(way, state),
        Event::Fin => fin(way, state),
        Event::Ack => match (way, state) {
            (_, State::None | SynRecv | SynAck) | (Way::ToClient, Listen) => Established,
            (Way::ToReal | Way::ToRealOnly, LastAck) => Close,
            _ => state,
        },
        Event::Rst => rst(way, state),
        Event::Nothing => Close,
    }
}

/// Somebody opens.
const fn syn(way: Way, state: State) -> State {
    match way {
        Way::ToClient => match state {
            Established | Listen => state,
            SynRecv | SynAck => SynRecv,
            _ => SynSent,
        },
        Way::ToReal | Way::ToRealOnly => match state {
            Established | SynSent => Established,
            _ => SynRecv,
        },
    }
}

/// Somebody closes.
const fn fin(way: Way, state: State) -> State {
    match (way, state) {
        (_, SynSent | Close | LastAck | Listen) => state,
        (Way::ToClient, State::None | CloseWait) => TimeWait,
        (_, State::None) => Close,
        (Way::ToReal, Established) => CloseWait,
        (_, Established) => FinWait,
        (Way::ToReal, FinWait) => TimeWait,
        (_, FinWait) => FinWait,
        (_, CloseWait) => CloseWait,
        (_, SynRecv | TimeWait | SynAck) => TimeWait,
    }
}

/// Somebody gives up. A client's RST right after its SYN proves nothing: the SYN may be forged.
const fn rst(way: Way, state: State) -> State {
    match (way, state) {
        (Way::ToClient, SynSent | TimeWait) => state,
        (Way::ToClient, _) => Close,
        (Way::ToReal, SynAck) => SynRecv,
        (_, SynRecv | LastAck | Listen) => state,
        _ => Close,
    }
}

/// The rules of `secure_tcp`, where they differ.
const fn secure(way: Way, event: Event, state: State) -> State {
    match (way, event, state) {
        (Way::ToReal, Event::Syn | Event::Fin | Event::Ack, SynAck) => SynAck,
        (Way::ToReal, Event::Ack, SynRecv) => SynRecv,
        (Way::ToReal, Event::Rst, SynAck) => Close,
        (Way::ToClient, Event::Syn, SynRecv | SynAck) => SynAck,
        (Way::ToRealOnly, Event::Syn, Established | SynSent | SynRecv) => usual(way, event, state),
        (Way::ToRealOnly, Event::Syn, _) => SynAck,
        _ => usual(way, event, state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(secure: bool, steps: &[(Way, u8)]) -> Vec<&'static str> {
        let mut state = 0;
        steps
            .iter()
            .map(|&(way, flags)| {
                state = next(secure, way, flags, state);
                State::ALL[usize::from(state)].name()
            })
            .collect()
    }

    #[test]
    fn who_closes_first_decides_the_way_to_time_wait() {
        use Way::{ToClient, ToReal};
        let open = [(ToReal, SYN), (ToClient, SYN | ACK), (ToReal, ACK)];
        let client = walk(false, &[&open[..], &[(ToReal, FIN | ACK), (ToClient, FIN)]].concat());
        assert_eq!(client[2..], ["ESTABLISHED", "CLOSE_WAIT", "TIME_WAIT"]);
        let server = walk(false, &[&open[..], &[(ToClient, FIN | ACK), (ToReal, FIN)]].concat());
        assert_eq!(server[2..], ["ESTABLISHED", "FIN_WAIT", "TIME_WAIT"]);
    }

    #[test]
    fn with_one_direction_seen_the_first_fin_is_the_end() {
        let steps = [SYN, ACK, FIN | ACK, ACK, FIN].map(|flags| (Way::ToRealOnly, flags));
        let names = walk(false, &steps);
        assert_eq!(names, ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "FIN_WAIT", "FIN_WAIT"]);
    }

    #[test]
    fn reset_beats_syn_beats_fin_beats_ack() {
        assert_eq!(Event::of(0xff), Event::Rst);
        assert_eq!(Event::of(SYN | FIN | ACK), Event::Syn);
        assert_eq!(Event::of(FIN | ACK), Event::Fin);
        assert_eq!(Event::of(ACK | 0xe8), Event::Ack);
        assert_eq!(Event::of(0xe8), Event::Nothing);
    }

    #[test]
    fn secure_tcp_waits_for_the_server() {
        use Way::{ToClient, ToReal};
        let steps = [(ToReal, SYN), (ToClient, SYN | ACK), (ToReal, ACK), (ToClient, ACK)];
        assert_eq!(walk(true, &steps), ["SYN_RECV", "SYNACK", "SYNACK", "ESTABLISHED"]);
    }

    #[test]
    fn no_octet_leads_out_of_the_table() {
        for secure in [false, true] {
            for way in [Way::ToReal, Way::ToClient, Way::ToRealOnly] {
                for flags in 0..=255 {
                    for state in 0..=255 {
                        assert!(usize::from(next(secure, way, flags, state)) < STATES);
                    }
                }
            }
        }
    }
}
