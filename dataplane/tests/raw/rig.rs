//! client c0 - l0 box l1 - s0 server: three namespaces, all offloads on.

use std::time::Duration;

use xvs_dataplane::{
    io::raw::{self, RawIo},
    verdict::DeviceId,
};

use crate::netns::Netns;

pub(crate) const FIRST: DeviceId = DeviceId(0);
pub(crate) const SECOND: DeviceId = DeviceId(1);

/// Link addresses, so that tests need not ask for them.
pub(crate) const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub(crate) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// How long what must come is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// client c0 <-> l0 box l1 <-> s0 server.
pub(crate) struct Rig {
    pub(crate) client: Netns,
    pub(crate) lb: Netns,
    pub(crate) server: Netns,
}

impl Rig {
    pub(crate) fn new() -> Option<Self> {
        let (client, lb, server) = (Netns::new()?, Netns::new()?, Netns::new()?);
        client.connect("c0", &lb, "l0");
        lb.connect("l1", &server, "s0");
        let ends = [
            (&client, "c0", CLIENT),
            (&lb, "l0", LEFT),
            (&lb, "l1", RIGHT),
            (&server, "s0", SERVER),
        ];
        for (namespace, end, mac) in ends {
            namespace.ip(&format!("link set {end} address {}", text(mac)));
        }
        Some(Self { client, lb, server })
    }

    /// Client and server believe to share a link; the box has no addresses.
    pub(crate) fn one_subnet(&self) {
        let ends = [(&self.client, "c0", 1, 2, LEFT), (&self.server, "s0", 2, 1, RIGHT)];
        for (namespace, end, own, other, mac) in ends {
            namespace.ip(&format!("addr add 10.9.0.{own}/24 dev {end}"));
            namespace.ip(&format!("addr add fd09::{own}/64 dev {end} nodad"));
            let mac = text(mac);
            namespace.ip(&format!("neigh add 10.9.0.{other} lladdr {mac} dev {end} nud permanent"));
            namespace.ip(&format!("neigh add fd09::{other} lladdr {mac} dev {end} nud permanent"));
        }
    }

    pub(crate) fn open(&self, workers: usize) -> Vec<RawIo> {
        let names = ["l0", "l1"].map(str::to_owned);
        self.lb.inside(|| raw::open(&names, workers)).unwrap()
    }

    /// The client's own raw sockets, to inject frames and to see what comes back.
    pub(crate) fn peer(&self) -> RawIo {
        self.client.inside(|| raw::open(&["c0".to_owned()], 1)).unwrap().remove(0)
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
