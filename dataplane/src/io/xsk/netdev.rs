//! What an interface says about itself, and the one offload that stands in generic XDP's way.
//!
//! Sources: netdevice(7); Linux include/uapi/linux/ethtool.h.

#![expect(unsafe_code, reason = "no safe crate offers SIOCETHTOOL")]

use std::{
    fs, io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use rustix::net::{AddressFamily, SocketType};

/// `ETHTOOL_GCHANNELS`.
const GET_CHANNELS: u32 = 0x3c;
/// `ETHTOOL_GGRO`.
const GET_GRO: u32 = 0x2b;
/// `ETHTOOL_SGRO`.
const SET_GRO: u32 = 0x2c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    /// Most receive, transmit, other and combined queues.
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Structs that `SIOCETHTOOL` reads and writes: plain integers that begin with the command.
trait EthtoolRequest {}
impl EthtoolRequest for Channels {}
impl EthtoolRequest for Value {}

/// How many receive queues the interface has now.
///
/// # Errors
///
/// There is no such interface.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
    match ethtool(interface, &mut channels) {
        Ok(()) => Ok((channels.receive + channels.combined).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(listed(interface)),
        Err(error) => Err(error),
    }
}

/// The same from sysfs, for drivers that do not answer the ioctl.
fn listed(interface: &str) -> u32 {
    let Ok(entries) = fs::read_dir(format!("/sys/class/net/{interface}/queues")) else {
        return 1;
    };
    let receive = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("rx-");
    let count = entries.filter_map(Result::ok).filter(receive).count();
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// Receive offload (GRO) switched off on an interface; dropping this switches it on again.
///
/// In generic mode the program runs after GRO, which glues packets together that then fit no
/// AF_XDP frame. After a crash it stays off, which costs the host speed and nothing else.
#[derive(Debug)]
pub(super) struct GroOff {
    interface: String,
}

impl GroOff {
    /// Switches it off; `None` if it was off before.
    pub(super) fn new(interface: &str) -> io::Result<Option<Self>> {
        let mut gro = Value { command: GET_GRO, data: 0 };
        ethtool(interface, &mut gro)?;
        if gro.data == 0 {
            return Ok(None);
        }
        ethtool(interface, &mut Value { command: SET_GRO, data: 0 })?;
        Ok(Some(Self { interface: interface.into() }))
    }
}

impl Drop for GroOff {
    fn drop(&mut self) {
        // The interface may be gone; nobody is left to be told.
        ethtool(&self.interface, &mut Value { command: SET_GRO, data: 1 }).ok();
    }
}

fn ethtool<T: EthtoolRequest>(interface: &str, data: &mut T) -> io::Result<()> {
    let mut request = named(interface)?;
    request.ifr_ifru.ifru_data = ptr::from_mut(data).cast();
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let request = ptr::from_mut(&mut request);
    // SAFETY: SIOCETHTOOL takes a pointer to an `ifreq`, and follows its `ifru_data`, which points at
    // a struct of the size its command stands for; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An `ifreq` with the interface's name, the rest zero.
fn named(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` holds integers and raw pointers, for which zero octets are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(interface.as_bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}
