//! What clients do that mean no good: connections that are held, garbage, octets one a second, requests
//! without end, and HTTP/2's own floods (RFC 9113, section 10.5; rapid reset, CVE-2023-44487).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// Connections that one attacker holds.
const HELD: usize = 1000;

/// How long it holds them: half a minute's worth of attackers in a test of seconds.
const HOLDING: Duration = Duration::from_secs(2);

/// Connections of a slow one.
const SLOW: usize = 100;

/// Between two steps of a flood, so that the attackers leave the box's few cores to others.
const BREATH: Duration = Duration::from_millis(1);

/// How long a step may take.
const STEP: Duration = Duration::from_millis(200);

/// HTTP/2's preface with empty settings.
pub(super) const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An octet stream to the daemon.
pub(super) trait Wire: Read + Write + Send {}
impl Wire for TcpStream {}
impl Wire for UnixStream {}

/// The way to a listener.
#[derive(Clone, Debug)]
pub(super) enum Way {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Way {
    pub(super) fn connect(&self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(STEP))?;
                stream.set_read_timeout(Some(STEP))?;
                Box::new(stream)
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, STEP)?;
                stream.set_write_timeout(Some(STEP))?;
                stream.set_read_timeout(Some(STEP))?;
                Box::new(stream)
            }
        })
    }
}

/// One attack: runs until told to stop, gives back how many connections it made.
pub(super) type Attack = fn(&Way, &[u8], &AtomicBool) -> usize;

/// Many connections that say their opening, and no more.
pub(super) fn hold(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    let mut made = 0;
    while !stop.load(Relaxed) {
        let mut held = Vec::new();
        while held.len() < HELD && !stop.load(Relaxed) {
            // A listener whose backlog is full takes no more.
            let Ok(mut stream) = way.connect() else { break };
            stream.write_all(opening).ok();
            held.push(stream);
        }
        made += held.len();
        wait(HOLDING, stop);
    }
    made
}

/// Octets that mean nothing.
pub(super) fn garbage(way: &Way, _: &[u8], stop: &AtomicBool) -> usize {
    let mut made = 0;
    let mut state = 0x2545_f491_u32;
    while !stop.load(Relaxed) {
        let octets: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(4096)
        .collect();
        if let Ok(mut stream) = way.connect() {
            stream.write_all(&octets).ok();
            // An answer, or the end; it may as well be late.
            stream.read_exact(&mut [0; 1]).ok();
            made += 1;
        }
        thread::sleep(BREATH);
    }
    made
}

/// The opening, and then an octet a second of a request that never ends.
pub(super) fn drip(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    let (mut made, mut streams) = (0, Vec::new());
    while !stop.load(Relaxed) {
        while streams.len() < SLOW && !stop.load(Relaxed) {
            let Ok(mut stream) = way.connect() else { break };
            stream.write_all(&opening[..1]).ok();
            streams.push((stream, 1));
            made += 1;
        }
        wait(Duration::from_secs(1), stop);
        streams.retain_mut(|(stream, at)| {
            let octet = opening.get(*at).copied().unwrap_or(b'a');
            *at += 1;
            stream.write_all(&[octet]).is_ok()
        });
    }
    made
}

/// The same octets over and over, as fast as they are taken; nobody reads the answers.
fn pour(
    way: &Way,
    opening: &[u8],
    stop: &AtomicBool,
    mut next: impl FnMut(u32) -> Vec<u8>,
) -> usize {
    let mut made = 0;
    while !stop.load(Relaxed) {
        thread::sleep(BREATH);
        let Ok(mut stream) = way.connect() else { continue };
        made += 1;
        if stream.write_all(opening).is_err() {
            continue;
        }
        for step in 0..2000 {
            if stop.load(Relaxed) || stream.write_all(&next(step)).is_err() {
                break;
            }
            thread::sleep(BREATH);
        }
    }
    made
}

/// A head without end.
pub(super) fn endless(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    pour(way, opening, stop, |_| vec![b'a'; 8192])
}

/// The same request again and again, whose answers nobody reads.
pub(super) fn unread(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    pour(way, opening, stop, |_| opening.to_vec())
}

/// Streams of HTTP/2, far more than are allowed at a time, none of which ends.
pub(super) fn streams(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    pour(way, opening, stop, |step| {
        let numbers = (0..50).map(|each| 2 * (50 * step + each) + 1);
        numbers.flat_map(|number| [head(number), frame(0, 0, number, &[0; 64])].concat()).collect()
    })
}

/// Streams that are begun and reset at once.
pub(super) fn resets(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    pour(way, opening, stop, |step| {
        let numbers = (0..50).map(|each| 2 * (50 * step + each) + 1);
        numbers
            .flat_map(|number| [head(number), frame(3, 0, number, &[0, 0, 0, 8])].concat())
            .collect()
    })
}

/// Frames that ask for an answer and cost nothing to send: settings and pings.
pub(super) fn questions(way: &Way, opening: &[u8], stop: &AtomicBool) -> usize {
    let pair = [frame(4, 0, 0, &[]), frame(6, 0, 0, &[7; 8])].concat();
    pour(way, opening, stop, |_| pair.repeat(100))
}

fn wait(time: Duration, stop: &AtomicBool) {
    let steps = time.as_millis() / 50;
    (0..steps)
        .take_while(|_| !stop.load(Relaxed))
        .for_each(|_| thread::sleep(Duration::from_millis(50)));
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut octets = length[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A HEADERS frame that begins a call of a method which takes a whole configuration.
fn head(stream: u32) -> Vec<u8> {
    let text = |text: &str| {
        let mut octets = vec![u8::try_from(text.len()).unwrap()];
        octets.extend(text.as_bytes());
        octets
    };
    // HPACK (RFC 7541, section 6.2.2): POST, http, then literals that are not indexed.
    let mut block = vec![0x83, 0x86, 0x04];
    block.extend(text("/xvs.v1.LoadBalancerService/Plan"));
    block.push(0x01);
    block.extend(text("localhost"));
    block.extend([0x0f, 0x10]);
    block.extend(text("application/grpc"));
    block.push(0x00);
    block.extend([text("te"), text("trailers")].concat());
    frame(1, 4, stream, &block)
}

/// The head of a HEADERS frame that is longer than any that will come.
pub(super) fn long_head() -> Vec<u8> {
    let mut octets = OPENING.to_vec();
    octets.extend([0, 0x3f, 0xff, 1, 4, 0, 0, 0, 1]);
    octets
}
