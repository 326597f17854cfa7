//! Connections, as many at a time as there is room for, and given only to those who may have one.
//!
//! Over the unix socket a place is given once the peer is known: without a role it gets none, and a few
//! places are kept for whoever administers the box without being named, so that nobody who holds
//! connections keeps an operator out. Those beyond that wait in the kernel's backlog, where they cost the
//! daemon nothing; but a peer that may not use the last places is sent away, so that it stands in
//! nobody's way. A connection that does not begin to speak loses its place.
//! Source: RFC 9113, section 3.4; unix(7), SO_PEERCRED.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use crate::access::{Access, Caller};

/// Connections of one listener at a time.
pub(super) const CONNECTIONS_MAX: usize = 256;

/// Of these on the unix socket: for whoever administers without being named.
const RESERVED: usize = 8;

/// How long the beginning may take: HTTP/2's preface, and TLS's handshake.
pub(super) const GREETING: Duration = Duration::from_secs(10);

/// Octets of HTTP/2's preface. A handshake of TLS begins with more.
const PREFACE: usize = 24;

/// A connection that holds its place.
#[derive(Debug)]
pub(super) struct Placed<T> {
    io: T,
    /// What is left of the beginning, and until when; `None` once it was seen.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl<T> Placed<T> {
    fn new(io: T, place: OwnedSemaphorePermit) -> Self {
        Self { io, greeting: Some((PREFACE, Box::pin(sleep(GREETING)))), _place: place }
    }
}

/// Gives each connection a place, and waits with the next ones while there is none.
pub(super) fn bounded<T>(
    incoming: impl Stream<Item = io::Result<T>>,
) -> impl Stream<Item = io::Result<Placed<T>>> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    incoming.then(move |accepted| {
        let room = Arc::clone(&room);
        async move {
            let io = accepted?;
            let place = room.acquire_owned().await.map_err(io::Error::other)?;
            Ok(Placed::new(io, place))
        }
    })
}

/// The same for peers that the kernel knows: those who have no role get no place.
pub(super) fn admitted(
    incoming: impl Stream<Item = io::Result<UnixStream>>,
    access: Arc<Access>,
) -> impl Stream<Item = io::Result<Placed<UnixStream>>> {
    let room = Room::new();
    incoming.filter_map(move |accepted| {
        let (room, access) = (room.clone(), Arc::clone(&access));
        async move {
            let io = match accepted {
                Ok(io) => io,
                Err(error) => return Some(Err(error)),
            };
            match room.place(&io, &access).await {
                Ok(place) => Some(Ok(Placed::new(io, place))),
                Err(refused) => {
                    tracing::debug!("gRPC: {refused}");
                    None
                }
            }
        }
    })
}

/// The places of the unix socket.
#[derive(Clone, Debug)]
struct Room {
    common: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
}

impl Room {
    fn new() -> Self {
        let common = Arc::new(Semaphore::new(CONNECTIONS_MAX - RESERVED));
        Self { common, reserved: Arc::new(Semaphore::new(RESERVED)) }
    }

    /// A place for a peer.
    ///
    /// # Errors
    ///
    /// It may not have one: it has no role, or there is none left for those who have one.
    async fn place(&self, io: &UnixStream, access: &Access) -> io::Result<OwnedSemaphorePermit> {
        let peer = io.peer_cred()?;
        let caller = Caller::Process { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
        if access.role(&caller).is_none() {
            return Err(io::Error::other(format!("{caller} has no role")));
        }
        if let Ok(place) = Arc::clone(&self.common).try_acquire_owned() {
            return Ok(place);
        }
        if !access.is_master(&caller) {
            return Err(io::Error::other(format!("no place is left for {caller}")));
        }
        let place = tokio::select! {
            place = Arc::clone(&self.reserved).acquire_owned() => place,
            place = Arc::clone(&self.common).acquire_owned() => place,
        };
        place.map_err(io::Error::other)
    }
}

impl<T: Connected> Connected for Placed<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> T::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Placed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((_, until)) = &mut self.greeting
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.greeting = self.greeting.take().and_then(|(left, until)| {
            let left = left.saturating_sub(read);
            (left > 0).then_some((left, until))
        });
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Placed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
