//! Clients that attack the API and the page while traffic runs: no request of the traffic fails, an
//! operator is answered, and the daemon's memory and descriptors stay within bounds.

mod attack;
mod proper;

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use xvs_bench::lab::{Balancer, Family, Method};

use self::{
    attack::{Attack, OPENING, Way},
    proper::Certificates,
};
use crate::{Bed, configuration, is_long};

/// Where gRPC by TLS and the page listen: on the clients' side.
const TLS: ([u8; 4], u16) = ([10, 1, 0, 1], 7380);
const PAGE: ([u8; 4], u16) = ([10, 1, 0, 1], 7381);

/// A user with the role read, and one without any.
const READER: u32 = 65_532;
const STRANGER: u32 = 65_533;

/// By how much the daemon's resident memory may grow, in KiB: the bounds on what connections hold, and
/// some room for the allocator.
const GROWTH_KB: usize = 64 << 10;

/// Descriptors that clients can make the daemon hold: 256 places by the unix socket and 256 by TCP, 64
/// at the page, and one of each that is just being accepted.
const DESCRIPTORS: usize = 256 + 256 + 64 + 3;

/// Tries in which an operator must be answered.
const TRIES: usize = 3;

/// Begins a request to the page that does not end.
const BEGUN: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ";
const WHOLE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What a run of wrk showed.
#[derive(Debug)]
struct Load {
    requests_per_second: String,
    p99: String,
}

/// The most that was seen of the daemon.
#[derive(Debug, Default)]
struct Peak {
    resident_kb: AtomicUsize,
    descriptors: AtomicUsize,
}

impl Peak {
    fn look(&self, id: u32) {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident = line.split_whitespace().next().unwrap().parse().unwrap();
        self.resident_kb.fetch_max(resident, Relaxed);
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
        self.descriptors.fetch_max(descriptors, Relaxed);
    }
}

/// Ends the attack when it goes, also by a panic.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn address((octets, port): ([u8; 4], u16)) -> SocketAddr {
    SocketAddr::from((octets, port))
}

/// Runs HTTP for a while; fails if any request does.
fn load(bed: &Bed, seconds: u64) -> Load {
    let mut wrk = bed.world.client.command("wrk");
    wrk.args(["-t", "1", "-c", "32", "--timeout", "10s", "--latency"]);
    wrk.args(["-d", &format!("{seconds}s"), &format!("http://{}/", Family::V4.vip())]);
    let printed = wrk.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success() && text.contains("Requests/sec"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    Load { requests_per_second: value("Requests/sec:"), p99: value("99%") }
}

/// Makes the calling thread somebody else's for the rest of its life.
fn become_user(user: u32) {
    set_thread_groups(&[]).unwrap();
    let (group, user) = (Gid::from_raw(user), Uid::from_raw(user));
    set_thread_res_gid(group, group, group).unwrap();
    set_thread_res_uid(user, user, user).unwrap();
}

/// Attacks by the unix socket, as this user.
fn by_socket() -> Vec<(&'static str, u32, Attack, Vec<u8>)> {
    let opening = OPENING.to_vec();
    vec![
        ("1000 held by a stranger", STRANGER, attack::hold, opening.clone()),
        ("1000 held", READER, attack::hold, opening.clone()),
        ("garbage", READER, attack::garbage, vec![]),
        ("an octet a second", READER, attack::drip, attack::long_head()),
        ("streams without end", READER, attack::streams, opening.clone()),
        ("rapid resets", READER, attack::resets, opening.clone()),
        ("settings and pings", READER, attack::questions, opening),
    ]
}

/// Attacks by TCP.
fn by_tcp() -> Vec<(&'static str, Way, Attack, Vec<u8>)> {
    let [tls, page] = [TLS, PAGE].map(|at| Way::Tcp(address(at)));
    // The head of a handshake that promises 16 KiB.
    let hello = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3];
    vec![
        ("TLS: 1000 held", tls.clone(), attack::hold, vec![]),
        ("TLS: garbage", tls.clone(), attack::garbage, vec![]),
        ("TLS: an octet a second", tls.clone(), attack::drip, hello.clone()),
        ("TLS: a handshake without end", tls, attack::endless, hello),
        ("page: 1000 held", page.clone(), attack::hold, vec![]),
        ("page: garbage", page.clone(), attack::garbage, vec![]),
        ("page: an octet a second", page.clone(), attack::drip, BEGUN.to_vec()),
        ("page: a head without end", page.clone(), attack::endless, BEGUN.to_vec()),
        ("page: answers unread", page, attack::unread, WHOLE.to_vec()),
    ]
}

/// Asks the daemon as an operator does; gives back how many tries it took.
fn ask(balancer: &Balancer) -> usize {
    let tries = (1..=TRIES).find(|_| balancer.adm.run("info").is_ok());
    tries.unwrap_or_else(|| panic!("xvsd does not answer in {TRIES} tries"))
}

/// Attacks by all ways at once until `stop`, and prints what came of each.
fn attack(bed: &Bed, balancer: &Balancer, certificates: &Certificates, stop: &AtomicBool) {
    thread::scope(|scope| {
        for (name, user, attack, opening) in by_socket() {
            let way = Way::Unix(balancer.adm.socket().to_owned());
            scope.spawn(move || {
                become_user(user);
                eprintln!("{name}: {} connections", attack(&way, &opening, stop));
            });
        }
        for (name, way, attack, opening) in by_tcp() {
            scope.spawn(move || {
                bed.world.client.enter().unwrap();
                eprintln!("{name}: {} connections", attack(&way, &opening, stop));
            });
        }
        scope.spawn(|| {
            bed.world.client.enter().unwrap();
            let refused = proper::strange(&certificates.others, address(TLS), stop);
            eprintln!("TLS: a stranger's certificate refused {refused} times");
        });
        scope.spawn(|| {
            become_user(READER);
            let (answered, refused) = proper::greedy(balancer.adm.socket(), stop);
            eprintln!("great requests: {answered} answered, {refused} without room");
        });
    });
}

fn more_descriptors() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let wanted = hard.map_or(16_384, |hard| hard.min(16_384));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: hard }).unwrap();
}

#[test]
fn no_request_fails_while_the_api_is_attacked() {
    let Some(bed) = Bed::new() else { return };
    more_descriptors();
    let folder = bed.world.folder.path();
    let certificates = Certificates::write(folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "{}\n[http]\nlisten = \"{}\"\n\n[[api.role]]\nrole = \"read\"\nuser = \"{READER}\"\n\n\
         [[api.role]]\nrole = \"read\"\ncertificate = \"client.example\"\n\n[api.tcp]\n\
         listen = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        configuration("native"),
        address(PAGE),
        address(TLS),
        file("server.pem"),
        file("server.key"),
        file("clients.pem"),
    );
    let balancer = bed.balancer(&text);
    bed.serve(&balancer, Method::Nat, Family::V4);
    let greeted = thread::scope(|scope| {
        let greeted = || {
            bed.world.client.enter().unwrap();
            proper::greeted(&certificates.ours, address(TLS))
        };
        scope.spawn(greeted).join().unwrap()
    });
    greeted.expect("a client with the right certificate is served");

    let seconds = if is_long() { 20 } else { 5 };
    let (peak, stop) = (Peak::default(), AtomicBool::new(false));
    let calm = load(&bed, seconds);
    peak.look(balancer.id());
    let before = (peak.resident_kb.load(Relaxed), peak.descriptors.load(Relaxed));
    let (attacked, tries) = thread::scope(|scope| {
        scope.spawn(|| attack(&bed, &balancer, &certificates, &stop));
        let end = End(&stop);
        let operator = scope.spawn(|| {
            let mut tries = Vec::new();
            while !stop.load(Relaxed) {
                tries.push(ask(&balancer));
                thread::sleep(Duration::from_millis(50));
            }
            tries
        });
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                peak.look(balancer.id());
                thread::sleep(Duration::from_millis(20));
            }
        });
        // The attackers have their places when the traffic is measured.
        thread::sleep(Duration::from_secs(1));
        let attacked = load(&bed, seconds);
        drop(end);
        (attacked, operator.join().unwrap())
    });
    let (resident, descriptors) = (peak.resident_kb.load(Relaxed), peak.descriptors.load(Relaxed));
    eprintln!(
        "{} requests/s, p99 {} without, {} and {} under attack; resident {} MiB, then {} at most; \
         {} descriptors, then {descriptors} at most; {} answers for the operator, in {} tries at most",
        calm.requests_per_second,
        calm.p99,
        attacked.requests_per_second,
        attacked.p99,
        before.0 >> 10,
        resident >> 10,
        before.1,
        tries.len(),
        tries.iter().max().unwrap(),
    );
    assert!(resident - before.0 <= GROWTH_KB, "{} KiB, then {resident}", before.0);
    assert!(descriptors - before.1 <= DESCRIPTORS, "{}, then {descriptors}", before.1);
}
