//! Nothing acknowledged is lost: the daemon is killed in the middle of changes, over and over, and
//! after each restart has exactly the state that was acknowledged last, or the one that was asked for
//! next and whose answer the kill kept back.
//!
//! `XVS_KILLS` says how often; without it a few times. `XVS_KILLS=100` is the long version.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tonic::transport::{Channel, Endpoint};
use xvs_control::proto::v1::{
    self, load_balancer_service_client::LoadBalancerServiceClient,
    operations_service_client::OperationsServiceClient,
};

/// How long the daemon may take for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Applies that a kill falls into.
const APPLIES: u32 = 200;

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been killed already.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }
}

impl Daemon {
    fn start(folder: &Path, services: &str) -> Self {
        Self::run(folder, services, Command::new(env!("CARGO_BIN_EXE_xvsd")))
    }

    /// Whose files may not grow beyond so many KiB: to it that is a disk that fills up.
    fn start_cramped(folder: &Path, kib: u32) -> Self {
        let shell = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
        let mut command = Command::new("sh");
        command.args(["-c", &shell, env!("CARGO_BIN_EXE_xvsd")]);
        Self::run(folder, "", command)
    }

    fn run(folder: &Path, services: &str, mut command: Command) -> Self {
        let socket = folder.join("xvsd.sock");
        let journal = folder.join("state/journal");
        let head = format!(
            "daemon.flows = 1024\ndaemon.endpoints = 32768\ndaemon.journal = \"{}\"\napi.socket = \"{}\"\n",
            journal.display(),
            socket.display()
        );
        fs::write(folder.join("xvs.toml"), head + services).unwrap();
        let child = command
            .arg("--config")
            .arg(folder.join("xvs.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "the daemon does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> LoadBalancerServiceClient<Channel> {
        LoadBalancerServiceClient::new(self.channel().await)
    }
}

fn key(port: u32) -> v1::ServiceKey {
    let address = v1::VirtualAddress { protocol: 6, address: "10.0.0.1".to_owned(), port };
    v1::ServiceKey { key: Some(v1::service_key::Key::Address(address)) }
}

/// The state with this number: how many services there are, and the weight of their real servers.
fn state(number: u32) -> v1::ApplyRequest {
    let entry = |port| v1::ServiceEntry {
        health: None,
        service: Some(v1::Service { key: Some(key(port)), ..v1::Service::default() }),
        real_servers: vec![v1::RealServer {
            address: "10.2.0.11".to_owned(),
            weight: Some(number),
            ..v1::RealServer::default()
        }],
    };
    v1::ApplyRequest { services: (1..=1 + number % 7).map(entry).collect(), ..Default::default() }
}

/// The number of the state that a daemon has; checks that it is whole.
async fn number(client: &mut LoadBalancerServiceClient<Channel>) -> u32 {
    let mut stream = client.list_services(v1::ListServicesRequest {}).await.unwrap().into_inner();
    let mut weights = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        let service = message.service.unwrap();
        let [real] = &service.real_servers[..] else { panic!("{service:?}") };
        weights.push(real.real_server.as_ref().unwrap().weight.unwrap());
    }
    let number = weights.first().copied().unwrap_or(0);
    assert!(weights.iter().all(|weight| *weight == number), "half a state: {weights:?}");
    if number > 0 {
        assert_eq!(weights.len(), state(number).services.len(), "half a state");
    }
    number
}

#[tokio::test]
async fn a_kill_in_the_middle_of_applies_loses_nothing_acknowledged() {
    let kills = std::env::var("XVS_KILLS").map_or(8, |kills| kills.parse::<u32>().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..kills {
        let daemon = Daemon::start(folder.path(), "");
        let mut client = daemon.client().await;
        let found = number(&mut client).await;
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "kill {round}: {acknowledged} was acknowledged, found {found}"
        );
        acknowledged = found;
        // Somewhere in the middle, elsewhere each time.
        let after = Duration::from_micros(u64::from(round) * 7919 % 150_000 + 500);
        let id = rustix::process::Pid::from_child(&daemon.child);
        let killer = thread::spawn(move || {
            thread::sleep(after);
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        });
        for _ in 0..APPLIES {
            if client.apply(state(acknowledged + 1)).await.is_err() {
                break;
            }
            acknowledged += 1;
        }
        killer.join().unwrap();
    }
    assert!(acknowledged > 0, "no apply came through");
}

#[tokio::test]
async fn a_full_disk_is_told_and_made_good_as_soon_as_it_takes_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_cramped(folder.path(), 32);
    let mut client = daemon.client().await;
    let mut next = 1;
    let refused = loop {
        match client.apply(state(next)).await {
            Ok(_) => next += 1,
            Err(status) => break status,
        }
        assert!(next < 10_000, "the journal grows without end");
    };
    assert_eq!(refused.code(), tonic::Code::DataLoss, "{refused}");
    assert!(refused.message().contains("File too large"), "{refused}");
    // It is in force all the same, and the next change brings the whole state onto the disk.
    assert_eq!(number(&mut client).await, next);
    client.apply(state(next + 1)).await.unwrap();
    drop(daemon);
    let daemon = Daemon::start(folder.path(), "");
    assert_eq!(number(&mut daemon.client().await).await, next + 1);
}

#[tokio::test]
async fn every_kind_of_change_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\nport = 80\n\
                [[service.real]]\naddress = \"10.2.0.11\"\n\
                [[service.real]]\naddress = \"10.2.0.12\"\n";
    let daemon = Daemon::start(folder.path(), file);
    let mut client = daemon.client().await;
    let service = v1::Service { key: Some(key(81)), ..v1::Service::default() };
    client.create_service(v1::CreateServiceRequest { service: Some(service) }).await.unwrap();
    let setting = v1::Setting { name: "expire_nodest_conn".to_owned(), value: "1".to_owned() };
    client.set_setting(v1::SetSettingRequest { setting: Some(setting) }).await.unwrap();
    let timeouts = v1::Timeouts { tcp_seconds: 77, tcp_fin_seconds: 0, udp_seconds: 0 };
    client.set_timeouts(v1::SetTimeoutsRequest { timeouts: Some(timeouts) }).await.unwrap();
    let drain = v1::DrainRequest {
        service: Some(key(80)),
        real_server: Some(v1::RealServerKey { address: "10.2.0.11".to_owned(), port: None }),
        ..v1::DrainRequest::default()
    };
    OperationsServiceClient::new(daemon.channel().await).drain(drain).await.unwrap();
    drop(daemon);

    let daemon = Daemon::start(folder.path(), file);
    let mut client = daemon.client().await;
    let found = client.get_service(v1::GetServiceRequest { key: Some(key(80)) }).await.unwrap();
    let reals = found.into_inner().service.unwrap().real_servers;
    let held: Vec<_> = reals
        .iter()
        .map(|real| (real.real_server.as_ref().unwrap().address.as_str(), real.held))
        .collect();
    assert_eq!(held, [("10.2.0.12", false), ("10.2.0.11", true)]);
    client.get_service(v1::GetServiceRequest { key: Some(key(81)) }).await.unwrap();
    let timeouts = client.get_timeouts(v1::GetTimeoutsRequest {}).await.unwrap().into_inner();
    assert_eq!(timeouts.timeouts.unwrap().tcp_seconds, 77);
    let settings = client.get_settings(v1::GetSettingsRequest {}).await.unwrap().into_inner();
    let setting = settings.settings.iter().find(|s| s.name == "expire_nodest_conn").unwrap();
    assert_eq!(setting.value, "1");
    drop(daemon);

    // A file that was edited meanwhile wins.
    let daemon = Daemon::start(folder.path(), &file.replace("10.2.0.12", "10.2.0.13"));
    let mut client = daemon.client().await;
    let found = client.get_service(v1::GetServiceRequest { key: Some(key(80)) }).await.unwrap();
    let reals = found.into_inner().service.unwrap().real_servers;
    let names: Vec<_> =
        reals.iter().map(|real| real.real_server.as_ref().unwrap().address.as_str()).collect();
    assert_eq!(names, ["10.2.0.13", "10.2.0.11"]);
    assert!(client.get_service(v1::GetServiceRequest { key: Some(key(81)) }).await.is_err());
}

#[tokio::test]
async fn a_thousand_services_of_twenty_servers_are_one_apply() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), "");
    let mut client = daemon.client().await;
    let real = |host| v1::RealServer { address: format!("10.2.0.{host}"), ..Default::default() };
    let entry = |port| v1::ServiceEntry {
        health: None,
        service: Some(v1::Service { key: Some(key(port)), ..v1::Service::default() }),
        real_servers: (1..=20).map(real).collect(),
    };
    let mut request =
        v1::ApplyRequest { services: (1..=1000).map(entry).collect(), ..Default::default() };
    let start = Instant::now();
    let applied = client.apply(request.clone()).await.unwrap().into_inner();
    eprintln!("1000 services of 20 real servers were applied in {:?}", start.elapsed());
    assert_eq!(applied.changes.len(), 21_000);
    // One bad line changes nothing.
    request.services[700].real_servers[3].weight = Some(u32::MAX);
    request.services[1].service.as_mut().unwrap().scheduler = "sh".to_owned();
    assert!(client.apply(request.clone()).await.is_err());
    request.services[700].real_servers[3].weight = None;
    request.expected_generation = Some(applied.generation);
    let first = client.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.changes.len(), 1);
    // Whoever applies on the generation before is told.
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted);
    drop(daemon);
    let daemon = Daemon::start(folder.path(), "");
    let mut client = daemon.client().await;
    let mut stream = client.list_services(v1::ListServicesRequest {}).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(message) = stream.message().await.unwrap() {
        count += message.service.unwrap().real_servers.len();
    }
    assert_eq!(count, 20_000);
}
