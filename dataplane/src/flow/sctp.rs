//! SCTP's states as IPVS keeps them, and how a packet's chunks become one event.
//!
//! States are those of the real server's side of the association (RFC 9260, section 4), with some
//! between CLOSED and ESTABLISHED told apart so that half-open ones live shorter. Only the first
//! chunk counts, and an ABORT bundled right behind COOKIE ECHO or COOKIE ACK (the other chunks
//! that change a state are never bundled: RFC 9260, section 6.10).
//! Source: Linux `net/netfilter/ipvs/ip_vs_proto_sctp.c`; numbers are the kernel's, because the
//! sync protocol carries them.

use super::Way;

/// Chunk types that matter here (RFC 9260, section 3.2).
pub mod chunk {
    /// INIT.
    pub const INIT: u8 = 1;
    /// INIT ACK.
    pub const INIT_ACK: u8 = 2;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// SHUTDOWN.
    pub const SHUTDOWN: u8 = 7;
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// ERROR.
    pub const ERROR: u8 = 9;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 10;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 11;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Octets of SCTP's common header.
const COMMON: usize = 12;

/// State of an SCTP flow, numbered as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Nothing seen yet.
    #[default]
    None = 0,
    /// The client's first INIT.
    Init1 = 1,
    /// Its next INIT.
    Init = 2,
    /// The real server answered with INIT ACK.
    CookieSent = 3,
    /// The client sent COOKIE ECHO.
    CookieReplied = 4,
    /// The real server sent INIT.
    CookieWait = 5,
    /// The client answered it with INIT ACK.
    Cookie = 6,
    /// The real server sent COOKIE ECHO.
    CookieEchoed = 7,
    /// Data may flow.
    Established = 8,
    /// The real server sent SHUTDOWN.
    ShutdownSent = 9,
    /// The client sent SHUTDOWN.
    ShutdownReceived = 10,
    /// The real server sent SHUTDOWN ACK.
    ShutdownAckSent = 11,
    /// The other side refused the INIT.
    Rejected = 12,
    /// Over.
    Closed = 13,
}

/// How many states there are.
pub const STATES: usize = 14;

use State::{
    Closed, Cookie, CookieEchoed, CookieReplied, CookieSent, CookieWait, Established, Init, Init1,
    Rejected, ShutdownAckSent, ShutdownReceived, ShutdownSent,
};

impl State {
    /// All of them, by number.
    pub const ALL: [Self; STATES] = [
        Self::None,
        Init1,
        Init,
        CookieSent,
        CookieReplied,
        CookieWait,
        Cookie,
        CookieEchoed,
        Established,
        ShutdownSent,
        ShutdownReceived,
        ShutdownAckSent,
        Rejected,
        Closed,
    ];

    /// Whether IPVS counts a flow in this state as active.
    pub const fn is_active(self) -> bool {
        matches!(self, Established)
    }

    /// How `ipvsadm -Lc` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Init1 => "INIT1",
            Init => "INIT",
            CookieSent => "C-SENT",
            CookieReplied => "C-REPLIED",
            CookieWait => "C-WAIT",
            Cookie => "COOKIE",
            CookieEchoed => "C-ECHOED",
            Established => "ESTABLISHED",
            ShutdownSent => "S-SENT",
            ShutdownReceived => "S-RECEIVED",
            ShutdownAckSent => "S-ACK-SENT",
            Rejected => "REJECTED",
            Closed => "CLOSED",
        }
    }
}

/// The chunk type by which a packet's state is judged: `first`, the type of its first chunk, or
/// ABORT if one is bundled right behind a COOKIE ECHO or COOKIE ACK. `segment` starts at the
/// common header.
///
/// Runs on the packet path.
#[inline]
pub fn decisive_chunk(first: u8, segment: &[u8]) -> u8 {
    if !matches!(first, chunk::COOKIE_ECHO | chunk::COOKIE_ACK) {
        return first;
    }
    let Some(&[high, low]) = segment.get(COMMON + 2..COMMON + 4) else { return first };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // A second chunk needs a whole header of its own, four octets.
    let second = COMMON + length.next_multiple_of(4);
    match segment.get(second..second + 4) {
        Some(&[chunk::ABORT, ..]) if length >= 4 => chunk::ABORT,
        _ => first,
    }
}

/// State after a packet whose [`decisive_chunk`] is `chunk` and that travels `way`. A `state` out
/// of range counts as closed.
///
/// Runs on the packet path: two loads from tables of one page.
#[inline]
pub const fn next(way: Way, chunk: u8, state: u8) -> u8 {
    let event = if chunk < 16 { EVENTS[chunk as usize] } else { 0 } as usize;
    NEXT[way as usize][event][(state & 15) as usize]
}

/// Chunk types that have rows in the table; row 0 is DATA, which stands for all others.
const ROWS: [u8; 10] = [
    0,
    chunk::INIT,
    chunk::INIT_ACK,
    chunk::COOKIE_ECHO,
    chunk::COOKIE_ACK,
    chunk::SHUTDOWN,
    chunk::SHUTDOWN_ACK,
    chunk::SHUTDOWN_COMPLETE,
    chunk::ERROR,
    chunk::ABORT,
];

/// Row of a chunk type.
const EVENTS: [u8; 16] = {
    let mut events = [0; 16];
    let mut row: u8 = 0;
    while (row as usize) < ROWS.len() {
        events[ROWS[row as usize] as usize] = row;
        row += 1;
    }
    events
};

/// The rules below as a table: way, row, state.
static NEXT: [[[u8; 16]; ROWS.len()]; 3] = {
    let mut table = [[[Closed as u8; 16]; ROWS.len()]; 3];
    let mut i = 0;
    while i < ROWS.len() * STATES {
        let (row, state) = (i % ROWS.len(), State::ALL[i / ROWS.len()]);
        let s = state as usize;
        table[Way::ToReal as usize][row][s] = to_real(ROWS[row], state) as u8;
        table[Way::ToClient as usize][row][s] = to_client(ROWS[row], state) as u8;
        table[Way::ToRealOnly as usize][row][s] = to_real_only(ROWS[row], state) as u8;
        i += 1;
    }
    table
};

/// Rules for the client's packets.
const fn to_real(chunk: u8, state: State) -> State {
    match (chunk, state) {
        (chunk::INIT, State::None) => Init1,
        (chunk::INIT, Init1 | Rejected | Closed) => Init,
        (chunk::INIT_ACK, State::None | Init1 | Init) => CookieWait,
        (chunk::INIT_ACK, CookieWait) => Cookie,
        (chunk::COOKIE_ECHO, State::None | CookieSent) => CookieReplied,
        (chunk::COOKIE_ECHO | chunk::SHUTDOWN_ACK, Init1) => Init,
        (chunk::COOKIE_ACK, CookieEchoed) => Established,
        (chunk::SHUTDOWN, State::None | Established) => ShutdownReceived,
        (chunk::SHUTDOWN_ACK, State::None | ShutdownSent | ShutdownAckSent)
        | (chunk::SHUTDOWN_COMPLETE, State::None | Init1 | Init | ShutdownAckSent)
        | (chunk::ERROR, State::None | CookieEchoed) => Closed,
        (chunk::ABORT, CookieWait) => Rejected,
        (chunk::ABORT, _) => Closed,
        (_, State::None) => Established,
        _ => state,
    }
}

/// Rules for the real server's packets.
const fn to_client(chunk: u8, state: State) -> State {
    match (chunk, state) {
        (chunk::INIT, Established) => Established,
        (chunk::INIT, _) => CookieWait,
        (chunk::INIT_ACK, State::None | Init1 | Init) => CookieSent,
        (chunk::COOKIE_ECHO, _) if is_before(state, Established) => CookieEchoed,
        (chunk::COOKIE_ACK, _) if is_before(state, Established) => Established,
        (chunk::SHUTDOWN, _) if is_before(state, ShutdownSent) => ShutdownSent,
        (chunk::SHUTDOWN_ACK, ShutdownSent | ShutdownReceived) => ShutdownAckSent,
        (chunk::SHUTDOWN_ACK, _) if is_before(state, CookieWait) => ShutdownAckSent,
        (chunk::SHUTDOWN_COMPLETE, State::None) => Closed,
        (chunk::ERROR, _) if is_before(state, CookieWait) => Closed,
        (chunk::ABORT, Init1) => Rejected,
        (chunk::ABORT, _) => Closed,
        (0, State::None) => Established,
        _ => state,
    }
}

/// Rules for the client's packets where the real server's are never seen.
const fn to_real_only(chunk: u8, state: State) -> State {
    match (chunk, state) {
        (chunk::INIT, CookieSent | CookieReplied | CookieWait) => Init,
        (chunk::INIT_ACK, _) if is_before(state, Cookie) => CookieEchoed,
        (chunk::COOKIE_ECHO, _) if is_before(state, Cookie) => Established,
        (chunk::COOKIE_ACK, CookieSent | CookieReplied | Cookie) | (0, CookieWait) => Established,
        (chunk::SHUTDOWN_ACK, Established)
        | (chunk::SHUTDOWN_COMPLETE, CookieSent | CookieReplied | ShutdownReceived) => Closed,
        (chunk::ERROR, CookieEchoed) => CookieEchoed,
        _ => to_real(chunk, state),
    }
}

/// Whether `state` comes before `limit` in the order of their numbers, which is that of an
/// association's life.
const fn is_before(state: State, limit: State) -> bool {
    (state as u8) < limit as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_association_opens_and_the_server_closes_it() {
        use Way::{ToClient, ToReal};
        let steps = [
            (ToReal, chunk::INIT),
            (ToClient, chunk::INIT_ACK),
            (ToReal, chunk::COOKIE_ECHO),
            (ToClient, chunk::COOKIE_ACK),
            (ToClient, chunk::SHUTDOWN),
            (ToReal, chunk::SHUTDOWN_ACK),
        ];
        let mut state = 0;
        let names = steps.map(|(way, chunk)| {
            state = next(way, chunk, state);
            State::ALL[usize::from(state)].name()
        });
        assert_eq!(names, ["INIT1", "C-SENT", "C-REPLIED", "ESTABLISHED", "S-SENT", "CLOSED"]);
    }

    #[test]
    fn an_abort_behind_a_cookie_decides() {
        let mut segment = vec![0; 12];
        segment.extend([chunk::COOKIE_ECHO, 0, 0, 7, 1, 2, 3, 0]);
        assert_eq!(decisive_chunk(chunk::COOKIE_ECHO, &segment), chunk::COOKIE_ECHO);
        segment.extend([chunk::ABORT, 0, 0, 4]);
        assert_eq!(decisive_chunk(chunk::COOKIE_ECHO, &segment), chunk::ABORT);
        assert_eq!(decisive_chunk(chunk::INIT, &segment), chunk::INIT);
        segment[15] = 3; // A length below its own header's ends the search.
        assert_eq!(decisive_chunk(chunk::COOKIE_ECHO, &segment), chunk::COOKIE_ECHO);
        assert_eq!(decisive_chunk(chunk::COOKIE_ACK, &segment[..14]), chunk::COOKIE_ACK);
        segment[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(decisive_chunk(chunk::COOKIE_ECHO, &segment), chunk::COOKIE_ECHO);
    }

    #[test]
    fn no_octet_leads_out_of_the_table() {
        for way in [Way::ToReal, Way::ToClient, Way::ToRealOnly] {
            for chunk in 0..=255 {
                for state in 0..=255 {
                    assert!(usize::from(next(way, chunk, state)) < STATES);
                }
            }
        }
    }
}
