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
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nat, Self::Dr, Self::Ipip];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Ipip => "ipip",
        }
    }

    /// The option of `xvsadm -a` that stands for it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Nat => "-m",
            Self::Dr => "-g",
            Self::Ipip => "-i",
        }
    }

    /// By whom real servers reach the client under it.
    pub const fn gateway(self) -> Gateway {
        match self {
            Self::Nat => Gateway::Balancer,
            Self::Dr | Self::Ipip => Gateway::Client,
        }
    }

    /// The port of the web servers under it: only nat can map ports.
    pub const fn port(self) -> u16 {
        match self {
            Self::Nat => PORTS[1],
            Self::Dr | Self::Ipip => PORTS[0],
        }
    }

    /// The lines of `xvsadm` that make the web service of a family, with all real servers.
    pub fn lines(self, world: &World, family: Family) -> Vec<String> {
        let service = format!("-t {}:{}", family.host(family.vip()), PORTS[0]);
        let mut lines = vec![format!("-A {service} -s rr")];
        for real in &world.reals {
            let address = family.host(real.address(family));
            let (port, option) = (self.port(), self.option());
            lines.push(format!("-a {service} -r {address}:{port} {option}"));
        }
        lines
    }
}
