//! Health checks for real: servers that answer badly, hang, flap or no longer unwrap their tunnel are taken
//! out and come back, and clients do not notice.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use xvs_bench::lab::{Balancer, Family, Method, Tally, web::PORTS};

use crate::{Bed, configuration, methods::inside};

/// How long a check may take to come to what it must.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `xvsadm health` says so of a real server.
fn wait(balancer: &Balancer, real: &str, state: &str, note: &str) {
    let start = Instant::now();
    loop {
        let shown = balancer.adm.run("health").unwrap();
        let line = shown.lines().find(|line| line.trim_start().starts_with(&format!("{real} ")));
        if line.is_some_and(|line| line.contains(state) && line.contains(note)) {
            return;
        }
        let late = start.elapsed() > PATIENCE;
        assert!(!late, "{real} is not {state} ({note}):\n{shown}\n{}", balancer.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// How a server answers.
const GOOD: u8 = 0;
const SICK: u8 = 1;
const HANGING: u8 = 2;

/// Answers HTTP as `mood` says, until the test ends.
fn serve(bed: &Bed, at: usize, port: u16) -> Arc<AtomicU8> {
    let real = &bed.world.reals[at];
    let listener = inside(&real.namespace, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let listener = listener.unwrap();
    let mood = Arc::new(AtomicU8::new(GOOD));
    let told = Arc::clone(&mood);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mood = told.load(Relaxed);
            thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(5))).ok();
                let asked = stream.read(&mut [0; 4096]).unwrap_or_default();
                if asked == 0 {
                    return;
                }
                let status = match mood {
                    HANGING => return thread::sleep(Duration::from_secs(5)),
                    SICK => "500 Sick",
                    _ => "200 OK",
                };
                let body = format!("real{}\n", at + 1);
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
                write!(stream, "{head}connection: close\r\n\r\n{body}").ok();
            });
        }
    });
    mood
}

/// Applies a service with the first two real servers, checked every 100 ms.
fn place(
    bed: &Bed,
    balancer: &Balancer,
    family: Family,
    (method, port): (Method, u16),
    check: &str,
) {
    bed.world.answer_by(method.gateway()).unwrap();
    let mut text = format!(
        "[[service]]\nprotocol = \"tcp\"\naddress = \"{}\"\nport = 80\nscheduler = \"rr\"\n",
        family.vip()
    );
    let tunnel =
        if method == Method::Gue { "tunnel = { port = 6080, checksum = true }\n" } else { "" };
    for real in &bed.world.reals[..2] {
        let (address, name) = (real.address(family), method.name());
        text += &format!(
            "[[service.real]]\naddress = \"{address}\"\nport = {port}\nmethod = \"{name}\"\n{tunnel}"
        );
    }
    text += "[service.health]\nstart_down = true\n";
    for check in check.split(';') {
        text += &format!(
            "[[service.health.check]]\n{check}\ninterval_milliseconds = 100\n\
             timeout_milliseconds = 500\nrise = 2\nfall = 3\n"
        );
    }
    let path = bed.world.folder.path().join("checked.toml");
    fs::write(&path, text).unwrap();
    balancer.adm.run(&format!("apply --file {}", path.display())).unwrap();
}

/// Asks as a client: everybody is answered, by these and nobody else.
fn answered_by(bed: &Bed, family: Family, wanted: &[&str]) {
    let tally = Tally::take(&bed.world.client, family.vip(), 40).unwrap();
    assert_eq!(tally.failures, [""; 0]);
    let names: Vec<_> = tally.answers.keys().map(String::as_str).collect();
    assert_eq!(names, wanted);
}

#[test]
fn servers_that_answer_badly_hang_or_flap_are_taken_out_and_come_back() {
    const BOTH: [&str; 2] = ["real1", "real2"];
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    let moods = [serve(&bed, 0, 7100), serve(&bed, 1, 7100)];
    place(&bed, &balancer, Family::V4, (Method::Nat, 7100), "kind = \"http\"");
    let [first, second] = [0, 1].map(|at: usize| format!("{}:7100", bed.world.reals[at].v4));
    for (mood, note) in [(SICK, "HTTP 500"), (HANGING, "no answer within 500ms")] {
        wait(&balancer, &first, " up ", "HTTP 200");
        wait(&balancer, &second, " up ", "HTTP 200");
        answered_by(&bed, Family::V4, &BOTH);
        moods[1].store(mood, Relaxed);
        wait(&balancer, &second, "DOWN", note);
        answered_by(&bed, Family::V4, &BOTH[..1]);
        moods[1].store(GOOD, Relaxed);
    }
    // A second of each: it follows, and clients are answered while it is said to be down.
    for _ in 0..3 {
        wait(&balancer, &second, " up ", "HTTP 200");
        moods[1].store(SICK, Relaxed);
        wait(&balancer, &second, "DOWN", "HTTP 500");
        answered_by(&bed, Family::V4, &BOTH[..1]);
        moods[1].store(GOOD, Relaxed);
    }
    wait(&balancer, &second, " up ", "HTTP 200");
    // One bad answer now and then changes nothing.
    for _ in 0..10 {
        moods[1].store(SICK, Relaxed);
        thread::sleep(Duration::from_millis(100));
        moods[1].store(GOOD, Relaxed);
        thread::sleep(Duration::from_millis(400));
    }
    let log = balancer.log();
    let downs = log.lines().filter(|line| line.contains(&second) && line.contains("is down"));
    assert_eq!(downs.count(), 5, "{log}");
    assert_eq!(log.matches(" is down").count(), 5, "nobody else was: {log}");
}

#[test]
fn a_probe_through_the_forwarding_path_finds_what_a_direct_one_does_not() {
    for (mode, methods) in [
        ("native", &[Method::Dr, Method::Ipip, Method::Gue, Method::Gre][..]),
        ("raw", &[Method::Dr, Method::Ipip][..]),
    ] {
        let Some(bed) = Bed::new() else { return };
        let balancer = bed.balancer(&configuration(mode));
        // The client draws its ports at random, and the replies do not pass here: without this, one drawn
        // again within two minutes belongs to the flow that it had before, at the server of that time.
        balancer.adm.run("set conn_reuse_mode 3").unwrap();
        for (&method, family) in methods.iter().flat_map(|m| Family::ALL.map(|f| (m, f))) {
            let checks = "kind = \"tcp\";kind = \"http\"\nthrough = true";
            place(&bed, &balancer, family, (method, 80), checks);
            let names = [0, 1].map(|at: usize| {
                let address = bed.world.reals[at].address(family);
                format!("{}:80", family.host(address))
            });
            let up = |name: &String| wait(&balancer, name, " up ", "tcp: connected");
            names.iter().for_each(up);
            answered_by(&bed, family, &["real1", "real2"]);
            // The second one no longer takes what travels so, but answers at its own address.
            let vip = format!("{}/{}", family.vip(), if family == Family::V4 { 32 } else { 128 });
            let (real, decapsulator) = (&bed.world.reals[1], bed.world.decapsulator(1));
            if method == Method::Dr {
                real.namespace.ip(&format!("addr del {vip} dev lo")).unwrap();
            } else {
                decapsulator.signal(Signal::STOP).unwrap();
            }
            wait(&balancer, &names[1], "DOWN", "tcp: connected");
            answered_by(&bed, family, &["real1"]);
            if method == Method::Dr {
                let nodad = if family == Family::V6 { " nodad" } else { "" };
                real.namespace.ip(&format!("addr add {vip} dev lo{nodad}")).unwrap();
            } else {
                decapsulator.signal(Signal::CONT).unwrap();
            }
            up(&names[1]);
            answered_by(&bed, family, &["real1", "real2"]);
            balancer.adm.run("-C").unwrap();
        }
    }
}

#[test]
fn the_sorry_server_answers_when_nobody_else_does_and_flows_alone_find_a_dead_one() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    bed.world.answer_by(Method::Nat.gateway()).unwrap();
    let [first, second, sorry] = [0, 1, 2].map(|at: usize| bed.world.reals[at].v4);
    let head = format!(
        "[[service]]\nprotocol = \"tcp\"\naddress = \"{}\"\nport = 80\nscheduler = \"rr\"\n",
        Family::V4.vip()
    );
    let real = |addr, port| {
        format!("[[service.real]]\naddress = \"{addr}\"\nport = {port}\nmethod = \"nat\"\n")
    };
    let apply = |text: String| {
        let path = bed.world.folder.path().join("checked.toml");
        fs::write(&path, text).unwrap();
        balancer.adm.run(&format!("apply --file {}", path.display())).unwrap();
    };
    // Nobody listens at port 7999.
    apply(format!(
        "{head}{}{}[service.health]\nsorry = {{ address = \"{sorry}\", port = {}, method = \"nat\" }}\n\
         [[service.health.check]]\nkind = \"tcp\"\ninterval_milliseconds = 100\n",
        real(first, 7999),
        real(second, 7999),
        PORTS[0],
    ));
    wait(&balancer, &format!("{first}:7999"), "DOWN", "connection refused");
    wait(&balancer, &format!("{second}:7999"), "DOWN", "connection refused");
    answered_by(&bed, Family::V4, &["real3"]);
    let listed = balancer.adm.run("-Ln").unwrap();
    assert!(listed.contains(&format!("{sorry}:{}", PORTS[0])), "{listed}");
    assert!(!balancer.adm.run("-Sn").unwrap().contains(&sorry.to_string()), "it was not asked for");
    // Without any probe: refused connections alone.
    apply(format!(
        "{head}{}{}[service.health.passive]\nfailures = 3\nhold_seconds = 600\n",
        real(first, PORTS[0]),
        real(second, 7999),
    ));
    let start = Instant::now();
    while !balancer.adm.run("health").unwrap().contains("DOWN") {
        // Some of these are refused, as nobody has noticed yet.
        Tally::take(&bed.world.client, Family::V4.vip(), 10).unwrap();
        assert!(start.elapsed() < PATIENCE, "{}", balancer.adm.run("health").unwrap());
    }
    wait(&balancer, &format!("{second}:7999"), "DOWN", "its connections are not accepted");
    answered_by(&bed, Family::V4, &["real1"]);
}
