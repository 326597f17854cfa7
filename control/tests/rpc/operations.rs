//! Drains, events, flows ended: what an operator does, over the API.

use std::{sync::Arc, time::Duration};

use dataplane::{
    clock::{Clock as _, SystemClock},
    flow::{FlowKey, NewFlow, flag, tcp, timeout},
};
use tonic::{Code, Streaming, transport::Channel};
use xvs_control::proto::v1::{
    self, drain::Phase, operations_service_client::OperationsServiceClient, watch_response::Event,
};

use super::{Daemon, apply, entry, field, key, list, reason};

type Operations = OperationsServiceClient<Channel>;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Daemon {
    fn operations(&self) -> Operations {
        OperationsServiceClient::new(self.channel.clone())
    }

    /// Opens established flows of ports 1 to `count` at the real server at this place of the list.
    fn flows_at(&self, real: usize, count: u16) {
        let snapshot = self.engine.lock().director.compile();
        let service = &snapshot.services[0];
        let worker = Arc::clone(self.engine.table()).worker(0).unwrap();
        for port in 1..=count {
            let new = NewFlow {
                key: FlowKey {
                    source: dataplane::addr::Addr::v4(0x0a01_0001),
                    destination: dataplane::addr::Addr::v4(0x0a00_0001),
                    source_port: port,
                    destination_port: 80,
                    protocol: 6,
                    template: false,
                },
                virt: service.endpoint,
                real: service.reals[real].id,
                state: tcp::State::Established as u8,
                class: timeout::TCP + tcp::State::Established as u8,
                flags: flag::ONE_WAY,
                timeout: 900 * 16,
                ..NewFlow::default()
            };
            let real = self.endpoints.get(new.real);
            real.bind(dataplane::endpoint::Bound::Active);
            worker.insert(&new, &self.endpoints, SystemClock.now()).unwrap();
        }
    }
}

fn request(last: u32) -> v1::DrainRequest {
    v1::DrainRequest {
        service: Some(key(80)),
        real_server: Some(v1::RealServerKey { address: format!("10.2.0.{last}"), port: None }),
        ..v1::DrainRequest::default()
    }
}

fn after(milliseconds: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: milliseconds * 1_000_000 })
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

/// Follows a drain to its end.
async fn to_the_end(mut stream: Streaming<v1::DrainResponse>) -> Vec<v1::Drain> {
    let mut told = Vec::new();
    while let Some(message) =
        tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap()
    {
        told.push(message.drain.unwrap());
    }
    told
}

#[tokio::test]
async fn a_drained_server_is_held_until_the_drain_is_cancelled() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    let told = to_the_end(daemon.operations().drain(request(11)).await.unwrap().into_inner()).await;
    assert_eq!(told.last().unwrap().phase(), Phase::Drained);
    let weights = async || {
        let service = list(&mut daemon.client()).await.remove(0);
        let reals = service.real_servers.iter();
        reals.map(|real| (real.real_server.as_ref().unwrap().weight, real.held)).collect::<Vec<_>>()
    };
    // What was asked for stays as it was, so that a saved configuration or an apply loses nothing.
    assert_eq!(weights().await, [(Some(1), false), (Some(1), true)]);
    let snapshot = daemon.engine.lock().director.compile();
    let seen: Vec<_> = snapshot.services[0].reals.iter().map(|real| real.weight).collect();
    assert_eq!(seen, [1, 0]);
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    assert_eq!(weights().await[1], (Some(1), true));
    let cancel = v1::CancelDrainRequest {
        service: request(11).service,
        real_server: request(11).real_server,
    };
    daemon.operations().cancel_drain(cancel.clone()).await.unwrap();
    assert_eq!(weights().await[1], (Some(1), false));
    let status = daemon.operations().cancel_drain(cancel).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NO_SUCH_DRAIN"));
}

#[tokio::test]
async fn at_the_deadline_flows_are_kept_reset_or_moved_as_asked() {
    for (end, left, reset, moved) in [
        (v1::DrainEnd::Keep, 100, 0, 0),
        (v1::DrainEnd::Reset, 0, 100, 0),
        (v1::DrainEnd::Reschedule, 0, 0, 100),
    ] {
        let daemon = Daemon::start().await;
        daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
        daemon.flows_at(1, 100);
        let request = v1::DrainRequest { deadline: after(300), end: end.into(), ..request(11) };
        let told = to_the_end(daemon.operations().drain(request).await.unwrap().into_inner()).await;
        assert_eq!(told[0].phase(), Phase::Draining);
        assert_eq!(told[0].active_flows, 100);
        let last = told.last().unwrap();
        assert_eq!(last.phase(), Phase::Expired, "{end:?}");
        assert_eq!((last.active_flows, last.reset_flows, last.moved_flows), (left, reset, moved));
        let service = list(&mut daemon.client()).await.remove(0);
        let active: Vec<_> = service.real_servers.iter().map(|real| real.active_flows).collect();
        assert_eq!(active, [u32::try_from(moved).unwrap(), left], "{end:?}");
        let count = v1::CountFlowsRequest {
            filter: Some(v1::FlowFilter { state: "established".to_owned(), ..Default::default() }),
        };
        let counted = daemon.operations().count_flows(count).await.unwrap().into_inner();
        assert_eq!(counted.total, u64::from(left) + moved, "{end:?}");
    }
}

#[tokio::test]
async fn a_drain_tells_states_and_ends_with_its_real_server() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    daemon.flows_at(1, 7);
    let mut drain = daemon.operations().drain(request(11)).await.unwrap().into_inner();
    let told = loop {
        let drain = next(&mut drain).await.drain.unwrap();
        if !drain.states.is_empty() {
            break drain;
        }
    };
    let established = v1::StateCount { protocol: 6, state: "ESTABLISHED".to_owned(), flows: 7 };
    assert_eq!(told.states, [established]);
    daemon.client().apply(apply(&[entry(80, &[12])])).await.unwrap();
    let last = to_the_end(drain).await.pop().unwrap();
    assert_eq!(last.phase(), Phase::Removed);
    let drains = daemon.operations().list_drains(v1::ListDrainsRequest {}).await.unwrap();
    assert_eq!(drains.into_inner().drains, []);
    // Added again, it is as any other.
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    let service = list(&mut daemon.client()).await.remove(0);
    assert!(service.real_servers.iter().all(|real| !real.held));
}

#[tokio::test]
async fn a_drain_that_cannot_be_is_refused_by_field() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11])])).await.unwrap();
    let mut client = daemon.operations();
    let refused = [
        (v1::DrainRequest { service: None, ..request(11) }, "service"),
        (v1::DrainRequest { real_server: None, ..request(11) }, "real_server"),
        (v1::DrainRequest { end: v1::DrainEnd::Reset.into(), ..request(11) }, "end"),
        (v1::DrainRequest { end: 77, ..request(11) }, "end"),
        (
            v1::DrainRequest {
                deadline: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..request(11)
            },
            "deadline",
        ),
    ];
    for (request, path) in refused {
        let status = client.drain(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
    let status = client.drain(request(99)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NO_SUCH_REAL"));
}

#[tokio::test]
async fn flows_are_counted_and_ended_by_filter() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    daemon.flows_at(0, 20);
    let mut client = daemon.operations();
    let one = v1::FlowFilter { client_port: Some(7), ..v1::FlowFilter::default() };
    let delete = |filter, all| v1::DeleteFlowsRequest { filter, all };
    let status = client.delete_flows(delete(None, false)).await.unwrap_err();
    assert_eq!(field(&status), "filter");
    let status = client.delete_flows(delete(Some(one.clone()), true)).await.unwrap_err();
    assert_eq!(field(&status), "filter");
    let deleted = client.delete_flows(delete(Some(one.clone()), false)).await.unwrap();
    assert_eq!(deleted.into_inner().deleted, 1);
    let deleted = client.delete_flows(delete(Some(one), false)).await.unwrap();
    assert_eq!(deleted.into_inner().deleted, 0);
    let counted = client.count_flows(v1::CountFlowsRequest { filter: None }).await.unwrap();
    assert_eq!(counted.into_inner().total, 19);
    client.delete_flows(delete(None, true)).await.unwrap();
    let service = list(&mut daemon.client()).await.remove(0);
    assert_eq!(service.real_servers[0].active_flows, 0);
}

#[tokio::test]
async fn watching_begins_with_what_is_and_goes_on_with_what_happens() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11])])).await.unwrap();
    let mut events = daemon.operations().watch(v1::WatchRequest {}).await.unwrap().into_inner();
    let Some(Event::Snapshot(snapshot)) = next(&mut events).await.event else {
        panic!("the snapshot comes first");
    };
    assert_eq!(snapshot.services.len(), 1);
    let limited = v1::RealServer { upper_threshold: 2, ..super::real(12) };
    let create = v1::CreateRealServerRequest { service: Some(key(80)), real_server: Some(limited) };
    let generation = daemon.client().create_real_server(create).await.unwrap().into_inner();
    let told = loop {
        match next(&mut events).await.event {
            Some(Event::Configuration(told)) if told.generation >= generation.generation => {
                break told;
            }
            _ => {}
        }
    };
    assert_eq!(
        told.changes.last().unwrap().description,
        "add real server 10.2.0.12:80 of TCP 10.0.0.1:80"
    );
    daemon.flows_at(0, 3);
    let told = loop {
        if let Some(Event::Overload(told)) = next(&mut events).await.event {
            break told;
        }
    };
    assert!(told.overloaded && told.flows >= 2, "{told:?}");
    assert_eq!(told.real_server.unwrap().address, "10.2.0.12");
}

#[tokio::test]
async fn statistics_stream_with_services_if_asked() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11])])).await.unwrap();
    let mut client = daemon.operations();
    let request = v1::WatchStatisticsRequest { interval: after(100), services: true };
    let mut stream = client.watch_statistics(request).await.unwrap().into_inner();
    for _ in 0..2 {
        let message = next(&mut stream).await;
        assert_eq!(message.services.len(), 1);
        assert_eq!(message.statistics.unwrap().flow_table.unwrap().capacity, 1024);
    }
    let request = v1::WatchStatisticsRequest { interval: after(10), services: false };
    let status = client.watch_statistics(request).await.unwrap_err();
    assert_eq!(field(&status), "interval");
}

#[tokio::test]
async fn a_packet_is_explained_and_a_wrong_one_refused_by_field() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    daemon.flows_at(1, 1);
    let tuple = |port, flags: &str| v1::FiveTuple {
        protocol: 6,
        source_address: "10.1.0.1".to_owned(),
        source_port: port,
        destination_address: "10.0.0.1".to_owned(),
        destination_port: 80,
        tcp_flags: flags.to_owned(),
    };
    let ask = |tuple| v1::ExplainRequest {
        packet: Some(v1::explain_request::Packet::Tuple(tuple)),
        interface: String::new(),
    };
    let mut client = daemon.operations();
    let known = client.explain(ask(tuple(1, "A"))).await.unwrap().into_inner();
    assert_eq!(known.because(), v1::explain_response::Because::Flow);
    assert_eq!((known.state.as_str(), known.service), ("ESTABLISHED", Some(key(80))));
    assert_eq!(known.real_server.unwrap().address, "10.2.0.11");
    let new = client.explain(ask(tuple(2, ""))).await.unwrap().into_inner();
    assert_eq!(new.because(), v1::explain_response::Because::Scheduler);
    assert_eq!((new.scheduler.as_str(), new.choices.len()), ("rr", 2));
    // There are no interfaces here, so no route leads to the real server.
    assert_eq!(new.verdict(), v1::explain_response::Verdict::Dropped);
    assert_eq!(new.drop_reason, "no-route");
    assert!(new.packet.contains("TCP 2 > 80 S"), "{}", new.packet);
    let frame = v1::explain_request::Packet::Frame(vec![0; 13]);
    let other = v1::FiveTuple { destination_address: "fd00::1".to_owned(), ..tuple(1, "") };
    for (request, path) in [
        (v1::ExplainRequest::default(), "packet"),
        (v1::ExplainRequest { packet: Some(frame), ..Default::default() }, "frame"),
        (v1::ExplainRequest { interface: "eth9".to_owned(), ..ask(tuple(1, "")) }, "interface"),
        (ask(tuple(1, "SX")), "tuple.tcp_flags"),
        (ask(tuple(65_536, "")), "tuple.source_port"),
        (ask(other), "tuple.destination_address"),
    ] {
        let status = client.explain(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
}
