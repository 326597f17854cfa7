//! Servers that full NAT hides clients from learn who asks: Apache by the PROXY protocol.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    thread,
    time::Duration,
};

use xvs_bench::lab::{Balancer, Family, Tally, process::output, web::PROXY_PORT};

use crate::{
    Bed, configuration,
    methods::{ask, inside},
};

/// Octets of the download.
const OCTETS: usize = 20_000_000;

/// Where datagrams are echoed.
const ECHO: u16 = 7008;

fn client(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.1.0.2",
        Family::V6 => "fd01::2",
    }
}

/// A service with the first real server, that full NAT tells its clients to in a way.
fn place(bed: &Bed, balancer: &Balancer, family: Family, (service, real, way): (&str, u16, &str)) {
    let vip = family.host(family.vip());
    let server = family.host(bed.world.reals[0].address(family));
    for line in [
        format!("local add {}", family.local()),
        format!("-A {} -s rr {way}", service.replace("VIP", &vip)),
        format!("-a {} -r {server}:{real} --fullnat", service.replace("VIP", &vip)),
    ] {
        balancer.adm.run(&line).unwrap();
    }
}

/// Downloads the big file and holds it to what it should be.
fn download(bed: &Bed, family: Family) {
    let file = bed.world.folder.path().join("got");
    let mut curl = bed.world.client.command("curl");
    curl.args(["-sSg", "--noproxy", "*", "--max-time", "60", "-o"]).arg(&file);
    let done = output(curl.arg(format!("http://{}/big", family.host(family.vip())))).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(fs::read(&file).unwrap() == pattern(), "{}: the file changed", family.name());
}

fn pattern() -> Vec<u8> {
    (0..OCTETS).map(|at| u8::try_from((at / 256 + at) % 251).unwrap()).collect()
}

#[test]
fn a_server_is_told_by_the_proxy_protocol_who_asks() {
    for mode in ["native", "raw"] {
        let Some(bed) = Bed::new() else { return };
        let balancer = bed.balancer(&configuration(mode));
        let web = &bed.world.webs[0];
        fs::write(web.documents().join("big"), pattern()).unwrap();
        for family in Family::ALL {
            // Without a header Apache takes the request itself for one, and refuses it.
            place(&bed, &balancer, family, ("-t VIP:80", PROXY_PORT, ""));
            assert_eq!(Tally::take(&bed.world.client, family.vip(), 1).unwrap().answered(), 0);
            balancer.adm.run("-C").unwrap();

            let before = web.told().unwrap().len();
            place(&bed, &balancer, family, ("-t VIP:80", PROXY_PORT, "--proxy"));
            let tally = Tally::take(&bed.world.client, family.vip(), 200).unwrap();
            assert_eq!(tally.failures, [""; 0], "{}: {}", family.name(), balancer.log());
            download(&bed, family);
            let told = web.told().unwrap();
            assert_eq!(told.len(), before + 201);
            assert!(told[before..].iter().all(|name| name == client(family)), "{told:?}");
            balancer.adm.run("-C").unwrap();
        }
    }
}

#[test]
fn a_kernel_takes_segments_with_the_clients_address_as_an_option() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    fs::write(bed.world.webs[0].documents().join("big"), pattern()).unwrap();
    for family in Family::ALL {
        place(&bed, &balancer, family, ("-t VIP:80", 8080, "--toa"));
        let tally = Tally::take(&bed.world.client, family.vip(), 50).unwrap();
        assert_eq!(tally.failures, [""; 0], "{}: {}", family.name(), balancer.log());
        download(&bed, family);
        balancer.adm.run("-C").unwrap();
    }
    let stats = balancer.adm.run("stats").unwrap();
    assert!(!stats.contains("is not told the client"), "{stats}");
}

#[test]
fn every_datagram_tells_who_sent_it() {
    let Some(bed) = Bed::new() else { return };
    let balancer = bed.balancer(&configuration("native"));
    for family in Family::ALL {
        place(&bed, &balancer, family, (&format!("-u VIP:{ECHO}"), ECHO, "--proxy"));
        let real = &bed.world.reals[0];
        let any: IpAddr = match family {
            Family::V4 => [0; 4].into(),
            Family::V6 => [0; 16].into(),
        };
        let at = (real.address(family), ECHO);
        let server = inside(&real.namespace, || UdpSocket::bind(at)).unwrap();
        let socket = inside(&bed.world.client, || UdpSocket::bind((any, 0))).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect((family.vip(), ECHO)).unwrap();
        let port = socket.local_addr().unwrap().port();
        for length in [1, 1200, 5000] {
            let sent = &pattern()[..length];
            let echo = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut octets = vec![0; 1 << 16];
                    let (got, from) = server.recv_from(&mut octets).unwrap();
                    server.send_to(&octets[..got], from).unwrap();
                });
                // A sender learns what the path takes by losing one datagram.
                (0..3).find_map(|_| ask(&socket, sent)).unwrap()
            });
            let (ip, size): (IpAddr, _) = match family {
                Family::V4 => ("10.1.0.2".parse().unwrap(), 28),
                Family::V6 => ("fd01::2".parse().unwrap(), 52),
            };
            let (header, data) = echo.split_at(size);
            assert!(data == sent, "{}: {length} octets came as others", family.name());
            let source = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            assert_eq!(header[16..16 + source.len()], source);
            assert_eq!(header[size - 4..], [port.to_be_bytes(), ECHO.to_be_bytes()].concat());
        }
        balancer.adm.run("-C").unwrap();
    }
}
