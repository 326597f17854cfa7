//! Connections, as many at a time as there is room for; those beyond wait in the kernel's backlog, and
//! cost the daemon nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::server::Connected;

/// Connections of one listener at a time.
pub(super) const CONNECTIONS_MAX: usize = 256;

/// A connection that holds its place.
#[derive(Debug)]
pub(super) struct Placed<T> {
    io: T,
    _place: OwnedSemaphorePermit,
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
            Ok(Placed { io, _place: place })
        }
    })
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
        Pin::new(&mut self.io).poll_read(cx, buffer)
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
