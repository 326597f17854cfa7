//! A UDP datagram is answered with a text, or, if none is asked for, at least not refused by an ICMP
//! error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{net::UdpSocket, time::timeout};

use super::{Found, Good, connect::words, target};
use crate::health::board::Probe;

/// Octets of an answer that are looked at.
const ANSWER_MAX: usize = 4096;

pub(super) async fn run(probe: &Probe, (send, expect): (&str, &str)) -> Found {
    let socket = socket(target(probe)).await?;
    socket.send(send.as_bytes()).await.map_err(|error| words(&error))?;
    if expect.is_empty() {
        // What refuses does so at once; most of the time is given to it, and silence is a pass.
        return match timeout(probe.check.timeout.mul_f32(0.75), answer(&socket)).await {
            Ok(answer) => answer.map(|_| Good::new("answered")),
            Err(_elapsed) => Ok(Good::new("not refused")),
        };
    }
    let answer = answer(&socket).await?;
    let wanted = expect.as_bytes();
    if answer.windows(wanted.len()).any(|window| window == wanted) {
        return Ok(Good::new("answered"));
    }
    Err(format!("`{expect}` is not in the answer"))
}

/// A socket that hears only from there.
pub(super) async fn socket(to: SocketAddr) -> Result<UdpSocket, String> {
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| words(&error))?;
    socket.connect(to).await.map_err(|error| words(&error))?;
    Ok(socket)
}

/// The next datagram.
pub(super) async fn answer(socket: &UdpSocket) -> Result<Vec<u8>, String> {
    let mut room = vec![0; ANSWER_MAX];
    let octets = socket.recv(&mut room).await.map_err(|error| words(&error))?;
    room.truncate(octets);
    Ok(room)
}
