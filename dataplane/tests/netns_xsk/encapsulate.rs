//! Packets that start elsewhere when they leave than when they came.

use etherparse::PacketBuilder;
use xvs_dataplane::{
    addr::Addr,
    packet::Packet,
    steering::{
        AttachMode,
        rules::{SteeringRules, Target},
    },
    verdict::DeviceId,
};

use crate::{
    forwarder::{Forwarder, Setup, assert_whole, bind, options, payloads, readdress, rules},
    rig::{C0, L0, Rig, VIP},
};

/// Where the tunnel ends at the server: UDP with the client's IP packet as its payload.
const TUNNEL: u16 = 6080;

/// To the server inside UDP, from it out of UDP.
fn tunnel(packet: &mut Packet<'_>) {
    if packet.device == DeviceId(0) {
        packet.strip(14).unwrap();
        let mut outer = Vec::new();
        PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4([10, 2, 0, 1], [10, 2, 0, 2], 64)
            .udp(TUNNEL, TUNNEL)
            .write(&mut outer, packet.bytes())
            .unwrap();
        packet.prepend_slice(&outer[..42]).unwrap();
    } else {
        packet.strip(28).unwrap();
        packet.bytes_mut()[12..14].copy_from_slice(&[8, 0]);
    }
    readdress(packet);
}

#[test]
fn headers_are_added_and_taken_off_around_any_length() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let server = "10.2.0.2".parse::<std::net::IpAddr>().unwrap();
    let target = Target { protocol: 17, addr: Addr::from(server), port: TUNNEL };
    let rules = SteeringRules { nat_reals: [target].into(), ..rules() };
    let options = options(AttachMode::Native);
    let mut setup = Setup::on(&rig.lb, &["l0", "l1"], 1, &options, &rules);
    // What comes to the box's own address from the server is a reply of a real server here.
    let forwarder = Forwarder::start(setup.workers.pop().unwrap(), tunnel);
    let server = rig.server.run(|| bind("10.2.0.2", TUNNEL));
    let client = rig.client.run(|| bind("10.1.0.2", 4000));
    for length in [1, 17, 100, 1000, 1444] {
        let payload = payloads([length]).remove(0);
        client.send_to(&payload, (VIP, 7000)).unwrap();
        let mut inner = [0; 2048];
        let (count, _) = server.recv_from(&mut inner).unwrap();
        assert_eq!(count, 28 + length, "the whole IP packet");
        assert_eq!(inner[28..count], payload);

        let mut reply = Vec::new();
        PacketBuilder::ethernet2(L0, C0)
            .ipv4([10, 1, 0, 100], [10, 1, 0, 2], 64)
            .udp(7000, 4000)
            .write(&mut reply, &payload)
            .unwrap();
        server.send_to(&reply[14..], ("10.2.0.1", TUNNEL)).unwrap();
        let mut buffer = [0; 2048];
        let (count, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], from.port()), (&payload[..], 7000));
    }
    let (io, seen) = forwarder.stop();
    assert_eq!((seen.sent, seen.dropped), (10, 0));
    assert_whole(&io);
}
