//! Every configuration below `fixtures/config` is taken or refused as it says itself.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use dataplane::{
    addr::{Addr, Family},
    director::spec::{ServiceKey, TimeoutSpec},
    endpoint::Method,
};
use xvs_control::config::{Config, Mode};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/config").join(folder);
    let mut paths: Vec<_> = fs::read_dir(root).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

#[test]
fn every_valid_file_is_taken() {
    for path in fixtures("valid") {
        Config::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn every_invalid_file_is_refused_with_the_message_it_announces() {
    for path in fixtures("invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let want = text.lines().next().unwrap().strip_prefix("# refused: ").unwrap();
        match Config::parse(&text) {
            Ok(_) => panic!("{}: was taken", path.display()),
            Err(error) => assert_eq!(error.to_string(), want, "{}", path.display()),
        }
    }
}

#[test]
fn every_field_arrives() {
    let path = fixtures("valid").into_iter().find(|path| path.ends_with("everything.toml"));
    let config = Config::load(&path.unwrap()).unwrap();
    assert_eq!(config.daemon.workers, Some(2));
    assert_eq!(config.daemon.cpus, Some(vec![2, 3]));
    assert_eq!((config.daemon.flows, config.daemon.endpoints), (4_194_304, 4096));
    assert_eq!((config.daemon.spin_us, config.daemon.answers_per_second), (200, 5000));
    let modes: Vec<_> = config.interfaces.iter().map(|i| (i.name.as_str(), i.mode)).collect();
    assert_eq!(modes, [("eth1", Mode::Native), ("eth2", Mode::Native)]);
    assert_eq!(config.api.socket, Path::new("/run/xvs/other.sock"));
    let tls = config.api.tcp.unwrap().tls.unwrap();
    assert_eq!(tls.client_ca, Path::new("/etc/xvs/clients.pem"));
    let otlp = config.otlp.unwrap();
    assert_eq!(otlp.endpoint, "http://collector.example.net:4317");
    assert_eq!(otlp.interval.as_secs(), 15);
    let desired = config.desired;
    let timeouts = TimeoutSpec { tcp_s: 1800, tcp_fin_s: 60, udp_s: 120 };
    assert_eq!(desired.timeouts, Some(timeouts));
    let settings = [("conn_reuse_mode".to_owned(), 1), ("expire_nodest_conn".to_owned(), 1)];
    assert_eq!(desired.settings, settings);

    let rules: Vec<_> = desired.mark_rules.unwrap();
    let marked = rules[0].selector;
    assert_eq!((rules[0].mark, rules[1].mark, rules.len()), (7, 0, 2));
    assert_eq!((marked.protocol, marked.ports.first, marked.ports.last), (Some(6), 8000, 8099));
    assert_eq!(marked.to.to_string(), "192.0.2.128/25");
    assert_eq!(marked.from.unwrap().to_string(), "203.0.113.0/24");
    let mark = ServiceKey::Mark { mark: 7, family: Family::V4 };
    assert_eq!(desired.services[0].0.key, mark);
    let (service, reals) = &desired.services[1];
    let addr = Addr::v4(0xc000_020a);
    assert_eq!(service.key, ServiceKey::Address { protocol: 6, addr, port: 443 });
    assert_eq!(service.scheduler, "sh");
    assert!(service.flags.fallback && service.flags.port && !service.flags.flag3);
    assert_eq!((service.persistence_s, service.netmask), (Some(300), 0xffff_ff00));
    let real = reals[0];
    assert_eq!((real.port, real.method, real.weight), (8443, Method::Nat, 3));
    assert_eq!((real.upper, real.lower), (1000, 500));
    let real = reals[1];
    assert_eq!((real.port, real.method, real.weight), (443, Method::Gue, 1));
    assert_eq!((real.tunnel.port, real.tunnel.checksum), (6080, true));
    assert_eq!((reals[2].method, reals[2].weight), (Method::Dr, 0));
    let (service, reals) = &desired.services[2];
    assert!(service.one_packet && service.netmask == 128);
    assert_eq!(reals[0].method, Method::Ipip);
}

#[test]
fn every_field_of_a_health_policy_arrives() {
    use std::time::Duration;
    use xvs_control::health::policy::{Kind, OnDown};
    let path = fixtures("valid").into_iter().find(|path| path.ends_with("everything.toml"));
    let desired = Config::load(&path.unwrap()).unwrap().desired;
    let policies = desired.policies.unwrap();
    let of = |at: usize| &policies[&desired.services[at].0.key];
    assert_eq!(policies.len(), 2);
    let policy = of(1);
    assert!(policy.start_down && policy.on_down == OnDown::Remove);
    assert_eq!(policy.slow_start, Duration::from_secs(60));
    assert_eq!((policy.quorum, policy.hysteresis, policy.panic_percent), (3, 1, 0));
    assert_eq!(policy.sorry.unwrap().port, 8443);
    let passive = policy.passive.unwrap();
    assert_eq!((passive.failures, passive.hold), (3, Duration::from_secs(30)));
    let kinds: Vec<_> = policy.checks.iter().map(|check| check.kind.name()).collect();
    assert_eq!(kinds, ["tcp", "https", "grpc", "icmp", "agent", "script"]);
    assert!(policy.checks[0].through && !policy.checks[1].through);
    let check = &policy.checks[1];
    assert_eq!((check.port, check.jitter_percent, check.rise, check.fall), (Some(8443), 20, 3, 2));
    assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (5, 2));
    let Kind::Http(http) = &check.kind else { panic!("{check:?}") };
    assert_eq!((http.path.as_str(), http.host.as_str()), ("/healthz", "shop.example"));
    assert_eq!(
        (http.status.as_slice(), http.body.as_str()),
        (&[(200, 200), (204, 206)][..], "all well")
    );
    assert_eq!(
        (policy.checks[4].rise, policy.checks[4].fall),
        (1, 1),
        "an agent is believed at once"
    );
    let policy = of(2);
    assert_eq!((policy.panic_percent, policy.on_down, policy.quorum), (50, OnDown::Inhibit, 1));
}
