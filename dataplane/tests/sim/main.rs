//! Simulation: TCP stacks that are not ours, as clients and real servers, through the real
//! pipeline, over links that lose, reorder, duplicate and corrupt. A flow keeps its real while
//! it lives, streams arrive whole, frames are conserved, everything expires.
//!
//! `SIM_SEEDS` says how many seeds each scenario runs with, `SIM_SEED` picks one; a failure prints
//! how to repeat it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::print_stderr, reason = "a failure says how to repeat it")]

mod churn;
mod host;
mod world;

use host::Client;
use world::{Setup, World};
use xvs_dataplane::{endpoint::Method, io::fault::Rates};

/// Milliseconds that a scenario may take: far more than the slowest seed needs.
const PATIENCE: usize = 600_000;

/// Seeds of each scenario unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 8;

const BAD: Rates = Rates { loss: 20, duplicate: 20, reorder: 50, corrupt: 10 };

fn setup(method: Method, v6: bool, faults: Rates) -> Setup {
    Setup { seed: 0, workers: 2, clients: 3, reals: 3, method, scheduler: "rr", v6, faults }
}

/// Runs `scenario` with many seeds.
fn seeds(name: &str, setup: Setup, scenario: impl Fn(World) + std::panic::RefUnwindSafe) {
    let number = |key| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in range {
        let run = || scenario(World::new(Setup { seed, ..setup }));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("repeat: SIM_SEED={seed} cargo test -p xvs-dataplane --test sim {name}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A connection under way.
struct Running {
    host: usize,
    client: Client,
}

/// Opens `each` connections from every client.
fn open(world: &mut World, each: u16, first_port: u16, length: usize) -> Vec<Running> {
    let to = (world.setup.vip(), 80);
    let mut running = Vec::new();
    for (host, stack) in world.clients.iter_mut().enumerate() {
        for number in 0..each {
            let client = stack.open(to, first_port + number, length);
            running.push(Running { host, client });
        }
    }
    running
}

/// Steps until all connections are over; returns which server had each.
fn finish(world: &mut World, mut running: Vec<Running>) -> Vec<u8> {
    let mut served = Vec::new();
    for _ in 0..PATIENCE {
        world.step();
        served.extend(reap(world, &mut running));
        if running.is_empty() {
            return served;
        }
    }
    panic!("{} connections hang", running.len());
}

/// Moves connections along and lets go of those that are over; returns which server had each.
fn reap(world: &mut World, running: &mut Vec<Running>) -> Vec<u8> {
    let mut served = Vec::new();
    running.retain_mut(|Running { host, client }| {
        let stack = &mut world.clients[*host];
        if !stack.step(client) {
            return true;
        }
        served.push(client.served_by());
        stack.close(client);
        false
    });
    served
}

/// What must hold after every scenario.
fn settle(world: &mut World) {
    world.check_conservation();
    world.idle(1200);
    assert!(world.flows.is_empty(), "{} flows never expire", world.flows.len());
}

fn serve(world: &mut World) {
    for (number, real) in world.reals.iter_mut().enumerate() {
        real.serve(80, 40, u8::try_from(number).unwrap());
    }
}

#[test]
fn streams_arrive_whole_and_reals_share_the_work() {
    for v6 in [false, true] {
        for method in [Method::Nat, Method::Dr] {
            let name = "streams_arrive_whole";
            seeds(name, setup(method, v6, Rates::default()), |mut world| {
                serve(&mut world);
                let running = open(&mut world, 6, 4000, 20_000);
                let mut served = finish(&mut world, running);
                served.sort_unstable();
                let share = |real| served.iter().filter(|&&name| name == real).count();
                assert_eq!([0, 1, 2].map(share), [6, 6, 6], "round robin, exactly");
                settle(&mut world);
            });
        }
    }
}

#[test]
fn streams_arrive_whole_over_bad_links() {
    for v6 in [false, true] {
        for method in [Method::Nat, Method::Dr] {
            seeds("over_bad_links", setup(method, v6, BAD), |mut world| {
                serve(&mut world);
                let running = open(&mut world, 4, 4000, 30_000);
                assert_eq!(finish(&mut world, running).len(), 12);
                let faults = [0, 1].map(|link| world.faults(link));
                assert!(faults.iter().any(|counts| counts.lost > 0), "{faults:?}");
                settle(&mut world);
            });
        }
    }
}

#[test]
fn a_flow_keeps_its_real_while_reals_come_and_go() {
    seeds("keeps_its_real", setup(Method::Nat, false, BAD), |mut world| {
        serve(&mut world);
        let key = world.key();
        let running = open(&mut world, 4, 4000, 60_000);
        for _ in 0..200 {
            world.step();
        }
        // Drained in the middle of its streams: they go on, new ones go elsewhere.
        let drained = xvs_dataplane::director::spec::RealSpec { weight: 0, ..world.real(0) };
        world.director.edit_real(&key, &drained).unwrap();
        world.publish();
        for _ in 0..10 {
            world.step();
        }
        let late = open(&mut world, 4, 5000, 5_000);
        let served = finish(&mut world, late);
        assert!(served.iter().all(|&name| name != 0), "a drained real got new work: {served:?}");
        assert_eq!(finish(&mut world, running).len(), 12);
        settle(&mut world);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::new(Setup { seed: 5, ..setup(Method::Nat, false, BAD) });
        serve(&mut world);
        let running = open(&mut world, 4, 4000, 20_000);
        let served = finish(&mut world, running);
        (served, world.faults(0), world.faults(1))
    };
    assert_eq!(run(), run());
}
