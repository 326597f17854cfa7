//! Datagrams, fragments and transfers between real stacks, by every method and family.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use xvs_bench::lab::{Balancer, Family, Gateway, Method, Namespace, Tally};

use crate::{Bed, configuration};

/// Where echoes and transfers are served, at the virtual address and at the real server.
const PORT: u16 = 7007;

/// How long an echo or a read may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Octets of a transfer, each way.
const TRANSFER: usize = 10_000_000;

/// Where a real server listens: the VIP, where packets arrive as they were sent to it; else its own.
fn listens(bed: &Bed, method: Method, family: Family) -> SocketAddr {
    let own = bed.world.reals[0].address(family);
    let addr = match method {
        Method::Nat | Method::FullNat => own,
        _ => family.vip(),
    };
    (addr, PORT).into()
}

/// A service with the first real server.
fn place(bed: &Bed, balancer: &Balancer, (method, family): (Method, Family), kind: &str) {
    bed.world.answer_by(method.gateway()).unwrap();
    let (vip, real) = (family.vip(), bed.world.reals[0].address(family));
    let (vip, real) = (family.host(vip), family.host(real));
    if method == Method::FullNat {
        balancer.adm.run(&format!("local add {}", family.local())).unwrap();
    }
    balancer.adm.run(&format!("-A {kind} {vip}:{PORT} -s rr")).unwrap();
    let option = method.option();
    balancer.adm.run(&format!("-a {kind} {vip}:{PORT} -r {real}:{PORT} {option}")).unwrap();
}

/// Does something in a namespace; sockets made there stay there.
pub(crate) fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let entered = || {
        namespace.enter().unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(entered).join()).unwrap()
}

/// Octets that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at / 256 + at) % 251).unwrap()).collect()
}

/// How often a datagram is sent: a sender of IPv6 learns what a path takes by losing one.
const TRIES: usize = 3;

/// Echoes datagrams until an empty one comes.
fn echo(namespace: &Namespace, at: SocketAddr) -> JoinHandle<()> {
    let socket = inside(namespace, || UdpSocket::bind(at)).unwrap();
    thread::spawn(move || {
        let mut octets = vec![0; 1 << 16];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut octets) else { continue };
            if length == 0 {
                return;
            }
            // Too big for a path that was just learned: it is asked for again.
            socket.send_to(&octets[..length], from).ok();
        }
    })
}

/// Ends an echo.
fn stop(at: SocketAddr) {
    let any: IpAddr = if at.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    UdpSocket::bind((any, 0)).unwrap().send_to(&[], at).unwrap();
}

/// Sends a datagram and waits for its echo; `None` if none comes.
pub(crate) fn ask(socket: &UdpSocket, sent: &[u8]) -> Option<Vec<u8>> {
    socket.send(sent).ok()?;
    let mut got = vec![0; 1 << 16];
    let length = socket.recv(&mut got).ok()?;
    got.truncate(length);
    Some(got)
}

#[test]
fn datagrams_in_fragments_come_back_whole_by_every_method() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    let lengths = [1, 1200, 8192, 8192, 3000];
    for method in Method::ALL {
        for family in Family::ALL {
            let what = format!("{} over {}", method.name(), family.name());
            place(&bed, &balancer, (method, family), "-u");
            let at = listens(&bed, method, family);
            let server = echo(&bed.world.reals[0].namespace, at);
            let any: IpAddr = match family {
                Family::V4 => [0; 4].into(),
                Family::V6 => [0; 16].into(),
            };
            let socket = inside(&bed.world.client, || UdpSocket::bind((any, 0))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((family.vip(), PORT)).unwrap();
            for length in lengths {
                let sent = pattern(length);
                let got = (0..TRIES).find_map(|_| ask(&socket, &sent));
                let stats = || balancer.adm.run("stats").unwrap();
                assert!(got.is_some(), "{what}: {length} octets: no echo\n{}", stats());
                assert!(got == Some(sent), "{what}: {length} octets came back as others");
            }
            drop(socket);
            inside(&bed.world.reals[0].namespace, || stop(at));
            server.join().unwrap();
            balancer.adm.run("-C").unwrap();
        }
    }
}

/// Takes a transfer until its end, then sends as much back.
fn exchange(namespace: &Namespace, at: SocketAddr) -> JoinHandle<Vec<u8>> {
    let listener = inside(namespace, || TcpListener::bind(at)).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&pattern(TRANSFER)).unwrap();
        got
    })
}

#[test]
fn ten_megabytes_arrive_both_ways_where_the_path_takes_1400_octets() {
    let Some(bed) = Bed::new() else { return };
    bed.world
        .lb
        .ip("route change 10.2.0.0/24 dev back proto kernel scope link src 10.2.0.1 mtu 1400\n\
             route change 10.1.0.0/24 dev front proto kernel scope link src 10.1.0.1 mtu 1400\n\
             route add fd02::/64 dev back metric 100 mtu 1400\n\
             route add fd01::/64 dev front metric 100 mtu 1400")
        .unwrap();
    let balancer = bed.balancer(&configuration("native"));
    for method in Method::ALL {
        for family in Family::ALL {
            let what = format!("{} over {}", method.name(), family.name());
            place(&bed, &balancer, (method, family), "-t");
            let at = listens(&bed, method, family);
            let server = exchange(&bed.world.reals[0].namespace, at);
            let to = (family.vip(), PORT);
            let connect = || TcpStream::connect_timeout(&to.into(), PATIENCE);
            let mut stream = inside(&bed.world.client, connect).unwrap_or_else(|error| {
                panic!("{what}: {error}\n{}", balancer.adm.run("stats").unwrap())
            });
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&pattern(TRANSFER)).expect(&what);
            stream.shutdown(Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect(&what);
            assert!(got == pattern(TRANSFER), "{what}: {} octets came back", got.len());
            assert!(server.join().unwrap() == got, "{what}: what the server got");
            let stats = balancer.adm.run("stats").unwrap();
            assert!(stats.contains("too-big"), "{what}: the path was never too small:\n{stats}");
            balancer.adm.run("-C").unwrap();
        }
    }
}

#[test]
fn a_real_server_that_calls_its_own_service_gets_an_answer() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    let real = &bed.world.reals[0];
    // With nat a real server has no virtual address of its own.
    let (vip4, vip6) = (Family::V4.vip(), Family::V6.vip());
    real.namespace.ip(&format!("addr del {vip4}/32 dev lo\naddr del {vip6}/128 dev lo")).unwrap();
    bed.world.answer_by(Gateway::Balancer).unwrap();
    for family in Family::ALL {
        let (vip, address) = (family.host(family.vip()), family.host(real.address(family)));
        balancer.adm.run(&format!("-A -t {vip}:80 -s rr")).unwrap();
        balancer.adm.run(&format!("-a -t {vip}:80 -r {address}:8080 -m")).unwrap();
        balancer.adm.run(&format!("local add {}", family.local())).unwrap();
        let tally = Tally::take(&real.namespace, family.vip(), 3).unwrap();
        assert_eq!(tally.failures, [""; 0], "{}: {}", family.name(), balancer.log());
        assert_eq!(tally.answers["real1"], 3);
        let others = Tally::take(&bed.world.client, family.vip(), 3).unwrap();
        assert_eq!(others.answers["real1"], 3);
        balancer.adm.run("-C").unwrap();
    }
}
