//! The task that follows the kernel.

use std::{collections::BTreeSet, future::pending, time::Duration};

use dataplane::director::network::Network;
use futures_util::{StreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Hop, NextHopError,
    kernel::{self, Picture, Stale},
    view,
};

/// How long the first change waits for others before all are read together.
const COALESCE: Duration = Duration::from_millis(10);

/// Reading takes at most one part in five of the time, whatever the size of the tables.
const REST: u32 = 4;

/// How often kept next hops are looked after that the kernel does not keep by itself, or lost.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long the kernel may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What may change the picture.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// The kernel's news.
type Events = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// Opens two sockets: one to ask, one to listen.
fn open() -> Result<(Handle, Events), NextHopError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let (connection, _, events) = rtnetlink::new_multicast_connection(&GROUPS)?;
    tokio::spawn(connection);
    Ok((handle, events.map(|(message, _)| message).boxed()))
}

/// The state of the task.
struct Follower {
    names: Vec<String>,
    handle: Handle,
    picture: Picture,
    kept: BTreeSet<Hop>,
    publish: watch::Sender<Network>,
    /// What has to be read again, and when.
    stale: Option<(Stale, Instant)>,
    /// No reading before.
    rested: Instant,
}

/// Reads everything once, starts the task and returns where it publishes.
pub(super) async fn start(
    names: Vec<String>,
    kept: watch::Receiver<BTreeSet<Hop>>,
    wanted: mpsc::Receiver<Hop>,
) -> Result<watch::Receiver<Network>, NextHopError> {
    let (handle, events) = open()?;
    let mut picture = Picture::default();
    let reading = picture.read(&handle, &names, Stale::Everything);
    timeout(PATIENCE, reading).await.or(Err(NextHopError::Silent))??;
    let network = picture.network();
    let missing = names.iter().find(|name| !network.interfaces.iter().any(|i| i.name == **name));
    if let Some(name) = missing {
        return Err(NextHopError::NoSuchInterface(name.clone()));
    }
    let (publish, receiver) = watch::channel(network);
    let follower = Follower {
        names,
        handle,
        picture,
        kept: BTreeSet::new(),
        publish,
        stale: None,
        rested: Instant::now(),
    };
    tokio::spawn(follower.run(events, kept, wanted));
    Ok(receiver)
}

impl Follower {
    /// Follows until the handle is dropped.
    async fn run(
        mut self,
        mut events: Events,
        mut kept: watch::Receiver<BTreeSet<Hop>>,
        mut wanted: mpsc::Receiver<Hop>,
    ) {
        let mut tick = interval(LOOK_AFTER);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.stale.map(|(_, due)| due);
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.note(&event),
                    None => events = self.reopen().await,
                },
                () = at(due) => if let Err(error) = self.refresh().await {
                    warn!(%error, "the kernel's network state could not be read");
                    events = self.reopen().await;
                },
                changed = kept.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let hops = kept.borrow_and_update().clone();
                    self.keep(hops).await;
                }
                hop = wanted.recv() => match hop {
                    Some(hop) => self.resolve_once(hop).await,
                    None => break,
                },
                _ = tick.tick() => self.look_after().await,
            }
        }
        self.keep(BTreeSet::new()).await;
    }

    /// Notes what an event makes stale.
    fn note(&mut self, event: &NetlinkMessage<RouteNetlinkMessage>) {
        use RouteNetlinkMessage as M;
        let stale = match &event.payload {
            NetlinkPayload::InnerMessage(message) => match message {
                M::NewLink(_) | M::DelLink(_) => Stale::Everything,
                M::NewAddress(_) | M::DelAddress(_) => Stale::Addresses,
                M::NewRoute(route) | M::DelRoute(route)
                    if view::is_main_unicast(route) || view::local(route).is_some() =>
                {
                    Stale::Routes
                }
                M::NewNeighbour(neighbour) | M::DelNeighbour(neighbour)
                    if self.picture.device(neighbour.header.ifindex).is_some() =>
                {
                    Stale::Neighbours
                }
                _ => return,
            },
            NetlinkPayload::Overrun(_) => {
                debug!("the kernel had more news than the socket could hold: reading all again");
                Stale::Everything
            }
            _ => return,
        };
        self.mark(stale);
    }

    fn mark(&mut self, stale: Stale) {
        let due = (Instant::now() + COALESCE).max(self.rested);
        self.stale = Some(match self.stale {
            Some((known, due)) => (known.max(stale), due),
            None => (stale, due),
        });
    }

    /// Reads what is stale and publishes what has changed.
    async fn refresh(&mut self) -> Result<(), NextHopError> {
        let Some((stale, _)) = self.stale.take() else {
            return Ok(());
        };
        let begun = Instant::now();
        let reading = self.picture.read(&self.handle, &self.names, stale);
        let result = timeout(PATIENCE, reading).await.unwrap_or(Err(NextHopError::Silent));
        self.rested = Instant::now() + REST * begun.elapsed();
        result?;
        let network = self.picture.network();
        self.publish.send_if_modified(|published| {
            let changed = *published != network;
            *published = network;
            changed
        });
        Ok(())
    }

    /// Starts over with new sockets; what was missed meanwhile is read.
    async fn reopen(&mut self) -> Events {
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            match open() {
                Ok((handle, events)) => {
                    self.handle = handle;
                    self.mark(Stale::Everything);
                    return events;
                }
                Err(error) => warn!(%error, "next hops are not followed for now"),
            }
        }
    }

    /// Keeps `hops` instead of those before.
    async fn keep(&mut self, hops: BTreeSet<Hop>) {
        let before = std::mem::replace(&mut self.kept, hops);
        for hop in before.difference(&self.kept.clone()) {
            if self.picture.neighbours.get(hop).is_some_and(|entry| entry.managed) {
                self.ask(*hop, false).await;
            }
        }
        self.look_after().await;
    }

    /// Asks for kept next hops that the kernel does not keep, or has given up.
    async fn look_after(&mut self) {
        for hop in self.kept.clone() {
            let settled = self.picture.neighbours.get(&hop).is_some_and(|entry| {
                entry.fixed || entry.mac.is_some() && (entry.managed || entry.reachable)
            });
            if !settled {
                self.ask(hop, true).await;
            }
        }
    }

    async fn resolve_once(&mut self, hop: Hop) {
        if self.picture.neighbours.get(&hop).is_none_or(|entry| entry.mac.is_none()) {
            self.ask(hop, self.kept.contains(&hop)).await;
        }
    }

    async fn ask(&self, hop: Hop, keep: bool) {
        let (device, addr) = hop;
        let Some(index) = self.picture.index(device) else {
            return;
        };
        let asking = kernel::resolve(&self.handle, index, addr, keep);
        if let Ok(Err(error)) = timeout(PATIENCE, asking).await {
            debug!(%error, %addr, "the kernel does not resolve a next hop");
        }
    }
}

/// Waits until `due`, or for ever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
