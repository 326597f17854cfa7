//! `xvsadm capture`: packets as they came and as they left, for tshark or for the eye.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, IsTerminal as _, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use clap::Args;
use dataplane::ipvsadm::{Failure, Refusal};

use super::{
    FAILED,
    client::Client,
    output::Format,
    status::other,
    verbs::{Ends, usage},
};
use crate::proto::v1;

/// Which packets, and where to. A real server of dr has no place in any packet.
#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Write a pcapng file; `-` writes it to standard output, as for `tshark -r -`. Otherwise each
    /// packet is shown in a line.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    ends: Ends,
    /// Only packets that are dropped.
    #[arg(long)]
    dropped: bool,
    /// Only packets that come or leave by this interface.
    #[arg(short, long, value_name = "NAME")]
    interface: Option<String>,
    /// Keep so many octets of each packet, 64 to 9216.
    #[arg(short, long, value_name = "OCTETS", default_value_t = 9216)]
    snaplen: u32,
    /// End after so many packets.
    #[arg(short, long, value_name = "PACKETS", default_value_t = 0)]
    count: u64,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
}

impl CaptureArgs {
    fn request(&self) -> Result<v1::CaptureRequest, Refusal> {
        let ends = self.ends.read()?;
        Ok(v1::CaptureRequest {
            protocol: ends.protocol,
            client_address: ends.client_address,
            client_port: ends.client_port,
            virtual_address: ends.virtual_address,
            virtual_port: ends.virtual_port,
            real_address: ends.real_address,
            real_port: ends.real_port,
            dropped: self.dropped,
            interface: self.interface.clone().unwrap_or_default(),
            snap_length: self.snaplen,
            packets: self.count,
            duration: self
                .seconds
                .map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 }),
            lines: self.write.is_none(),
        })
    }
}

/// Captures until it is enough, the reader goes, or it is interrupted; says then how much it was.
pub(super) fn capture(
    args: &CaptureArgs,
    output: Format,
    client: &mut Client<'_>,
    print: &dyn Fn(&str),
) -> Result<String, Failure> {
    let request = args.request().map_err(Failure::Other)?;
    let mut file = match &args.write {
        Some(path) => Some(open(path)?),
        None => None,
    };
    let (mut counts, broken) = ((0, 0), RefCell::new(None));
    client.follow_until_interrupted(
        async |client| client.capture(request).await,
        |message: v1::CaptureResponse| {
            counts = (message.packets, message.lost);
            if let Some(file) = &mut file {
                let written = file.write_all(&message.pcapng).and_then(|()| file.flush());
                return match written {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        *broken.borrow_mut() = Some(error);
                        ControlFlow::Break(())
                    }
                };
            }
            let table = |message: &v1::CaptureResponse| {
                message.lines.iter().map(|line| format!("{line}\n")).collect()
            };
            print(&output.show_one("CaptureResponse", &message, table));
            ControlFlow::Continue(())
        },
    )?;
    match broken.into_inner() {
        // Whoever read has gone: that is an end like another.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(other(format!("xvsadm: {error}"), FAILED));
        }
        _ => {}
    }
    let (packets, lost) = counts;
    let more = if lost > 0 { format!(", {lost} found no room") } else { String::new() };
    let plural = if packets == 1 { "" } else { "s" };
    writeln!(io::stderr(), "{packets} packet{plural} captured{more}").ok();
    Ok(String::new())
}

fn open(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        let out = io::stdout();
        if out.is_terminal() {
            let message =
                "a capture is nothing for a terminal: `-w FILE`, or pipe it into tshark -r -";
            return Err(Failure::Other(usage(message)));
        }
        return Ok(Box::new(out));
    }
    match File::create(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(other(format!("xvsadm: {}: {error}", path.display()), FAILED)),
    }
}
