//! smoltcp, and the way its packets go: each is forwarded to the real server of its connection.

use std::{
    collections::{HashMap, VecDeque},
    io,
    time::Duration,
};

use dataplane::{
    addr::Addr,
    director::spec::RealSpec,
    endpoint::{Description, EndpointId, Endpoints, Method},
    forward::{self, Job},
    io::tap::{ADDRS_MAX, LINK},
    packet::{HEADROOM, Packet},
    route::Path,
    verdict::DeviceId,
    wire::frame,
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant,
    wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address},
};

/// The largest packet that the stack makes: goes through every tunnel, and is every IPv6 link's least.
const MTU: usize = 1280;

/// Octets that a connection buffers each way.
const BUFFER: usize = 64 << 10;

/// Frames that wait to be taken in; beyond that they are lost as on the wire.
const WAITING: usize = 4096;

/// Where a connection's packets go.
#[derive(Debug)]
pub(super) struct Target {
    ends: Endpoints,
    method: Method,
    path: Path,
}

const VIRT: EndpointId = EndpointId(0);
const REAL: EndpointId = EndpointId(1);

impl Target {
    /// To this real server of this VIP.
    pub(super) fn new(real: &RealSpec, (vip, port): (Addr, u16), path: Path) -> Self {
        let ends = Endpoints::with_destinations(2, 0);
        ends.get(VIRT).describe(&Description { addr: vip, port, ..Description::default() });
        ends.get(REAL).describe(&Description {
            addr: real.addr,
            port: real.port,
            method: real.method,
            tunnel: real.tunnel.word(),
            ..Description::default()
        });
        Self { ends, method: real.method, path }
    }

    /// Forwards an IP packet as a worker would; `None` if it cannot travel.
    fn forward(&self, octets: &[u8], id: u16) -> Option<(DeviceId, Vec<u8>)> {
        let ethertype = if octets.first()? >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let mut memory = vec![0; HEADROOM];
        memory.extend([0; LINK - 2]);
        memory.extend(ethertype);
        memory.extend(octets);
        let end = memory.len();
        let mut packet = Packet::new(&mut memory, HEADROOM, end, self.path.device);
        let parsed = frame::parse(packet.bytes()).ok()?;
        let (virt, real) = (self.ends.get(VIRT), self.ends.get(REAL));
        let job = Job { parsed: &parsed, virt, real, path: &self.path, id, pmtu_disc: true };
        forward::to_real(self.method, &mut packet, &job).ok()?;
        Some((self.path.device, packet.bytes().to_vec()))
    }
}

/// What the stack receives from and sends to.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut octets = vec![0; len];
        let result = f(&mut octets);
        self.0.push_back(octets);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let received = self.received.pop_front()?;
        Some((Received(received), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // A virtual peer may leave its checksums to a card that there is not.
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// The stack.
pub(super) struct Stack {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    /// By the port that speaks.
    targets: HashMap<u16, Target>,
    next_id: u16,
}

impl Stack {
    pub(super) fn new() -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = std::process::id().into();
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        let routes = interface.routes_mut();
        // Every packet is put on its way by its target: the stack's own idea of routes is everywhere.
        let everywhere = "there is room for a route of each family";
        routes.add_default_ipv4_route(Ipv4Address::new(0, 0, 0, 1)).expect(everywhere);
        routes.add_default_ipv6_route(Ipv6Address::LOCALHOST).expect(everywhere);
        let sockets = SocketSet::new(Vec::new());
        Self { interface, wire, sockets, targets: HashMap::new(), next_id: 0 }
    }

    /// The addresses that are spoken as.
    pub(super) fn addrs(&self) -> Vec<Addr> {
        self.interface.ip_addrs().iter().map(|cidr| address(cidr.address())).collect()
    }

    /// Speaks as this address too; whether that is new.
    pub(super) fn speak_as(&mut self, addr: Addr) -> io::Result<bool> {
        if self.addrs().contains(&addr) {
            return Ok(false);
        }
        let length = if addr.is_v4() { 32 } else { 128 };
        let mut full = self.addrs().len() >= ADDRS_MAX;
        self.interface.update_ip_addrs(|addrs| {
            full |= addrs.push(IpCidr::new(ip_address(addr), length)).is_err();
        });
        if full {
            return Err(io::Error::other("probes go out from too many addresses of the box"));
        }
        Ok(true)
    }

    /// Begins a connection.
    pub(super) fn open(
        &mut self,
        (local, port): (Addr, u16),
        (vip, service): (Addr, u16),
        target: Target,
    ) -> io::Result<SocketHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let to = (ip_address(vip), service);
        let begun = socket.connect(self.interface.context(), to, (ip_address(local), port));
        begun.map_err(|error| io::Error::other(format!("cannot connect: {error}")))?;
        self.targets.insert(port, target);
        Ok(self.sockets.add(socket))
    }

    /// The socket of a connection.
    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Ends a connection, with a reset if it still lives: that leaves with the next work.
    pub(super) fn close(&mut self, handle: SocketHandle) -> Vec<(DeviceId, Vec<u8>)> {
        self.socket(handle).abort();
        let last = self.work();
        self.sockets.remove(handle);
        last
    }

    /// Forgets where a port's packets go.
    pub(super) fn forget(&mut self, port: u16) {
        self.targets.remove(&port);
    }

    /// Takes in a frame.
    pub(super) fn take(&mut self, frame: &[u8]) {
        if let Some(packet) = frame.get(LINK..)
            && self.wire.received.len() < WAITING
        {
            self.wire.received.push_back(packet.to_vec());
        }
    }

    /// Does what there is to do; gives back the frames that must leave.
    pub(super) fn work(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        self.interface.poll(Instant::now(), &mut self.wire, &mut self.sockets);
        let sent = std::mem::take(&mut self.wire.sent);
        let mut frames = Vec::with_capacity(sent.len());
        for packet in sent {
            let target = source_port(&packet).and_then(|port| self.targets.get(&port));
            let frame = target.and_then(|target| target.forward(&packet, self.next_id));
            self.next_id = self.next_id.wrapping_add(1);
            frames.extend(frame);
        }
        frames
    }

    /// How long there is nothing to do unless something comes.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        self.interface.poll_delay(Instant::now(), &self.sockets).map(Into::into)
    }
}

/// The source port of a TCP packet of the stack's own: no options, no extension headers.
fn source_port(packet: &[u8]) -> Option<u16> {
    let at = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

fn ip_address(addr: Addr) -> IpAddress {
    addr.to_ip().into()
}

fn address(ip: IpAddress) -> Addr {
    match ip {
        IpAddress::Ipv4(v4) => Addr::v4(v4.to_bits()),
        IpAddress::Ipv6(v6) => Addr::v6(v6.to_bits()),
    }
}
