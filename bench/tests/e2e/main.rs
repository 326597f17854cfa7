//! The whole of xvs on a real kernel: xvsd on AF_XDP in network namespaces, real HTTP, real failures.
//!
//! Needs root and the packages of `make setup`; without them every test says so and passes. The
//! programs under test are those built beside this one: `cargo build --workspace --bins` first.
//! `XVS_E2E=long` downloads 1 GB where 64 MB are enough to find most faults, and runs for 10 s
//! instead of 2.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so, a long one what it measured")]

mod capture;
mod churn;
mod cpus;
mod crash;
mod drain;
mod health;
mod hostile;
mod http;
mod laboratory;
mod local;
mod marks;
mod methods;
mod refusals;
mod told;
mod transfer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use xvs_bench::lab::{self, Balancer, Family, Method, World};

/// Both interfaces, in a mode.
fn configuration(mode: &str) -> String {
    format!(
        "[daemon]\nflows = 65_536\n\n\
         [[interface]]\nname = \"front\"\nmode = \"{mode}\"\n\n\
         [[interface]]\nname = \"back\"\nmode = \"{mode}\"\n"
    )
}

/// Machines with web servers, and the right to use the box's few cores alone.
struct Bed {
    world: World,
    _alone: MutexGuard<'static, ()>,
}

impl Bed {
    /// `None`, with the reason printed, where there can be none.
    fn new() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        if let Some(reason) = lab::missing() {
            eprintln!("skipped: {reason}");
            return None;
        }
        // A test that failed is no reason for the next not to run.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut world = World::new().unwrap();
        world.serve().unwrap();
        Some(Self { world, _alone: alone })
    }

    /// Starts the daemon.
    fn balancer(&self, configuration: &str) -> Balancer {
        Balancer::start(&self.world.lb, self.world.folder.path(), configuration).unwrap()
    }

    /// Makes the web service of a family.
    fn serve(&self, balancer: &Balancer, method: Method, family: Family) {
        self.world.answer_by(method.gateway()).unwrap();
        for line in method.lines(&self.world, family) {
            balancer.adm.run(&line).unwrap();
        }
    }
}

/// Whether the long versions of tests are wanted.
fn is_long() -> bool {
    std::env::var_os("XVS_E2E").is_some_and(|value| value == "long")
}
