//! What is refused: with which code, text, reason and field; and that nothing changed.

use tonic::Code;
use xvs_control::proto::v1;

use super::{Daemon, apply, entry, field, key, list, real, reason, service};

/// Code, reason, message and path of the field.
type Refusal = (Code, &'static str, &'static str, &'static str);

/// A service of TCP 10.0.0.1:81 with its address spoilt.
fn address(edit: fn(&mut v1::VirtualAddress)) -> v1::Service {
    let mut address = v1::VirtualAddress { protocol: 6, address: "10.0.0.1".to_owned(), port: 81 };
    edit(&mut address);
    let key = Some(v1::service_key::Key::Address(address));
    v1::Service { key: Some(v1::ServiceKey { key }), ..service(81, "rr") }
}

/// Services that are refused beside TCP 10.0.0.1:80.
fn bad_services() -> [(v1::Service, Refusal); 8] {
    let with = |edit: fn(&mut v1::Service)| {
        let mut service = service(81, "rr");
        edit(&mut service);
        service
    };
    [
        (service(80, "rr"), (Code::AlreadyExists, "SERVICE_EXISTS", "Service already exists", "")),
        (
            service(81, "rrr"),
            (
                Code::InvalidArgument,
                "NO_SUCH_SCHEDULER",
                "Scheduler or persistence engine not found",
                "service.scheduler",
            ),
        ),
        (
            address(|address| address.address = "10.0.0.300".to_owned()),
            (
                Code::InvalidArgument,
                "INVALID",
                "service.key.address.address: `10.0.0.300` is not an IP address",
                "service.key.address.address",
            ),
        ),
        (
            address(|address| address.port = 0),
            (
                Code::InvalidArgument,
                "INVALID",
                "port: 0 needs a persistent service",
                "service.key.address.port",
            ),
        ),
        (
            address(|address| address.port = 65536),
            (
                Code::InvalidArgument,
                "INVALID",
                "service.key.address.port: 65536 is not within 0 to 65535",
                "service.key.address.port",
            ),
        ),
        (
            with(|service| service.persistence_seconds = Some(0)),
            (
                Code::InvalidArgument,
                "INVALID",
                "service.persistence_seconds: 0 is not within 1 to 2678400",
                "service.persistence_seconds",
            ),
        ),
        (
            with(|service| service.netmask = "255.255.255".to_owned()),
            (
                Code::InvalidArgument,
                "INVALID",
                "service.netmask: `255.255.255` is not a mask as 255.255.255.0",
                "service.netmask",
            ),
        ),
        (
            with(|service| service.key = None),
            (Code::InvalidArgument, "INVALID", "service.key: must be given", "service.key"),
        ),
    ]
}

/// Real servers that are refused, with the port of their service.
fn bad_real_servers() -> [(u32, v1::RealServer, Refusal); 8] {
    [
        (80, real(11), (Code::AlreadyExists, "REAL_EXISTS", "Destination already exists", "")),
        (81, real(12), (Code::NotFound, "NO_SUCH_SERVICE", "No such service", "")),
        (
            80,
            v1::RealServer { weight: Some(1 << 31), ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "real_server.weight: 2147483648 is not within 0 to 2147483647",
                "real_server.weight",
            ),
        ),
        (
            80,
            v1::RealServer { method: "natt".to_owned(), ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "real_server.method: unknown forwarding method `natt`; did you mean `nat`?",
                "real_server.method",
            ),
        ),
        (
            80,
            v1::RealServer { address: String::new(), ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "real_server.address: must be given",
                "real_server.address",
            ),
        ),
        (
            80,
            v1::RealServer { upper_threshold: 5, lower_threshold: 10, ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "lower: 10 is above the upper threshold 5",
                "real_server.lower_threshold",
            ),
        ),
        (
            80,
            v1::RealServer { method: "gue".to_owned(), ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "tunnel.port: gue needs a UDP port",
                "real_server.tunnel.port",
            ),
        ),
        (
            80,
            v1::RealServer { address: "fd02::11".to_owned(), ..real(12) },
            (
                Code::InvalidArgument,
                "INVALID",
                "addr: fd02::11 is of the other family; only a tunnel leads there",
                "real_server.address",
            ),
        ),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    client.apply(apply(&[entry(80, &[11])])).await.unwrap();
    let before = list(&mut client).await;
    let generation = daemon.engine.lock().director.generation();
    for (service, (code, why, message, path)) in bad_services() {
        let request = v1::CreateServiceRequest { service: Some(service) };
        let status = client.create_service(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
        assert_eq!((reason(&status).as_str(), field(&status).as_str()), (why, path));
    }
    for (port, real, (code, why, message, path)) in bad_real_servers() {
        let request =
            v1::CreateRealServerRequest { service: Some(key(port)), real_server: Some(real) };
        let status = client.create_real_server(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
        assert_eq!((reason(&status).as_str(), field(&status).as_str()), (why, path));
    }
    assert_eq!(list(&mut client).await, before);
    assert_eq!(daemon.engine.lock().director.generation(), generation);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_edited_or_deleted() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let not_found = |status: tonic::Status, message: &str| {
        assert_eq!((status.code(), status.message()), (Code::NotFound, message));
    };
    let request = v1::UpdateServiceRequest { service: Some(service(80, "rr")) };
    not_found(client.update_service(request).await.unwrap_err(), "No such service");
    let request = v1::DeleteServiceRequest { key: Some(key(80)) };
    not_found(client.delete_service(request).await.unwrap_err(), "No such service");
    let request = v1::ZeroCountersRequest { service: Some(key(80)) };
    not_found(client.zero_counters(request).await.unwrap_err(), "No such service");
    client.apply(apply(&[entry(80, &[])])).await.unwrap();
    let request =
        v1::UpdateRealServerRequest { service: Some(key(80)), real_server: Some(real(11)) };
    not_found(client.update_real_server(request).await.unwrap_err(), "No such destination");
}

#[tokio::test]
async fn a_refusal_quotes_only_the_beginning_of_what_is_too_long() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    for name in ["n".repeat(1 << 20), "\u{e9}".repeat(1 << 19)] {
        let setting = v1::Setting { name, value: "1".to_owned() };
        let request = v1::SetSettingRequest { setting: Some(setting) };
        let status = client.set_setting(request).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, "setting.name")
        );
        assert!(status.message().len() < 1100 && status.message().ends_with("..."), "{status:?}");
    }
}
