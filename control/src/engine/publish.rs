//! The publisher: hands each new state to the workers and the steering program, in this order.
//!
//! 1. What is no longer wanted leaves the steering program, so that a worker gets no packet that
//!    it does not know what to do with.
//! 2. Every worker gets the snapshot; the publisher waits until each one has reached it.
//! 3. What is new enters the steering program.
//! 4. The generation is reported as in force, and whoever made the change is answered.
//!
//! Changes that come while it works reach the workers as one snapshot in the next round. It also
//! tends the fleet, keeps the rates and follows the network.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::{
    addr::Addr,
    clock::{Clock as _, SystemClock},
    director::network::Network,
    service::Snapshot,
    steering::rules::SteeringRules,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Engine, events::Told, fleet::Fleet};
use crate::{estimator, nexthop::NextHops};

/// How often the fleet is looked after: faults found, workers restarted, old snapshots freed.
const TEND: Duration = Duration::from_millis(100);

/// How long a round looks for the workers' generation without sleeping. A busy worker takes a
/// snapshot over within a burst, tens of microseconds; an idle one has to wake up first.
const SPIN: Duration = Duration::from_micros(200);

/// The network around the box.
#[derive(Debug)]
pub struct Surroundings {
    /// What the kernel says, followed live.
    pub network: watch::Receiver<Network>,
    /// Who is told which next hops must stay resolved; `None` if there are no interfaces.
    pub hops: Option<Arc<NextHops>>,
}

impl Engine {
    /// Publishes every change until `stop` says so.
    pub async fn publish(
        self: Arc<Self>,
        mut fleet: Fleet,
        surroundings: Surroundings,
        mut stop: watch::Receiver<bool>,
    ) -> Fleet {
        let Surroundings { mut network, hops } = surroundings;
        let mut rates = interval(estimator::PERIOD);
        // A late step would count more than one period into the next.
        rates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        rates.reset();
        let mut tend = interval(TEND);
        let mut steered = SteeringRules::default();
        let (mut lost, mut mute) = (Vec::new(), Vec::new());
        let mut told = Told::default();
        tokio::spawn(Arc::clone(&self).tend_drains(stop.clone()));
        network.mark_changed();
        // Before anything is in force, so that whoever is answered first is told of it too.
        self.set_report(fleet.report());
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return fleet,
                _ = rates.tick() => {
                    let mut state = self.lock();
                    state.step_rates();
                    let reached = self.in_force();
                    state.director.reap(SystemClock.now(), reached);
                    continue;
                }
                _ = tend.tick() => {
                    fleet.tend();
                    self.set_report(fleet.report());
                    self.tell_overload(&mut told);
                }
                Ok(()) = network.changed() => {
                    let network = network.borrow_and_update().clone();
                    self.lock().director.set_network(network);
                }
                () = self.changed.notified() => {
                    // The round before may have brought it; what workers need not know is told.
                    if !self.is_behind() {
                        self.tell_configuration(&mut told);
                    }
                }
            }
            if !self.is_behind() {
                continue;
            }
            if let Some(hops) = &hops {
                hops.keep(self.lock().director.wanted_next_hops());
                lost = self.tell_unreachable(lost);
                mute = self.tell_mute(mute);
            }
            self.round(&mut fleet, &mut steered).await;
            self.tell_configuration(&mut told);
        }
    }

    /// Whether the workers forward by an older state than the present one.
    fn is_behind(&self) -> bool {
        self.lock().director.generation() != self.in_force()
    }

    /// Tells which real servers no route leads to, each once, and which are back.
    fn tell_unreachable(&self, before: Vec<Addr>) -> Vec<Addr> {
        let lost = self.lock().director.unreachable_reals();
        for addr in lost.iter().filter(|addr| !before.contains(addr)) {
            tracing::warn!("no route through the interfaces leads to real server {addr}");
        }
        for addr in before.iter().filter(|addr| !lost.contains(addr)) {
            tracing::info!("real server {addr} can be reached again, or is gone");
        }
        lost
    }

    /// Tells, once for each, which real servers full NAT has no local address for.
    fn tell_mute(&self, before: Vec<Addr>) -> Vec<Addr> {
        let mute = self.lock().director.mute_reals();
        for addr in mute.iter().filter(|addr| !before.contains(addr)) {
            tracing::warn!("fullnat has no local address for {addr}: `xvsadm local add` gives one");
        }
        mute
    }

    /// One round: the present state, into force.
    async fn round(&self, fleet: &mut Fleet, steered: &mut SteeringRules) {
        let (snapshot, wanted) = {
            let state = self.lock();
            (Arc::new(state.director.compile()), state.director.steering_rules())
        };
        let generation = snapshot.generation;
        if *steered != wanted {
            let kept = common(steered, &wanted);
            steer(fleet, steered, kept);
        }
        fleet.hand_out(&snapshot);
        drop::<Arc<Snapshot>>(snapshot);
        if !reached(fleet, generation).await {
            tracing::warn!(generation, reached = fleet.reached(), "a worker is late");
        }
        if *steered != wanted {
            steer(fleet, steered, wanted);
        }
        if fleet.reached() >= generation {
            self.in_force.send_replace(generation);
        }
    }
}

/// Puts rules in force; what fails is tried again with the next change, and said.
fn steer(fleet: &mut Fleet, steered: &mut SteeringRules, rules: SteeringRules) {
    match fleet.steer(&rules) {
        Ok(()) => *steered = rules,
        Err(error) => tracing::error!("{error}"),
    }
}

/// Waits, within bounds, until every running worker has reached a generation.
async fn reached(fleet: &mut Fleet, generation: u64) -> bool {
    let start = Instant::now();
    while fleet.reached() < generation {
        let waited = start.elapsed();
        if waited > super::PATIENCE / 2 {
            return false;
        }
        if waited < SPIN {
            tokio::task::yield_now().await;
        } else {
            sleep(Duration::from_millis(1)).await;
        }
    }
    true
}

/// What both want steered. The box's own addresses are an exception to what is taken: those of
/// either.
fn common(old: &SteeringRules, new: &SteeringRules) -> SteeringRules {
    SteeringRules {
        services: &old.services & &new.services,
        vips: &old.vips & &new.vips,
        selectors: &old.selectors & &new.selectors,
        nat_reals: &old.nat_reals & &new.nat_reals,
        local_addrs: &old.local_addrs & &new.local_addrs,
        local_ports: (
            old.local_ports.0.max(new.local_ports.0),
            old.local_ports.1.min(new.local_ports.1),
        ),
        hosted: &old.hosted & &new.hosted,
        watched: &old.watched & &new.watched,
        tunnel_reals: &old.tunnel_reals & &new.tunnel_reals,
        own_addrs: &old.own_addrs | &new.own_addrs,
    }
}
