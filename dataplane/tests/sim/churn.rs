//! Everything changes while connections run: weights, real servers, schedulers, persistence,
//! thresholds, settings, the service itself. No connection may notice.
//!
//! What a scenario does follows from its seed alone.

use std::collections::BTreeMap;

use xvs_dataplane::{
    director::spec::{RealSpec, ServiceSpec},
    endpoint::Method,
    io::fault::Rates,
    rng::Rng,
    sched::{SchedFlags, Scheduler},
};

use crate::{
    Running, finish, open, reap, seeds, serve, settle, setup,
    world::{Setup, World},
};

/// Edits of one scenario.
const EDITS: usize = 24;
/// Milliseconds between two edits, at most.
const PAUSE: u64 = 120;
/// Lost, doubled and overtaken frames, but none damaged: a flipped bit may be one of a TCP flag,
/// and a reset ends a flow for IPVS too.
const ROUGH: Rates = Rates { loss: 20, duplicate: 20, reorder: 50, corrupt: 0 };

/// One scenario: the service as it should be, and which of its real servers are there.
struct Churn {
    world: World,
    rng: Rng,
    spec: ServiceSpec,
    reals: BTreeMap<u8, RealSpec>,
}

impl Churn {
    fn new(world: World) -> Self {
        let rng = Rng::from_seed(world.setup.seed ^ 0x00c0_ffee);
        let spec = world.director.services()[0].spec.clone();
        let reals = (0..world.setup.reals).map(|last| (last, world.real(last))).collect();
        Self { world, rng, spec, reals }
    }

    fn below(&mut self, bound: u64) -> u32 {
        u32::try_from(self.rng.below(bound)).unwrap()
    }

    /// A real server that is there, if any is.
    fn any_real(&mut self) -> Option<u8> {
        let at = self.rng.below(self.reals.len() as u64);
        self.reals.keys().nth(usize::try_from(at).unwrap()).copied()
    }

    /// Changes one thing.
    fn edit(&mut self) {
        match self.below(10) {
            0..3 => self.edit_real(),
            3 => self.remove(),
            4..6 => self.bring_back(),
            6 => self.edit_service(),
            7 => self.replace_service(),
            8 => {
                let (name, values) = [
                    ("expire_quiescent_template", 2),
                    ("pmtu_disc", 2),
                    ("schedule_icmp", 2),
                    ("nat_icmp_send", 2),
                    ("run_estimation", 2),
                ][self.below(5) as usize];
                let value = self.below(values);
                self.world.director.set_setting(name, value).unwrap();
            }
            _ => self.world.director.zero(None).unwrap(),
        }
        self.world.publish();
    }

    /// Other weights and thresholds; weight 0 drains.
    fn edit_real(&mut self) {
        let Some(last) = self.any_real() else { return };
        let (weight, upper) = (self.below(4), self.below(3) * 4);
        let real = RealSpec { weight, upper, lower: upper / 2, ..self.reals[&last] };
        self.world.director.edit_real(&self.spec.key, &real).unwrap();
        self.reals.insert(last, real);
    }

    fn remove(&mut self) {
        let Some(last) = self.any_real() else { return };
        let real = self.reals.remove(&last).unwrap();
        self.world.director.delete_real(&self.spec.key, real.addr, real.port).unwrap();
    }

    fn bring_back(&mut self) {
        let gone = (0..self.world.setup.reals).find(|last| !self.reals.contains_key(last));
        let Some(last) = gone else { return };
        let real = self.world.real(last);
        self.world.director.add_real(&self.spec.key, &real).unwrap();
        self.reals.insert(last, real);
    }

    /// Another scheduler, with or without persistence.
    fn edit_service(&mut self) {
        let names = Scheduler::NAMES;
        let at = self.below(names.len() as u64) as usize;
        self.spec.scheduler = names[at].to_owned();
        self.spec.flags = SchedFlags { fallback: true, port: self.below(2) == 0, flag3: false };
        self.spec.persistence_s = (self.below(2) == 0).then_some(30);
        self.world.director.edit_service(&self.spec).unwrap();
    }

    /// The service goes and comes back within one change, with what real servers there were.
    fn replace_service(&mut self) {
        let director = &mut self.world.director;
        director.delete_service(&self.spec.key).unwrap();
        director.add_service(&self.spec).unwrap();
        for real in self.reals.values() {
            director.add_real(&self.spec.key, real).unwrap();
        }
    }

    /// Everything is there again, and takes connections.
    fn calm(&mut self) {
        while self.reals.len() < usize::from(self.world.setup.reals) {
            self.bring_back();
        }
        self.spec.scheduler = "wlc".to_owned();
        self.world.director.edit_service(&self.spec).unwrap();
        for last in 0..self.world.setup.reals {
            let real = self.world.real(last);
            self.world.director.edit_real(&self.spec.key, &real).unwrap();
        }
        self.world.publish();
    }

    fn run(mut self) {
        serve(&mut self.world);
        let mut running: Vec<Running> = Vec::new();
        let mut served = 0;
        for round in 0..EDITS {
            if round % 3 == 0 {
                let port = 4000 + u16::try_from(round).unwrap();
                let length = 1 + self.below(40_000) as usize;
                running.extend(open(&mut self.world, 1, port, length));
            }
            self.edit();
            for _ in 0..=self.below(PAUSE) {
                self.world.step();
                served += reap(&mut self.world, &mut running).len();
            }
        }
        self.calm();
        served += finish(&mut self.world, running).len();
        assert_eq!(served, EDITS.div_ceil(3) * usize::from(self.world.setup.clients));
        self.world.check_conservation();
        settle(&mut self.world);
        let listed = self.world.director.services();
        for real in &listed[0].reals {
            let load = (real.active, real.inactive, real.persistent);
            assert_eq!(load, (0, 0, 0), "{}: load without flows", real.spec.addr);
        }
    }
}

#[test]
fn no_edit_disturbs_a_connection() {
    for (method, v6) in [(Method::Nat, false), (Method::Dr, true)] {
        let setup = Setup { workers: 2, ..setup(method, v6, ROUGH) };
        seeds("no_edit_disturbs", setup, |world| Churn::new(world).run());
    }
}
