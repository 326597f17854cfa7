//! What is asked of the kernel: whole tables, and neighbours to be resolved.

use std::collections::BTreeMap;

use dataplane::{
    addr::{Addr, Family},
    director::network::{Interface, Network, Route},
    verdict::DeviceId,
};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Error, Handle,
    packet_route::{
        AddressFamily,
        neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState},
        route::RouteMessage,
    },
};

use super::{
    Hop, NextHopError,
    view::{self, Entry},
};

/// What has to be read again. Each kind includes those after it: an interface that goes takes its
/// addresses and routes along without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stale {
    Neighbours,
    Routes,
    Addresses,
    Everything,
}

/// The kernel's picture as last read.
#[derive(Debug, Default)]
pub(super) struct Picture {
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    local: Vec<(Addr, u8)>,
    pub(super) neighbours: BTreeMap<Hop, Entry>,
}

impl Picture {
    /// What the dataplane has to know of it.
    pub(super) fn network(&self) -> Network {
        let neighbours = self.neighbours.iter().filter_map(|(&(device, addr), entry)| {
            let mac = entry.mac?;
            Some(dataplane::director::network::Neighbour { device, addr, mac })
        });
        Network {
            interfaces: self.interfaces.clone(),
            routes: self.routes.clone(),
            neighbours: neighbours.collect(),
            local: self.local.clone(),
        }
    }

    /// The kernel's number of an interface that exists.
    pub(super) fn index(&self, device: DeviceId) -> Option<u32> {
        self.interfaces.iter().find(|interface| interface.device == device).map(|i| i.index)
    }

    /// Which of ours has this number.
    pub(super) fn device(&self, index: u32) -> Option<DeviceId> {
        self.interfaces.iter().find(|interface| interface.index == index).map(|i| i.device)
    }

    /// Reads `stale` and what depends on it.
    pub(super) async fn read(
        &mut self,
        handle: &Handle,
        names: &[String],
        stale: Stale,
    ) -> Result<(), NextHopError> {
        if stale >= Stale::Everything {
            self.interfaces = interfaces(handle, names).await.map_err(reading("interfaces"))?;
        }
        if stale >= Stale::Addresses {
            self.read_addresses(handle).await.map_err(reading("addresses"))?;
        }
        if stale >= Stale::Routes {
            self.read_routes(handle).await.map_err(reading("routes"))?;
        }
        self.neighbours = self.neighbours(handle).await.map_err(reading("neighbours"))?;
        Ok(())
    }

    async fn read_addresses(&mut self, handle: &Handle) -> Result<(), Error> {
        for interface in &mut self.interfaces {
            interface.addrs.clear();
        }
        let mut stream = std::pin::pin!(handle.address().get().execute());
        while let Some(message) = stream.try_next().await? {
            let Some((index, address)) = view::address(&message) else {
                continue;
            };
            if let Some(interface) = self.interfaces.iter_mut().find(|i| i.index == index) {
                interface.addrs.push(address);
            }
        }
        Ok(())
    }

    async fn read_routes(&mut self, handle: &Handle) -> Result<(), Error> {
        let (mut routes, mut local) = (Vec::new(), Vec::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let mut stream = std::pin::pin!(handle.route().get(all).execute());
            while let Some(message) = stream.try_next().await? {
                routes.extend(view::route(&message, |index| self.device(index)));
                local.extend(view::local(&message));
            }
        }
        (self.routes, self.local) = (routes, local);
        Ok(())
    }

    async fn neighbours(&self, handle: &Handle) -> Result<BTreeMap<Hop, Entry>, Error> {
        let mut neighbours = BTreeMap::new();
        let mut stream = std::pin::pin!(handle.neighbours().get().execute());
        while let Some(message) = stream.try_next().await? {
            let Some((index, addr, entry)) = view::neighbour(&message) else {
                continue;
            };
            if let Some(device) = self.device(index) {
                neighbours.insert((device, addr), entry);
            }
        }
        Ok(neighbours)
    }
}

/// Those of `names` that exist.
async fn interfaces(handle: &Handle, names: &[String]) -> Result<Vec<Interface>, Error> {
    let mut found = Vec::new();
    for (name, number) in names.iter().zip(0..=u8::MAX) {
        let mut stream = std::pin::pin!(handle.link().get().match_name(name.clone()).execute());
        match stream.try_next().await {
            Ok(Some(message)) => {
                found.push(view::interface(DeviceId(number), name, &message));
            }
            Ok(None) => {}
            Err(Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn reading(what: &'static str) -> impl Fn(Error) -> NextHopError {
    move |source| NextHopError::Read { what, source }
}

/// Asks the kernel to resolve a neighbour: now, and if `keep`, from now on. Without `keep` an entry
/// that was kept is let go.
///
/// Must not be asked for a permanent entry: the kernel would make it an ordinary one.
pub(super) async fn resolve(
    handle: &Handle,
    index: u32,
    addr: Addr,
    keep: bool,
) -> Result<(), Error> {
    let mut request = handle.neighbours().add(index, addr.to_ip()).replace();
    let message = request.message_mut();
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.header.family = match addr.family() {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    if keep {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    request.execute().await
}
