//! Private network namespaces for tests, without unsafe code and without leftovers.
//!
//! A namespace is created by name and its name removed at once: it lives as long as a handle or a
//! thread in it does, and disappears however the test ends.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
pub(crate) struct Netns(File);

impl Netns {
    /// A new namespace with its loopback up. `None`, with the reason printed, without root.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("xvr-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self(File::open(format!("/run/netns/{name}")).unwrap());
        run("ip", &["netns", "del", &name]);
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Moves the calling thread, and with it what it starts, into the namespace.
    pub(crate) fn enter(&self) {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.0.as_fd(), kind).unwrap();
    }

    /// Runs `task` on a thread of its own inside the namespace.
    pub(crate) fn inside<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let run = || {
            self.enter();
            task()
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    /// Runs `ip` with these arguments inside the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.inside(|| run("ip", &arguments));
    }

    /// Connects two namespaces with a veth pair, one end in each, both up.
    pub(crate) fn connect(&self, end: &str, peer: &Self, peer_end: &str) {
        let number = peer.0.as_raw_fd();
        // `ip` opens the path itself; our descriptor is found through our own process.
        let path = format!("/proc/{}/fd/{number}", std::process::id());
        self.ip(&format!("link add {end} type veth peer name {peer_end} netns {path}"));
        self.ip(&format!("link set {end} up"));
        peer.ip(&format!("link set {peer_end} up"));
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}
