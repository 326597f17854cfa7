//! The API over a real unix socket, with an engine that has no workers: every change is in force
//! as soon as it is made.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod apply;
mod capture;
mod flows;
mod health;
mod hostile;
mod marks;
mod operations;
mod refusals;

use std::sync::Arc;

use dataplane::{
    director::{Director, network::Network},
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
    steering::{SteeringError, rules::SteeringRules},
};
use tokio::sync::watch;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use xvs_control::{
    engine::{
        Engine,
        fleet::{Fleet, Machine, OpenError, Opened},
        publish::Surroundings,
    },
    proto::v1::{
        self as v1, diagnostics_service_client::DiagnosticsServiceClient,
        load_balancer_service_client::LoadBalancerServiceClient,
    },
    server::{self, listen::UnixSocket},
};

type LoadBalancer = LoadBalancerServiceClient<Channel>;

/// Devices of a box that has none.
#[derive(Debug)]
struct NoDevices;

impl Machine for NoDevices {
    fn open(&mut self) -> Result<Opened, OpenError> {
        Ok(Opened { interfaces: vec![], workers: vec![] })
    }

    fn steer(&mut self, _: &SteeringRules) -> Result<(), SteeringError> {
        Ok(())
    }

    fn close(&mut self) {}
}

/// A daemon without workers.
struct Daemon {
    channel: Channel,
    engine: Arc<Engine>,
    endpoints: Arc<Endpoints>,
    _socket: UnixSocket,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _network: watch::Sender<Network>,
}

/// Few, so that a test can fill them; but what was removed still takes its place for a while.
const ENDPOINTS: u32 = 64;

impl Daemon {
    async fn start() -> Self {
        let stats = Stats::new(1, ENDPOINTS as usize);
        let endpoints = Arc::new(Endpoints::new(ENDPOINTS as usize));
        let director = Director::new(Arc::clone(&endpoints), stats.clone());
        let table =
            TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
        let table = Arc::new(FlowTable::new(&table).unwrap());
        let engine = Arc::new(Engine::new(director, stats.clone(), table));
        let fleet = Fleet::new(Box::new(NoDevices), stats, &[]);
        let (stop, stopped) = watch::channel(false);
        let (network, networks) = watch::channel(Network::default());
        let surroundings = Surroundings { network: networks, hops: None };
        tokio::spawn(Arc::clone(&engine).publish(fleet, surroundings, stopped.clone()));
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixSocket::bind(&folder.path().join("xvsd.sock")).unwrap();
        let (health, routes) = server::routes(&engine);
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        tokio::spawn(server::serve_unix(socket.listener().unwrap(), routes, stopped));
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.path().display()));
        let channel = endpoint.unwrap().connect().await.unwrap();
        Self {
            channel,
            engine,
            endpoints,
            _socket: socket,
            _folder: folder,
            _stop: stop,
            _network: network,
        }
    }

    fn client(&self) -> LoadBalancer {
        LoadBalancerServiceClient::new(self.channel.clone())
    }
}

fn key(port: u32) -> v1::ServiceKey {
    let address = v1::VirtualAddress { protocol: 6, address: "10.0.0.1".to_owned(), port };
    v1::ServiceKey { key: Some(v1::service_key::Key::Address(address)) }
}

fn service(port: u32, scheduler: &str) -> v1::Service {
    v1::Service { key: Some(key(port)), scheduler: scheduler.to_owned(), ..v1::Service::default() }
}

fn real(last: u32) -> v1::RealServer {
    v1::RealServer { address: format!("10.2.0.{last}"), ..v1::RealServer::default() }
}

fn entry(port: u32, reals: &[u32]) -> v1::ServiceEntry {
    v1::ServiceEntry {
        service: Some(service(port, "rr")),
        real_servers: reals.iter().map(|last| real(*last)).collect(),
        health: None,
    }
}

fn apply(services: &[v1::ServiceEntry]) -> v1::ApplyRequest {
    v1::ApplyRequest { services: services.to_vec(), ..v1::ApplyRequest::default() }
}

async fn list(client: &mut LoadBalancer) -> Vec<v1::ServiceStatus> {
    let mut stream = client.list_services(v1::ListServicesRequest {}).await.unwrap().into_inner();
    let mut services = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        services.push(message.service.unwrap());
    }
    services
}

/// The field that a refusal names.
fn field(status: &Status) -> String {
    let details = status.get_error_details();
    details.bad_request().map_or_else(String::new, |bad| bad.field_violations[0].field.clone())
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn services_and_real_servers_come_edit_and_go() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let create = v1::CreateServiceRequest { service: Some(service(80, "wrr")) };
    let first = client.create_service(create).await.unwrap().into_inner().generation;
    for last in [11, 12] {
        let request =
            v1::CreateRealServerRequest { service: Some(key(80)), real_server: Some(real(last)) };
        client.create_real_server(request).await.unwrap();
    }
    let request = v1::UpdateRealServerRequest {
        service: Some(key(80)),
        real_server: Some(v1::RealServer { weight: Some(7), ..real(11) }),
    };
    let last = client.update_real_server(request).await.unwrap().into_inner().generation;
    assert!(last > first);

    let services = list(&mut client).await;
    let [listed] = &services[..] else { panic!("{services:?}") };
    assert_eq!(listed.service.as_ref().unwrap().scheduler, "wrr");
    let reals: Vec<_> =
        listed.real_servers.iter().map(|real| real.real_server.clone().unwrap()).collect();
    // The kernel's order: the one added last comes first.
    assert_eq!((reals[0].address.as_str(), reals[0].weight), ("10.2.0.12", Some(1)));
    assert_eq!((reals[1].address.as_str(), reals[1].weight), ("10.2.0.11", Some(7)));
    assert_eq!((reals[1].port, reals[1].method.as_str()), (Some(80), "dr"));

    let update = v1::UpdateServiceRequest { service: Some(service(80, "sh")) };
    client.update_service(update).await.unwrap();
    let request = v1::DeleteRealServerRequest {
        service: Some(key(80)),
        real_server: Some(v1::RealServerKey { address: "10.2.0.12".to_owned(), port: None }),
    };
    client.delete_real_server(request).await.unwrap();
    let request = v1::GetServiceRequest { key: Some(key(80)) };
    let got = client.get_service(request).await.unwrap().into_inner().service.unwrap();
    assert_eq!(got.service.unwrap().scheduler, "sh");
    assert_eq!(got.real_servers.len(), 1);

    client.delete_service(v1::DeleteServiceRequest { key: Some(key(80)) }).await.unwrap();
    assert_eq!(list(&mut client).await, []);
}

#[tokio::test]
async fn an_answer_comes_only_when_the_change_is_in_force() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    for port in 1..=5 {
        let create = v1::CreateServiceRequest { service: Some(service(port, "rr")) };
        let generation = client.create_service(create).await.unwrap().into_inner().generation;
        assert!(daemon.engine.in_force() >= generation);
    }
}

#[tokio::test]
async fn settings_and_timeouts_are_kept_and_bounded() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let set = |name: &str, value: &str| v1::SetSettingRequest {
        setting: Some(v1::Setting { name: name.to_owned(), value: value.to_owned() }),
    };
    client.set_setting(set("expire_nodest_conn", "1")).await.unwrap();
    let settings =
        client.get_settings(v1::GetSettingsRequest {}).await.unwrap().into_inner().settings;
    let found = settings.iter().find(|setting| setting.name == "expire_nodest_conn").unwrap();
    assert_eq!(found.value, "1");
    for (name, value, path) in [
        ("expire_nodest_conn", "2", "setting.value"),
        ("expire_nodest_conn", "yes", "setting.value"),
        ("nosuch", "1", "setting.name"),
    ] {
        let status = client.set_setting(set(name, value)).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
    let timeouts = |tcp, fin, udp| {
        Some(v1::Timeouts { tcp_seconds: tcp, tcp_fin_seconds: fin, udp_seconds: udp })
    };
    let request = v1::SetTimeoutsRequest { timeouts: timeouts(0, 60, 0) };
    client.set_timeouts(request).await.unwrap();
    let got = client.get_timeouts(v1::GetTimeoutsRequest {}).await.unwrap().into_inner();
    assert_eq!(got.timeouts, timeouts(900, 60, 300));
    let request = v1::SetTimeoutsRequest { timeouts: timeouts(2_147_484, 0, 0) };
    let status = client.set_timeouts(request).await.unwrap_err();
    assert_eq!(field(&status), "timeouts.tcp_seconds");
}

#[tokio::test]
async fn the_daemon_says_what_it_is_and_that_it_serves() {
    let daemon = Daemon::start().await;
    let mut client = DiagnosticsServiceClient::new(daemon.channel.clone());
    let info = client.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.flow_capacity, 1024);
    assert!(info.schedulers.contains(&"wlc".to_owned()));
    assert!(info.methods.contains(&"gue".to_owned()));
    let statistics = client.get_statistics(v1::GetStatisticsRequest {}).await.unwrap().into_inner();
    assert_eq!(statistics.totals, Some(v1::Counters::default()));

    let mut health = tonic_health::pb::health_client::HealthClient::new(daemon.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
}

#[tokio::test]
async fn reflection_names_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let daemon = Daemon::start().await;
    let mut client = ServerReflectionClient::new(daemon.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::once(request);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a list");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["xvs.v1.LoadBalancerService", "xvs.v1.DiagnosticsService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
}
