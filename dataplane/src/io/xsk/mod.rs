//! AF_XDP: packets that steering takes out of the kernel, in memory shared with it.
//!
//! Each worker owns one memory and one socket for each of its queues. A received frame is lent to
//! the pipeline. With zero-copy, a packet that leaves goes out from the same frame, moved within it
//! only if its start changed; without, a burst is sent from copies at once ([`Transmit`]), several
//! times faster than the ring then is. Frames are conserved: free, in the kernel's hands to fill, or in its hands to
//! send, they always add up ([`Census`]).
//!
//! Each packet that a full ring refuses is dropped with its reason, never kept.
//! Sources: Linux Documentation/networking/af_xdp.rst, net/xdp/xsk.c.

mod frames;
mod netdev;
mod queue;
mod sender;
mod setup;

use std::{io, sync::Arc, time::Duration};

use arrayvec::ArrayVec;
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use self::{
    frames::{Frame, Frames},
    queue::Queue,
    sender::{SHORTEST, Sender},
};
use super::{
    Io,
    host::{HostPort, Inbox},
};
use crate::{
    packet::{BURST, Packet},
    verdict::{DeviceId, DropReason, Verdict},
};

pub use netdev::receive_queues;
pub use queue::BusyPoll;
pub use setup::{Offloads, Opened, Transmit, XskError, XskOptions, XskReport, open};

/// How long a wait lasts at most while the kernel owes us a transmission.
const PENDING_WAIT: Duration = Duration::from_millis(1);

/// The wake-up among the events; others are queues.
const WAKE: Token = Token(usize::MAX);

/// What the host's stack sends, among the events.
const HOST: Token = Token(usize::MAX - 1);

/// The AF_XDP sockets of one worker.
#[derive(Debug)]
pub struct XskIo {
    /// Before `frames`: sockets go before their memory.
    queues: Vec<Queue>,
    frames: Frames,
    /// Sends bursts; without it packets leave by the rings.
    sender: Option<Sender>,
    /// Whose turn it is.
    turn: usize,
    /// Where packets of the host go; without it they are dropped.
    host: Option<HostPort>,
    /// What its stack sends.
    inbox: Inbox,
    /// Whether it is the host's turn.
    host_turn: bool,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
}

/// Where a worker's frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Nowhere else.
    pub free: usize,
    /// With the kernel to receive into, or received and not yet taken.
    pub filling: usize,
    /// With the kernel to be sent, or sent and not yet taken back.
    pub sending: usize,
    /// All there are.
    pub total: usize,
}

impl Census {
    /// Whether none was lost or doubled.
    pub const fn adds_up(&self) -> bool {
        self.free + self.filling + self.sending == self.total
    }
}

/// What the kernel dropped at a worker's sockets, before we could see it; in its own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelDrops {
    /// The receive ring was full: the worker was too slow.
    pub ring_full: u64,
    /// There was no frame to fill, as all of them were received already: too slow as well.
    pub no_frame: u64,
    /// Dropped at the socket: the packet is longer than a frame, or, in copy mode only, there was no
    /// frame (which counts here and there).
    pub dropped: u64,
}

impl XskIo {
    /// Ends a [`Io::wait`] of this worker, from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Hands packets of the host over by this port from now on, and reads what its stack sends.
    ///
    /// # Errors
    ///
    /// The port cannot be polled.
    pub fn set_host(&mut self, port: HostPort) -> io::Result<()> {
        let descriptor = port.descriptor();
        let mut source = SourceFd(&descriptor);
        self.poll.registry().register(&mut source, HOST, Interest::READABLE)?;
        self.host = Some(port);
        self.inbox = Inbox::new();
        Ok(())
    }

    /// Whether it is the host's turn, and its stack has sent something.
    fn has_host_sent(&mut self) -> bool {
        let Self { host, inbox, host_turn, .. } = self;
        let Some(port) = host.as_mut().filter(|port| port.is_read()) else { return false };
        *host_turn = !*host_turn;
        *host_turn && inbox.fill(port)
    }

    /// A burst of what the host's stack has sent.
    #[cold]
    fn host_burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        mut settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> usize {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut packets = inbox.lend();
        let came: ArrayVec<usize, BURST> = packets.iter().map(Packet::len).collect();
        process(&mut packets);
        for (packet, &length) in packets.iter().zip(&came) {
            let verdict = match packet.verdict {
                Verdict::Tx(device) if !self.send(device, packet.bytes()) => {
                    Verdict::Drop(DropReason::TxRingFull)
                }
                // It came from there.
                Verdict::Host => Verdict::Drop(DropReason::HostUnavailable),
                other => other,
            };
            settle(DeviceId::HOST, length, verdict);
        }
        drop(packets);
        self.inbox = inbox;
        came.len()
    }

    /// Where the frames are.
    pub fn census(&self) -> Census {
        let held = self.queues.iter().map(Queue::held);
        let (filling, sending) = held.fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1));
        Census { free: self.frames.free.len(), filling, sending, total: self.frames.total() }
    }

    /// What the kernel dropped at these sockets since they were opened.
    ///
    /// # Errors
    ///
    /// The kernel's, which has no reason for one.
    pub fn kernel_drops(&self) -> io::Result<KernelDrops> {
        let mut sum = KernelDrops::default();
        for queue in &self.queues {
            let [ring_full, no_frame, dropped] = queue.kernel_drops()?;
            sum.ring_full += ring_full;
            sum.no_frame += no_frame;
            sum.dropped += dropped;
        }
        Ok(sum)
    }

    /// # Errors
    ///
    /// An interface is gone.
    fn still_there(&self) -> io::Result<()> {
        self.queues.iter().try_for_each(Queue::still_there)
    }

    /// Takes a burst from the next queue that has packets, and says which.
    fn receive(&mut self, into: &mut ArrayVec<Frame, BURST>) -> usize {
        for _ in 0..self.queues.len() {
            let at = self.turn;
            self.turn = if at + 1 == self.queues.len() { 0 } else { at + 1 };
            self.queues[at].receive(into);
            if !into.is_empty() {
                return at;
            }
        }
        0
    }

    /// Does with a frame from queue `at` what its outcome says, and says what became of it.
    fn carry_out(&mut self, at: usize, mut frame: Frame, outcome: Outcome) -> Verdict {
        let verdict = match outcome.verdict {
            Verdict::Tx(device) if device != DeviceId::HOST => {
                match self.stage(at, &mut frame, device, outcome) {
                    Ok(queue) => {
                        self.queues[queue].stage(frame);
                        return outcome.verdict;
                    }
                    Err(reason) => Verdict::Drop(reason),
                }
            }
            other => other,
        };
        self.frames.free.push(frame);
        verdict
    }

    /// Readies a frame for sending, and says by which queue.
    fn stage(
        &mut self,
        at: usize,
        frame: &mut Frame,
        device: DeviceId,
        outcome: Outcome,
    ) -> Result<usize, DropReason> {
        let egress = self.queues[at].egress.get(usize::from(device.0)).copied().flatten();
        let egress = usize::from(egress.ok_or(DropReason::NoSuchDevice)?);
        let queue = &mut self.queues[egress];
        if outcome.length < SHORTEST {
            return Err(DropReason::Truncated);
        }
        if outcome.length > queue.longest {
            return Err(DropReason::Oversized);
        }
        if !queue.make_room(&mut self.frames) {
            return Err(DropReason::TxRingFull);
        }
        if self.frames.place(frame, outcome.start, outcome.length) {
            Ok(egress)
        } else {
            Err(DropReason::Oversized)
        }
    }
}

/// What the pipeline left of a packet.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    verdict: Verdict,
    /// Where in its frame the packet starts.
    start: usize,
    /// Its length in octets.
    length: usize,
}

impl Outcome {
    /// Reads it off a packet.
    fn of(packet: &Packet<'_>) -> Self {
        Self { verdict: packet.verdict, start: packet.start(), length: packet.len() }
    }
}

/// Hands over a packet for the host, and says what became of it.
#[cold]
fn for_host(packet: &Packet<'_>, host: &mut Option<HostPort>) -> Verdict {
    if hand_over(host, packet.bytes()) {
        packet.verdict
    } else {
        Verdict::Drop(DropReason::HostUnavailable)
    }
}

fn hand_over(host: &mut Option<HostPort>, frame: &[u8]) -> bool {
    host.as_mut().is_some_and(|port| port.send(frame))
}

impl Io for XskIo {
    fn burst(
        &mut self,
        process: impl FnOnce(&mut [Packet<'_>]),
        mut settle: impl FnMut(DeviceId, usize, Verdict),
    ) -> io::Result<usize> {
        if self.has_host_sent() {
            return Ok(self.host_burst(process, settle));
        }
        let mut received = ArrayVec::<Frame, BURST>::new();
        let at = self.receive(&mut received);
        if received.is_empty() {
            return Ok(0);
        }
        let device = self.queues[at].device;
        let lent = received.iter_mut().map(|frame| self.frames.lend(frame, device));
        let mut packets: ArrayVec<Packet<'_>, BURST> = lent.collect();
        let came: ArrayVec<usize, BURST> = packets.iter().map(Packet::len).collect();
        process(&mut packets);
        for packet in &mut packets {
            if matches!(packet.verdict, Verdict::Host | Verdict::Tx(DeviceId::HOST)) {
                packet.verdict = for_host(packet, &mut self.host);
            }
        }
        if let Some(sender) = &mut self.sender {
            let suspicious = sender.carry_out(&mut packets);
            for (packet, &length) in packets.iter().zip(&came) {
                settle(device, length, packet.verdict);
            }
            drop(packets);
            self.frames.free.extend(received);
            self.queues[at].refill(&mut self.frames);
            if suspicious {
                self.still_there()?;
            }
            return Ok(came.len());
        }
        let outcomes: ArrayVec<Outcome, BURST> =
            packets.drain(..).map(|packet| Outcome::of(&packet)).collect();
        drop(packets);
        for ((frame, outcome), &length) in received.into_iter().zip(outcomes).zip(&came) {
            settle(device, length, self.carry_out(at, frame, outcome));
        }
        for queue in &mut self.queues {
            queue.submit();
        }
        self.queues[at].refill(&mut self.frames);
        Ok(came.len())
    }

    fn send(&mut self, device: DeviceId, frame: &[u8]) -> bool {
        if device == DeviceId::HOST {
            return hand_over(&mut self.host, frame);
        }
        if let Some(sender) = &mut self.sender {
            return sender.push(device, frame).is_ok();
        }
        let Some(at) = self.queues.iter().position(|queue| queue.device == device) else {
            return false;
        };
        let queue = &mut self.queues[at];
        if frame.len() < SHORTEST || frame.len() > queue.longest {
            return false;
        }
        if !queue.make_room(&mut self.frames) {
            return false;
        }
        let Some(frame) = self.frames.filled(frame) else {
            return false;
        };
        self.queues[at].stage(frame);
        true
    }

    fn to_host(&mut self, _: DeviceId, frame: &[u8]) -> bool {
        hand_over(&mut self.host, frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(sender) = &mut self.sender {
            sender.send(|_, _| {});
        }
        for queue in &mut self.queues {
            queue.submit();
            queue.kick()?;
            queue.reap(&mut self.frames);
            queue.refill(&mut self.frames);
        }
        debug_assert!(self.census().adds_up(), "frames lost or doubled: {:?}", self.census());
        Ok(())
    }

    fn missed(&mut self, mut tell: impl FnMut(DeviceId, u64)) -> io::Result<()> {
        for queue in &mut self.queues {
            tell(queue.device, queue.missed()?);
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.flush()?;
        if self.queues.iter_mut().any(Queue::is_ready) {
            return Ok(());
        }
        let Self { host, inbox, .. } = self;
        if host.as_mut().is_some_and(|port| port.is_read() && inbox.fill(port)) {
            return Ok(());
        }
        let pending = self.queues.iter().any(Queue::is_pending);
        let timeout = if pending { timeout.min(PENDING_WAIT) } else { timeout };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        // An AF_XDP socket reports no error to those who poll it, so a quiet one is asked.
        if self.events.is_empty() { self.still_there() } else { Ok(()) }
    }
}
