//! The state as the workers, the steering program and the next-hop keeper need it.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{
    Director,
    reals::protocol,
    spec::{RealSpec, ServiceKey},
};
use crate::{
    addr::{Addr, Family},
    endpoint::{EndpointId, Method},
    service::Snapshot,
    steering::rules::{SteeringRules, Target},
    verdict::DeviceId,
    wire::protocol as ip,
};

impl Director {
    /// The immutable state, to be handed to every worker.
    pub fn compile(&self) -> Snapshot {
        let services: Vec<_> = self.services.iter().map(|s| Arc::clone(&s.compiled)).collect();
        let mut exact = HashMap::with_capacity(services.len());
        let mut vips = HashSet::new();
        for (at, service) in services.iter().enumerate() {
            if let ServiceKey::Address { protocol, addr, port } = service.key {
                let at = u32::try_from(at).expect("services are fewer than endpoint ids");
                exact.insert((protocol, addr, port), at);
                vips.insert(addr);
            }
        }
        Snapshot {
            generation: self.generation,
            services,
            exact,
            vips,
            nat_addrs: self.translated().map(|(_, addr, _)| addr).collect(),
            nat_reals: self.translated().collect(),
            callers: self.callers(),
            calls: self.calls.clone(),
            by_addr: self.by_addr(),
            paths: self.paths.clone(),
            routes: Arc::clone(&self.routes),
            settings: self.settings,
            timeouts: self.timeouts.clone(),
        }
    }

    /// Protocol, address and port of every real server whose replies are translated, also of those
    /// that were removed while they have flows.
    fn translated(&self) -> impl Iterator<Item = (u8, Addr, u16)> + '_ {
        let present = self.services.iter().flat_map(|service| {
            let protocol = protocol(&service.spec.key);
            let reals = service.reals.iter().filter(|real| real.spec.method.translates());
            reals.map(move |real| (protocol, real.spec.addr, real.spec.port))
        });
        let gone = self.trash.reals().filter(|real| real.translated);
        present.chain(gone.map(|real| (protocol(&real.key), real.addr, real.port)))
    }

    /// The real servers that may begin calls: those of nat, of services with an engine. Of several
    /// at one address and port the one added last counts.
    fn callers(&self) -> HashMap<(Addr, u16), (u32, EndpointId)> {
        let mut callers = HashMap::new();
        for (at, service) in (0..).zip(&self.services) {
            let udp = matches!(service.spec.key, ServiceKey::Address { protocol: ip::UDP, .. });
            if service.spec.engine.is_none() || !udp {
                continue;
            }
            for real in service.reals.iter().rev().filter(|r| r.spec.method == Method::Nat) {
                callers.insert((real.spec.addr, real.spec.port), (at, real.id));
            }
        }
        callers
    }

    /// The real servers at each address.
    fn by_addr(&self) -> HashMap<Addr, Vec<EndpointId>> {
        let mut by_addr: HashMap<_, Vec<_>> = HashMap::new();
        for (id, addr) in self.real_endpoints() {
            by_addr.entry(addr).or_default().push(id);
        }
        by_addr
    }

    /// Which packets must leave the kernel for a worker.
    pub fn steering_rules(&self) -> SteeringRules {
        let mut rules = SteeringRules::default();
        for service in &self.services {
            if let ServiceKey::Address { protocol, addr, port } = service.spec.key {
                rules.services.insert(Target { protocol, addr, port });
                rules.vips.insert(addr);
            }
            let family = service.spec.key.family();
            let reals = service.reals.iter();
            rules.tunnel_reals.extend(reals.filter_map(|real| outer(&real.spec, family)));
        }
        let translated = self.translated();
        rules.nat_reals.extend(translated.map(|(protocol, addr, port)| Target {
            protocol,
            addr,
            port,
        }));
        for (target, translated) in self.hosted() {
            let set = if translated { &mut rules.hosted } else { &mut rules.watched };
            set.insert(target);
        }
        let own = self.network.interfaces.iter().flat_map(|interface| &interface.addrs);
        rules.own_addrs.extend(own.map(|&(addr, _)| addr).filter(|a| !rules.vips.contains(a)));
        rules
    }

    /// Real servers on the box itself, and whether their replies are translated; also those that
    /// were removed while they have flows.
    fn hosted(&self) -> impl Iterator<Item = (Target, bool)> + '_ {
        let present = self.services.iter().flat_map(|service| {
            let protocol = protocol(&service.spec.key);
            service.reals.iter().map(move |real| {
                (protocol, real.spec.addr, real.spec.port, real.spec.method.translates())
            })
        });
        let gone = self.trash.reals();
        let gone = gone.map(|real| (protocol(&real.key), real.addr, real.port, real.translated));
        let hosted = present.chain(gone).filter(|&(_, addr, ..)| self.routes.is_local(addr));
        hosted
            .map(|(protocol, addr, port, translated)| (Target { protocol, addr, port }, translated))
    }

    /// The next hops that must stay resolved: those of real servers, and every gateway.
    pub fn wanted_next_hops(&self) -> HashSet<(DeviceId, Addr)> {
        let reals = self.real_endpoints().map(|(_, addr)| self.routes.real_path(addr));
        let gateways = self.network.routes.iter().filter_map(|r| Some((r.device, r.gateway?)));
        let reals = reals.filter(|path| path.routed).map(|path| (path.device, path.next_hop));
        reals.chain(gateways).collect()
    }

    /// Real servers that no route leads to, for warnings.
    pub fn unreachable_reals(&self) -> Vec<Addr> {
        let reals = self.services.iter().flat_map(|service| &service.reals);
        let mut lost: Vec<_> = reals
            .filter(|real| {
                let path = self.routes.real_path(real.spec.addr);
                !path.routed && !path.is_host()
            })
            .map(|real| real.spec.addr)
            .collect();
        lost.sort_unstable();
        lost.dedup();
        lost
    }
}

/// The outer packets that go to a tunnel's real server.
fn outer(spec: &RealSpec, inner: Family) -> Option<Target> {
    let (protocol, port) = match (spec.method, inner) {
        (Method::Gue, _) => (ip::UDP, spec.tunnel.port),
        (Method::Gre, _) => (ip::GRE, 0),
        (Method::Ipip, Family::V4) => (ip::IPIP, 0),
        (Method::Ipip, Family::V6) => (ip::IPV6, 0),
        _ => return None,
    };
    Some(Target { protocol, addr: spec.addr, port })
}
