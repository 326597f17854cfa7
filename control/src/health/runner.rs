//! The thread that does what the board says: begins probes, takes in what they find, and tells the
//! engine what follows. It shares nothing with the workers but the machine.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{interval, sleep},
};

use super::{
    board::Probe,
    member::{Advice, Outcome},
    probe::{self, Means, Through},
    through::Forwarding,
};
use crate::engine::Engine;

/// Probes that run at once; what is due beyond that waits for one to end.
const PROBES: usize = 4096;

/// How often flows are looked at for what they tell about their real servers.
const LOOK: Duration = Duration::from_secs(1);

/// Least time between two rounds: what ends within is taken in together.
const ROUND: Duration = Duration::from_millis(5);

/// Checks real servers until `stop` says so, through these interfaces where a check asks for that.
///
/// # Errors
///
/// There is no thread to be had.
pub fn start(
    engine: Arc<Engine>,
    interfaces: Vec<String>,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let forwarding = (!interfaces.is_empty())
        .then(|| Arc::new(Forwarding::new(Arc::clone(&engine), interfaces)) as Arc<dyn Through>);
    let means = Arc::new(Means::new(forwarding));
    let body = move || {
        // Scripts are started by this thread: they get none of the daemon's rights, which it keeps. An
        // old kernel that knows no ambient rights hands none down.
        rustix::thread::clear_ambient_capability_set().ok();
        runtime.block_on(Runner::new(engine, means).run(stop));
    };
    thread::Builder::new().name("xvs-health".to_owned()).spawn(body)
}

struct Runner {
    engine: Arc<Engine>,
    means: Arc<Means>,
    running: JoinSet<Outcome>,
    probes: HashMap<Id, Probe>,
}

impl Runner {
    fn new(engine: Arc<Engine>, means: Arc<Means>) -> Self {
        let (running, probes) = (JoinSet::new(), HashMap::new());
        Self { engine, means, running, probes }
    }

    fn now(&self) -> (Duration, SystemTime) {
        self.engine.health_now()
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut look = interval(LOOK);
        loop {
            self.engine.follow_policies();
            self.begin();
            self.engine.decide_health(self.now());
            let next = self.engine.health().next().filter(|_| self.probes.len() < PROBES);
            let pause = next.map_or(LOOK, |next| next.saturating_sub(self.now().0)).max(ROUND);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.engine.policies_changed() => {}
                Some(ended) = self.running.join_next_with_id() => {
                    self.take(ended);
                    // What ends at about the same time makes one round.
                    sleep(ROUND).await;
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.take(ended);
                    }
                }
                _ = look.tick() => self.engine.watch_flows(self.now().0),
                () = sleep(pause) => {}
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let room = PROBES - self.probes.len().min(PROBES);
        let due = self.engine.health().begin(self.now(), room);
        for probe in due {
            let (means, given) = (Arc::clone(&self.means), probe.clone());
            let task = self.running.spawn(async move { probe::run(&given, &means).await });
            self.probes.insert(task.id(), probe);
        }
    }

    /// Takes in what a probe found.
    fn take(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                tracing::error!("a probe failed: {error}");
                let note = "the probe itself failed".to_owned();
                let (took, advice) = (Duration::ZERO, Advice::default());
                (error.id(), Outcome { passed: false, note, took, advice })
            }
        };
        if let Some(probe) = self.probes.remove(&id) {
            self.engine.health().report(&probe, outcome);
        }
    }
}
