//! The forwarding methods as a laboratory uses them.

use super::{Family, Gateway, World, web::PORTS};

/// A forwarding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Address and port are rewritten both ways.
    Nat,
    /// Only the link address changes.
    Dr,
    /// Packets travel whole inside others.
    Ipip,
    /// The same inside UDP, with a header that says so.
    Gue,
    /// The same inside GRE.
    Gre,
    /// Both ends are rewritten both ways.
    FullNat,
}

impl Method {
    /// Those that a demonstration shows.
    pub const SHOWN: [Self; 4] = [Self::Nat, Self::Dr, Self::Ipip, Self::FullNat];

    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nat, Self::Dr, Self::Ipip, Self::Gue, Self::Gre, Self::FullNat];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Gre => "gre",
            Self::FullNat => "fullnat",
        }
    }

    /// The options of `xvsadm -a` that stand for it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Nat => "-m",
            Self::Dr => "-g",
            Self::Ipip => "-i",
            Self::Gue => "-i --tun-type gue --tun-port 6080 --tun-csum",
            Self::Gre => "-i --tun-type gre",
            Self::FullNat => "--fullnat",
        }
    }

    /// By whom real servers reach the client under it. Under full NAT they need not know how.
    pub const fn gateway(self) -> Gateway {
        match self {
            Self::Nat => Gateway::Balancer,
            Self::Dr | Self::Ipip | Self::Gue | Self::Gre | Self::FullNat => Gateway::Client,
        }
    }

    /// The port of the web servers under it: only the nats can map ports.
    pub const fn port(self) -> u16 {
        match self {
            Self::Nat | Self::FullNat => PORTS[1],
            _ => PORTS[0],
        }
    }

    /// The lines of `xvsadm` that make the web service of a family, with all real servers.
    pub fn lines(self, world: &World, family: Family) -> Vec<String> {
        let service = format!("-t {}:{}", family.host(family.vip()), PORTS[0]);
        let mut lines = vec![format!("-A {service} -s rr")];
        if self == Self::FullNat {
            lines.push(format!("local add {} --ports 20000-60000", family.local()));
        }
        for real in &world.reals {
            let address = family.host(real.address(family));
            let (port, option) = (self.port(), self.option());
            lines.push(format!("-a {service} -r {address}:{port} {option}"));
        }
        lines
    }
}
