//! Plays a `.seq` recording: every connection through the pipeline, every pick compared.

use std::net::SocketAddr;

use dataplane::{director::spec::ServiceKey, wire::protocol};

use super::{
    frames::{self, Link},
    network::{BACKEND, CLIENT, GATEWAY_MAC, MACS, real_mac},
    packet::{Ip, summary},
    seq::{Op, parse},
    shares::Shares,
    verdict::{Excuses, Mismatch, Outcome},
    world::{Reaction, World},
};

/// What clients' segments look like on the director's client side.
pub(super) const FROM_CLIENT: Link = (GATEWAY_MAC, MACS[0]);
/// Sequence numbers of the two ends of every connection.
pub(super) const NUMBERS: (u32, u32) = (1000, 5000);

/// A connection of the recording.
#[derive(Clone, Copy, Debug)]
struct Connection {
    client: SocketAddr,
    server: SocketAddr,
    /// The real server, if it got one.
    real: Option<SocketAddr>,
}

/// Plays the recording in `text`.
pub(super) fn play(text: &str, excuses: &mut Excuses<'_>) -> Result<Outcome, String> {
    let ops = parse(text)?;
    let mut player = Player {
        world: World::new(),
        connections: Vec::new(),
        shares: Shares::default(),
        removed: false,
        host: 0,
    };
    for (line, op) in &ops {
        if let Err((expected, got)) = player.step(op) {
            let mismatch = Mismatch { step: line.to_string(), expected, got };
            if !excuses.excuse(&mismatch) {
                return Ok(Outcome::Fail(mismatch));
            }
        }
    }
    if let Err((expected, got)) = player.shares.judge() {
        let mismatch = Mismatch { step: "shares".to_owned(), expected, got };
        if !excuses.excuse(&mismatch) {
            return Ok(Outcome::Fail(mismatch));
        }
    }
    match player.shares.picks() {
        0 => {}
        picks => excuses.note(format!("{picks} picks left to chance, judged by their shares")),
    }
    Ok(excuses.outcome(player.host))
}

struct Player {
    world: World,
    connections: Vec<Connection>,
    /// Picks that are left to chance.
    shares: Shares,
    /// Whether a real server was ever removed: its connections are not in the lists then.
    removed: bool,
    host: usize,
}

impl Player {
    /// One operation; `Err` is what the kernel did and what we did.
    fn step(&mut self, op: &Op) -> Result<(), (String, String)> {
        match op {
            Op::Command(line) => {
                self.removed |= line.contains(" -d ");
                self.world.shell(line).map_err(|why| (format!("`{line}` to be done"), why))?;
            }
            Op::Open { udp, from, to, pick } => return self.open(*udp, *from, *to, pick),
            Op::Establish(number) => {
                let connection = self.connection(*number)?;
                if self.was_refused(connection) {
                    return Ok(());
                }
                self.real_sends(connection, "SA")?;
                self.client_sends(connection, "A")?;
            }
            Op::Finish(number) => {
                let connection = self.connection(*number)?;
                if self.was_refused(connection) {
                    return Ok(());
                }
                self.client_sends(connection, "FA")?;
                self.real_sends(connection, "FA")?;
                self.client_sends(connection, "A")?;
            }
            Op::Reset(number) => {
                let connection = self.connection(*number)?;
                self.client_sends(connection, "R")?;
            }
            Op::List(expected) => {
                let random = Shares::decide(&self.world.services());
                let got = self.list();
                let same = if random {
                    by_chance(expected, self.removed) == by_chance(&got, self.removed)
                } else {
                    got == *expected
                };
                if !same {
                    return Err((expected.clone(), got));
                }
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        udp: bool,
        client: SocketAddr,
        to: Option<SocketAddr>,
        expected: &str,
    ) -> Result<(), (String, String)> {
        let unplayable = |what: &str| (expected.to_owned(), what.to_owned());
        let server = to.or_else(|| self.service_addr()).ok_or_else(|| unplayable("no service"))?;
        let frame = if udp {
            frames::udp(FROM_CLIENT, client, server)
        } else {
            frames::tcp(FROM_CLIENT, client, server, "S", (NUMBERS.0, 0))
        };
        let frame = frame.ok_or_else(|| unplayable("the addresses are of two families"))?;
        let services = self.world.services();
        let reaction = self.world.inject(CLIENT, &frame);
        let (got, real) = picked(&reaction);
        self.connections.push(Connection { client, server, real });
        if Shares::decide(&services) {
            let kernels = expected.parse().ok().map(|real: SocketAddr| real.ip());
            let judged = self.shares.pick(&services, kernels, real.map(|real| real.ip()));
            return judged.map_err(|expected| (expected, got));
        }
        if got == expected {
            return Ok(());
        }
        // The host's stack refuses what has no listener, and says nothing about the rest.
        let hosts = if udp { ["icmp 3/3", "icmp6 1/4", "-"] } else { ["rst", "rst", "-"] };
        if !reaction.host.is_empty() && hosts.contains(&expected) {
            self.host += 1;
            return Ok(());
        }
        Err((expected.to_owned(), format!("{got} ({})", reaction.outcome())))
    }

    /// The address of the first service: where clients go if the recording does not say.
    fn service_addr(&self) -> Option<SocketAddr> {
        self.world.services().iter().find_map(|service| match service.spec.key {
            ServiceKey::Address { addr, port, .. } => Some((addr.to_ip(), port).into()),
            ServiceKey::Mark { .. } => None,
        })
    }

    /// Whether chance had no real server for a connection that the kernel's had one for.
    fn was_refused(&self, connection: Connection) -> bool {
        connection.real.is_none() && self.shares.picks() > 0
    }

    fn connection(&self, number: usize) -> Result<Connection, (String, String)> {
        let connection = number.checked_sub(1).and_then(|at| self.connections.get(at)).copied();
        connection.ok_or_else(|| ("a connection".to_owned(), format!("there is no {number}")))
    }

    /// A segment of the client must reach its real server, unless that was removed meanwhile.
    fn client_sends(&mut self, c: Connection, flags: &str) -> Result<(), (String, String)> {
        let numbers = (NUMBERS.0 + 1, NUMBERS.1 + 1);
        let frame = frames::tcp(FROM_CLIENT, c.client, c.server, flags, numbers);
        let reaction = self.world.inject(CLIENT, &frame.unwrap_or_default());
        let services = self.world.services();
        let mut reals = services.iter().flat_map(|service| &service.reals);
        if !reals.any(|real| Some(real.spec.addr.to_ip()) == c.real.map(|real| real.ip())) {
            return Ok(());
        }
        let expected = c.real.map_or_else(|| "-".to_owned(), |real| real.to_string());
        let (got, _) = picked(&reaction);
        if got == expected {
            return Ok(());
        }
        Err((format!("{flags} to {expected}"), format!("{got} ({})", reaction.outcome())))
    }

    /// A segment of the real server must reach the client, from the address it wrote to.
    fn real_sends(&mut self, c: Connection, flags: &str) -> Result<(), (String, String)> {
        let real = c
            .real
            .ok_or_else(|| ("a real server".to_owned(), "the connection has none".to_owned()))?;
        let link = (real_mac(real.ip()), MACS[1]);
        let frame = frames::tcp(link, real, c.client, flags, (NUMBERS.1, NUMBERS.0 + 1));
        let reaction = self.world.inject(BACKEND, &frame.unwrap_or_default());
        let ends = reaction.sent.first().and_then(|(_, frame)| Ip::in_frame(frame)?.ends());
        if ends == Some((c.server, c.client)) {
            return Ok(());
        }
        let got = reaction.sent.first().map_or_else(|| reaction.outcome(), |(_, f)| summary(f));
        Err((format!("{flags} from {} to {}", c.server, c.client), got))
    }

    /// The real servers in the kernel's order, as a recording writes them.
    fn list(&self) -> String {
        let mut words = Vec::new();
        for real in self.world.services().iter().flat_map(|service| &service.reals) {
            let addr: SocketAddr = (real.spec.addr.to_ip(), real.spec.port).into();
            words.push(format!("{addr}={}:{}:{}", real.spec.weight, real.active, real.inactive));
        }
        words.join(" ")
    }
}

/// What a list has that chance does not decide: the real servers in their order with their weights,
/// and, unless some were removed, how many connections they have together.
fn by_chance(list: &str, removed: bool) -> (Vec<String>, Option<(u64, u64)>) {
    let (mut reals, mut sums) = (Vec::new(), (0, 0));
    for real in list.split_whitespace() {
        let mut loads = real.rsplitn(3, ':');
        let mut load = || loads.next().and_then(|load| load.parse::<u64>().ok()).unwrap_or(0);
        sums.1 += load();
        sums.0 += load();
        reals.push(loads.next().unwrap_or_default().to_owned());
    }
    (reals, (!removed).then_some(sums))
}

/// What a new connection got, in the words of a recording, and the real server if it got one.
fn picked(reaction: &Reaction) -> (String, Option<SocketAddr>) {
    let Some((device, frame)) = reaction.sent.first() else { return ("-".to_owned(), None) };
    let Some(ip) = Ip::in_frame(frame) else { return (summary(frame), None) };
    if *device == BACKEND {
        return match ip.ends() {
            Some((_, real)) => (real.to_string(), Some(real)),
            None => (summary(frame), None),
        };
    }
    let what = match (ip.icmp(), ip.flags()) {
        (Some((kind, code)), _) if ip.protocol == protocol::ICMPV6 => {
            format!("icmp6 {kind}/{code}")
        }
        (Some((kind, code)), _) => format!("icmp {kind}/{code}"),
        (None, Some(flags)) if flags.contains('R') => "rst".to_owned(),
        _ => summary(frame),
    };
    (what, None)
}
