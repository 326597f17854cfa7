//! UDP has one state, and none of its flows counts as active.
//!
//! Source: Linux `net/netfilter/ipvs/ip_vs_proto_udp.c`.

/// The only state's number.
pub const NORMAL: u8 = 0;

/// How `ipvsadm -Lc` calls it.
pub const NAME: &str = "UDP";
