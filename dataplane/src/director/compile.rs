//! The state as the workers, the steering program and the next-hop keeper need it.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{
    Director, RealEntry,
    spec::{RealSpec, ServiceKey},
};
use crate::{
    addr::{Addr, Family},
    endpoint::{EndpointId, Method},
    selector::{Nets, Prefix, Selector},
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
        let mut marked = HashMap::new();
        let mut vips = HashSet::new();
        for (at, service) in services.iter().enumerate() {
            let at = u32::try_from(at).expect("services are fewer than endpoint ids");
            match service.key {
                ServiceKey::Address { protocol, addr, port } => {
                    exact.insert((protocol, addr, port), at);
                    vips.insert(addr);
                }
                ServiceKey::Mark { mark, family } => {
                    marked.insert((mark, family), at);
                }
            }
        }
        Snapshot {
            generation: self.generation,
            services,
            exact,
            marks: Arc::clone(&self.marks),
            marked,
            vips,
            vip_nets: Nets::new(self.marked().map(|selector| selector.to)),
            nat_addrs: self.translated().map(|(_, addr, _)| addr).collect(),
            nat_reals: self.translated().collect(),
            callers: self.callers(),
            calls: self.calls.clone(),
            locals: self.compiled_locals(),
            local_addrs: self.local_addrs().collect(),
            by_addr: self.by_addr(),
            paths: self.paths.clone(),
            routes: Arc::clone(&self.routes),
            settings: self.settings,
            timeouts: self.timeouts.clone(),
            captures: self.captures.clone(),
        }
    }

    /// Protocol, address and port of every real server whose replies are translated, also of those
    /// that were removed while they have flows.
    fn translated(&self) -> impl Iterator<Item = (u8, Addr, u16)> + '_ {
        let present = self.services.iter().flat_map(|service| {
            let reals = service.reals.iter().filter(|real| real.spec.method.translates());
            reals.map(|real| (service.spec.key, real.spec.addr, real.id))
        });
        let gone = self.trash.reals().filter(|real| real.translated);
        let all = present.chain(gone.map(|real| (real.key, real.addr, real.id)));
        all.flat_map(|(key, addr, id)| {
            let port = self.endpoints.get(id).port();
            protocols(key).map(move |protocol| (protocol, addr, port))
        })
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
        rules.local_addrs.extend(self.local_addrs());
        rules.local_ports = self.local_ports();
        for (target, translated) in self.hosted() {
            let set = if translated { &mut rules.hosted } else { &mut rules.watched };
            set.insert(target);
        }
        let own = self.network.interfaces.iter().flat_map(|interface| &interface.addrs);
        let named: HashSet<_> = self.marked().map(|s| s.to).filter(|to| to.is_host()).collect();
        let vip = |addr: &Addr| rules.vips.contains(addr) || named.contains(&Prefix::host(*addr));
        rules.own_addrs = own.map(|&(addr, _)| addr).filter(|addr| !vip(addr)).collect();
        rules.selectors = self.marked().map(|s| Selector { from: None, ..*s }).collect();
        rules
    }

    /// Real servers on the box itself, and whether their replies are translated; also those that
    /// were removed while they have flows.
    fn hosted(&self) -> impl Iterator<Item = (Target, bool)> + '_ {
        let present = self.services.iter().flat_map(|service| {
            let real = |real: &RealEntry| {
                (service.spec.key, real.spec.addr, real.id, real.spec.method.translates())
            };
            service.reals.iter().map(real)
        });
        let gone = self.trash.reals().map(|real| (real.key, real.addr, real.id, real.translated));
        let hosted = present.chain(gone).filter(|&(_, addr, ..)| self.routes.is_local(addr));
        hosted.flat_map(|(key, addr, id, translated)| {
            let port = self.endpoints.get(id).port();
            protocols(key).map(move |protocol| (Target { protocol, addr, port }, translated))
        })
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

/// The protocols of a service's flows.
fn protocols(key: ServiceKey) -> impl Iterator<Item = u8> {
    let only = match key {
        ServiceKey::Address { protocol, .. } => Some(protocol),
        ServiceKey::Mark { .. } => None,
    };
    [ip::TCP, ip::UDP, ip::SCTP].into_iter().filter(move |p| only.is_none_or(|only| only == *p))
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
