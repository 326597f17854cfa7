//! The verb `explain`: a packet from the command line, a dump or a capture, and the decision in words.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::Args;
use dataplane::{
    io::pcap::{Tape, capture::Capture},
    ipvsadm::{Failure, Refusal},
    verdict::DeviceId,
};

use super::{
    client::Client,
    operate::{named, service},
    output::Format,
    verbs::{endpoint, failed, usage},
};
use crate::{
    proto::v1::{self, explain_request::Packet},
    words,
};

/// Which packet.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Protocol, client and destination: `tcp 10.9.0.1:4711 10.0.0.1:80`.
    #[arg(value_names = ["PROTOCOL", "SOURCE", "DESTINATION"], num_args = 3)]
    tuple: Vec<String>,
    /// TCP's flags by their first letters, of S, A, F, R, P; S unless given.
    #[arg(long, requires = "tuple")]
    flags: Option<String>,
    /// A frame in hexadecimal digits, from its Ethernet header on, as `tcpdump -xx` prints it; `-`
    /// reads it from standard input.
    #[arg(long, conflicts_with_all = ["tuple", "pcap"])]
    hex: Option<String>,
    /// A capture, pcap or pcapng.
    #[arg(long, value_name = "FILE", conflicts_with = "tuple")]
    pcap: Option<PathBuf>,
    /// Which packet of the capture, counted from 1.
    #[arg(long, default_value_t = 1, requires = "pcap")]
    number: usize,
    /// The interface it comes in by; the first one unless given.
    #[arg(long)]
    interface: Option<String>,
}

/// Explains a packet.
pub(super) fn explain(
    args: &ExplainArgs,
    output: Format,
    client: &mut Client<'_>,
) -> Result<String, Failure> {
    let packet = args.packet().map_err(Failure::Other)?;
    let interface = args.interface.clone().unwrap_or_default();
    let request = v1::ExplainRequest { packet: Some(packet), interface };
    client
        .operate(async |client| client.explain(request).await)
        .map(|said| output.show("ExplainResponse", &said, told))
}

impl ExplainArgs {
    fn packet(&self) -> Result<Packet, Refusal> {
        if let Some(text) = &self.hex {
            let text = match text.as_str() {
                "-" => std::io::read_to_string(std::io::stdin())
                    .map_err(|error| failed(&format!("standard input: {error}")))?,
                text => text.to_owned(),
            };
            return octets(&text).map(Packet::Frame).map_err(|error| usage(&error));
        }
        if let Some(path) = &self.pcap {
            let name = path.display();
            let octets = fs::read(path).map_err(|error| failed(&format!("{name}: {error}")))?;
            let capture =
                Capture::from_octets(octets).map_err(|e| failed(&format!("{name} {e}")))?;
            let record = self.number.checked_sub(1).and_then(|at| capture.records().nth(at));
            let missing = || failed(&format!("{name} has no packet {}", self.number));
            let record = record.ok_or_else(missing)?;
            let mut tape = Tape::default();
            tape.add(&record, DeviceId(0));
            return Ok(Packet::Frame(tape.frame(0).1.to_vec()));
        }
        let [protocol, source, destination] = &self.tuple[..] else {
            return Err(usage("name a packet: PROTOCOL SOURCE DESTINATION, --hex or --pcap"));
        };
        let protocol = words::parse_protocol(protocol).map_err(|error| usage(&error))?;
        let end = |text: &str| {
            let (address, port) = endpoint(text)?;
            let port = port.ok_or_else(|| usage(&format!("`{text}` has no port")))?;
            Ok::<_, Refusal>((address, port))
        };
        let (source_address, source_port) = end(source)?;
        let (destination_address, destination_port) = end(destination)?;
        Ok(Packet::Tuple(v1::FiveTuple {
            protocol: protocol.into(),
            source_address,
            source_port,
            destination_address,
            destination_port,
            tcp_flags: self.flags.clone().unwrap_or_default(),
        }))
    }
}

/// Reads hexadecimal digits; offsets before a colon, and text behind two spaces, as dumps have
/// them, are left out.
fn octets(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = Vec::new();
    for line in text.lines() {
        let line = line.split_once(':').map_or(line, |(_, rest)| rest).trim();
        let line = line.split("  ").next().unwrap_or_default();
        for c in line.chars().filter(|c| !c.is_whitespace()) {
            let digit = c.to_digit(16).ok_or_else(|| format!("`{c}` is no hexadecimal digit"))?;
            digits.push(u8::try_from(digit).expect("a digit is below 16"));
        }
    }
    if digits.len() % 2 != 0 {
        return Err(format!("{} hexadecimal digits are no whole octets", digits.len()));
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The decision, from top to bottom.
pub(crate) fn told(said: &v1::ExplainResponse) -> String {
    use v1::explain_response::{Because, Verdict};
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        writeln!(out, "{name:<10} {text}").expect("a string takes everything");
    };
    line("packet", &said.packet);
    match &said.service {
        Some(key) => line("service", &service(Some(key))),
        None => line("service", "none"),
    }
    if !said.state.is_empty() {
        line("flow", &format!("known, {}", said.state));
    }
    match said.because() {
        Because::Unspecified | Because::Flow => {}
        Because::Reply => line("because", "it comes from the flow's real server"),
        Because::Template => line("because", "a template pins the client there"),
        Because::Scheduler => line("because", &format!("scheduler {} picked it", said.scheduler)),
    }
    for choice in &said.choices {
        let real = named(&choice.real_server.clone().unwrap_or_default());
        let overloaded = if choice.overloaded { ", overloaded" } else { "" };
        let (active, inactive) = (choice.active_flows, choice.inactive_flows);
        let weight = choice.weight;
        line(
            "",
            &format!("{real} weight {weight}, {active} active, {inactive} inactive{overloaded}"),
        );
    }
    if let Some(real) = &said.real_server {
        line("real", &format!("{} by {}", named(real), said.method));
    }
    if let Some(path) = &said.path {
        line("path", &way(path));
    }
    let verdict = match said.verdict() {
        Verdict::Forwarded => "forwarded".to_owned(),
        Verdict::Host => "the host's own stack".to_owned(),
        Verdict::Consumed => "answered or kept".to_owned(),
        Verdict::Dropped => format!("dropped: {}", said.drop_reason),
        Verdict::Unspecified => "?".to_owned(),
    };
    line("verdict", &verdict);
    for addr in &said.wanted_next_hops {
        line("wanted", &format!("the link address of {addr}"));
    }
    for frame in &said.frames {
        line("leaves", &format!("{}: {}", frame.interface, frame.decoded));
        for chunk in frame.frame.chunks(32) {
            line("", &chunk.iter().map(|octet| format!("{octet:02x}")).collect::<String>());
        }
    }
    out
}

fn way(path: &v1::ExplainedPath) -> String {
    if !path.routed {
        return "no route leads there".to_owned();
    }
    let resolved = if path.resolved { "" } else { ", link address not known yet" };
    format!("{} to {}, MTU {}{resolved}", path.interface, path.next_hop, path.mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_read_with_offsets_and_text() {
        let dump = "\t0x0000:  0200 0000 0001 0200  ........\n\t0x0008:  0002 0800\n";
        assert_eq!(octets(dump).unwrap(), [2, 0, 0, 0, 0, 1, 2, 0, 0, 2, 8, 0]);
        assert_eq!(octets("0a0B ff").unwrap(), [10, 11, 255]);
        assert!(octets("0a0").is_err() && octets("0x").is_err());
    }
}
