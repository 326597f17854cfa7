//! When flows end: never early, and not much late.

use hashbrown::HashMap;

use super::*;

#[test]
fn flows_expire_within_two_seconds_after_their_time_and_never_before() {
    let endpoints = endpoints();
    let (table, mut worker) = table(4000, 1);
    let start = Tick(12_345);
    // Deadlines from a second to an hour, then touched at random until the minute is over.
    let mut expiry = PerFlow::default();
    let mut rng = xvs_dataplane::rng::Rng::from_seed(5);
    let mut ids = Vec::new();
    for client in 0..3000 {
        let timeout = 16 + u32::try_from(rng.below(3600 * 16)).unwrap();
        let mut new = new_flow(&endpoints, client, 0);
        new.timeout = timeout;
        let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, start) else { panic!() };
        expiry.timeouts.insert((new.key.source, new.key.source_port), timeout);
        ids.push(flow.id());
    }
    for tick in 1..=3700 * 16 {
        let now = start.plus(tick);
        for _ in 0..if tick < 960 { 20 } else { 0 } {
            let id = ids[usize::try_from(rng.below(3000)).unwrap()];
            if let Some(flow) = table.get(id) {
                flow.touch(now);
            }
        }
        expiry.now = now;
        for _ in 0..8 {
            worker.sweep(now, 1000, &endpoints, &mut expiry);
            worker.quiesce();
        }
    }
    assert_eq!(expiry.expired, 3000);
    assert!(table.is_empty());
    assert!(expiry.latest <= 32, "{} ticks late", expiry.latest);
}

/// Each flow has a time-out of its own; asserts that none ends early.
#[derive(Default)]
struct PerFlow {
    timeouts: HashMap<(Addr, u16), u32>,
    now: Tick,
    expired: usize,
    latest: u32,
}

impl Expiry for PerFlow {
    fn deadline(&mut self, flow: &Entry) -> Tick {
        flow.seen().plus(self.timeouts[&(flow.client(), flow.client_port())])
    }

    fn expired(&mut self, flow: &Entry) {
        let deadline = self.deadline(flow);
        assert!(self.now.reached(deadline), "expired early");
        self.latest = self.latest.max(self.now.since(deadline));
        self.expired += 1;
    }
}

#[test]
fn a_state_with_a_shorter_timeout_brings_the_end_forward() {
    let endpoints = endpoints();
    let (table, mut worker) = table(100, 1);
    let start = Tick::from_secs(1000);
    let mut new = new_flow(&endpoints, 4, 0);
    new.timeout = 900 * 16;
    let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, start) else { panic!() };
    let id = flow.id();
    let mut expiry = Fixed { timeout: 900 * 16, ..Fixed::default() };
    sweep_all(&mut worker, start.plus(16 * 20), &endpoints, &mut expiry);
    assert!(expiry.expired.is_empty());
    // A FIN: ten seconds from now on.
    let now = start.plus(16 * 21);
    let flow = table.get(id).unwrap();
    flow.touch(now);
    let seen = flow.control();
    flow.try_update(seen, seen.with_state(7).with_class(3)).unwrap();
    assert_eq!(flow.try_update(seen, seen.with_state(1)).unwrap_err().state(), 7);
    worker.expire_at(flow, 160, now);
    expiry.timeout = 160;
    sweep_all(&mut worker, now.plus(159), &endpoints, &mut expiry);
    assert!(expiry.expired.is_empty());
    sweep_all(&mut worker, now.plus(160 + 16), &endpoints, &mut expiry);
    assert_eq!(expiry.expired, [(new.key.source, new.key.source_port, now)]);
    assert!(table.get(id).is_none());
}

#[test]
fn templates_live_for_their_own_time_however_long() {
    let endpoints = endpoints();
    let (table, mut worker) = table(100, 1);
    let start = Tick::from_secs(77);
    let mut new = new_flow(&endpoints, 4, 3);
    new.timeout = 3 * 24 * 3600 * 16;
    assert!(matches!(worker.insert(&new, &endpoints, start), Ok(Inserted::New(_))));
    let mut expiry = Fixed::default();
    for day in 1..=3 {
        let now = start.plus(day * 24 * 3600 * 16 - 1);
        sweep_all(&mut worker, now, &endpoints, &mut expiry);
        assert_eq!(table.len(), 1, "day {day}");
    }
    let view = table.flows(0).next().unwrap();
    assert_eq!((view.template_timeout, view.octets), (Some(new.timeout), [0, 0]));
    let packets = FlowKey { template: false, ..new.key };
    assert!(find(&worker, &packets, &endpoints).is_none(), "no packet is a template's");
    sweep_all(&mut worker, start.plus(new.timeout + 16), &endpoints, &mut expiry);
    assert!(table.is_empty());
}
