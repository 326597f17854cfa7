//! `Explain`: a request into a frame, and what the dry run says into an answer.

use std::net::IpAddr;

use dataplane::{
    addr::Addr,
    clock::{Clock as _, SystemClock},
    flow::{Direction, TableError, state::state_name},
    pipeline::explain::{self, Because, Choice, Explanation, Live, Target},
    verdict::{DeviceId, Verdict},
};
use etherparse::PacketBuilder;

use crate::{
    convert::{answer, request},
    decode,
    engine::Engine,
    field::FieldError,
    proto::v1::{self, explain_request::Packet},
    words,
};

/// Octets of a frame that can be explained.
const FRAME: std::ops::RangeInclusive<usize> = 14..=9216;

/// The frame that is asked about, and the device it comes in by.
pub(crate) fn asked(
    engine: &Engine,
    message: &v1::ExplainRequest,
) -> Result<(DeviceId, Vec<u8>), FieldError> {
    let device = match message.interface.as_str() {
        "" => DeviceId(0),
        name => device(name, &engine.report().borrow().names())?,
    };
    let frame = match &message.packet {
        None => return Err(FieldError::new("packet", "either tuple or frame must be given")),
        Some(Packet::Tuple(tuple)) => made(tuple).map_err(|error| error.within("tuple"))?,
        Some(Packet::Frame(frame)) => frame.clone(),
    };
    if !FRAME.contains(&frame.len()) {
        let reason = format!("{} octets are not within {FRAME:?}", frame.len());
        return Err(FieldError::new("frame", reason));
    }
    Ok((device, frame))
}

/// The device of an interface.
pub(super) fn device(name: &str, names: &[String]) -> Result<DeviceId, FieldError> {
    let place = names.iter().position(|known| known == name).ok_or_else(|| {
        let known = names.iter().map(String::as_str);
        FieldError::new("interface", crate::field::unknown("interface", name, known))
    })?;
    Ok(DeviceId(u8::try_from(place).unwrap_or_default()))
}

/// A packet made from a five-tuple.
fn made(tuple: &v1::FiveTuple) -> Result<Vec<u8>, FieldError> {
    let source = request::addr("source_address", &tuple.source_address)?;
    let destination = request::addr("destination_address", &tuple.destination_address)?;
    let from = request::port("source_port", tuple.source_port)?;
    let to = request::port("destination_port", tuple.destination_port)?;
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match (source.to_ip(), destination.to_ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => builder.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => builder.ipv6(s.octets(), d.octets(), 64),
        _ => {
            return Err(FieldError::new("destination_address", "is of another family"));
        }
    };
    let mut frame = Vec::new();
    let written = match tuple.protocol() {
        v1::Protocol::Tcp => {
            let mut builder = builder.tcp(from, to, 0, 64_240);
            let flags = if tuple.tcp_flags.is_empty() { "S" } else { &tuple.tcp_flags };
            for flag in flags.chars() {
                builder = match flag.to_ascii_uppercase() {
                    'S' => builder.syn(),
                    'A' => builder.ack(0),
                    'F' => builder.fin(),
                    'R' => builder.rst(),
                    'P' => builder.psh(),
                    other => {
                        let reason = format!("`{other}` is none of S, A, F, R, P");
                        return Err(FieldError::new("tcp_flags", reason));
                    }
                };
            }
            builder.write(&mut frame, &[])
        }
        v1::Protocol::Udp => builder.udp(from, to).write(&mut frame, &[]),
        _ => return Err(FieldError::new("protocol", "must be TCP or UDP; else give a frame")),
    };
    written.map_err(|error| FieldError::new("packet", error.to_string()))?;
    Ok(frame)
}

/// The dry run, in an answer.
pub(crate) fn explain(
    engine: &Engine,
    device: DeviceId,
    frame: &[u8],
) -> Result<v1::ExplainResponse, TableError> {
    let (snapshot, endpoints) = {
        let state = engine.lock();
        (state.director.compile(), std::sync::Arc::clone(state.director.endpoints()))
    };
    let generation = snapshot.generation;
    let live =
        Live { flows: engine.table(), endpoints: &endpoints, snapshot, now: SystemClock.now() };
    let said = explain::explain(live, frame, device)?;
    let interfaces = engine.report().borrow().interfaces.clone();
    let interface = |device: DeviceId| {
        let known = interfaces.get(usize::from(device.0));
        known.map_or_else(|| device.0.to_string(), |interface| interface.name.clone())
    };
    let (verdict, drop_reason) = verdict(said.verdict);
    let target = said.target;
    Ok(v1::ExplainResponse {
        generation,
        packet: decode::frame(frame),
        service: said.service.as_ref().map(answer::service_key),
        state: state(&said),
        because: because(target).into(),
        scheduler: said.scheduler.as_ref().map_or("", |(name, _)| name).to_owned(),
        choices: said.scheduler.iter().flat_map(|(_, choices)| choices).map(choice).collect(),
        real_server: target.map(|t| answer::real_server_key(t.real.0, t.real.1)),
        method: target.map_or("", |t| words::method_name(t.method)).to_owned(),
        path: target.map(|t| v1::ExplainedPath {
            routed: t.path.routed,
            interface: if t.path.routed { interface(t.path.device) } else { String::new() },
            next_hop: if t.path.routed { t.path.next_hop.to_string() } else { String::new() },
            resolved: t.path.resolved,
            mtu: t.path.mtu.into(),
        }),
        verdict: verdict.into(),
        drop_reason,
        frames: said
            .frames
            .iter()
            .map(|(device, frame)| v1::LeavingFrame {
                interface: interface(*device),
                frame: frame.clone(),
                decoded: decode::frame(frame),
            })
            .collect(),
        wanted_next_hops: said
            .wanted
            .iter()
            .map(|(_, addr): &(_, Addr)| addr.to_string())
            .collect(),
    })
}

fn verdict(verdict: Verdict) -> (v1::explain_response::Verdict, String) {
    use v1::explain_response::Verdict as Told;
    match verdict {
        Verdict::Tx(_) => (Told::Forwarded, String::new()),
        Verdict::Host => (Told::Host, String::new()),
        Verdict::Consumed => (Told::Consumed, String::new()),
        Verdict::Drop(reason) => (Told::Dropped, reason.name().to_owned()),
    }
}

fn because(target: Option<Target>) -> v1::explain_response::Because {
    use v1::explain_response::Because as Told;
    match target.map(|target| target.because) {
        None => Told::Unspecified,
        Some(Because::Flow(Direction::ToReal)) => Told::Flow,
        Some(Because::Flow(Direction::ToClient)) => Told::Reply,
        Some(Because::Template) => Told::Template,
        Some(Because::Scheduler) => Told::Scheduler,
    }
}

fn state(said: &Explanation) -> String {
    let protocol = said.parsed.map(|parsed| parsed.key.protocol);
    let state = protocol.zip(said.state).map(|(protocol, state)| state_name(protocol, state));
    state.unwrap_or_default().to_owned()
}

fn choice(choice: &Choice) -> v1::Choice {
    let candidate = &choice.candidate;
    v1::Choice {
        real_server: Some(answer::real_server_key(candidate.addr, candidate.port)),
        weight: candidate.weight,
        active_flows: choice.load.0,
        inactive_flows: choice.load.1,
        overloaded: choice.overloaded,
    }
}
