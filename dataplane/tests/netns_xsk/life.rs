//! What remains of steering when a process ends, and what keeps two apart.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use xvs_dataplane::{
    io::xsk::{self, XskError},
    steering::{AttachMode, Limits, Steering, SteeringError},
};

use crate::{
    forwarder::{PATIENCE, Setup, bind, options},
    rig::{Netns, Rig, VIP},
};

/// Tells the child half of the next test that it is one.
const CHILD: &str = "XVS_NETNS_XSK_CHILD";

/// Not a test of its own: holds the sockets until it is killed.
#[test]
fn child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let mut steering = Steering::load(Limits::default()).unwrap();
    let interfaces = ["l0".into(), "l1".into()];
    let opened = xsk::open(&mut steering, &interfaces, 1, &options(AttachMode::Native)).unwrap();
    steering.follow(&crate::forwarder::rules()).unwrap();
    steering.shield("l1").unwrap();
    println!("child is ready with {} sockets", opened.reports.len());
    loop {
        thread::park();
    }
}

fn attached(lb: &Netns, interface: &str) -> bool {
    lb.ip(&format!("-d link show dev {interface}")).contains("xdp")
}

/// Whether a datagram from the client to the VIP, which the box holds here, reaches the box.
fn reaches_the_box(rig: &Rig, patience: Duration) -> bool {
    let here = rig.lb.run(|| bind(VIP, 7000));
    here.set_read_timeout(Some(patience)).unwrap();
    let socket = rig.client.run(|| bind("10.1.0.2", 0));
    socket.send_to(b"?", SocketAddr::new(VIP.parse().unwrap(), 7000)).unwrap();
    here.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_killed_process_leaves_nothing_attached_and_the_kernel_in_charge() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    rig.lb.ip(&format!("addr add {VIP}/32 dev lo"));
    let mut child = rig.lb.run(|| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "life::child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("child is ready with 2 sockets")));
    assert!(attached(&rig.lb, "l0") && attached(&rig.lb, "l1"));
    assert!(!reaches_the_box(&rig, Duration::from_millis(200)), "the child's socket has it");

    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while attached(&rig.lb, "l0") || attached(&rig.lb, "l1") {
        assert!(Instant::now() < deadline, "the program is still attached");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(reaches_the_box(&rig, PATIENCE));
}

#[test]
fn a_second_process_on_an_interface_is_refused_by_name() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    for (first, second) in [
        (AttachMode::Native, AttachMode::Auto),
        (AttachMode::Native, AttachMode::Generic),
        (AttachMode::Generic, AttachMode::Auto),
    ] {
        let setup = Setup::new(&rig.lb, 1, &options(first));
        let error = rig.lb.run(|| {
            let mut steering = Steering::load(Limits::default()).unwrap();
            xsk::open(&mut steering, &["l0".into()], 1, &options(second)).unwrap_err()
        });
        let text = error.to_string();
        let expected = "l0: another XDP program is attached";
        assert!(text.starts_with(expected), "{first:?}, then {second:?}: {text}");
        let XskError::Steering(SteeringError::OtherProgram { interface }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(interface, "l0");
        drop(setup);
        // A test beside this one may just have forked: its child holds the link until it is a program.
        let deadline = Instant::now() + PATIENCE;
        while attached(&rig.lb, "l0") {
            assert!(Instant::now() < deadline, "the program is still attached");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn generic_mode_switches_receive_offload_off_and_back_on() {
    let Some(rig) = Rig::new(1, 1500) else { return };
    let gro = || {
        let run = || Command::new("ethtool").args(["-k", "l0"]).output();
        let output = rig.lb.run(run).expect("ethtool is installed");
        String::from_utf8(output.stdout).unwrap().contains("generic-receive-offload: on")
    };
    let before = gro();
    rig.lb.run(|| Command::new("ethtool").args(["-K", "l0", "gro", "on"]).status()).unwrap();
    let setup = Setup::new(&rig.lb, 1, &options(AttachMode::Generic));
    assert!(setup.reports[0].gro_off && !setup.offloads.is_empty());
    assert!(!gro(), "was {before} before");
    rig.lb.run(move || drop(setup));
    assert!(gro());
}
