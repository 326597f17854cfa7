//! The daemon's life: start in an order in which a failure leaves nothing behind, reload, stop.

use std::{fs, io, path::PathBuf, sync::Arc, thread, time::Duration};

use dataplane::{
    director::{Director, network::Network},
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, TableConfig, TableError},
    io::xsk::receive_queues,
    stats::Stats,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access::Access,
    adm::SystemNames,
    config::{Config, ConfigError, Desired},
    cpus,
    devices::{Devices, Shared},
    engine::{
        Engine, EngineError, State,
        drain::{DrainEnd, DrainSpec},
        fleet::{Fleet, OpenError},
        publish::Surroundings,
    },
    health::runner,
    journal::{self, Content, JournalError},
    listeners::Listeners,
    nexthop::{Hop, NextHopError, NextHops},
    rules::{self, RulesRefused},
    server::{self, ServeError, listen::ListenError},
    supervisor, web,
};

/// How long clients may take to leave once the daemon stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the health service tells about: the whole, and each service.
const SERVICES: [&str; 5] = [
    "",
    "xvs.v1.LoadBalancerService",
    "xvs.v1.DiagnosticsService",
    "xvs.v1.OperationsService",
    "xvs.v1.HealthCheckService",
];

/// Next hops to resolve that wait at most; the next packet to the same one asks again.
const RESOLVE_MAX: usize = 1024;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file.
    pub config: Option<PathBuf>,
    /// Rules in ipvsadm's language, after the file.
    pub rules: Option<PathBuf>,
    /// Flows that fit, over the file.
    pub flows: Option<u32>,
}

/// Why the configuration was refused: the file, and what is wrong in it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The TOML file.
    #[error("{path}: {error}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ConfigError,
    },
    /// The rules.
    #[error("{path}: {error}", path = path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: RulesRefused,
    },
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nothing can listen there.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server could not be made.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The devices cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel cannot be asked about the network.
    #[error(transparent)]
    NextHop(#[from] NextHopError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no flow table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The configuration was checked, but does not fit.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operating system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Sources {
    /// Reads and checks everything.
    ///
    /// # Errors
    ///
    /// Which file is wrong, and where.
    pub fn load(&self) -> Result<Config, SourceError> {
        let mut config = match &self.config {
            Some(path) => {
                let text = read(path)?;
                Config::parse(&text)
                    .map_err(|error| SourceError::Config { path: path.clone(), error })?
            }
            None => Config::default(),
        };
        if let Some(path) = &self.rules {
            let text = read(path)?;
            let endpoints = config.daemon.endpoints;
            config.desired = rules::follow(&text, &SystemNames::new(), &config.desired, endpoints)
                .map_err(|error| SourceError::Rules { path: path.clone(), error })?;
        }
        config.daemon.flows = self.flows.unwrap_or(config.daemon.flows);
        Ok(config)
    }
}

fn read(path: &PathBuf) -> Result<String, SourceError> {
    fs::read_to_string(path).map_err(|source| SourceError::Read { path: path.clone(), source })
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// It could not start; nothing was changed then.
pub async fn run(sources: Sources, config: Config) -> Result<(), DaemonError> {
    // Before anything else, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    let listeners = Listeners::bind(&config)?;
    let mut fleet = prepare(&config)?;
    begin(&fleet.engine, &config)?;
    let surroundings = surroundings(&config, fleet.resolve).await?;
    fleet.fleet.start()?;

    let (stop, stopped) = watch::channel(false);
    let publisher =
        tokio::spawn(Arc::clone(&fleet.engine).publish(fleet.fleet, surroundings, stopped.clone()));
    // Whoever is answered may rely on it that the first services are in force.
    if let Err(error) = fleet.engine.settled().await {
        tracing::warn!("{error}");
    }
    let names = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
    let checks = runner::start(Arc::clone(&fleet.engine), names, stopped.clone())
        .map_err(|source| DaemonError::System { what: "cannot start a thread", source })?;
    let (health, routes) = server::routes(&fleet.engine);
    let service = server::Service { routes, access: Arc::clone(&listeners.access) };
    let mut tasks = JoinSet::new();
    tasks.spawn(server::serve_unix(
        listeners.unix.listener().map_err(ServeError::from)?,
        service.clone(),
        stopped.clone(),
    ));
    if let Some((listener, tls)) = listeners.tcp {
        tasks.spawn(server::serve_tcp(listener, tls, service, stopped.clone()));
    }
    if let Some(otlp) = config.otlp.clone() {
        tasks.spawn(web::otlp::export(otlp, Arc::clone(&fleet.engine), stopped.clone()));
    }
    if let Some((listener, names)) = listeners.http {
        tasks.spawn(web::serve(listener, Arc::clone(&fleet.engine), names, stopped));
    }
    let watcher = tokio::spawn(tell_health(Arc::clone(&fleet.engine), health));
    let info = fleet.engine.info();
    tracing::info!(
        socket = %config.api.socket.display(),
        interfaces = config.interfaces.len(),
        services = fleet.engine.lock().services().1.len(),
        flows = info.flow_capacity,
        flow_table_octets = info.flow_table_bytes,
        pages = info.flow_table_pages,
        "xvsd {} is ready",
        env!("CARGO_PKG_VERSION"),
    );
    tell_ready(&fleet.engine);
    let started = Started { sources: &sources, config: &config, access: &listeners.access };
    let outcome = live(&mut signals, &started, &fleet.engine, &mut tasks).await;

    tracing::info!("stopping");
    supervisor::stopping();
    // Nobody listens any more if everything has ended already.
    stop.send(true).unwrap_or_default();
    if timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tracing::debug!("some clients stayed to the end");
    }
    watcher.abort();
    join(checks).await;
    match publisher.await {
        Ok(mut fleet) => fleet.stop(),
        Err(error) => tracing::error!("the publisher failed: {error}"),
    }
    drop(listeners.unix);
    outcome
}

/// Waits for the thread of health checks, which stops when it is told to.
async fn join(thread: thread::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        tracing::error!("the thread of health checks failed");
    }
}

/// An engine and its fleet, not yet started.
struct Prepared {
    engine: Arc<Engine>,
    fleet: Fleet,
    resolve: crossbeam_channel::Receiver<Hop>,
}

fn prepare(config: &Config) -> Result<Prepared, DaemonError> {
    let allowed = cpus::allowed();
    let workers = workers(config, allowed.len())?;
    // Id 0 is never given out.
    let ids = config.daemon.endpoints as usize + 1;
    let endpoints = Arc::new(Endpoints::new(ids));
    let stats = Stats::new(workers, ids);
    let key = HashKey::from_os()
        .map_err(|source| DaemonError::System { what: "getrandom", source: source.into() })?;
    let seed = HashKey::from_os()
        .map_err(|source| DaemonError::System { what: "getrandom", source: source.into() })?
        .0[0];
    let table = TableConfig::new(config.daemon.flows as usize, workers.max(1), key);
    let table = Arc::new(FlowTable::new(&table)?);
    let (ask, resolve) = crossbeam_channel::bounded(RESOLVE_MAX);
    let shared = Shared {
        table: Arc::clone(&table),
        endpoints: Arc::clone(&endpoints),
        stats: stats.clone(),
        resolve: ask,
        seed,
        spin: Duration::from_micros(config.daemon.spin_us.into()),
        answers_per_second: config.daemon.answers_per_second,
    };
    let devices = Devices::new(&config.interfaces, workers, shared)?;
    let pins = cpus::pins(config.daemon.cpus.as_deref(), workers, &allowed);
    cpus::keep_off(&pins, &allowed);
    let fleet = Fleet::new(Box::new(devices), stats.clone(), &pins);
    let director = Director::new(endpoints, stats.clone());
    Ok(Prepared { engine: Arc::new(Engine::new(director, stats, table)), fleet, resolve })
}

/// How many workers: as many as asked for, else one for each receive queue that all interfaces
/// have, but no more than CPUs. None without interfaces.
fn workers(config: &Config, cpus: usize) -> Result<usize, OpenError> {
    let mut fewest = usize::MAX;
    for interface in &config.interfaces {
        let queues = receive_queues(&interface.name)
            .map_err(|error| OpenError(format!("{}: {error}", interface.name)))?;
        fewest = fewest.min(queues as usize);
    }
    Ok(match (config.interfaces.is_empty(), config.daemon.workers) {
        (true, _) => 0,
        (false, Some(workers)) => workers.into(),
        (false, None) => fewest.min(cpus).max(1),
    })
}

/// The first state: the journal's if there is one, over it the configuration if that is another
/// than the journal was begun with.
fn begin(engine: &Engine, config: &Config) -> Result<(), DaemonError> {
    let mut state = engine.lock();
    let Some(path) = &config.daemon.journal else {
        state.apply(&config.desired, None)?;
        return Ok(());
    };
    let found = journal::find(path)?;
    let base = base(&config.desired);
    let (mut newer, mut held) = (true, Vec::new());
    if let Some(restored) = &found.restored {
        state.apply(&restored.content.desired, None)?;
        held.clone_from(&restored.content.held);
        newer = restored.base != base;
        tracing::info!(
            services = restored.content.desired.services.len(),
            "restored from {}",
            path.display()
        );
    }
    if newer {
        let changes = state.apply(&config.desired, None)?;
        if found.restored.is_some() {
            tracing::warn!(
                changes = changes.len(),
                "the configuration was edited meanwhile: it is applied over the journal"
            );
        }
    }
    for held in held {
        let spec = DrainSpec {
            key: held.key,
            real: held.real,
            deadline: None,
            end: DrainEnd::Keep,
            templates: held.templates,
        };
        // The real server may have gone with an edit of the file.
        state.drain(spec).ok();
    }
    let journal = found.begin(state.content(), base)?;
    state.keep(journal);
    Ok(())
}

/// Tells one configuration from another: a checksum of what can be changed while the daemon runs.
fn base(desired: &Desired) -> u64 {
    let content = Content { desired: desired.clone(), held: Vec::new() };
    content.sum()
}

/// Starts following the network, and lets the workers ask for next hops.
async fn surroundings(
    config: &Config,
    resolve: crossbeam_channel::Receiver<Hop>,
) -> Result<Surroundings, DaemonError> {
    if config.interfaces.is_empty() {
        let (_, network) = watch::channel(Network::default());
        return Ok(Surroundings { network, hops: None });
    }
    let names = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
    let (hops, network) = NextHops::start(names).await?;
    let hops = Arc::new(hops);
    let asked = Arc::clone(&hops);
    let ask = move || resolve.iter().for_each(|(device, addr)| asked.resolve(device, addr));
    // Ends when the last worker and the devices are gone.
    thread::Builder::new()
        .name("xvs-resolve".to_owned())
        .spawn(ask)
        .map_err(|source| DaemonError::System { what: "cannot start a thread", source })?;
    Ok(Surroundings { network, hops: Some(hops) })
}

/// What the daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let signal = |kind| {
            signal(kind)
                .map_err(|source| DaemonError::System { what: "cannot take signals", source })
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// What the daemon was started with.
struct Started<'a> {
    sources: &'a Sources,
    config: &'a Config,
    access: &'a Access,
}

/// Lives until a signal says stop or a server fails.
async fn live(
    signals: &mut Signals,
    started: &Started<'_>,
    engine: &Engine,
    servers: &mut JoinSet<Result<(), ServeError>>,
) -> Result<(), DaemonError> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hangup.recv() => {
                supervisor::reloading();
                started.access.reopen();
                reload(started.sources, started.config, engine).await;
                tell_ready(engine);
            }
            Some(ended) = servers.join_next() => match ended {
                Ok(ended) => ended?,
                Err(error) => tracing::error!("a server failed: {error}"),
            },
        }
    }
}

/// Reads everything again and applies what can be changed; if anything is wrong, nothing changes.
async fn reload(sources: &Sources, started: &Config, engine: &Engine) {
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("not reloaded: {error}");
            return;
        }
    };
    let fixed = |config: &Config| {
        let Config { daemon, interfaces, api, http, otlp, desired: _ } = config.clone();
        (daemon, interfaces, api, http, otlp)
    };
    if fixed(&config) != fixed(started) {
        tracing::warn!(
            "[daemon], [[interface]], [api], [http] and [otlp] change only with a restart"
        );
    }
    let apply = |state: &mut State| {
        let changes = state.apply(&config.desired, None)?;
        state.set_base(base(&config.desired));
        Ok::<_, EngineError>(changes)
    };
    match engine.change(apply).await {
        Ok((generation, changes)) => {
            for change in &changes {
                tracing::info!("{}", change.description);
            }
            tracing::info!(generation, changes = changes.len(), "reloaded");
        }
        Err(error) => tracing::error!("not reloaded: {error}"),
    }
}

/// Tells systemd that the daemon forwards.
fn tell_ready(engine: &Engine) {
    let services = engine.lock().services().1.len();
    supervisor::ready(services, engine.report().borrow().workers.len());
}

/// Keeps the health service true: serving while every worker forwards.
async fn tell_health(engine: Arc<Engine>, reporter: HealthReporter) {
    let mut report = engine.report();
    loop {
        let running = report.borrow_and_update().all_running();
        let status = if running { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if report.changed().await.is_err() {
            return;
        }
    }
}
