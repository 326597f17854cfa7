//! An ICMP echo request is answered.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use surge_ping::{Client, Config, ICMP, PingIdentifier, PingSequence, SurgeError};

use super::{Found, Good, target};
use crate::health::board::Probe;

/// What an echo request carries.
const PAYLOAD: [u8; 16] = *b"xvs health check";

/// The sockets, one of each family, opened when they are needed.
#[derive(Default)]
pub(super) struct Pings {
    v4: OnceLock<Result<Client, String>>,
    v6: OnceLock<Result<Client, String>>,
    next: AtomicU16,
}

impl fmt::Debug for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pings").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Pings {
    fn client(&self, addr: IpAddr) -> Result<&Client, String> {
        let (client, kind) = match addr {
            IpAddr::V4(_) => (&self.v4, ICMP::V4),
            IpAddr::V6(_) => (&self.v6, ICMP::V6),
        };
        let open = || {
            let config = Config::builder().kind(kind).build();
            Client::new(&config).map_err(|error| format!("ICMP: {error}"))
        };
        client.get_or_init(open).as_ref().map_err(Clone::clone)
    }
}

pub(super) async fn run(probe: &Probe, pings: &Pings) -> Found {
    let addr = target(probe).ip();
    let number = pings.next.fetch_add(1, Relaxed);
    let mut pinger = pings.client(addr)?.pinger(addr, PingIdentifier(number)).await;
    pinger.timeout(probe.check.timeout);
    match pinger.ping(PingSequence(number), &PAYLOAD).await {
        Ok(_) => Ok(Good::new("answered")),
        Err(SurgeError::Timeout { .. }) => {
            Err(format!("no answer within {:?}", probe.check.timeout))
        }
        Err(error) => Err(format!("ICMP: {error}")),
    }
}
