//! The laboratory's network: a client, a load balancer with two interfaces, three real servers.
//!
//! ```text
//!   client c0 ---- front lb back ---+
//!     10.1.0.2      10.1.0.1        |          10.2.0.11 to .13, fd02::11 to ::13
//!     fd01::2       10.2.0.1     switch ------ real1 real2 real3
//!          c1 ----------------------+
//!     10.2.0.254
//! ```
//!
//! The client's second leg is the way by which real servers answer it directly, as dr and tunnels
//! want it; with nat they answer through the load balancer ([`Gateway`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Namespace, Process, folder::Folder, process, web::Web};

/// The virtual address of a family.
pub const VIP: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 1, 0, 100), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x100));

/// How many real servers there are.
const REALS: u8 = 3;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// An address as it stands before a port.
    pub fn host(self, address: IpAddr) -> String {
        match self {
            Self::V4 => address.to_string(),
            Self::V6 => format!("[{address}]"),
        }
    }

    /// The load balancer's address on the real servers' side that full NAT takes.
    pub const fn local(self) -> &'static str {
        match self {
            Self::V4 => "10.2.0.200",
            Self::V6 => "fd02::200",
        }
    }

    /// Its virtual address.
    pub const fn vip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(VIP.0),
            Self::V6 => IpAddr::V6(VIP.1),
        }
    }
}

/// By whom real servers reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// Through the load balancer.
    Balancer,
    /// Directly.
    Client,
}

/// A real server's machine.
#[derive(Debug)]
pub struct Real {
    /// Where it runs.
    pub namespace: Namespace,
    /// Its addresses.
    pub v4: Ipv4Addr,
    /// Its addresses.
    pub v6: Ipv6Addr,
}

impl Real {
    /// Its address in a family.
    pub const fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// All of it. Fields are dropped in this order: first what runs, then where it runs.
#[derive(Debug)]
pub struct World {
    /// Web servers, one on each real server once [`World::serve`] was called.
    pub webs: Vec<Web>,
    decapsulators: Vec<Process>,
    /// Who asks.
    pub client: Namespace,
    /// Where the load balancer runs.
    pub lb: Namespace,
    /// Who answers.
    pub reals: Vec<Real>,
    /// Holds the bridge that connects the back ends.
    switch: Namespace,
    /// Files of everything that runs.
    pub folder: Folder,
}

impl World {
    /// Machines and links, with addresses and routes; nothing runs yet.
    ///
    /// # Errors
    ///
    /// Without root or iproute2.
    pub fn new() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let (client, lb) = (Namespace::new("client")?, Namespace::new("lb")?);
        let switch = Namespace::new("switch")?;
        switch.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up")?;
        client.connect("c0", &lb, "front")?;
        lb.connect("back", &switch, "p-lb")?;
        client.connect("c1", &switch, "p-client")?;
        switch.ip("link set p-lb master br0\nlink set p-client master br0")?;
        client.ip("addr add 10.1.0.2/24 dev c0\naddr add fd01::2/64 dev c0 nodad\n\
             addr add 10.2.0.254/24 dev c1\naddr add fd02::254/64 dev c1 nodad")?;
        let (vip4, vip6) = VIP;
        lb.ip(&format!(
            "addr add 10.1.0.1/24 dev front\naddr add fd01::1/64 dev front nodad\n\
             addr add 10.2.0.1/24 dev back\naddr add fd02::1/64 dev back nodad\n\
             addr add {vip4}/32 dev front\naddr add {vip6}/128 dev front nodad\n\
             addr add 10.2.0.200/24 dev back\naddr add fd02::200/64 dev back nodad"
        ))?;
        let reals = (1..=REALS).map(|number| real(number, &switch)).collect::<Result<_, _>>()?;
        let (webs, decapsulators) = (Vec::new(), Vec::new());
        Ok(Self { webs, decapsulators, client, lb, reals, switch, folder })
    }

    /// Makes the load balancer one-armed: the client's first leg goes to the switch, and `back` is
    /// the balancer's only interface, with all its addresses.
    ///
    /// # Errors
    ///
    /// The kernel refuses a link or an address.
    pub fn one_armed(&self) -> anyhow::Result<()> {
        // Two legs on one link: each answers for its own address only.
        self.client.sysctl(&[
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/all/arp_announce", "2"),
        ])?;
        self.client.ip("link del c0")?;
        self.client.connect("c0", &self.switch, "p-client0")?;
        self.switch.ip("link set p-client0 master br0")?;
        self.client.ip("addr add 10.1.0.2/24 dev c0\naddr add fd01::2/64 dev c0 nodad")?;
        let (vip4, vip6) = VIP;
        self.lb.ip(&format!(
            "addr add 10.1.0.1/24 dev back\naddr add fd01::1/64 dev back nodad\n\
             addr add {vip4}/32 dev back\naddr add {vip6}/128 dev back nodad"
        ))
    }

    /// Starts a web server and a decapsulator on each real server.
    ///
    /// # Errors
    ///
    /// One of them does not run.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        let decapsulator = process::own("xvs-bench")?;
        for real in &self.reals {
            self.webs.push(Web::start(&real.namespace, self.folder.path())?);
            let mut command = real.namespace.command(&decapsulator);
            let log = self.folder.path().join(format!("decap-{}.log", real.namespace.label()));
            let mut process = Process::start("decap", command.arg("decap"), &log)?;
            process.wait_until(super::web::PATIENCE, || log_says_ready(&log))?;
            self.decapsulators.push(process);
        }
        Ok(())
    }

    /// What unwraps tunnels on a real server, once [`World::serve`] was called.
    ///
    /// # Panics
    ///
    /// It was not.
    pub fn decapsulator(&self, real: usize) -> &Process {
        &self.decapsulators[real]
    }

    /// Sets the way by which real servers answer the client.
    ///
    /// # Errors
    ///
    /// The kernel refuses the route.
    pub fn answer_by(&self, gateway: Gateway) -> anyhow::Result<()> {
        let host = match gateway {
            Gateway::Balancer => "1",
            Gateway::Client => "254",
        };
        for real in &self.reals {
            real.namespace.ip(&format!(
                "route replace default via 10.2.0.{host}\nroute replace ::/0 via fd02::{host}"
            ))?;
        }
        Ok(())
    }
}

fn log_says_ready(log: &std::path::Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains("ready"))
}

/// A real server's machine: it has the virtual addresses, and is silent about them.
fn real(number: u8, switch: &Namespace) -> anyhow::Result<Real> {
    let namespace = Namespace::new(&format!("real{number}"))?;
    let (port, host) = (format!("p-real{number}"), 10 + number);
    namespace.sysctl(&[
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
    ])?;
    namespace.connect("eth0", switch, &port)?;
    switch.ip(&format!("link set {port} master br0"))?;
    let v4 = Ipv4Addr::new(10, 2, 0, host);
    let v6: Ipv6Addr = format!("fd02::{host}").parse()?;
    let (vip4, vip6) = VIP;
    namespace.ip(&format!(
        "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
         addr add {vip4}/32 dev lo\naddr add {vip6}/128 dev lo nodad"
    ))?;
    Ok(Real { namespace, v4, v6 })
}
