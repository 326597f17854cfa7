//! Next hops: what the kernel knows of the network around the box, followed live by rtnetlink.
//!
//! Routes and neighbours stay the kernel's business: routing daemons, ARP and neighbour discovery
//! work as on any box, and we read the results. [`NextHops`] publishes them as
//! [`Network`] whenever they change, asks the kernel to keep the given next hops resolved, and
//! to resolve others on demand. It works in the network namespace of the thread that starts it.
//!
//! A message from the kernel only says *what* to read again: everything of that kind is then read
//! as a whole, after a pause that collects a burst into one reading. So a lost message (a full
//! socket buffer), a missing one (the kernel drops IPv4 routes without a word when an interface
//! goes down) and a reordered one cannot leave us with a wrong picture.
//!
//! Sources: rtnetlink(7); Linux `net/core/neighbour.c` (`neigh_add`, managed entries),
//! `net/ipv4/fib_frontend.c`.

mod follow;
mod kernel;
mod view;

use std::{collections::BTreeSet, io};

use dataplane::{addr::Addr, director::network::Network, verdict::DeviceId};
use tokio::sync::{mpsc, watch};

/// Requests to resolve that wait at most; the next packet to the same next hop asks again.
const WANTED_MAX: usize = 1024;

/// Why next hops cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NextHopError {
    /// A configured interface is not there.
    #[error("interface {0} does not exist")]
    NoSuchInterface(String),
    /// More interfaces than a device id can name.
    #[error("{0} interfaces are configured, 256 are possible")]
    TooManyInterfaces(usize),
    /// No netlink socket could be had.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused to be read.
    #[error("cannot read {what} from the kernel: {source}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel did not answer.
    #[error("the kernel did not answer within {} seconds", follow::PATIENCE.as_secs())]
    Silent,
}

/// A next hop: an address on the link of an interface.
pub type Hop = (DeviceId, Addr);

/// Follows the kernel until dropped.
#[derive(Debug)]
pub struct NextHops {
    kept: watch::Sender<BTreeSet<Hop>>,
    wanted: mpsc::Sender<Hop>,
}

impl NextHops {
    /// Reads what there is, and follows it from then on. `interfaces` are named in the order of their
    /// device ids. The receiver sees a new value when something changed, 10 ms after the change
    /// or later if changes come faster than they can be read.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an interface does not exist, or the kernel cannot be asked. Later, an interface that goes
    /// away is missing in the value, with its routes and neighbours, until it comes back.
    pub async fn start(
        interfaces: Vec<String>,
    ) -> Result<(Self, watch::Receiver<Network>), NextHopError> {
        if interfaces.len() > 256 {
            return Err(NextHopError::TooManyInterfaces(interfaces.len()));
        }
        let (kept, kept_receiver) = watch::channel(BTreeSet::new());
        let (wanted, wanted_receiver) = mpsc::channel(WANTED_MAX);
        let network = follow::start(interfaces, kept_receiver, wanted_receiver).await?;
        Ok((Self { kept, wanted }, network))
    }

    /// Keeps these next hops resolved, and no others: reals on the link, gateways. The kernel
    /// resolves them now and again before they go stale (`NTF_EXT_MANAGED`, Linux 5.16); an older
    /// kernel is made to probe them every second. Entries that the administrator made permanent
    /// are left alone.
    pub fn keep(&self, hops: impl IntoIterator<Item = Hop>) {
        let hops = BTreeSet::from_iter(hops);
        self.kept.send_if_modified(|kept| {
            let changed = *kept != hops;
            *kept = hops;
            changed
        });
    }

    /// Has one next hop resolved once, if it is not. For clients on the link, whose number has no
    /// bound. Does not wait; beyond 1024 waiting requests one is forgotten, and the next packet asks
    /// again.
    pub fn resolve(&self, device: DeviceId, addr: Addr) {
        self.wanted.try_send((device, addr)).ok();
    }
}
