//! Where the steering programs hang.
//!
//! The rule: a hook goes away with the process, however it ends. XDP and tcx hooks are links,
//! which the kernel closes with the last descriptor; the one exception, clsact on kernels without
//! tcx (before 6.6), is reported and cleaned up at the next start.
//! Source: Linux net/core/dev.c (`dev_xdp_attach`), kernel/bpf/tcx.c.

use std::{fmt, io};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
        links::FdLink,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact,
            qdisc_detach_program,
        },
    },
    util::KernelVersion,
};

use super::program::{HOSTED, Programs as _, SHIELD, Steering, SteeringError};
use crate::verdict::DeviceId;

/// Which XDP mode is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// Native, or generic where the driver cannot.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack: works on every interface, slower.
    Generic,
}

/// Which XDP mode was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The driver runs the program.
    Native,
    /// The kernel's stack runs the program.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What [`Steering::attach`] reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The mode.
    pub mode: Mode,
    /// Why it is not native, where that was tried.
    pub native_refused: Option<String>,
}

/// How [`Steering::shield`] hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShieldHook {
    /// A link; gone with the process.
    Tcx,
    /// A filter of the clsact qdisc; after a crash it stays until the next start.
    Clsact,
}

/// Everything attached, in order.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    steered: Vec<FdLink>,
    shielded: Vec<SchedClassifierLink>,
    /// Interfaces whose egress is watched as soon as a real server on the box asks for it.
    unwatched: Vec<String>,
    watched: Vec<SchedClassifierLink>,
}

impl Steering {
    /// Attaches the program to an interface's XDP hook, as `slot`. Steers nothing before sockets
    /// are registered and rules followed.
    ///
    /// # Errors
    ///
    /// [`SteeringError::OtherProgram`] if another XDP program is there, [`SteeringError::Attach`]
    /// with the kernel's reason, and those of their names.
    pub fn attach(
        &mut self,
        slot: DeviceId,
        interface: &str,
        mode: AttachMode,
    ) -> Result<Attachment, SteeringError> {
        let index = interface_index(interface)?;
        if !kernel_since(5, 9) {
            return Err(SteeringError::NoLink { interface: interface.into() });
        }
        self.name_slot(slot, index)?;
        match mode {
            AttachMode::Native => self.attach_as(interface, index, Mode::Native),
            AttachMode::Generic => self.attach_as(interface, index, Mode::Generic),
            AttachMode::Auto => match self.attach_as(interface, index, Mode::Native) {
                Err(SteeringError::Attach { reason, .. }) => {
                    let reached = self.attach_as(interface, index, Mode::Generic)?;
                    Ok(Attachment { native_refused: Some(reason), ..reached })
                }
                other => other,
            },
        }
    }

    fn attach_as(
        &mut self,
        interface: &str,
        index: u32,
        mode: Mode,
    ) -> Result<Attachment, SteeringError> {
        let (flag, name) = match mode {
            Mode::Native => (XdpMode::Driver, "native"),
            Mode::Generic => (XdpMode::Skb, "generic"),
        };
        let program = self.bpf.steer();
        let link = program.attach_to_if_index(index, flag).map_err(|error| {
            if matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST)) {
                return SteeringError::OtherProgram { interface: interface.into() };
            }
            let reason = said(&error);
            SteeringError::Attach { interface: interface.into(), mode: name, reason }
        })?;
        let link = program.take_link(link)?;
        let Ok(link) = link.try_into() else {
            return Err(SteeringError::NoLink { interface: interface.into() });
        };
        self.hooks.steered.push(link);
        Ok(Attachment { mode, native_refused: None })
    }

    /// Keeps the host's stack from seeing what the rules name: for interfaces read by a raw
    /// socket, whose taps run before this hook.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Attach`] with the kernel's reason.
    pub fn shield(&mut self, interface: &str) -> Result<ShieldHook, SteeringError> {
        let hook = if kernel_since(6, 6) { ShieldHook::Tcx } else { ShieldHook::Clsact };
        self.shield_by(interface, hook)
    }

    fn shield_by(
        &mut self,
        interface: &str,
        hook: ShieldHook,
    ) -> Result<ShieldHook, SteeringError> {
        let link = attach_tc(self.bpf.shield(), interface, (TcAttachType::Ingress, SHIELD), hook)?;
        self.hooks.shielded.push(link);
        Ok(hook)
    }

    /// What real servers on the box itself send through these interfaces goes to `device`, where
    /// workers read it, once there are such real servers.
    ///
    /// # Errors
    ///
    /// There is no such device, or the kernel's [`SteeringError::Map`].
    pub fn hand_over(&mut self, device: &str, interfaces: &[String]) -> Result<(), SteeringError> {
        self.name_host_device(interface_index(device)?)?;
        self.hooks.unwatched = interfaces.to_vec();
        Ok(())
    }

    /// Watches what the host's stack sends from now on.
    pub(super) fn watch_host(&mut self) -> Result<(), SteeringError> {
        let hook = if kernel_since(6, 6) { ShieldHook::Tcx } else { ShieldHook::Clsact };
        while let Some(interface) = self.hooks.unwatched.last() {
            let place = (TcAttachType::Egress, HOSTED);
            let link = attach_tc(self.bpf.hosted(), interface, place, hook)?;
            self.hooks.watched.push(link);
            self.hooks.unwatched.pop();
        }
        Ok(())
    }
}

/// Attaches a program of this name to a tc hook of an interface.
fn attach_tc(
    program: &mut SchedClassifier,
    interface: &str,
    (place, name): (TcAttachType, &str),
    hook: ShieldHook,
) -> Result<SchedClassifierLink, SteeringError> {
    interface_index(interface)?;
    let mode = match place {
        TcAttachType::Egress => "tc egress",
        _ => "tc ingress",
    };
    let refused = |reason| SteeringError::Attach { interface: interface.into(), mode, reason };
    let options = match hook {
        ShieldHook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        ShieldHook::Clsact => {
            prepare_clsact(interface, place, name).map_err(|error| refused(error.to_string()))?;
            TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
        }
    };
    let link = program
        .attach_with_options(interface, place, options)
        .map_err(|error| refused(said(&error)))?;
    Ok(program.take_link(link)?)
}

/// Makes sure of the clsact qdisc, and that no program of a crashed process hangs there.
fn prepare_clsact(interface: &str, place: TcAttachType, name: &str) -> Result<(), TcError> {
    // An error here is that the qdisc is there already; if it is another one, attaching tells.
    _ = qdisc_add_clsact(interface);
    match qdisc_detach_program(interface, place, name) {
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether the kernel is at least that new; one that does not say is taken for old.
fn kernel_since(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|current| current >= KernelVersion::new(major, minor, 0))
}

/// The kernel's number of an interface.
fn interface_index(interface: &str) -> Result<u32, SteeringError> {
    let unknown = |_| SteeringError::NoSuchInterface { interface: interface.into() };
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
            .map_err(unknown)?;
    rustix::net::netdevice::name_to_index(&socket, interface).map_err(unknown)
}

/// The kernel's error number behind an error of aya.
fn errno(error: &ProgramError) -> Option<i32> {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        source = error.source();
    }
    None
}

/// What the kernel said, in its own words where it has some.
fn said(error: &ProgramError) -> String {
    errno(error).map_or_else(
        || error.to_string(),
        |number| io::Error::from_raw_os_error(number).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command};

    use super::{ShieldHook, Steering};
    use crate::steering::Limits;

    /// A pair of interfaces of its own, in the test's namespace and down; gone with the value.
    struct Pair(String);

    impl Pair {
        fn new() -> Self {
            let name = format!("xvx{}", std::process::id());
            ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")]);
            Self(name)
        }

        fn filters(&self) -> String {
            let args = ["filter", "show", "dev", &self.0, "ingress"];
            let output = Command::new("tc").args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            ip(&["link", "del", &self.0]);
        }
    }

    fn ip(args: &[&str]) {
        assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
    }

    #[test]
    fn a_shield_without_links_is_removed_on_drop_and_replaces_a_forgotten_one() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: interfaces need root");
            return;
        }
        let pair = Pair::new();
        let shielded = || {
            let mut steering = Steering::load(Limits::default()).unwrap();
            assert_eq!(
                steering.shield_by(&pair.0, ShieldHook::Clsact).unwrap(),
                ShieldHook::Clsact
            );
            assert_eq!(pair.filters().matches("direct-action").count(), 1, "{}", pair.filters());
            steering
        };
        drop(shielded());
        assert_eq!(pair.filters(), "");
        // As a killed process would: its filter stays.
        std::mem::forget(shielded());
        drop(shielded());
        assert_eq!(pair.filters(), "");
    }

    #[test]
    fn errors_of_the_kernel_keep_their_words() {
        let error = aya::sys::SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(libc::ERANGE),
        };
        let error = aya::programs::ProgramError::from(error);
        assert_eq!(super::errno(&error), Some(libc::ERANGE));
        assert!(super::said(&error).contains("out of range"));
    }
}
