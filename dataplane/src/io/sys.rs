//! The kernel calls behind raw sockets and the TUN device, wrapped so that their callers are safe.
//!
//! `recvmmsg`, `sendmmsg`, `SOL_PACKET` options and TUN ioctls have no safe wrapper that would do:
//! rustix knows no `sockaddr_ll`, and nix allocates for each `PACKET_AUXDATA` it returns.
//! Sources: packet(7), netdevice(7), Linux `Documentation/networking/tuntap.rst`.

#![expect(unsafe_code, reason = "system calls that no safe wrapper offers without allocating")]

use std::{
    fs::{File, OpenOptions},
    io, mem,
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    ptr,
};

use arrayvec::ArrayVec;
use libc::{c_int, c_uint, c_void};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::packet::BURST;

/// `ETH_P_ALL` in network order, as socket addresses hold it.
const ALL_PROTOCOLS: u16 = 3u16.to_be();

/// Parts of one frame at most: a head, and a payload for each packet of a burst.
pub(super) const PARTS: usize = BURST + 1;

/// Families as socket addresses hold them.
const AF_INET: u16 = 2;
const AF_PACKET: u16 = 17;

/// `struct ifreq`: a name, and what is asked or told about it.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl InterfaceRequest {
    fn new(name: &str) -> io::Result<Self> {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        if name.is_empty() || name.len() >= request.name.len() || name.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn perform(&mut self, descriptor: BorrowedFd<'_>, operation: libc::Ioctl) -> io::Result<()> {
        // SAFETY: every operation used in this file takes a `struct ifreq`, which has the 40 octets
        // and the alignment of `self`, and the kernel keeps no pointer to it.
        check(unsafe { libc::ioctl(descriptor.as_raw_fd(), operation, ptr::from_mut(self)) })
            .map(drop)
    }

    fn flags(&mut self) -> &mut [u8; 2] {
        self.value.first_chunk_mut().expect("24 octets hold 2")
    }
}

/// Opens one queue of the TUN device `name`, creating the device with the first: IP packets
/// without a link header, each behind a `struct virtio_net_hdr`. Writes do not block.
pub(super) fn open_tun(name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
    let mut request = InterfaceRequest::new(name)?;
    *request.flags() = u16::try_from(flags).expect("flags of 16 bits").to_ne_bytes();
    request.perform(file.as_fd(), libc::TUNSETIFF)?;
    Ok(file)
}

/// Brings the interface `name` up.
pub(super) fn bring_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = InterfaceRequest::new(name)?;
    request.perform(socket.as_fd(), libc::SIOCGIFFLAGS)?;
    let up = u16::try_from(libc::IFF_UP).expect("the lowest bit");
    *request.flags() = (u16::from_ne_bytes(*request.flags()) | up).to_ne_bytes();
    request.perform(socket.as_fd(), libc::SIOCSIFFLAGS)
}

/// Gives the interface `name` the address, as its only one, with a prefix of 32 bits.
pub(super) fn set_address(name: &str, address: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = InterfaceRequest::new(name)?;
    // `struct sockaddr_in`: family, port, address.
    request.value[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    request.value[4..8].copy_from_slice(&address.octets());
    request.perform(socket.as_fd(), libc::SIOCSIFADDR)?;
    request.value[4..8].copy_from_slice(&[255; 4]);
    request.perform(socket.as_fd(), libc::SIOCSIFNETMASK)
}

/// The kernel's number of the interface `name`, and its MTU in octets.
pub(super) fn interface(name: &str) -> io::Result<(u32, usize)> {
    let socket = control_socket()?;
    let mut request = InterfaceRequest::new(name)?;
    request.perform(socket.as_fd(), libc::SIOCGIFMTU)?;
    let mtu = u32::from_ne_bytes(*request.value.first_chunk().expect("24 octets hold 4"));
    let index = rustix::net::netdevice::name_to_index(&socket, name)?;
    Ok((index, usize::try_from(mtu).expect("32 bits fit")))
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// A raw socket that receives nothing yet: see [`listen`].
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?)
}

/// Sets an option of `SOL_PACKET` that takes a number.
pub(super) fn set_option(socket: &OwnedFd, option: c_int, value: c_int) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, option, &value)
}

/// The number of the fanout group that the socket is in, with its kind in the upper half.
pub(super) fn fanout(socket: &OwnedFd) -> io::Result<c_int> {
    let [group] = get(socket, libc::PACKET_FANOUT)?;
    Ok(group)
}

/// How many frames the kernel dropped at this socket since it was asked last.
pub(super) fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    // `struct tpacket_stats`: received, dropped.
    let [_, dropped] = get(socket, libc::PACKET_STATISTICS)?;
    Ok(dropped.cast_unsigned())
}

/// Reads an option of `SOL_PACKET` that is made of numbers.
fn get<const N: usize>(socket: &OwnedFd, option: c_int) -> io::Result<[c_int; N]> {
    let mut value = [0; N];
    let mut length = length_of::<[c_int; N]>();
    let out = ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: `out` and `length` point to locals, and `length` says how much `out` holds.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, out, &raw mut length)
    };
    check(result)?;
    Ok(value)
}

/// Attaches a classic BPF program that decides what the socket receives.
pub(super) fn attach_filter(socket: &OwnedFd, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    // The kernel copies the program during the call.
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let pointer = ptr::from_ref(value).cast::<c_void>();
    // SAFETY: `pointer` points to a live `T`, whose size goes with it; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length_of::<T>()) };
    check(result).map(drop)
}

/// Starts reception on one interface.
pub(super) fn listen(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    let address = link_address(interface, ALL_PROTOCOLS);
    let pointer = ptr::from_ref(&address).cast::<libc::sockaddr>();
    // SAFETY: `pointer` points to a live `sockaddr_ll`, whose size goes with it.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), pointer, length_of::<libc::sockaddr_ll>()) };
    check(result).map(drop)
}

/// What the kernel says of a received frame, besides its octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Octets received, at most the length of the slot.
    pub length: usize,
    /// The VLAN tag that the kernel took out: its ethertype and its content.
    pub vlan: Option<(u16, u16)>,
}

/// Control messages of one frame: room for a header and a `struct tpacket_auxdata`, aligned.
type Control = [u64; 6];

/// Receives up to [`BURST`] frames, each from `offset` on in a slot of `stride` octets of `memory`.
/// A longer frame is cut to the slot. Does not block: `WouldBlock` if there is nothing.
pub(super) fn receive(
    socket: &OwnedFd,
    memory: &mut [u8],
    (stride, offset): (usize, usize),
    received: &mut ArrayVec<Received, BURST>,
) -> io::Result<()> {
    let mut control = [Control::default(); BURST];
    let mut places: ArrayVec<libc::iovec, BURST> = memory
        .chunks_exact_mut(stride)
        .map(|slot| &mut slot[offset..])
        .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() })
        .take(BURST)
        .collect();
    let mut messages: ArrayVec<libc::mmsghdr, BURST> = places
        .iter_mut()
        .zip(&mut control)
        .map(|(place, control)| {
            let mut message = empty_message();
            message.msg_hdr.msg_iov = place;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>();
            message
        })
        .collect();
    let count = c_uint::try_from(messages.len()).expect("at most BURST");
    let first = messages.as_mut_ptr();
    // SAFETY: `first` points to `count` headers whose buffers are disjoint parts of `memory` and
    // `control`, exclusively borrowed until the call returns.
    let result = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT, ptr::null_mut())
    };
    received.clear();
    received.extend(messages.iter().take(check(result)?).map(|message| Received {
        length: usize::try_from(message.msg_len).expect("32 bits fit"),
        vlan: vlan_tag(&message.msg_hdr),
    }));
    Ok(())
}

/// The VLAN tag among the control messages of a received message.
fn vlan_tag(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `header` was filled by `recvmmsg` and its control buffer is alive.
    let control = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: the pointer is null or points to a control message within the buffer.
    let head = unsafe { control.as_ref() }?;
    let room = size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>();
    if (head.cmsg_level, head.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        || head.cmsg_len < room
    {
        return None;
    }
    // SAFETY: the message has data, its length was checked.
    let data = unsafe { libc::CMSG_DATA(control) };
    // SAFETY: `data` points to at least a `tpacket_auxdata`, a plain structure of integers.
    let aux = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let named = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some((if named { aux.tp_vlan_tpid } else { 0x8100 }, aux.tp_vlan_tci))
}

/// Sends frames, each through the interface it names, in order, at most [`BURST`] of them.
/// Returns how many went before one failed; an error is that of the first. Does not block.
pub(super) fn send(socket: &OwnedFd, frames: &[(u32, &[u8])]) -> io::Result<usize> {
    let mut addresses: ArrayVec<libc::sockaddr_ll, BURST> =
        frames.iter().take(BURST).map(|&(interface, _)| link_address(interface, 0)).collect();
    let mut places: ArrayVec<libc::iovec, BURST> = frames
        .iter()
        .take(BURST)
        .map(|(_, frame)| libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        })
        .collect();
    let mut messages: ArrayVec<libc::mmsghdr, BURST> = places
        .iter_mut()
        .zip(&mut addresses)
        .map(|(place, address)| {
            let mut message = empty_message();
            message.msg_hdr.msg_name = ptr::from_mut(address).cast();
            message.msg_hdr.msg_namelen = length_of::<libc::sockaddr_ll>();
            message.msg_hdr.msg_iov = place;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = c_uint::try_from(messages.len()).expect("at most BURST");
    let first = messages.as_mut_ptr();
    // SAFETY: `first` points to `count` headers whose names and buffers are alive; the kernel only
    // reads the buffers, and writes `msg_len` alone.
    check(unsafe { libc::sendmmsg(socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT) })
}

/// Sends one frame in parts, at most [`PARTS`] of them, through an interface. Does not block.
pub(super) fn send_parts(socket: &OwnedFd, interface: u32, parts: &[&[u8]]) -> io::Result<()> {
    let mut address = link_address(interface, 0);
    let mut places: ArrayVec<libc::iovec, PARTS> = parts
        .iter()
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
        .collect();
    let mut message = empty_message().msg_hdr;
    message.msg_name = ptr::from_mut(&mut address).cast();
    message.msg_namelen = length_of::<libc::sockaddr_ll>();
    message.msg_iov = places.as_mut_ptr();
    message.msg_iovlen = places.len();
    let sent =
        // SAFETY: `message` names an address and buffers that are alive; the kernel only reads them.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A message header that names nothing.
const fn empty_message() -> libc::mmsghdr {
    // SAFETY: a structure of integers and pointers, for which all zeros is a value.
    unsafe { mem::zeroed() }
}

const fn link_address(interface: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: AF_PACKET,
        sll_protocol: protocol,
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Size of a `T` as socket calls want it.
fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

/// The result of a system call that returns -1 on error.
fn check(result: c_int) -> io::Result<usize> {
    match usize::try_from(result) {
        Ok(count) => Ok(count),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
