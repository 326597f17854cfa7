//! A machine of the laboratory: a network namespace without a name.
//!
//! It is made by name and its name removed at once, so that it lives as long as this handle or a
//! process in it and leaves nothing behind. Source: network_namespaces(7), ip-netns(8).

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd as _},
    process::{self, Command, Stdio},
};

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{folder, process::run};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// What people call it.
    label: String,
    handle: File,
}

impl Namespace {
    /// A new one with its loopback up. Addresses in it are usable at once: no duplicate address
    /// detection, no router discovery.
    ///
    /// # Errors
    ///
    /// Without root, or without iproute2.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        let name = folder::unique();
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let handle = File::open(format!("/run/netns/{name}"));
        run(Command::new("ip").args(["netns", "del", &name]))?;
        let handle = handle.with_context(|| format!("namespace {label}"))?;
        let namespace = Self { label: label.to_owned(), handle };
        namespace.sysctl(&[
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ])?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What people call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The path that iproute2 and nsenter know it by while this handle lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.handle.as_raw_fd())
    }

    /// Moves the calling thread in, for the rest of its life.
    ///
    /// # Errors
    ///
    /// Without root.
    pub fn enter(&self) -> anyhow::Result<()> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.handle.as_fd(), network)
            .with_context(|| format!("cannot enter {}", self.label))
    }

    /// A command that runs inside, and gets SIGTERM when the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command.args(["--", "setpriv", "--pdeathsig", "TERM", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs lines of iproute2 inside, stopping at the first that fails.
    ///
    /// # Errors
    ///
    /// What iproute2 says.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().context("ip")?;
        let mut input = child.stdin.take().expect("it was just piped");
        input.write_all(lines.as_bytes()).context("ip")?;
        drop(input);
        let output = child.wait_with_output().context("ip")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: ip: {}\n{lines}", self.label, said.trim());
        }
        Ok(())
    }

    /// Sets kernel settings inside, named by their paths below /proc/sys.
    ///
    /// # Errors
    ///
    /// One of them cannot be set.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let line = |(key, value): &(&str, &str)| format!("echo {value} >/proc/sys/{key}");
        let script: Vec<_> = settings.iter().map(line).collect();
        run(self.command("sh").args(["-e", "-c", &script.join("\n")])).map(drop)
    }

    /// Connects two machines by a veth pair, an end in each, both up.
    ///
    /// # Errors
    ///
    /// A name is taken.
    pub fn connect(&self, end: &str, peer: &Self, peer_end: &str) -> anyhow::Result<()> {
        let path = peer.path();
        self.ip(&format!(
            "link add {end} type veth peer name {peer_end} netns {path}\nlink set {end} up"
        ))?;
        peer.ip(&format!("link set {peer_end} up"))
    }
}
