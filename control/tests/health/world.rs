//! A world with a manual clock: real servers that behave as a test says, the board, and a director
//! that does what follows.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dataplane::{
    addr::Addr,
    director::{
        Director,
        spec::{RealSpec, ServiceKey, ServiceSpec},
    },
    endpoint::{Endpoints, Method},
    sched::SchedFlags,
    stats::Stats,
};
use xvs_control::health::{
    board::{Board, Effect, Finding, Probe, Watched, What},
    member::{Advice, Flows, Outcome},
    policy::{Check, Kind, Policy},
};

/// How a real server answers one check at one time: after how long, and what.
pub(crate) type Behaviour = Box<dyn Fn(&Probe, Duration) -> (Duration, Result<(), String>)>;

/// The world.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) board: Board,
    pub(crate) director: Director,
    pub(crate) key: ServiceKey,
    pub(crate) policy: Policy,
    pub(crate) flows: BTreeMap<Addr, Flows>,
    pub(crate) advice: Advice,
    behaviour: Behaviour,
    /// Probes that run: when each ends, and what it then finds.
    running: Vec<(Duration, Probe, Outcome)>,
    /// What happened, and when.
    pub(crate) findings: Vec<(Duration, Finding)>,
    /// When each probe began.
    pub(crate) begun: Vec<(Duration, Addr, usize)>,
}

pub(crate) fn addr(last: u8) -> Addr {
    format!("10.2.0.{last}").parse::<IpAddr>().unwrap().into()
}

pub(crate) fn real(last: u8, weight: u32) -> RealSpec {
    RealSpec { weight, ..RealSpec::new(addr(last), 80, Method::Dr) }
}

/// A check each second without jitter, 200 ms patience, two to rise and three to fall.
pub(crate) fn check() -> Check {
    Check {
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(200),
        jitter_percent: 0,
        ..Check::new(Kind::Tcp)
    }
}

pub(crate) fn fine() -> (Duration, Result<(), String>) {
    (Duration::from_millis(3), Ok(()))
}

pub(crate) fn bad(why: &str) -> (Duration, Result<(), String>) {
    (Duration::from_millis(3), Err(why.to_owned()))
}

impl World {
    /// A service with these real servers, by last octet and weight, checked by this policy.
    pub(crate) fn new(
        seed: u64,
        policy: Policy,
        reals: &[(u8, u32)],
        behaviour: impl Fn(&Probe, Duration) -> (Duration, Result<(), String>) + 'static,
    ) -> Self {
        let mut director = Director::new(Arc::new(Endpoints::new(256)), Stats::new(1, 256));
        let key = ServiceKey::Address { protocol: 6, addr: Addr::v4(0x0a00_0001), port: 80 };
        let spec = ServiceSpec {
            key,
            scheduler: "wlc".to_owned(),
            flags: SchedFlags::default(),
            persistence_s: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
            client_address: dataplane::spec::ClientAddress::Hidden,
        };
        director.add_service(&spec).unwrap();
        for &(last, weight) in reals {
            director.add_real(&key, &real(last, weight)).unwrap();
        }
        let mut world = Self {
            now: Duration::ZERO,
            board: Board::new(seed),
            director,
            key,
            policy,
            flows: BTreeMap::new(),
            advice: Advice::default(),
            behaviour: Box::new(behaviour),
            running: Vec::new(),
            findings: Vec::new(),
            begun: Vec::new(),
        };
        world.follow();
        world
    }

    fn at(&self) -> (Duration, SystemTime) {
        (self.now, UNIX_EPOCH + self.now)
    }

    /// Has the board check what the director has.
    pub(crate) fn follow(&mut self) {
        let Ok(service) = self.director.get_service(&self.key) else {
            self.board.set(Vec::new(), self.at());
            return;
        };
        let asked = service.reals.iter().filter(|real| !real.standby);
        let flows = |addr: &Addr| self.flows.get(addr).copied().unwrap_or_default();
        let watched = Watched {
            key: self.key,
            policy: self.policy.clone(),
            reals: asked.map(|real| (real.spec, real.share, flows(&real.spec.addr))).collect(),
            sorry: service.reals.iter().any(|real| real.standby),
        };
        self.board.set(vec![watched], self.at());
        self.turn();
    }

    /// Begins what is due, and makes so what follows from what is known.
    fn turn(&mut self) {
        for probe in self.board.begin(self.at(), usize::MAX) {
            let (took, found) = (self.behaviour)(&probe, self.now);
            let late = took >= probe.check.timeout;
            let took = took.min(probe.check.timeout);
            let note = match (&found, late) {
                (_, true) => "no answer".to_owned(),
                (Ok(()), _) => "fine".to_owned(),
                (Err(why), _) => why.clone(),
            };
            let passed = found.is_ok() && !late;
            self.begun.push((self.now, probe.real.addr, probe.place));
            let outcome = Outcome { passed, note, took, advice: self.advice };
            self.running.push((self.now + took, probe, outcome));
        }
        for effect in self.board.decide(self.at()) {
            match effect {
                Effect::Share { key, real, share } => {
                    self.director.share_real(&key, (real.addr, real.port), share).unwrap();
                }
                Effect::Standby { key, spec, wanted: true } => {
                    self.director.stand_in(&key, &spec).unwrap();
                }
                Effect::Standby { key, spec, wanted: false } => {
                    self.director.delete_real(&key, spec.addr, spec.port).unwrap();
                }
                Effect::Found(finding) => self.findings.push((self.now, finding)),
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        loop {
            let ends = self.running.iter().map(|(at, ..)| *at).min();
            let next = self.board.next().into_iter().chain(ends).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let (over, running) = std::mem::take(&mut self.running)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, ..)| *at <= now);
            self.running = running;
            for (_, probe, outcome) in over {
                self.board.report(&probe, outcome);
            }
            self.turn();
        }
        self.now = end;
    }

    /// What the flows of a real server have told so far.
    pub(crate) fn tell_flows(&mut self, last: u8, accepted: u64, failed: u64) {
        let flows = Flows { accepted, failed };
        self.flows.insert(addr(last), flows);
        let name = xvs_control::words::RealName { addr: addr(last), port: 80 };
        self.board.watch(&self.key, name, flows, self.now);
        self.turn();
    }

    /// Weights that the scheduler sees, by last octet, without those that count as removed.
    pub(crate) fn weights(&self) -> Vec<(u8, u32)> {
        let service = self.director.get_service(&self.key).unwrap();
        let mut weights: Vec<_> = service
            .reals
            .iter()
            .filter(|real| real.share.present)
            .map(|real| (real.spec.addr.to_ip(), real.weight()))
            .map(|(ip, weight)| match ip {
                IpAddr::V4(v4) => (v4.octets()[3], weight),
                IpAddr::V6(_) => panic!("IPv4 was asked for"),
            })
            .collect();
        weights.sort_unstable();
        weights
    }

    /// What happened, in short.
    pub(crate) fn story(&self) -> Vec<(What, String)> {
        self.findings.iter().map(|(_, found)| (found.what, found.note.clone())).collect()
    }

    /// When something happened first after `since` seconds.
    pub(crate) fn when(&self, what: What, since: f64) -> f64 {
        let since = Duration::from_secs_f64(since);
        let found = self.findings.iter().find(|(at, found)| *at >= since && found.what == what);
        found.unwrap_or_else(|| panic!("{what:?} never: {:?}", self.findings)).0.as_secs_f64()
    }
}
