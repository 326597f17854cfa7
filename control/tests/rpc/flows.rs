//! What the workers keep and count, as the API lists it.

use std::{collections::BTreeSet, sync::Arc};

use dataplane::{
    addr::Addr,
    clock::{Clock as _, SystemClock},
    endpoint::EndpointId,
    flow::{FlowKey, NewFlow, tcp, timeout},
};
use tonic::Code;
use xvs_control::proto::v1::{self, diagnostics_service_client::DiagnosticsServiceClient};

use super::{Daemon, apply, entry, field, key, list};

/// Enough for several pages.
const FLOWS: u16 = 500;

/// The endpoints of the only service and of its real servers, last added first.
fn endpoints(daemon: &Daemon) -> (EndpointId, Vec<EndpointId>) {
    let snapshot = daemon.engine.lock().director.compile();
    let service = &snapshot.services[0];
    (service.endpoint, service.reals.iter().map(|real| real.id).collect())
}

/// Opens flows of clients 10.1.0.1, ports from 1000 on, by turns at the real servers.
fn open_flows(daemon: &Daemon) {
    let (virt, reals) = endpoints(daemon);
    let worker = Arc::clone(daemon.engine.table()).worker(0).unwrap();
    for number in 0..FLOWS {
        let new = NewFlow {
            key: FlowKey {
                source: Addr::v4(0x0a01_0001),
                destination: Addr::v4(0x0a00_0001),
                source_port: 1000 + number,
                destination_port: 80,
                protocol: 6,
                template: false,
            },
            virt,
            real: reals[usize::from(number) % reals.len()],
            state: tcp::State::Established as u8,
            class: timeout::TCP + tcp::State::Established as u8,
            timeout: 900 * 16,
            ..NewFlow::default()
        };
        worker.insert(&new, &daemon.endpoints, SystemClock.now()).unwrap();
    }
}

/// Turns all pages; each must keep to its size.
async fn all_flows(daemon: &Daemon, page_size: u32, filter: v1::FlowFilter) -> Vec<v1::Flow> {
    let mut client = daemon.client();
    let mut flows = Vec::new();
    let mut page_token = String::new();
    loop {
        let filter = Some(filter.clone());
        let request = v1::ListFlowsRequest { page_size, page_token, filter };
        let page = client.list_flows(request).await.unwrap().into_inner();
        assert!(page.flows.len() <= page_size as usize);
        flows.extend(page.flows);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return flows;
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_list_every_flow_once() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    open_flows(&daemon);
    for page_size in [1, 7, 499, 500, 501, 10_000] {
        let flows = all_flows(&daemon, page_size, v1::FlowFilter::default()).await;
        assert_eq!(flows.len(), usize::from(FLOWS), "{page_size} a page");
        let ports: BTreeSet<_> =
            flows.iter().map(|flow| flow.client.as_ref().unwrap().port).collect();
        assert_eq!(ports.len(), usize::from(FLOWS), "{page_size} a page");
    }
    let flow = &all_flows(&daemon, 1000, v1::FlowFilter::default()).await[0];
    assert_eq!((flow.protocol(), flow.state.as_str()), (v1::Protocol::Tcp, "ESTABLISHED"));
    assert!((890..=900).contains(&flow.expires_seconds), "{flow:?}");
    let virt = flow.r#virtual.as_ref().unwrap();
    assert_eq!((virt.address.as_str(), virt.port), ("10.0.0.1", 80));
}

#[tokio::test]
async fn a_filter_lists_what_fits_on_every_page_size() {
    let daemon = Daemon::start().await;
    daemon.client().apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    open_flows(&daemon);
    let real = v1::FlowFilter { real_address: "10.2.0.11".to_owned(), ..Default::default() };
    let port = v1::FlowFilter { client_port: Some(1234), ..Default::default() };
    let none = v1::FlowFilter { protocol: v1::Protocol::Udp.into(), ..Default::default() };
    for page_size in [1, 100, 10_000] {
        assert_eq!(all_flows(&daemon, page_size, real.clone()).await.len(), 250);
        assert_eq!(all_flows(&daemon, page_size, port.clone()).await.len(), 1);
        assert_eq!(all_flows(&daemon, page_size, none.clone()).await.len(), 0);
    }
    let mut client = DiagnosticsServiceClient::new(daemon.channel.clone());
    let statistics = client.get_statistics(v1::GetStatisticsRequest {}).await.unwrap().into_inner();
    assert_eq!(statistics.flow_table.unwrap().used, u64::from(FLOWS));
}

#[tokio::test]
async fn a_bad_page_or_filter_is_refused_by_name() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    let filter = |filter| v1::ListFlowsRequest { filter: Some(filter), ..Default::default() };
    for (request, path) in [
        (v1::ListFlowsRequest { page_size: 10_001, ..Default::default() }, "page_size"),
        (v1::ListFlowsRequest { page_token: "x".to_owned(), ..Default::default() }, "page_token"),
        (
            filter(v1::FlowFilter { client_address: "10.1".to_owned(), ..Default::default() }),
            "filter.client_address",
        ),
        (
            filter(v1::FlowFilter { real_port: Some(65_536), ..Default::default() }),
            "filter.real_port",
        ),
    ] {
        let status = client.list_flows(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
}

#[tokio::test]
async fn counters_rise_have_rates_and_fall_to_zero() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client();
    client.apply(apply(&[entry(80, &[11, 12])])).await.unwrap();
    let (_, reals) = endpoints(&daemon);
    let counted = daemon.engine.stats().worker(0).endpoint(reals[0]);
    for _ in 0..100 {
        counted.count_in(60);
    }
    daemon.engine.lock().step_rates();
    let service = list(&mut client).await.remove(0);
    let (counters, rates) = (service.counters.unwrap(), service.rates.unwrap());
    assert_eq!((counters.in_packets, counters.in_bytes), (100, 6000));
    // One step of two seconds, as `estimator` has it from the kernel.
    assert_eq!((rates.in_packets, rates.in_bytes), (12, 750));
    assert_eq!(service.real_servers[0].rates.unwrap().in_packets, 12);
    assert_eq!(service.real_servers[1].counters, Some(v1::Counters::default()));
    let totals = async || {
        let mut client = DiagnosticsServiceClient::new(daemon.channel.clone());
        let request = v1::GetStatisticsRequest {};
        client.get_statistics(request).await.unwrap().into_inner().totals.unwrap().in_packets
    };
    assert_eq!(totals().await, 100);

    let one = v1::ZeroCountersRequest { service: Some(key(80)) };
    client.zero_counters(one).await.unwrap();
    let service = list(&mut client).await.remove(0);
    assert_eq!(service.counters, Some(v1::Counters::default()));
    assert_eq!(service.rates, Some(v1::Rates::default()));
    assert_eq!(totals().await, 100);
    client.zero_counters(v1::ZeroCountersRequest { service: None }).await.unwrap();
    assert_eq!(totals().await, 0);
    // Totals are the box's: they do not fall when a service goes.
    counted.count_in(60);
    client.flush_services(v1::FlushServicesRequest {}).await.unwrap();
    assert_eq!(totals().await, 1);
}
