//! A connection of the stack as tokio's traits know it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use smoltcp::{iface::SocketHandle, socket::tcp::State};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpSocket,
};

use super::Running;

/// A connection; dropped, it is reset.
pub(super) struct Connection {
    running: Arc<Running>,
    handle: SocketHandle,
    port: u16,
    /// Keeps the port from others.
    _reserved: TcpSocket,
}

impl Connection {
    pub(super) const fn new(
        running: Arc<Running>,
        (handle, port): (SocketHandle, u16),
        reserved: TcpSocket,
    ) -> Self {
        Self { running, handle, port, _reserved: reserved }
    }

    /// Waits until the other side has accepted it.
    pub(super) async fn established(self) -> io::Result<Self> {
        poll_fn(|context| {
            let mut stack = self.running.stack();
            let socket = stack.socket(self.handle);
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => {
                    Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)))
                }
                _ => Poll::Ready(Ok(())),
            }
        })
        .await?;
        Ok(self)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let last = self.running.stack().close(self.handle);
        self.running.send(last);
        self.running.stack().forget(self.port);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stack = self.running.stack();
        let socket = stack.socket(self.handle);
        if socket.can_recv() {
            let octets = socket
                .recv_slice(buffer.initialize_unfilled())
                .map_err(|error| io::Error::other(error.to_string()))?;
            buffer.advance(octets);
            self.running.kick.notify_one();
            return Poll::Ready(Ok(()));
        }
        if socket.may_recv() {
            socket.register_recv_waker(context.waker());
            return Poll::Pending;
        }
        // Its end, or a reset, which says as much to a probe.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stack = self.running.stack();
        let socket = stack.socket(self.handle);
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !socket.can_send() {
            socket.register_send_waker(context.waker());
            return Poll::Pending;
        }
        let sent =
            socket.send_slice(octets).map_err(|error| io::Error::other(error.to_string()))?;
        self.running.kick.notify_one();
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.running.kick.notify_one();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.running.stack().socket(self.handle).close();
        self.running.kick.notify_one();
        Poll::Ready(Ok(()))
    }
}
