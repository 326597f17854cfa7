//! Plays the cases of `states.json`: packets built from their notation, everything compared.

use std::net::SocketAddr;

use dataplane::{
    director::spec::FlowInfo,
    ipvsadm::{ListOptions, Numeric, list_flows},
};

use super::{
    frames,
    network::{BACKEND, CLIENT, MACS, real_mac},
    packet::{ETHERNET, Ip},
    play_seq::{FROM_CLIENT, NUMBERS},
    states::{Case, Service, Step},
    verdict::{Excuses, Mismatch, Outcome},
    world::{COMMAND, Reaction, World},
};

/// What the kernel did and what we did.
type Difference = (String, String);

/// How far expiries may lie apart, in seconds.
const EXPIRY_SLACK_S: u32 = 1;

/// Plays a case.
pub(super) fn play(case: &Case, excuses: &mut Excuses<'_>) -> Result<Outcome, String> {
    let service = case.service();
    let mut player = Player {
        world: World::new(),
        case,
        client: SocketAddr::from(([10, 9, 0, 7], 41_000)),
        server: SocketAddr::from(([10, 0, 0, 1], service.port)),
        real: SocketAddr::from(([10, 2, 0, 12], real_port(case, service))),
        host: 0,
    };
    for rule in case.rules()? {
        player.world.shell(&format!("ipvsadm {rule}"))?;
    }
    if let Err(got) = player.world.shell(&case.setup) {
        let expected = format!("`{}` to be done", case.setup);
        let mismatch = Mismatch { step: "setup".to_owned(), expected, got };
        // A setting that is refused on purpose may be one that changes nothing here.
        if !excuses.excuse(&mismatch) {
            return Ok(Outcome::Fail(mismatch));
        }
    }
    for (number, step) in (1..).zip(&case.steps) {
        if let Err((expected, got)) = player.step(step) {
            let mismatch = Mismatch { step: format!("{number} {}", step.pkt), expected, got };
            if !excuses.excuse(&mismatch) {
                return Ok(Outcome::Fail(mismatch));
            }
        }
    }
    Ok(excuses.outcome(player.host))
}

fn real_port(case: &Case, service: Service) -> u16 {
    if case.mode == "nat" { service.nat_port } else { service.port }
}

struct Player<'a> {
    world: World,
    case: &'a Case,
    client: SocketAddr,
    server: SocketAddr,
    /// The real server the connection is on; the one that rr picks first while there is none.
    real: SocketAddr,
    host: usize,
}

impl Player<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Difference> {
        let (side, payload) = step.pkt.split_once(':').unwrap_or(("?", ""));
        let unplayable = || (step.pkt.clone(), "nobody can build this packet".to_owned());
        let frame = self.frame(side == "C", payload).ok_or_else(unplayable)?;
        let reaction = self.world.inject(if side == "C" { CLIENT } else { BACKEND }, &frame);
        let got: Vec<_> =
            reaction.sent.iter().map(|(device, f)| told(*device == BACKEND, f)).collect();
        if got != step.out {
            if !self.is_hosts(&frame, step, &reaction) {
                return Err((
                    step.out.join(", "),
                    format!("{} ({})", got.join(", "), reaction.outcome()),
                ));
            }
            self.host += 1;
        }
        self.loads(step)?;
        self.world.advance(COMMAND);
        self.connection(step)
    }

    /// The packet `payload` stands for, from the client or from the real server.
    fn frame(&self, from_client: bool, payload: &str) -> Option<Vec<u8>> {
        let (link, from, to, numbers) = if from_client {
            (FROM_CLIENT, self.client, self.server, (NUMBERS.0, NUMBERS.1))
        } else {
            let link = (real_mac(self.real.ip()), MACS[1]);
            (link, self.real, self.client, (NUMBERS.1, NUMBERS.0))
        };
        match payload {
            "udp" => frames::udp(link, from, to),
            _ if self.case.service().option == "-t" => {
                frames::tcp(link, from, to, payload, numbers)
            }
            chunk => frames::sctp(link, from, to, chunk),
        }
    }

    /// Whether the recorded packets are the answers of the host's stack, to which we gave this one:
    /// a reset or an ICMP error from the VIP, or a real server's packet routed as it was.
    fn is_hosts(&self, frame: &[u8], step: &Step, reaction: &Reaction) -> bool {
        if reaction.host.is_empty() || !reaction.sent.is_empty() {
            return false;
        }
        let routed = told(false, frame);
        let reset = |flags| format!("client {}>{} {flags}", self.server, self.client);
        let of_the_vip = Ip::in_frame(frame).is_some_and(|ip| ip.destination == self.server.ip());
        step.out.iter().all(|out| {
            if of_the_vip {
                *out == reset("R") || *out == reset("RA") || out.starts_with("client icmp ")
            } else {
                *out == routed
            }
        })
    }

    fn loads(&self, step: &Step) -> Result<(), Difference> {
        for real in self.world.services().iter().flat_map(|service| &service.reals) {
            let name = format!("{}:{}", real.spec.addr, real.spec.port);
            let got = format!("{}/{}", real.active, real.inactive);
            if let Some(expected) = step.load.get(&name).filter(|expected| **expected != got) {
                return Err((format!("{name}={expected}"), got));
            }
        }
        Ok(())
    }

    /// The connection's line; remembers which real server it is on.
    fn connection(&mut self, step: &Step) -> Result<(), Difference> {
        let flows = self.world.flows();
        if let [flow] = flows.as_slice() {
            self.real = (flow.real.0.to_ip(), flow.real.1).into();
        }
        let got: Vec<_> = flows.iter().map(line).collect();
        let same = got.len() == step.conn.len()
            && got.iter().zip(&step.conn).all(|(got, expected)| same_line(expected, got));
        if same { Ok(()) } else { Err((step.conn.join(", "), got.join(", "))) }
    }
}

/// A connection as `ipvsadm -Lcn` lists it, blanks squeezed.
fn line(flow: &FlowInfo) -> String {
    let options = ListOptions { numeric: true, ..ListOptions::PLAIN };
    let line = list_flows(std::slice::from_ref(flow), &options, &Numeric);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether two such lines are the same, their expiries at most a second apart.
fn same_line(expected: &str, got: &str) -> bool {
    let parts = |line: &str| {
        let (protocol, rest) = line.split_once(' ')?;
        let (expiry, rest) = rest.split_once(' ')?;
        let (minutes, seconds) = expiry.split_once(':')?;
        let expiry = minutes.parse::<u32>().ok()? * 60 + seconds.parse::<u32>().ok()?;
        Some((format!("{protocol} {rest}"), expiry))
    };
    match (parts(expected), parts(got)) {
        (Some(a), Some(b)) => a.0 == b.0 && a.1.abs_diff(b.1) <= EXPIRY_SLACK_S,
        _ => expected == got,
    }
}

/// A packet that came out, in the words of the recording: what is inside of a tunnel, and by its
/// last octet whom the frame is for.
fn told(on_backend: bool, frame: &[u8]) -> String {
    let Some(ip) = Ip::in_frame(frame).map(Ip::innermost) else {
        return format!("a frame of {} octets that is not IP", frame.len());
    };
    let side = if on_backend { "backend" } else { "client" };
    if let Some((kind, code)) = ip.icmp() {
        return format!("{side} icmp {kind}/{code} to {}", ip.destination);
    }
    let ends = ip.ends().map_or_else(
        || format!("{}>{}", ip.source, ip.destination),
        |(from, to)| format!("{from}>{to}"),
    );
    let flags = ip.flags().map_or_else(String::new, |flags| format!(" {flags}"));
    let mac = frame.get(..ETHERNET).filter(|_| on_backend);
    let mac = mac.map_or_else(String::new, |header| format!(" to mac :{:02x}", header[5]));
    format!("{side} {ends}{flags}{mac}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_may_be_a_second_apart_and_nothing_else() {
        let line = "TCP 00:59 SYN_RECV 10.9.0.7:41000 10.0.0.1:80 10.2.0.12:8080";
        assert!(same_line(line, &line.replace("00:59", "01:00")));
        assert!(!same_line(line, &line.replace("00:59", "00:57")));
        assert!(!same_line(line, &line.replace("SYN_RECV", "CLOSE")));
    }

    #[test]
    fn packets_are_told_as_the_recording_tells_them() {
        let (client, vip) = ("10.9.0.7:41000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let frame = frames::tcp(([2; 6], [2, 0, 0, 0, 2, 12]), client, vip, "PA", (1, 1)).unwrap();
        let told_frame = told(true, &frame);
        assert_eq!(told_frame, "backend 10.9.0.7:41000>10.0.0.1:80 PA to mac :0c");
        let frame = frames::sctp(([2; 6], [4; 6]), vip, client, "DATA").unwrap();
        assert_eq!(told(false, &frame), "client 10.0.0.1:80>10.9.0.7:41000");
    }
}
