//! The rig's network: a client, a load balancer, a real server, each a network namespace.
//!
//! ```text
//!   client c0 ---------- front lb back ---------- r0 real
//!     10.1.0.2      10.1.0.1      10.2.0.1      10.2.0.11
//! ```
//!
//! The VIP lies in no network of these; the client reaches it through the load balancer, as it
//! would the addresses of a cluster's services. Generated packets come from [`SENDERS`]. Neighbours
//! are entered for good, so that no measurement waits for ARP.

use std::{net::Ipv4Addr, sync::Arc};

use xvs_bench::lab::{Namespace, folder::Folder, process::run};

/// The virtual address.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The port of services; real servers listen at [`REAL_PORT`].
pub(super) const PORT: u16 = 80;

/// Where the bulk transfer is served, by VIP and real server alike.
pub(super) const BULK_PORT: u16 = 5201;

/// The real server.
pub(super) const REAL: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);

/// Real servers of one service at most, by addresses from [`REAL`] on.
pub(super) const REALS_MAX: u32 = 20;

/// Its port: translation changes ports too.
pub(super) const REAL_PORT: u16 = 8080;

/// The first address of generated packets, of 65,536.
pub(super) const SENDERS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 0);

/// Link addresses of c0, front, back and r0.
pub(super) const MACS: [[u8; 6]; 4] =
    [[2, 0, 0, 0, 0, 0x0c], [2, 0, 0, 0, 0, 0xf0], [2, 0, 0, 0, 0, 0xba], [2, 0, 0, 0, 0, 0x0e]];

/// The three machines.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) client: Arc<Namespace>,
    pub(super) lb: Arc<Namespace>,
    pub(super) real: Arc<Namespace>,
    /// Files of everything that runs.
    pub(super) folder: Folder,
}

impl Site {
    /// Machines and links; nothing runs yet.
    ///
    /// # Errors
    ///
    /// Without root or iproute2.
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let new = |label| Namespace::new(label).map(Arc::new);
        let (client, lb, real) = (new("client")?, new("lb")?, new("real")?);
        client.connect("c0", &lb, "front")?;
        lb.connect("back", &real, "r0")?;
        let [c0, front, back, r0] = MACS.map(spelled);
        client.ip(&format!(
            "link set c0 address {c0}\naddr add 10.1.0.2/24 dev c0\n\
             neigh replace 10.1.0.1 lladdr {front} dev c0 nud permanent\n\
             route add default via 10.1.0.1"
        ))?;
        lb.ip(&format!(
            "link set front address {front}\nlink set back address {back}\n\
             addr add 10.1.0.1/24 dev front\naddr add 10.2.0.1/24 dev back\n\
             neigh replace 10.1.0.2 lladdr {c0} dev front nud permanent\n\
             neigh replace {REAL} lladdr {r0} dev back nud permanent\n\
             route add {SENDERS}/16 via 10.1.0.2"
        ))?;
        // Further real servers, as many as any service has, that are all the same machine.
        let neighbour = |number: u32| {
            let address = Ipv4Addr::from(u32::from(REAL) + number);
            format!("neigh replace {address} lladdr {r0} dev back nud permanent\n")
        };
        lb.ip(&(1..REALS_MAX).map(neighbour).collect::<String>())?;
        real.ip(&format!(
            "link set r0 address {r0}\naddr add {REAL}/24 dev r0\n\
             neigh replace 10.2.0.1 lladdr {back} dev r0 nud permanent\n\
             route add default via 10.2.0.1"
        ))?;
        // Frames that come without an skb need a receiver with NAPI, which GRO gives to veth.
        lb.command("ethtool").args(["-K", "front", "gro", "on"]).status()?;
        lb.sysctl(&[("net/ipv4/ip_forward", "1")])?;
        // Many short connections between few addresses.
        for machine in [&client, &lb] {
            machine.sysctl(&[
                ("net/ipv4/ip_local_port_range", "1024 65535"),
                ("net/ipv4/tcp_tw_reuse", "1"),
            ])?;
        }
        for machine in [&real, &lb] {
            machine.sysctl(&[("net/core/somaxconn", "4096")])?;
        }
        Ok(Self { client, lb, real, folder })
    }

    /// Takes from client and real server what an XDP program at the load balancer's end of their links
    /// takes from them, segments longer than a packet, and from the load balancer to put packets together
    /// again.
    ///
    /// # Errors
    ///
    /// Without ethtool.
    pub(super) fn cut_segments(&self) -> anyhow::Result<()> {
        let ends = [
            (&self.client, "c0", "tso"),
            (&self.real, "r0", "tso"),
            (&self.lb, "front", "gro"),
            (&self.lb, "back", "gro"),
        ];
        for (machine, device, offload) in ends {
            run(machine.command("ethtool").args(["-K", device, offload, "off"]))?;
        }
        Ok(())
    }
}

/// A link address as iproute2 takes it.
pub(super) fn spelled(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
