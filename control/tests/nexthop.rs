//! Next hops against the kernel: interfaces, routes and neighbours in namespaces of their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "../../dataplane/tests/support/netns.rs"]
mod netns;

use std::{net::IpAddr, process::Command, time::Duration};

use dataplane::{
    addr::Addr,
    director::network::{Network, Route},
    verdict::DeviceId,
};
use netns::Netns;
use tokio::{sync::watch, time::timeout};
use xvs_control::nexthop::NextHops;

const ETH: DeviceId = DeviceId(0);
const OTHER: DeviceId = DeviceId(1);

/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The box with eth and other, a neighbour at the far end of eth.
struct Rig {
    lb: Netns,
    peer: Netns,
}

impl Rig {
    fn new() -> Option<Self> {
        let (lb, peer) = (Netns::new()?, Netns::new()?);
        lb.connect("eth", &peer, "far");
        lb.connect("other", &peer, "far2");
        lb.ip("link set eth address 02:00:00:00:00:01");
        peer.ip("link set far address 02:00:00:00:00:02");
        for end in ["10.9.0.1/24 dev eth", "10.8.0.1/24 dev other", "fd09::1/64 dev eth nodad"] {
            lb.ip(&format!("addr add {end}"));
        }
        peer.ip("addr add 10.9.0.2/24 dev far");
        peer.ip("addr add fd09::2/64 dev far nodad");
        Some(Self { lb, peer })
    }

    /// Follows eth and other of the box while `task` runs.
    fn follow<F: Future<Output = ()>>(
        &self,
        task: impl FnOnce(NextHops, watch::Receiver<Network>) -> F + Send,
    ) {
        self.lb.inside(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let names = ["eth", "other"].map(str::to_owned).to_vec();
                let (hops, network) = NextHops::start(names).await.unwrap();
                task(hops, network).await;
            });
        });
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// Waits until the network fulfils `condition`.
async fn until(network: &mut watch::Receiver<Network>, condition: impl Fn(&Network) -> bool) {
    let seen = timeout(PATIENCE, network.wait_for(&condition)).await.is_ok();
    assert!(seen, "in vain: {:#?}", *network.borrow());
}

fn route(network: &Network, prefix: &str, length: u8) -> Option<Route> {
    let prefix = (addr(prefix), length);
    network.routes.iter().find(|route| route.prefix == prefix).cloned()
}

fn mac(network: &Network, device: DeviceId, address: &str) -> Option<[u8; 6]> {
    let addr = addr(address);
    network.neighbours.iter().find(|n| (n.device, n.addr) == (device, addr)).map(|n| n.mac)
}

/// What `ip` says inside a namespace.
fn ask(namespace: &Netns, arguments: &str) -> String {
    let output = namespace
        .inside(|| Command::new("ip").args(arguments.split_whitespace()).output().unwrap());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn interfaces_come_with_their_addresses_and_a_missing_one_is_named() {
    let Some(rig) = Rig::new() else { return };
    rig.lb.ip("link set other mtu 1400");
    rig.follow(async |_, mut network| {
        until(&mut network, |network| network.interfaces[1].mtu == 1400).await;
        let network = network.borrow().clone();
        let eth = &network.interfaces[0];
        assert_eq!((eth.device, eth.name.as_str(), eth.mtu), (ETH, "eth", 1500));
        assert_eq!(eth.mac, [2, 0, 0, 0, 0, 1]);
        assert!(eth.addrs.contains(&(addr("10.9.0.1"), 24)), "{eth:?}");
        assert!(eth.addrs.contains(&(addr("fd09::1"), 64)), "{eth:?}");
        assert_eq!(network.interfaces[1].addrs[0], (addr("10.8.0.1"), 24));
        let error = NextHops::start(vec!["eth".into(), "eth7".into()]).await.unwrap_err();
        assert_eq!(error.to_string(), "interface eth7 does not exist");
    });
}

#[test]
fn routes_are_followed_as_they_come_change_and_go() {
    let Some(rig) = Rig::new() else { return };
    let lb = &rig.lb;
    rig.follow(async |_, mut network| {
        let on_link = route(&network.borrow(), "10.9.0.0", 24).unwrap();
        assert_eq!((on_link.device, on_link.gateway), (ETH, None));
        assert_eq!(on_link.source, Some(addr("10.9.0.1")));

        lb.ip("route add 192.0.2.0/24 via 10.9.0.2 src 10.9.0.1 metric 7 mtu 1300");
        until(&mut network, |network| route(network, "192.0.2.0", 24).is_some()).await;
        let expected = Route {
            prefix: (addr("192.0.2.0"), 24),
            device: ETH,
            gateway: Some(addr("10.9.0.2")),
            source: Some(addr("10.9.0.1")),
            metric: 7,
            mtu: Some(1300),
        };
        assert_eq!(route(&network.borrow(), "192.0.2.0", 24), Some(expected));

        lb.ip("route replace 192.0.2.0/24 via 10.8.0.9 metric 7");
        until(&mut network, |network| {
            route(network, "192.0.2.0", 24).is_some_and(|route| {
                (route.device, route.gateway) == (OTHER, Some(addr("10.8.0.9")))
            })
        })
        .await;

        lb.ip("route del 192.0.2.0/24");
        until(&mut network, |network| route(network, "192.0.2.0", 24).is_none()).await;

        lb.ip("-6 route add default via fd09::2 dev eth");
        until(&mut network, |network| {
            route(network, "::", 0).is_some_and(|route| route.gateway == Some(addr("fd09::2")))
        })
        .await;
        lb.ip("route add 198.51.100.0/24 via inet6 fd09::2 dev eth");
        until(&mut network, |network| {
            route(network, "198.51.100.0", 24)
                .is_some_and(|route| route.gateway == Some(addr("fd09::2")))
        })
        .await;
    });
}

#[test]
fn only_unicast_routes_of_the_main_table_through_our_interfaces_count() {
    let Some(rig) = Rig::new() else { return };
    let lb = &rig.lb;
    lb.connect("spare", &rig.peer, "far3");
    lb.ip("addr add 10.7.0.1/24 dev spare");
    lb.ip("route add 192.0.2.0/24 via 10.9.0.2 table 100");
    lb.ip("route add 192.0.3.0/24 via 10.7.0.2");
    lb.ip("route add blackhole 192.0.4.0/24");
    lb.ip("route add 192.0.5.0/24 nexthop via 10.7.0.2 nexthop via 10.8.0.2 nexthop via 10.9.0.2");
    rig.follow(async |_, network| {
        let network = network.borrow();
        for prefix in ["192.0.2.0", "192.0.3.0", "192.0.4.0", "10.7.0.0"] {
            assert_eq!(route(&network, prefix, 24), None);
        }
        let several = route(&network, "192.0.5.0", 24).unwrap();
        assert_eq!((several.device, several.gateway), (OTHER, Some(addr("10.8.0.2"))));
        assert!(network.routes.iter().all(|route| route.prefix.0 != addr("10.9.0.1")));
    });
}

#[test]
fn an_interface_that_goes_takes_its_routes_along_and_may_come_back() {
    let Some(rig) = Rig::new() else { return };
    let lb = &rig.lb;
    lb.ip("neigh add 10.8.0.9 lladdr 02:00:00:00:00:09 dev other nud permanent");
    rig.follow(async |_, mut network| {
        assert_eq!(mac(&network.borrow(), OTHER, "10.8.0.9"), Some([2, 0, 0, 0, 0, 9]));
        lb.ip("link set other down");
        until(&mut network, |network| route(network, "10.8.0.0", 24).is_none()).await;
        lb.ip("link del other");
        until(&mut network, |network| {
            network.interfaces.len() == 1 && mac(network, OTHER, "10.8.0.9").is_none()
        })
        .await;
        lb.connect("other", &rig.peer, "far4");
        lb.ip("addr add 10.8.0.1/24 dev other");
        until(&mut network, |network| {
            network.interfaces.len() == 2
                && route(network, "10.8.0.0", 24).is_some_and(|route| route.device == OTHER)
        })
        .await;
    });
}

#[test]
fn a_neighbour_is_resolved_on_demand_and_its_change_is_seen() {
    let Some(rig) = Rig::new() else { return };
    let (lb, peer) = (&rig.lb, &rig.peer);
    rig.follow(async |hops, mut network| {
        assert_eq!(mac(&network.borrow(), ETH, "10.9.0.2"), None);
        for address in ["10.9.0.2", "fd09::2"] {
            hops.resolve(ETH, addr(address));
            until(&mut network, |n| mac(n, ETH, address) == Some([2, 0, 0, 0, 0, 2])).await;
        }
        lb.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:77 dev eth nud reachable");
        until(&mut network, |n| mac(n, ETH, "10.9.0.2") == Some([2, 0, 0, 0, 0, 0x77])).await;
        // Nobody answers there: the entry fails and is not offered.
        hops.resolve(ETH, addr("10.9.0.3"));
        peer.ip("link set far down");
        lb.ip("neigh flush dev eth");
        until(&mut network, |n| mac(n, ETH, "10.9.0.2").is_none()).await;
        assert_eq!(mac(&network.borrow(), ETH, "10.9.0.3"), None);
    });
}

#[test]
fn kept_next_hops_stay_resolved_until_they_are_let_go() {
    let Some(rig) = Rig::new() else { return };
    let lb = &rig.lb;
    lb.ip("neigh add 10.9.0.4 lladdr 02:00:00:00:00:04 dev eth nud permanent");
    let shown = |address: &str| ask(lb, &format!("neigh show {address} dev eth"));
    rig.follow(async |hops, mut network| {
        hops.keep(["10.9.0.2", "10.9.0.4", "fd09::2"].map(|text| (ETH, addr(text))));
        for address in ["10.9.0.2", "fd09::2"] {
            until(&mut network, |n| mac(n, ETH, address) == Some([2, 0, 0, 0, 0, 2])).await;
            assert!(shown(address).contains("managed"), "{}", shown(address));
        }
        assert!(shown("10.9.0.4").contains("PERMANENT"), "{}", shown("10.9.0.4"));

        // Lost by the kernel, they come back without anybody sending.
        lb.ip("neigh flush dev eth nud all");
        until(&mut network, |n| mac(n, ETH, "10.9.0.2").is_none()).await;
        until(&mut network, |n| mac(n, ETH, "10.9.0.2") == Some([2, 0, 0, 0, 0, 2])).await;

        hops.resolve(ETH, addr("10.9.0.2"));
        hops.keep([(ETH, addr("fd09::2"))]);
        for _ in 0..100 {
            if !shown("10.9.0.2").contains("managed") {
                break;
            }
            tokio::time::sleep(PATIENCE / 100).await;
        }
        assert!(!shown("10.9.0.2").contains("managed"), "{}", shown("10.9.0.2"));
        assert!(shown("fd09::2").contains("managed"), "{}", shown("fd09::2"));
    });
}

#[test]
fn a_flood_of_changes_ends_in_the_right_picture() {
    let Some(rig) = Rig::new() else { return };
    let lb = &rig.lb;
    // More than the socket's buffer holds, in one batch, so that messages are lost.
    let mut batch = String::new();
    for high in 0..40 {
        for low in 0..250 {
            batch += &format!("route add 172.{}.{low}.0/24 via 10.9.0.2\n", 16 + high);
        }
    }
    for high in 0..39 {
        for low in 0..250 {
            batch += &format!("route del 172.{}.{low}.0/24\n", 16 + high);
        }
    }
    let file = std::env::temp_dir().join(format!("xvr-{}.batch", std::process::id()));
    std::fs::write(&file, batch).unwrap();
    rig.follow(async |_, mut network| {
        lb.ip(&format!("-batch {}", file.display()));
        let many =
            |n: &Network| n.routes.iter().filter(|r| r.metric == 0 && r.gateway.is_some()).count();
        until(&mut network, |n| many(n) == 250).await;
        assert!(route(&network.borrow(), "172.55.249.0", 24).is_some());
    });
    std::fs::remove_file(file).unwrap();
}
