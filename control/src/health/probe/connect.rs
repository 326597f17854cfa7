//! A TCP connection to a real server: by the box's own stack, or through the forwarding path.

use std::{fmt::Debug, future::Future, io, pin::Pin};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Means, target};
use crate::health::{board::Probe, policy::goes_through};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Makes connections to VIPs that travel to one real server as its clients' packets do.
pub trait Through: Debug + Send + Sync {
    /// Connects to the probe's VIP on its real server.
    fn connect<'a>(&'a self, probe: &'a Probe) -> Connecting<'a>;
}

/// Connects as the probe's check says.
pub(super) async fn connect(probe: &Probe, means: &Means) -> Result<Box<dyn Stream>, String> {
    let goes_through = goes_through(&probe.check, &probe.real);
    let connected = match &means.through {
        Some(through) if goes_through => through.connect(probe).await,
        None if goes_through => {
            return Err("there are no interfaces to go through".to_owned());
        }
        _ => direct(probe).await,
    };
    connected.map_err(|error| words(&error))
}

async fn direct(probe: &Probe) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(target(probe)).await?;
    // Ends with a reset: a box that probes a thousand servers a second keeps no TIME_WAIT.
    stream.set_zero_linger()?;
    Ok(Box::new(stream))
}

/// An error as people say it, without the operating system's number.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let cut = text.find(" (os error").map_or(text.as_str(), |at| &text[..at]);
    let mut letters = cut.chars();
    let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
    format!("{first}{}", letters.as_str())
}
