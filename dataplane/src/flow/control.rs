//! The control word of an entry: what state a flow is in, in which of the entry's lives.
//!
//! One word, so that state, flags and life change together or not at all: see
//! [`super::Entry::try_update`].

/// Bits of [`Control::flags`].
pub mod flag {
    /// The flow lives; without it the entry is nobody's.
    pub const LIVE: u16 = 1 << 0;
    /// A persistence template.
    pub const TEMPLATE: u16 = 1 << 1;
    /// Replies do not come back through the box: dr, tunnels, local, templates.
    pub const ONE_WAY: u16 = 1 << 2;
    /// Counted in its real server's InAct; without it in Active.
    pub const INACTIVE: u16 = 1 << 3;
    /// Not yet answered for: given up first when room is short.
    pub const HALF_OPEN: u16 = 1 << 4;
    /// One-packet scheduling.
    pub const ONE_PACKET: u16 = 1 << 5;
    /// The source is translated too.
    pub const FULLNAT: u16 = 1 << 6;
    /// IPVS's NOOUTPUT: no packet of the real server seen yet, the state is a guess.
    pub const NO_OUTPUT: u16 = 1 << 7;
    /// First of the bits that the table gives no meaning to; they end below [`V4`].
    pub const FIRST_FREE: u16 = 1 << 8;
    /// All addresses that the flow's packets carry are IPv4, and none of them is one that must not be
    /// on the wire. The table's own.
    pub const V4: u16 = 1 << 12;
    /// Hangs on a template, whose slot stands where other flows count octets to the client.
    pub const CONTROLLED: u16 = 1 << 13;
    /// The flow is being inserted: nobody else may end it yet. The table's own.
    pub const ARRIVING: u16 = 1 << 14;
    /// A dead entry that found no room in its worker's limbo and waits for a sweep. The table's
    /// own.
    pub const PARKED: u16 = 1 << 15;
}

/// Generation 32, state 8, time-out class 8, flags 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub(super) u64);

#[expect(clippy::cast_possible_truncation, reason = "fields are packed into a word on purpose")]
impl Control {
    /// Packs a control word.
    #[inline]
    pub(super) const fn new(generation: u32, state: u8, class: u8, flags: u16) -> Self {
        Self((generation as u64) << 32 | (state as u64) << 24 | (class as u64) << 16 | flags as u64)
    }

    /// Which life of the entry this is.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The protocol's state, as its state machine numbers it.
    #[inline]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// The time-out class.
    #[inline]
    #[must_use]
    pub const fn class(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The flags, see [`flag`].
    #[inline]
    #[must_use]
    pub const fn flags(self) -> u16 {
        self.0 as u16
    }

    /// Whether any of these flags is set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.flags() & flags != 0
    }

    /// Whether the flow lives.
    #[inline]
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.has(flag::LIVE)
    }

    /// Whether the flow lives and its words are in the index.
    #[inline]
    pub(super) const fn is_announced(self) -> bool {
        self.flags() & (flag::LIVE | flag::ARRIVING) == flag::LIVE
    }

    /// The same with another state.
    #[inline]
    #[must_use]
    pub const fn with_state(self, state: u8) -> Self {
        Self(self.0 & !(0xff << 24) | (state as u64) << 24)
    }

    /// The same with another time-out class.
    #[inline]
    #[must_use]
    pub const fn with_class(self, class: u8) -> Self {
        Self(self.0 & !(0xff << 16) | (class as u64) << 16)
    }

    /// The same with these flags set. [`flag::LIVE`] is not for callers.
    #[inline]
    #[must_use]
    pub const fn with_flags(self, flags: u16) -> Self {
        Self(self.0 | flags as u64)
    }

    /// The same with these flags clear. [`flag::LIVE`] is not for callers.
    #[inline]
    #[must_use]
    pub const fn without_flags(self, flags: u16) -> Self {
        Self(self.0 & !(flags as u64))
    }
}
