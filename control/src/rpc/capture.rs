//! `Capture`: what workers see, as pieces of a pcapng file.

use std::time::{Duration, SystemTime};

use dataplane::{
    capture::{Filter, Record, SNAP_MAX, SNAP_MIN, Stage},
    verdict::{DeviceId, Verdict},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::explain::device;
use crate::{
    convert::{operations, request},
    decode,
    engine::{Engine, capture::Running},
    field::FieldError,
    pcapng::{self, Packet, Way},
    proto::v1,
};

/// How often what workers have put is looked for: they ring no bell.
const LOOK: Duration = Duration::from_millis(20);

/// Octets of one piece, about.
const PIECE: usize = 256 << 10;

/// The longest capture that is asked for.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// The last interface of the file: the host's own stack.
const HOST: &str = "host";

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) filter: Filter,
    pub(super) snap: usize,
    packets: u64,
    duration: Option<Duration>,
    lines: bool,
}

/// Reads a request.
pub(super) fn asked(engine: &Engine, message: &v1::CaptureRequest) -> Result<Asked, FieldError> {
    let flows = request::flow_filter(&v1::FlowFilter {
        protocol: message.protocol,
        client_address: message.client_address.clone(),
        client_port: message.client_port,
        virtual_address: message.virtual_address.clone(),
        virtual_port: message.virtual_port,
        real_address: message.real_address.clone(),
        real_port: message.real_port,
        ..v1::FlowFilter::default()
    })?;
    let ends = [flows.client, flows.virt, flows.real];
    let given = ends.into_iter().filter(|(addr, port)| addr.is_some() || port.is_some());
    let device = match message.interface.as_str() {
        "" => None,
        HOST => Some(DeviceId::HOST),
        name => {
            let mut names = engine.report().borrow().names();
            names.push(HOST.to_owned());
            Some(device(name, &names)?)
        }
    };
    let snap = match message.snap_length {
        0 => SNAP_MAX,
        snap => snap as usize,
    };
    if !(SNAP_MIN..=SNAP_MAX).contains(&snap) {
        let reason = format!("{snap} is not within {SNAP_MIN} to {SNAP_MAX}");
        return Err(FieldError::new("snap_length", reason));
    }
    let within = (Duration::from_millis(1), DURATION_MAX);
    let duration = message.duration.map(|given| operations::duration("duration", given, within));
    Ok(Asked {
        filter: Filter {
            protocol: flows.protocol,
            ends: given.collect(),
            dropped: message.dropped,
            device,
        },
        snap,
        packets: message.packets,
        duration: duration.transpose()?,
        lines: message.lines,
    })
}

/// Sends what is captured until enough was, the time is over, or nobody listens.
pub(super) async fn stream(
    running: Running,
    asked: Asked,
    send: mpsc::Sender<Result<v1::CaptureResponse, Status>>,
) {
    let mut piece = Piece::begin(&running, &asked);
    let end = asked.duration.map(|duration| Instant::now() + duration);
    let most = if asked.packets > 0 { asked.packets } else { u64::MAX };
    let (mut packets, mut latest, mut told, mut last) = (0, 0, None, false);
    loop {
        while piece.octets < PIECE
            && let Some(record) = running.capture.take()
        {
            let wanted = match record.stage {
                // Follows what came, and is not counted again.
                Stage::Sent => record.number <= latest,
                _ => packets < most,
            };
            if wanted {
                latest = latest.max(record.number);
                packets += u64::from(record.stage != Stage::Sent);
                piece.put(&running, &record);
            }
            running.capture.give_back(record);
        }
        let counts = (packets, running.capture.lost());
        if piece.octets > 0 || told != Some(counts) {
            told = Some(counts);
            let (pcapng, lines) = piece.cut();
            let message = v1::CaptureResponse { pcapng, packets: counts.0, lost: counts.1, lines };
            if send.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if last {
            return;
        }
        // What leaves follows what came: one more look lets the last packet's through.
        last = packets >= most || end.is_some_and(|end| Instant::now() >= end);
        tokio::select! {
            () = send.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What has not been sent yet.
struct Piece {
    pcapng: Vec<u8>,
    /// In place of octets, if asked for.
    lines: Option<Vec<String>>,
    /// How much it is.
    octets: usize,
}

impl Piece {
    fn begin(running: &Running, asked: &Asked) -> Self {
        if asked.lines {
            return Self { pcapng: Vec::new(), lines: Some(Vec::new()), octets: 0 };
        }
        let host = HOST.to_owned();
        let both = |name: &String| [format!("{name} in"), format!("{name} out")];
        let names: Vec<_> = running.interfaces.iter().chain([&host]).flat_map(both).collect();
        let snap = u32::try_from(asked.snap).unwrap_or(u32::MAX);
        let pcapng = pcapng::head(concat!("xvsd ", env!("CARGO_PKG_VERSION")), &names, snap);
        Self { octets: pcapng.len(), pcapng, lines: None }
    }

    /// Takes what is there.
    fn cut(&mut self) -> (Vec<u8>, Vec<String>) {
        self.octets = 0;
        let lines = self.lines.as_mut().map(std::mem::take);
        (std::mem::take(&mut self.pcapng), lines.unwrap_or_default())
    }

    /// Adds a copy.
    fn put(&mut self, running: &Running, record: &Record) {
        let name = |device: DeviceId| match running.interfaces.get(usize::from(device.0)) {
            Some(name) => name.as_str(),
            None => HOST,
        };
        let (way, comment) = said(record, name);
        let nanos = running.nanos(record.at);
        if let Some(lines) = &mut self.lines {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(nanos / 1000);
            let arrow = if way == Way::In { "in " } else { "out" };
            let time = prost_types::Timestamp::from(time);
            let decoded = decode::frame(&record.data);
            let line = format!("{time} {} {arrow} {comment}: {decoded}", name(record.device));
            self.octets += line.len();
            lines.push(line);
            return;
        }
        let place = usize::from(record.device.0).min(running.interfaces.len());
        let interface = 2 * place + usize::from(way == Way::Out);
        let packet = Packet {
            interface: u32::try_from(interface).unwrap_or(0),
            nanos,
            length: record.length,
            data: &record.data,
            way,
            comment: &comment,
        };
        pcapng::packet(&mut self.pcapng, &packet);
        self.octets = self.pcapng.len();
    }
}

/// What became of a packet, and which way it went.
fn said<'a>(record: &Record, name: impl Fn(DeviceId) -> &'a str) -> (Way, String) {
    let number = record.number;
    match (record.stage, record.verdict) {
        (Stage::Received, Verdict::Tx(to)) => {
            (Way::In, format!("#{number} sent on by {}", name(to)))
        }
        (Stage::Received, Verdict::Host) => (Way::In, format!("#{number} left to the host")),
        (Stage::Received, Verdict::Consumed) => (Way::In, format!("#{number} answered or kept")),
        (Stage::Received, Verdict::Drop(why)) => {
            (Way::In, format!("#{number} dropped, {}", why.name()))
        }
        (Stage::Sent, _) => (Way::Out, format!("#{number} as it leaves")),
        (Stage::Originated, _) => (Way::Out, "made by xvsd".to_owned()),
    }
}
