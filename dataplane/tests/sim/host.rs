//! A host of the simulation: a smoltcp stack on an Ethernet link, with TCP that checks itself.
//!
//! A real server answers a connection with one octet that names it and then echoes; a client sends
//! a seeded stream and compares every octet that comes back.

use std::{collections::VecDeque, net::IpAddr};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant,
    wire::{EthernetAddress, HardwareAddress, IpCidr},
};

/// Octets that a socket buffers in each direction: more than any stream here, because smoltcp 0.14
/// falls silent when the update of a closed window is lost.
const WINDOW: usize = 64 * 1024;

/// Frames that wait at a host at most, in each direction; more are lost, as in a real queue.
const QUEUE: usize = 1024;

/// A host's end of its link.
#[derive(Debug, Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.sent.len() < QUEUE).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// A host with its addresses.
pub(crate) struct Host {
    pub(crate) mac: [u8; 6],
    pub(crate) addrs: Vec<IpAddr>,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    servers: Vec<Server>,
}

/// One socket that listens or serves.
struct Server {
    handle: SocketHandle,
    /// Whether this connection has been told who serves it.
    named: bool,
    name: u8,
}

impl Host {
    /// A host with these addresses and routers. The first address has its link's prefix (24 or 64),
    /// others stand alone, as a VIP on a loopback does.
    pub(crate) fn new(mac: [u8; 6], addrs: &[IpAddr], routers: &[IpAddr], seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for (place, &addr) in addrs.iter().enumerate() {
                let length = match (place, addr) {
                    (0, IpAddr::V4(_)) => 24,
                    (0, IpAddr::V6(_)) => 64,
                    (_, IpAddr::V4(_)) => 32,
                    (_, IpAddr::V6(_)) => 128,
                };
                list.push(IpCidr::new(addr.into(), length)).unwrap();
            }
        });
        for router in routers {
            match router {
                IpAddr::V4(ip) => {
                    interface.routes_mut().add_default_ipv4_route(*ip).unwrap();
                }
                IpAddr::V6(ip) => {
                    interface.routes_mut().add_default_ipv6_route(*ip).unwrap();
                }
            }
        }
        let (addrs, sockets) = (addrs.to_vec(), SocketSet::new(Vec::new()));
        Self { mac, addrs, interface, sockets, wire, servers: Vec::new() }
    }

    /// A frame arrives.
    pub(crate) fn deliver(&mut self, frame: Vec<u8>) {
        if self.wire.received.len() < QUEUE {
            self.wire.received.push_back(frame);
        }
    }

    /// The next frame that leaves.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.wire.sent.pop_front()
    }

    /// Serves `count` connections on `port`, telling each client `name` first. A socket serves once:
    /// smoltcp gives a packet to the first socket that takes it, so a listener in front of a
    /// connection would answer that connection's repeated SYN.
    pub(crate) fn serve(&mut self, port: u16, count: usize, name: u8) {
        for _ in 0..count {
            let mut socket = socket();
            socket.listen(port).unwrap();
            let handle = self.sockets.add(socket);
            self.servers.push(Server { handle, named: false, name });
        }
    }

    /// Does what is due: answers ARP and neighbour discovery, moves TCP along, serves.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        for server in &mut self.servers {
            server.step(self.sockets.get_mut(server.handle));
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Opens a connection that will send `length` octets and take them back.
    pub(crate) fn open(&mut self, to: (IpAddr, u16), port: u16, length: usize) -> Client {
        assert!(length < WINDOW, "see there");
        let mut socket = socket();
        socket.connect(self.interface.context(), to, port).unwrap();
        let handle = self.sockets.add(socket);
        let rng = xvs_dataplane::rng::Rng::from_seed(port.into());
        Client { handle, sent: 0, length, expected: stream(rng, length), got: Vec::new() }
    }

    /// Moves a connection along; `true` once it is over.
    pub(crate) fn step(&mut self, client: &mut Client) -> bool {
        client.step(self.sockets.get_mut(client.handle))
    }

    /// Forgets a connection.
    pub(crate) fn close(&mut self, client: &Client) {
        self.sockets.remove(client.handle);
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_timeout(Some(smoltcp::time::Duration::from_secs(300)));
    socket
}

fn stream(mut rng: xvs_dataplane::rng::Rng, length: usize) -> Vec<u8> {
    (0..length.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).take(length).collect()
}

impl Server {
    fn step(&mut self, socket: &mut tcp::Socket<'_>) {
        if !self.named && socket.can_send() {
            self.named = socket.send_slice(&[self.name]).unwrap() == 1;
        }
        while self.named && socket.can_recv() && socket.can_send() {
            let room = socket.send_capacity() - socket.send_queue();
            let mut octets = vec![0; room];
            let length = socket.recv_slice(&mut octets).unwrap();
            let sent = socket.send_slice(&octets[..length]).unwrap();
            assert_eq!(sent, length, "there was room");
        }
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
            socket.close();
        }
    }
}

/// A client's connection.
pub(crate) struct Client {
    handle: SocketHandle,
    sent: usize,
    length: usize,
    expected: Vec<u8>,
    /// What came back: the server's name, then the echo.
    got: Vec<u8>,
}

impl Client {
    fn step(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        if socket.can_send() && self.sent < self.length {
            self.sent += socket.send_slice(&self.expected[self.sent..]).unwrap();
        }
        while socket.can_recv() {
            socket
                .recv(|octets| {
                    self.got.extend_from_slice(octets);
                    (octets.len(), ())
                })
                .unwrap();
        }
        if self.got.len() > self.length {
            socket.close();
        }
        !socket.is_active() || socket.state() == tcp::State::TimeWait
    }

    /// The server that answered.
    ///
    /// # Panics
    ///
    /// If the stream did not come back whole and unchanged.
    pub(crate) fn served_by(&self) -> u8 {
        let (name, echo) = self.got.split_first().expect("the server says who it is");
        assert_eq!(echo.len(), self.length, "the stream was cut short");
        assert!(echo == self.expected, "the stream came back changed");
        *name
    }
}
