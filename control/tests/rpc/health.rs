//! Policies of health checks over the API: set, listed, refused, kept.

use std::time::Duration;

use tonic::Code;
use xvs_control::proto::v1::{
    self, health_check::Kind, health_check_service_client::HealthCheckServiceClient,
};

use super::{Daemon, apply, entry, field, key, list, reason};

fn policy(check: v1::HealthCheck) -> v1::HealthPolicy {
    v1::HealthPolicy { checks: vec![check], ..v1::HealthPolicy::default() }
}

fn tcp() -> v1::HealthCheck {
    v1::HealthCheck { kind: Some(Kind::Tcp(v1::TcpCheck {})), ..v1::HealthCheck::default() }
}

fn set(policy: Option<v1::HealthPolicy>) -> v1::SetHealthPolicyRequest {
    v1::SetHealthPolicyRequest { service: Some(key(80)), policy }
}

#[tokio::test]
async fn a_policy_is_no_part_of_a_service_and_stays_with_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let mut health = HealthCheckServiceClient::new(daemon.channel.clone());
    client.apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    let started = client.get_service(v1::GetServiceRequest { key: Some(key(80)) }).await.unwrap();
    let begun = started.into_inner().generation;
    let asked = v1::HealthPolicy { start_down: true, ..policy(tcp()) };
    let generation =
        health.set_health_policy(set(Some(asked))).await.unwrap().into_inner().generation;
    assert!(generation > begun);
    // What ipvsadm -E does leaves it alone.
    let service = super::service(80, "wlc");
    client.update_service(v1::UpdateServiceRequest { service: Some(service) }).await.unwrap();
    daemon.engine.follow_policies();
    daemon.engine.decide_health(daemon.engine.health_now());
    let listed = health.list_health(v1::ListHealthRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.services.len(), 1);
    let found = &listed.services[0];
    assert_eq!((found.up, found.all, found.real_servers.len()), (0, 2, 2));
    let shown = found.policy.clone().unwrap();
    assert_eq!((shown.checks[0].rise, shown.on_down.as_str(), shown.quorum), (2, "inhibit", 1));
    assert!(
        list(&mut client).await[0].real_servers.iter().all(|real| real.share_percent == Some(0))
    );
    // A whole configuration without it takes it away, and with it what it did.
    client.apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    assert!(
        list(&mut client).await[0].real_servers.iter().all(|real| real.share_percent == Some(100))
    );
    let kept = v1::ServiceEntry { health: Some(policy(tcp())), ..entry(80, &[11, 12]) };
    let plan = client.apply(apply(std::slice::from_ref(&kept))).await.unwrap().into_inner();
    let told: Vec<_> = plan.changes.iter().map(|change| change.description.as_str()).collect();
    assert_eq!(told, ["add health checks of TCP 10.0.0.1:80"]);
    let rules = v1::ApplyRequest { keep_health_policies: true, ..apply(&[entry(80, &[11])]) };
    client.apply(rules).await.unwrap();
    assert_eq!(daemon.engine.lock().policies().len(), 1);
    client.delete_service(v1::DeleteServiceRequest { key: Some(key(80)) }).await.unwrap();
    assert!(daemon.engine.lock().policies().is_empty());
}

#[tokio::test]
async fn a_refused_policy_names_its_field_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let mut health = HealthCheckServiceClient::new(daemon.channel.clone());
    let refused = health.set_health_policy(set(Some(policy(tcp())))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "NO_SUCH_SERVICE"));
    client.apply(apply(&[entry(80, &[11])])).await.unwrap();
    let http = |http| v1::HealthCheck { kind: Some(Kind::Http(http)), ..tcp() };
    for (spoilt, path) in [
        (policy(v1::HealthCheck::default()), "policy.checks[0].kind"),
        (
            policy(v1::HealthCheck { interval_milliseconds: 5, ..tcp() }),
            "policy.checks[0].interval_milliseconds",
        ),
        (
            policy(http(v1::HttpCheck { path: "x".to_owned(), ..v1::HttpCheck::default() })),
            "policy.checks[0].http.path",
        ),
        (v1::HealthPolicy { quorum_hysteresis: 1, ..policy(tcp()) }, "policy.quorum_hysteresis"),
        (
            v1::HealthPolicy { sorry_server: Some(super::real(11)), ..policy(tcp()) },
            "policy.sorry_server",
        ),
        (v1::HealthPolicy::default(), "policy.checks"),
    ] {
        let refused = health.set_health_policy(set(Some(spoilt.clone()))).await.unwrap_err();
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, path));
        let entry = v1::ServiceEntry { health: Some(spoilt), ..entry(80, &[11]) };
        let refused = client.apply(apply(&[entry])).await.unwrap_err();
        assert_eq!(field(&refused), path.replace("policy", "services[0].health"));
    }
    assert!(daemon.engine.lock().policies().is_empty());
}

#[tokio::test]
async fn what_checks_do_is_no_change_that_an_apply_could_overwrite() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    client.apply(apply(&[entry(80, &[11])])).await.unwrap();
    let seen = list_generation(&daemon).await;
    {
        let mut state = daemon.engine.lock();
        let share = dataplane::director::spec::Share { percent: 0, ..Default::default() };
        let addr = dataplane::addr::Addr::v4(0x0a02_000b);
        let key = state.services().1[0].spec.key;
        state.director.share_real(&key, (addr, 80), share).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(list_generation(&daemon).await > seen);
    let based = |generation| v1::ApplyRequest {
        expected_generation: Some(generation),
        ..apply(&[entry(80, &[11, 12])])
    };
    client.apply(based(seen)).await.unwrap();
    let late = client.apply(based(seen)).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
}

async fn list_generation(daemon: &Daemon) -> u64 {
    let request = v1::GetServiceRequest { key: Some(key(80)) };
    daemon.client().get_service(request).await.unwrap().into_inner().generation
}
