//! Namespaces client, lb and server in a row, joined by two veth pairs.
//!
//! ```text
//! client c0 10.1.0.2 fd01::2 --- l0 10.1.0.1 fd01::1  lb  l1 10.2.0.1 fd02::1 --- s0 server
//! ```
//!
//! The server is 10.2.0.2, fd02::2, and holds the VIPs 10.1.0.100 and fd01::100 too, so that it
//! answers what a forwarder only gives new link addresses.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Link addresses of the four ends.
pub(crate) const C0: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const L0: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const L1: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub(crate) const S0: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// The VIPs.
pub(crate) const VIP: &str = "10.1.0.100";
pub(crate) const VIP6: &str = "fd01::100";

/// One network namespace; deleted with the value.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    file: File,
}

impl Netns {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("xvx-{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        Self { name, file }
    }

    /// Runs `ip` inside, once for each line, and returns what it printed.
    pub(crate) fn ip(&self, lines: &str) -> String {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let run = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            ip(&[&["-n", &self.name], &words[..]].concat())
        };
        lines.map(run).collect()
    }

    /// Runs `work` in a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // One that cannot be deleted disturbs no other.
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The three namespaces.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) client: Netns,
    pub(crate) lb: Netns,
    pub(crate) server: Netns,
}

impl Rig {
    /// A rig whose veth devices have this many queues and this MTU; `None`, with the reason
    /// printed, without root.
    pub(crate) fn new(queues: u32, mtu: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: namespaces and AF_XDP need root");
            return None;
        }
        let (client, lb, server) = (Netns::new("client"), Netns::new("lb"), Netns::new("server"));
        let veth = |near: &str, near_mac, far: &str, far_mac, netns: &str| {
            lb.ip(&format!(
                "link add {near} mtu {mtu} address {} numrxqueues {queues} numtxqueues {queues} \
                 type veth peer name {far} mtu {mtu} address {} numrxqueues {queues} \
                 numtxqueues {queues} netns {netns}",
                mac(near_mac),
                mac(far_mac),
            ));
        };
        veth("l0", L0, "c0", C0, &client.name);
        veth("l1", L1, "s0", S0, &server.name);
        client.ip(&format!(
            "link set lo up
             addr add 10.1.0.2/24 dev c0
             addr add fd01::2/64 dev c0 nodad
             link set c0 up
             route add default via 10.1.0.1
             neigh add {VIP} lladdr {l0} dev c0
             neigh add {VIP6} lladdr {l0} dev c0",
            l0 = mac(L0)
        ));
        lb.ip("link set lo up
               addr add 10.1.0.1/24 dev l0
               addr add fd01::1/64 dev l0 nodad
               addr add 10.2.0.1/24 dev l1
               addr add fd02::1/64 dev l1 nodad
               link set l0 up
               link set l1 up");
        server.ip(&format!(
            "link set lo up
             addr add {VIP}/32 dev lo
             addr add {VIP6}/128 dev lo
             addr add 10.2.0.2/24 dev s0
             addr add fd02::2/64 dev s0 nodad
             link set s0 up
             route add default via 10.2.0.1
             route add fd01::/64 via fd02::1
             neigh add 10.2.0.1 lladdr {l1} dev s0
             neigh add fd02::1 lladdr {l1} dev s0",
            l1 = mac(L1)
        ));
        Some(Self { client, lb, server })
    }
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
