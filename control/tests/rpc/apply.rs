//! Whole configurations: planned, applied, refused, and applied by two at once.

use tonic::Code;
use xvs_control::proto::v1::{self, change::Kind};

use super::{Daemon, ENDPOINTS, apply, entry, field, key, list, reason, service};

#[tokio::test]
async fn an_apply_says_what_it_changes_and_does_nothing_twice() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let request = apply(&[entry(80, &[11, 12]), entry(81, &[11])]);
    client.apply(request.clone()).await.unwrap();

    let plan = v1::ApplyRequest { validate_only: true, ..apply(&[entry(80, &[11, 13])]) };
    let before = list(&mut client).await;
    let planned = client.apply(plan.clone()).await.unwrap().into_inner();
    assert_eq!(list(&mut client).await, before);
    let request = v1::PlanRequest { apply: Some(apply(&[entry(80, &[11, 13])])) };
    let same = client.plan(request).await.unwrap().into_inner();
    assert_eq!((same.generation, &same.changes), (planned.generation, &planned.changes));
    assert_eq!(list(&mut client).await, before);
    let wrong = v1::PlanRequest { apply: Some(apply(&[entry(65536, &[])])) };
    let refused = client.plan(wrong).await.unwrap_err();
    assert_eq!(field(&refused), "apply.services[0].service.key.address.port");
    let done =
        client.apply(v1::ApplyRequest { validate_only: false, ..plan }).await.unwrap().into_inner();
    assert_eq!(planned.changes, done.changes);
    assert!(done.generation > planned.generation);
    let said: Vec<_> = done.changes.iter().map(|c| (c.kind(), c.description.as_str())).collect();
    assert_eq!(
        said,
        [
            (Kind::Deleted, "delete service TCP 10.0.0.1:81"),
            (Kind::Deleted, "delete real server 10.2.0.12:80 of TCP 10.0.0.1:80"),
            (Kind::Created, "add real server 10.2.0.13:80 of TCP 10.0.0.1:80"),
        ]
    );
    let again = client.apply(apply(&[entry(80, &[11, 13])])).await.unwrap().into_inner();
    assert_eq!((again.changes, again.generation), (vec![], done.generation));
}

#[tokio::test]
async fn an_apply_with_a_fault_anywhere_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    client.apply(apply(&[entry(80, &[11])])).await.unwrap();
    let before = list(&mut client).await;
    let generation = daemon.engine.lock().director.generation();
    let bad_scheduler =
        v1::ServiceEntry { service: Some(service(82, "rrr")), real_servers: vec![], health: None };
    let setting = |name: &str, value: &str| v1::ApplyRequest {
        settings: vec![v1::Setting { name: name.to_owned(), value: value.to_owned() }],
        ..apply(&[entry(81, &[])])
    };
    let cases = [
        (
            apply(&[entry(81, &[11]), bad_scheduler]),
            Code::InvalidArgument,
            "services[1].service.scheduler",
        ),
        (apply(&[entry(81, &[]), entry(81, &[])]), Code::AlreadyExists, ""),
        (apply(&[entry(81, &[11, 12, 11])]), Code::AlreadyExists, ""),
        (
            apply(&[entry(81, &[11]), entry(65536, &[])]),
            Code::InvalidArgument,
            "services[1].service.key.address.port",
        ),
        (setting("expire_nodest_con", "1"), Code::InvalidArgument, "settings[0].name"),
        (setting("expire_nodest_conn", "2"), Code::InvalidArgument, "settings[0].value"),
        (setting("expire_nodest_conn", "x"), Code::InvalidArgument, "settings[0].value"),
        (
            apply(&(1..=ENDPOINTS).map(|port| entry(port, &[])).collect::<Vec<_>>()),
            Code::ResourceExhausted,
            "",
        ),
    ];
    for (request, code, path) in cases {
        let status = client.apply(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (code, path), "{status}");
    }
    assert_eq!(list(&mut client).await, before);
    assert_eq!(daemon.engine.lock().director.generation(), generation);
}

#[tokio::test]
async fn of_two_applies_on_one_generation_one_is_aborted() {
    let daemon = Daemon::start().await;
    let (mut one, mut other) = (daemon.client(), daemon.client());
    let generation = one.apply(apply(&[entry(80, &[11])])).await.unwrap().into_inner().generation;
    let request = |last| v1::ApplyRequest {
        expected_generation: Some(generation),
        ..apply(&[entry(80, &[last])])
    };
    let (first, second) = tokio::join!(one.apply(request(12)), other.apply(request(13)));
    let (won, lost, last) = match (first, second) {
        (Ok(won), Err(lost)) => (won, lost, 12),
        (Err(lost), Ok(won)) => (won, lost, 13),
        both => panic!("exactly one must win: {both:?}"),
    };
    assert_eq!((lost.code(), reason(&lost).as_str()), (Code::Aborted, "GENERATION_MISMATCH"));
    assert!(won.into_inner().generation > generation);
    let listed = list(&mut one).await;
    let real = listed[0].real_servers[0].real_server.clone().unwrap();
    assert_eq!(real.address, format!("10.2.0.{last}"));
}

#[tokio::test]
async fn unconditional_applies_at_once_leave_one_of_them_whole() {
    let daemon = Daemon::start().await;
    let requests = [apply(&[entry(80, &[11, 12])]), apply(&[entry(81, &[13]), entry(82, &[])])];
    let tasks: Vec<_> = (0..20)
        .map(|turn| {
            let mut client = daemon.client();
            let request = requests[turn % 2].clone();
            tokio::spawn(async move { client.apply(request).await.unwrap().into_inner() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let shape: Vec<_> = list(&mut daemon.client())
        .await
        .iter()
        .map(|service| (service.service.clone().unwrap().key, service.real_servers.len()))
        .collect();
    let one = vec![(Some(key(80)), 2)];
    let other = vec![(Some(key(81)), 1), (Some(key(82)), 0)];
    assert!(shape == one || shape == other, "{shape:?}");
}
