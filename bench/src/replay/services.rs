//! The services of a replay, and a network in which every real server can be reached.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::Context as _;
use dataplane::{
    addr::{Addr, Family},
    director::{
        Director,
        network::{Interface, Neighbour, Network, Route},
        spec::{ServiceInfo, ServiceKey},
    },
    endpoint::{Endpoints, Method},
    ipvsadm::{Numeric, Rule, parse_rules},
    stats::Stats,
    verdict::DeviceId,
    wire::frame::{Kind, parse},
};

use super::Args;
use crate::lb::change;

/// The clients' side.
pub(super) const CLIENT: DeviceId = DeviceId(0);
/// The real servers' side.
pub(super) const BACKEND: DeviceId = DeviceId(1);
/// What the two are called, in the order of their numbers.
pub(super) const DEVICES: [&str; 2] = ["client", "backend"];
/// Captures of offloading hosts hold packets of up to 64 KiB: the replay's links carry them.
const MTU: u16 = u16::MAX;
/// Endpoints that fit: services and real servers.
pub(super) const ENDPOINTS: usize = 65_536;

/// What was given on the command line.
#[derive(Debug)]
pub(super) enum Given {
    Rules(Vec<Rule>),
    Config(Box<control::config::Desired>),
}

/// Reads `--rules` or `--config` and tries them out, so that a fault is found before anything is
/// played.
pub(super) fn given(args: &Args) -> anyhow::Result<Option<Given>> {
    let given = if let Some(path) = &args.rules {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let rules = parse_rules(&text, &Numeric).with_context(|| path.display().to_string())?;
        Given::Rules(rules)
    } else if let Some(path) = &args.config {
        let config = control::config::Config::load(path)?;
        Given::Config(Box::new(config.desired))
    } else {
        return Ok(None);
    };
    let endpoints = std::sync::Arc::new(Endpoints::new(ENDPOINTS));
    let mut trial = Director::new(endpoints, Stats::new(1, 1));
    given.install(&mut trial)?;
    Ok(Some(given))
}

impl Given {
    /// Makes a director have it.
    pub(super) fn install(&self, director: &mut Director) -> anyhow::Result<()> {
        match self {
            Self::Rules(rules) => {
                for rule in rules {
                    change(director, &rule.command)
                        .with_context(|| format!("line {}", rule.line))?;
                }
            }
            Self::Config(desired) => {
                director.apply(&desired.services)?;
                if let Some(timeouts) = desired.timeouts {
                    director.set_timeouts(timeouts);
                }
                for (name, value) in &desired.settings {
                    director.set_setting(name, *value)?;
                }
            }
        }
        Ok(())
    }
}

/// The method with this name; the command line takes no other.
pub(super) fn method(name: &str) -> Method {
    match name {
        "dr" => Method::Dr,
        "ipip" => Method::Ipip,
        _ => Method::Nat,
    }
}

/// Who is where.
#[derive(Debug, Default)]
pub(super) struct Map {
    vips: BTreeSet<Addr>,
    services: BTreeSet<(u8, Addr, u16)>,
    reals: BTreeSet<Addr>,
}

impl Map {
    pub(super) fn of(services: &[ServiceInfo]) -> Self {
        let mut map = Self::default();
        for service in services {
            if let ServiceKey::Address { protocol, addr, port } = service.spec.key {
                map.vips.insert(addr);
                map.services.insert((protocol, addr, port));
            }
            map.reals.extend(service.reals.iter().map(|real| real.spec.addr));
        }
        map
    }

    /// The device that a captured frame comes in by: real servers' packets, and those of the
    /// captured server that they stand for, come from behind.
    pub(super) fn device(&self, frame: &[u8]) -> DeviceId {
        let Ok(parsed) = parse(frame) else { return CLIENT };
        let key = parsed.key;
        let port_serves = self.services.contains(&(key.protocol, key.source, key.source_port))
            || self.services.contains(&(key.protocol, key.source, 0));
        let serves = match parsed.kind {
            Kind::NotIp => false,
            Kind::Flow => port_serves,
            _ => self.vips.contains(&key.source) && !self.vips.contains(&key.destination),
        };
        if serves || self.reals.contains(&key.source) { BACKEND } else { CLIENT }
    }

    /// A network in which every real server is a neighbour and everybody else is behind a gateway.
    /// Own addresses are from the blocks for documentation (RFC 5737, RFC 3849).
    pub(super) fn network(&self) -> Network {
        let own = |number: u8| -> Vec<(Addr, u8)> {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 1);
            vec![(Ipv4Addr::new(192, 0, 2, number).into(), 32), (v6.into(), 128)]
        };
        let interface = |device: DeviceId| Interface {
            device,
            name: DEVICES[usize::from(device.0)].to_owned(),
            index: u32::from(device.0) + 1,
            mac: [2, 0, 0, 0, device.0, 1],
            mtu: MTU,
            addrs: own(device.0 + 1),
        };
        let gateways: [Addr; 2] = [
            Ipv4Addr::new(192, 0, 2, 254).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0xfe).into(),
        ];
        let (mut routes, mut neighbours) = (Vec::new(), Vec::new());
        for (gateway, any) in gateways.into_iter().zip([Addr::v4(0), Addr::v6(0)]) {
            routes.push(route((any, 0), CLIENT, Some(gateway)));
            neighbours.push(Neighbour {
                device: CLIENT,
                addr: gateway,
                mac: [2, 0, 0, 0, 0, 0xfe],
            });
        }
        for (number, &addr) in (0u32..).zip(&self.reals) {
            let length = if addr.family() == Family::V4 { 32 } else { 128 };
            routes.push(route((addr, length), BACKEND, None));
            let [a, b, c, d] = number.to_be_bytes();
            neighbours.push(Neighbour { device: BACKEND, addr, mac: [6, 0, a, b, c, d] });
        }
        let interfaces = vec![interface(CLIENT), interface(BACKEND)];
        Network { interfaces, routes, neighbours, ..Network::default() }
    }
}

fn route(prefix: (Addr, u8), device: DeviceId, gateway: Option<Addr>) -> Route {
    Route { prefix, device, gateway, source: None, metric: 0, mtu: None }
}
