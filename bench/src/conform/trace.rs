//! Traces: what went into a director, packet by packet and command by command, and what came out.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use dataplane::{io::pcap::capture::Capture, verdict::DeviceId};
use serde::Deserialize;

/// A recording as its JSON has it.
#[derive(Debug, Deserialize)]
struct Head {
    rules: Vec<String>,
    #[serde(default)]
    setup: Vec<String>,
    steps: Vec<RawStep>,
    /// Listings after the last step: command and output.
    #[serde(default)]
    state: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RawStep {
    n: usize,
    #[serde(default)]
    note: String,
    #[serde(rename = "in")]
    input: Option<Packet>,
    #[serde(default)]
    out: Vec<Packet>,
    cmd: Option<String>,
    #[serde(default)]
    stdout: String,
}

#[derive(Debug, Deserialize)]
struct Packet {
    #[serde(rename = "if")]
    interface: String,
    pkt: usize,
}

/// A frame and the interface it passed.
pub(super) type Frame = (DeviceId, Vec<u8>);

/// What is done in a step.
#[derive(Debug)]
pub(super) enum Action {
    /// A packet comes in.
    Packet(Frame),
    /// A command is given; this is what it printed.
    Command(String, String),
}

/// One step of a trace.
#[derive(Debug)]
pub(super) struct Step {
    /// Its number.
    pub(super) number: usize,
    /// What it is about.
    pub(super) note: String,
    pub(super) action: Action,
    /// What came out.
    pub(super) out: Vec<Frame>,
}

/// A trace.
#[derive(Debug)]
pub(super) struct Trace {
    /// Commands before the first step.
    pub(super) rules: Vec<String>,
    pub(super) steps: Vec<Step>,
    /// Listings after the last step: command and output.
    pub(super) state: Vec<(String, String)>,
}

impl Trace {
    /// Reads NAME.json, NAME.in.pcap and NAME.out.pcap.
    pub(super) fn read(json: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(json).with_context(|| json.display().to_string())?;
        let head: Head = serde_json::from_str(&text).with_context(|| json.display().to_string())?;
        let incoming = frames(&json.with_extension("in.pcap"))?;
        let outgoing = frames(&json.with_extension("out.pcap"))?;
        let steps = head.steps.into_iter().map(|raw| step(raw, &incoming, &outgoing));
        let state = head.state.into_iter().map(|(command, output)| {
            let text = output.as_str().context("a listing is not text")?;
            Ok((command, text.to_owned()))
        });
        // Interfaces are set up before rules are added to them.
        let mut rules: Vec<_> = head.setup.iter().map(|line| format!("! {line}")).collect();
        rules.extend(head.rules);
        Ok(Self {
            rules,
            steps: steps.collect::<anyhow::Result<_>>()?,
            state: state.collect::<anyhow::Result<_>>()?,
        })
    }
}

fn step(raw: RawStep, incoming: &[Vec<u8>], outgoing: &[Vec<u8>]) -> anyhow::Result<Step> {
    let frame = |packet: &Packet, from: &[Vec<u8>]| {
        let data = from
            .get(packet.pkt)
            .with_context(|| format!("step {}: there is no packet {}", raw.n, packet.pkt))?;
        Ok::<_, anyhow::Error>((device(&packet.interface)?, data.clone()))
    };
    let action = match (&raw.input, &raw.cmd) {
        (Some(packet), None) => Action::Packet(frame(packet, incoming)?),
        (None, Some(command)) => Action::Command(command.clone(), raw.stdout.clone()),
        _ => anyhow::bail!("step {} is neither a packet nor a command", raw.n),
    };
    let out = raw.out.iter().map(|packet| frame(packet, outgoing)).collect::<Result<_, _>>()?;
    Ok(Step { number: raw.n, note: raw.note, action, out })
}

fn device(interface: &str) -> anyhow::Result<DeviceId> {
    match interface {
        "client" => Ok(DeviceId(0)),
        "backend" => Ok(DeviceId(1)),
        other => anyhow::bail!("there is no interface `{other}`"),
    }
}

fn frames(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let capture = Capture::open(path).with_context(|| path.display().to_string())?;
    let mut frames = Vec::new();
    for record in capture.records() {
        ensure!(record.link == 1, "{}: link type {}", path.display(), record.link);
        frames.push(record.data.to_vec());
    }
    Ok(frames)
}
