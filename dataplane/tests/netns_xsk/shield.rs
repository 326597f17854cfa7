//! In raw mode the host's stack does not see what the rules name.

use std::time::Duration;

use xvs_dataplane::steering::{Limits, ShieldHook, Steering};

use crate::{
    forwarder::{PORT, bind, rules},
    rig::{Rig, VIP},
};

#[test]
fn the_host_does_not_see_a_service_behind_the_shield() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    rig.lb.ip(&format!("addr add {VIP}/32 dev lo"));
    let service = rig.lb.run(|| bind(VIP, PORT));
    let other = rig.lb.run(|| bind(VIP, PORT + 1));
    let client = rig.client.run(|| bind("10.1.0.2", 0));
    let mut buffer = [0; 16];

    let mut steering = rig.lb.run(|| {
        let mut steering = Steering::load(Limits::default()).unwrap();
        assert_eq!(steering.shield("l0").unwrap(), ShieldHook::Tcx);
        steering
    });
    client.send_to(b"before the rules", (VIP, PORT)).unwrap();
    assert_eq!(service.recv(&mut buffer).unwrap(), 16);
    steering.follow(&rules()).unwrap();
    client.send_to(b"shielded", (VIP, PORT)).unwrap();
    client.send_to(b"another port", (VIP, PORT + 1)).unwrap();
    assert_eq!(other.recv(&mut buffer).unwrap(), 12);
    service.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(service.recv(&mut buffer).is_err());
    assert_eq!(steering.counters().unwrap().shielded, 1);

    drop(steering);
    service.set_read_timeout(Some(crate::forwarder::PATIENCE)).unwrap();
    client.send_to(b"after", (VIP, PORT)).unwrap();
    assert_eq!(service.recv(&mut buffer).unwrap(), 5);
}
