//! Plays a text of listings: rules, then traffic, then what every command prints.
//!
//! The text does not contain its traffic, but says what it was in the end: which flows there are, in
//! which states, what every real server counted. From that it is made up again: every TCP flow opens,
//! in the order of client ports; then those that got further shake hands, send the octets that
//! their real server counted beyond that, and close. A service that counted connections of which no
//! flow is left gets one packet of the size it counted. Packets to an address of no service came by a
//! firewall mark. Everything is then compared to the letter, but for rates and for the order of flows.
//! How much time went by is read off the kernel's expiries; then none may be more than a second off.

use std::net::SocketAddr;

use super::{
    frames, listing,
    network::{BACKEND, CLIENT, MACS, real_mac},
    play_seq::{FROM_CLIENT, NUMBERS},
    play_text::{Exchange, mismatch},
    recorded::{Counted, Recorded, RecordedFlow},
    verdict::{Excuses, Mismatch, Outcome},
    world::{Printed, World},
};

/// Octets of a datagram without data, IPv4.
const UDP_HEADERS: u64 = 28;
/// Octets of an SCTP packet in front of its chunk's value, IPv4.
const SCTP_HEADERS: u64 = 36;

/// Plays the text; `None` if it is no text of listings.
pub(super) fn play(
    text: &str,
    exchanges: &[Exchange],
    excuses: &mut Excuses<'_>,
) -> Option<Outcome> {
    let recorded = Recorded::read(text, exchanges)?;
    let mut world = World::new();
    let fail = |step: &str, why: String| {
        Some(Outcome::Fail(Mismatch {
            step: step.to_owned(),
            expected: "a recording that can be played".to_owned(),
            got: why,
        }))
    };
    for rule in &recorded.rules {
        if let Err(why) = world.shell(&format!("ipvsadm {rule}")) {
            return fail(&format!("`{rule}`"), why);
        }
    }
    for exchange in exchanges {
        if exchange.after_traffic
            && let Err(why) = traffic(&mut world, &recorded)
        {
            return fail("traffic", why);
        }
        if let Err(mismatch) = play_one(&mut world, exchange)
            && !excuses.excuse(&mismatch)
        {
            return Some(Outcome::Fail(mismatch));
        }
    }
    excuses.note("traffic made up from what is listed; rates not compared".to_owned());
    Some(excuses.outcome(0))
}

fn play_one(world: &mut World, exchange: &Exchange) -> Result<(), Mismatch> {
    let mut printed = world.line(&exchange.command);
    if listing::is_flows(&exchange.command) {
        let late = listing::late(&exchange.stdout, &printed.stdout);
        if late > 0 {
            world.advance(std::time::Duration::from_secs(late.into()));
            printed = world.line(&exchange.command);
        }
    }
    let Printed { stdout, stderr, exit } = printed;
    let compared = listing::compare(&exchange.command, &exchange.stdout, &stdout)
        .and_then(|()| equal(&exchange.stderr, &stderr))
        .and_then(|()| equal(&format!("exit {}", exchange.exit), &format!("exit {exit}")));
    compared.map_err(|pair| mismatch(&exchange.command, pair))
}

fn equal(expected: &str, got: &str) -> Result<(), (String, String)> {
    if expected == got { Ok(()) } else { Err((expected.to_owned(), got.to_owned())) }
}

/// Makes the traffic up.
fn traffic(world: &mut World, recorded: &Recorded) -> Result<(), String> {
    for (mark, addr) in recorded.marked() {
        let program = if addr.is_ipv4() { "iptables" } else { "ip6tables" };
        world.shell(&format!(
            "{program} -t mangle -A PREROUTING -d {addr} -j MARK --set-mark {mark}"
        ))?;
    }
    let unreadable = |flow: &RecordedFlow| format!("cannot build packets of {flow:?}");
    let client_sends = |world: &mut World, flow: &RecordedFlow, flags: &str, data: &[u8]| {
        let frame = frames::segment(FROM_CLIENT, (flow.client, flow.virt), flags, NUMBERS, data);
        world.inject(CLIENT, &frame.ok_or_else(|| unreadable(flow))?);
        Ok::<_, String>(())
    };
    let real_sends = |world: &mut World, flow: &RecordedFlow, flags: &str| {
        let link = (real_mac(flow.real.ip()), MACS[1]);
        let numbers = (NUMBERS.1, NUMBERS.0 + 1);
        let frame = frames::segment(link, (flow.real, flow.client), flags, numbers, &[]);
        world.inject(BACKEND, &frame.ok_or_else(|| unreadable(flow))?);
        Ok::<_, String>(())
    };
    let tcp: Vec<_> = recorded.tcp().collect();
    for flow in &tcp {
        client_sends(world, flow, "S", &[])?;
    }
    for flow in tcp.iter().filter(|flow| flow.state != "SYN_RECV") {
        real_sends(world, flow, "SA")?;
        client_sends(world, flow, "A", &[])?;
    }
    for (flow, data) in recorded.data() {
        client_sends(world, flow, "PA", &data)?;
    }
    for flow in tcp.iter().filter(|flow| flow.state == "TIME_WAIT") {
        client_sends(world, flow, "FA", &[])?;
        real_sends(world, flow, "FA")?;
        client_sends(world, flow, "A", &[])?;
    }
    for flow in recorded.udp() {
        let octets = recorded.octets_of(flow).saturating_sub(UDP_HEADERS);
        let data = message(recorded.call_of(flow), usize::try_from(octets).unwrap_or(0));
        let frame = frames::datagram(FROM_CLIENT, (flow.client, flow.virt), &data);
        world.inject(CLIENT, &frame.ok_or_else(|| unreadable(flow))?);
    }
    for Counted { protocol, to, octets, .. } in recorded.vanished() {
        let client = SocketAddr::from(([10, 9, 1, 7], 5353));
        let room = |headers: u64| usize::try_from(octets.saturating_sub(headers)).unwrap_or(0);
        let frame = match protocol.as_str() {
            "UDP" => frames::datagram(FROM_CLIENT, (client, *to), &vec![b'x'; room(UDP_HEADERS)]),
            "SCTP" => frames::chunk(FROM_CLIENT, (client, *to), "INIT", room(SCTP_HEADERS)),
            _ => None,
        };
        let frame = frame.ok_or_else(|| format!("cannot build a packet to {protocol} {to}"))?;
        world.inject(CLIENT, &frame);
    }
    // Until the estimator had summed up, and INIT1 was over: 4 s, and as long as commands took.
    world.advance(std::time::Duration::from_secs(6));
    Ok(())
}

/// A message of this length, which names a call if there is one.
fn message(call: Option<&str>, length: usize) -> Vec<u8> {
    let mut data = match call {
        Some(call) => format!("OPTIONS sip:a@b SIP/2.0\r\nCall-ID: {call}\r\n\r\n").into_bytes(),
        None => Vec::new(),
    };
    data.resize(length.max(data.len()), b'x');
    data
}
