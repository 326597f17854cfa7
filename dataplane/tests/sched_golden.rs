//! Schedulers against recordings of Linux IPVS: every new connection must go to the server that
//! the kernel picked. Formats and origin: `fixtures/golden/sched/README.md`.
//!
//! The model around the scheduler is small: connections with the real state machine, the load of
//! each real server, its overload flag, and edits in the kernel's way (front of the list, a
//! server that comes back has its old load). Nothing expires within a recording.
#![expect(clippy::unwrap_used, reason = "a malformed fixture ends the test")]

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::Ordering::Relaxed,
};

use xvs_dataplane::{
    addr::Addr,
    clock::Tick,
    endpoint::{EndpointId, Endpoints},
    flow::{
        Direction,
        state::{Step, transition},
        tcp::{ACK, FIN, RST, SYN},
    },
    rng::Rng,
    sched::{Candidate, Change, Pick, SchedFlags, SchedState, Scheduler},
    wire::protocol,
};

/// A real server as the commands made it.
#[derive(Clone, Copy)]
struct Server {
    candidate: Candidate,
    upper: u32,
}

/// A connection and the state it is in.
struct Connection {
    id: EndpointId,
    protocol: u8,
    state: u8,
    active: bool,
}

/// The director, as far as scheduling goes.
struct Director {
    endpoints: Endpoints,
    /// Every address that ever was a server; its place + 1 is its id for good.
    known: Vec<(Addr, u16)>,
    servers: Vec<Server>,
    scheduler: Option<Scheduler>,
    name: String,
    flags: SchedFlags,
    state: SchedState,
    rng: Rng,
    connections: Vec<Option<Connection>>,
    vip: (Addr, u16),
}

impl Director {
    fn new() -> Self {
        Self {
            endpoints: Endpoints::new(64),
            known: Vec::new(),
            servers: Vec::new(),
            scheduler: None,
            name: String::new(),
            flags: SchedFlags::default(),
            state: SchedState::default(),
            rng: Rng::from_seed(1),
            connections: Vec::new(),
            vip: (Addr::UNSPECIFIED, 0),
        }
    }

    /// One `!` line. Marks are set outside of IPVS and need nothing here.
    fn command(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if words.next() == Some("ip") {
            return;
        }
        let verb = words.next().unwrap();
        let (mut real, mut weight, mut upper) = (None, 1, 0);
        while let Some(word) = words.next() {
            match word {
                "-t" | "-u" => self.vip = endpoint(words.next().unwrap()),
                "-s" => self.name = words.next().unwrap().to_owned(),
                "-b" => self.flags = flags(words.next().unwrap()),
                "-r" => real = Some(endpoint(words.next().unwrap())),
                "-w" => weight = words.next().unwrap().parse().unwrap(),
                "-x" => upper = words.next().unwrap().parse().unwrap(),
                "-f" | "-y" => _ = words.next(),
                "-m" | "-6" => {}
                _ => panic!("unknown word {word} in {line}"),
            }
        }
        match verb {
            "-A" => self.rebuild(None),
            "-a" => self.add(real.unwrap(), weight, upper),
            "-e" => self.edit(real.unwrap(), weight, upper),
            "-d" => self.remove(real.unwrap()),
            _ => panic!("unknown command {line}"),
        }
    }

    fn add(&mut self, (addr, port): (Addr, u16), weight: u32, upper: u32) {
        let known = self.known.iter().position(|&known| known == (addr, port));
        let place = known.unwrap_or_else(|| {
            self.known.push((addr, port));
            self.known.len() - 1
        });
        let id = EndpointId(u32::try_from(place).unwrap() + 1);
        self.servers.insert(0, Server { candidate: Candidate { id, addr, port, weight }, upper });
        self.rebuild(Some(Change::Added(id)));
    }

    fn edit(&mut self, real: (Addr, u16), weight: u32, upper: u32) {
        let index = self.index(real);
        let server = &mut self.servers[index];
        server.candidate.weight = weight;
        server.upper = upper;
        let id = server.candidate.id;
        self.rebuild(Some(Change::Edited(id)));
    }

    fn remove(&mut self, real: (Addr, u16)) {
        let index = self.index(real);
        let id = self.servers.remove(index).candidate.id;
        let before = index.checked_sub(1).map(|before| self.servers[before].candidate.id);
        self.rebuild(Some(Change::Removed { id, before }));
    }

    fn index(&self, real: (Addr, u16)) -> usize {
        let same = |server: &Server| (server.candidate.addr, server.candidate.port) == real;
        self.servers.iter().position(same).unwrap()
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.servers.iter().map(|server| server.candidate).collect()
    }

    fn rebuild(&mut self, change: Option<Change>) {
        let reals = self.candidates();
        let previous = self.scheduler.as_ref();
        let scheduler = Scheduler::by_name(&self.name, &reals, self.flags, previous).unwrap();
        if let Some(change) = change {
            scheduler.changed(&reals, &self.state, change);
        }
        self.scheduler = Some(scheduler);
    }

    /// Which server a new connection would get.
    fn pick(&mut self, protocol: u8, client: (Addr, u16), to: (Addr, u16)) -> Option<usize> {
        let reals = self.candidates();
        let pick = Pick {
            reals: &reals,
            endpoints: &self.endpoints,
            client: client.0,
            client_port: client.1,
            destination: to.0,
            destination_port: to.1,
            protocol,
            now: Tick(0),
        };
        self.scheduler.as_ref().unwrap().pick(&pick, &self.state, &mut self.rng)
    }

    /// A new connection: who gets it, in the recording's words.
    fn open(&mut self, protocol: u8, client: (Addr, u16), to: (Addr, u16)) -> String {
        let Some(index) = self.pick(protocol, client, to) else {
            self.connections.push(None);
            return if to.0.is_v4() { "icmp 3/3" } else { "icmp6 1/4" }.to_owned();
        };
        self.bind(index, protocol);
        let real = self.servers[index].candidate;
        let port = if real.port == 0 { to.1 } else { real.port };
        SocketAddr::new(real.addr.to_ip(), port).to_string()
    }

    /// A connection to the server at `index` begins.
    fn bind(&mut self, index: usize, protocol: u8) {
        let Server { candidate, upper } = self.servers[index];
        let load = &self.endpoints.get(candidate.id).load;
        load.inactive.fetch_add(1, Relaxed);
        if upper != 0 && load.total() >= upper {
            load.overloaded.store(1, Relaxed);
        }
        let connection = Connection { id: candidate.id, protocol, state: 0, active: false };
        self.connections.push(Some(connection));
        self.packet(self.connections.len(), Direction::ToReal, SYN);
    }

    /// A packet of connection `number`, counted from 1. Of a removed server's connections the
    /// client's packets are dropped.
    fn packet(&mut self, number: usize, direction: Direction, flags: u8) {
        let Some(connection) = &mut self.connections[number - 1] else { return };
        let there = self.servers.iter().any(|server| server.candidate.id == connection.id);
        if direction == Direction::ToReal && !there {
            return;
        }
        let next = transition(Step {
            protocol: connection.protocol,
            direction,
            state: connection.state,
            flags,
            no_output: false,
            secure_tcp: false,
        });
        let load = &self.endpoints.get(connection.id).load;
        match (connection.active, next.active) {
            (false, true) => {
                load.active.fetch_add(1, Relaxed);
                load.inactive.fetch_sub(1, Relaxed);
            }
            (true, false) => {
                load.active.fetch_sub(1, Relaxed);
                load.inactive.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        connection.state = next.state;
        connection.active = next.active;
    }

    /// E, F and R lines.
    fn exchange(&mut self, kind: &str, number: usize) {
        use Direction::{ToClient, ToReal};
        let packets: &[_] = match kind {
            "E" => &[(ToClient, SYN | ACK), (ToReal, ACK)],
            "F" => &[(ToReal, FIN | ACK), (ToClient, FIN | ACK), (ToReal, ACK)],
            "R" => &[(ToReal, RST)],
            _ => panic!("unknown line {kind}"),
        };
        packets.iter().for_each(|&(direction, flags)| self.packet(number, direction, flags));
    }

    /// The list as the recording prints it: SRV=weight:active:inactive.
    fn list(&self) -> String {
        self.servers.iter().fold("list".to_owned(), |mut list, Server { candidate, .. }| {
            let load = &self.endpoints.get(candidate.id).load;
            let real = SocketAddr::new(candidate.addr.to_ip(), candidate.port);
            let (active, inactive) = (load.active.load(Relaxed), load.inactive.load(Relaxed));
            write!(list, " {real}={}:{active}:{inactive}", candidate.weight).unwrap();
            list
        })
    }

    /// Carries one line out. Gives what xvs did and what the kernel did, where that is recorded.
    fn line(&mut self, line: &str) -> Option<(String, String)> {
        let (kind, rest) = line.split_once(' ').unwrap();
        match kind {
            "!" => self.command(rest),
            "#" if rest.starts_with("list") => return Some((self.list(), rest.to_owned())),
            "#" => {}
            "S" | "U" => {
                let (tuple, picked) = rest.split_once(" = ").unwrap();
                let mut ends = tuple.split(' ').map(endpoint);
                let client = ends.next().unwrap();
                let to = ends.next().unwrap_or(self.vip);
                let protocol = if kind == "S" { protocol::TCP } else { protocol::UDP };
                return Some((self.open(protocol, client, to), picked.to_owned()));
            }
            _ => self.exchange(kind, rest.parse().unwrap()),
        }
        None
    }
}

/// `ADDR:PORT`, or a bare address for port 0.
fn endpoint(text: &str) -> (Addr, u16) {
    match text.parse::<SocketAddr>() {
        Ok(socket) => (socket.ip().into(), socket.port()),
        Err(_) => (text.parse::<IpAddr>().unwrap().into(), 0),
    }
}

fn flags(text: &str) -> SchedFlags {
    let has = |flag: &str| text.split(',').any(|word| word.ends_with(flag));
    SchedFlags { fallback: has("-fallback"), port: has("-port"), flag3: false }
}

/// All recordings: name and content.
fn recordings() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/sched");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seq"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_recorded_connection_goes_where_the_kernel_sent_it() {
    let (mut compared, mut failures) = (0, Vec::new());
    for (name, content) in recordings() {
        if name.starts_with("twos") {
            continue; // Random: see below.
        }
        let mut director = Director::new();
        for (number, line) in (1..).zip(content.lines()) {
            let Some((ours, theirs)) = director.line(line) else { continue };
            compared += 1;
            if ours != theirs {
                failures.push(format!("{name}:{number}: {line}: xvs has {ours}"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 25_000, "only {compared} lines compared");
}

/// `twos` is random: at every connection the chances of all servers are found by drawing often,
/// then the recorded pick is bound. A server's recorded total must lie where those chances put
/// it, within four standard deviations.
#[test]
fn twos_draws_with_the_chances_of_the_kernel() {
    const DRAWS: usize = 200;
    let files = recordings().into_iter().filter(|(name, _)| name.starts_with("twos"));
    for (name, content) in files {
        let mut director = Director::new();
        // By id: recorded, expected, variance.
        let mut totals = [(0.0, 0.0, 0.0); 8];
        for line in content.lines() {
            let Some((tuple, picked)) = line.strip_prefix("S ").and_then(|l| l.split_once(" = "))
            else {
                if let Some((ours, theirs)) = director.line(line) {
                    assert_eq!(ours, theirs, "{name}");
                }
                continue;
            };
            let mut drawn = [0u32; 8];
            for _ in 0..DRAWS {
                let index = director.pick(protocol::TCP, endpoint(tuple), director.vip).unwrap();
                drawn[director.servers[index].candidate.id.0 as usize] += 1;
            }
            for (count, (_, expected, variance)) in drawn.iter().zip(&mut totals) {
                let chance = f64::from(*count) / DRAWS as f64;
                *expected += chance;
                *variance += chance * (1.0 - chance);
            }
            let index = director.index(endpoint(picked));
            totals[director.servers[index].candidate.id.0 as usize].0 += 1.0;
            director.bind(index, protocol::TCP);
        }
        for (id, (recorded, expected, variance)) in totals.iter().enumerate() {
            let distance = (recorded - expected).abs();
            assert!(
                distance <= 4.0 * f64::sqrt(*variance) + 1.0,
                "{name}: server {id} got {recorded}, expected {expected:.1}"
            );
        }
    }
}
