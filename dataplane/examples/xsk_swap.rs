//! A forwarder that only gives packets new link addresses: what AF_XDP costs without any work.
//!
//! `xsk_swap [OPTION]... INTERFACE=MAC INTERFACE=MAC`: every TCP, UDP and SCTP packet that comes by
//! one interface leaves by the other, for the link address given with that one. Prints what each
//! socket reached, and after `--seconds` what was seen.
//!
//! Options: `--seconds N` (10), `--workers N` (1), `--mode auto|native|generic`, `--ring N` (2048),
//! `--busy-poll MICROSECONDS`, `--spin TURNS` (1000; empty turns before a worker sleeps).

#![expect(clippy::print_stdout, reason = "a command line tool")]
#![expect(clippy::disallowed_methods, reason = "the time measured is the machine's")]

use std::{
    env,
    error::Error,
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use xvs_dataplane::{
    addr::Addr,
    io::{
        Io as _,
        xsk::{self, BusyPoll, XskIo, XskOptions},
    },
    packet::Packet,
    steering::{AttachMode, Limits, Steering, rules::SteeringRules},
    verdict::{DeviceId, Verdict},
};

/// What the command line asks for.
struct Arguments {
    options: XskOptions,
    workers: usize,
    seconds: u64,
    spin: u32,
    interfaces: Vec<String>,
    macs: Vec<[u8; 6]>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments(env::args().skip(1))?;
    let mut steering = Steering::load(Limits::default())?;
    let (workers, interfaces) = (arguments.workers, &arguments.interfaces);
    let opened = xsk::open(&mut steering, interfaces, workers, &arguments.options)?;
    for report in &opened.reports {
        println!("{report}");
    }
    let everything = [(Addr::v4(0), 0), (Addr::v6(0), 0)].into();
    steering.follow(&SteeringRules { prefixes: everything, ..SteeringRules::default() })?;
    let started = Instant::now();
    let stop = AtomicBool::new(false);
    let macs = [arguments.macs[0], arguments.macs[1]];
    thread::scope(|scope| -> io::Result<()> {
        let run = |io| scope.spawn(|| forward(io, &macs, arguments.spin, &stop));
        let running: Vec<_> = opened.workers.into_iter().map(run).collect();
        thread::sleep(Duration::from_secs(arguments.seconds));
        stop.store(true, Ordering::Relaxed);
        for worker in running {
            println!("{}", worker.join().expect("a worker does not panic")?);
        }
        Ok(())
    })?;
    println!("{:?} in {:.2} s", steering.counters()?, started.elapsed().as_secs_f64());
    Ok(())
}

/// Takes turns until it is stopped; says what it saw.
fn forward(mut io: XskIo, macs: &[[u8; 6]; 2], spin: u32, stop: &AtomicBool) -> io::Result<String> {
    let (mut received, mut sent, mut bursts, mut idle) = (0u64, 0u64, 0u64, 0);
    while !stop.load(Ordering::Relaxed) {
        let count = io.burst(
            |packets| packets.iter_mut().for_each(|packet| readdress(packet, macs)),
            |_, _, verdict| sent += u64::from(matches!(verdict, Verdict::Tx(_))),
        )?;
        if count > 0 {
            io.flush()?;
            received += count as u64;
            bursts += 1;
            idle = 0;
        } else if idle < spin {
            idle += 1;
        } else {
            io.wait(Duration::from_millis(100))?;
        }
    }
    let (census, drops) = (io.census(), io.kernel_drops()?);
    Ok(format!("received {received} sent {sent} in {bursts} bursts; {drops:?}; {census:?}"))
}

fn readdress(packet: &mut Packet<'_>, macs: &[[u8; 6]; 2]) {
    let out = 1 - usize::from(packet.device.0);
    let bytes = packet.bytes_mut();
    bytes.copy_within(..6, 6);
    bytes[..6].copy_from_slice(&macs[out]);
    packet.verdict = Verdict::Tx(DeviceId(1 - packet.device.0));
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        options: XskOptions::default(),
        workers: 1,
        seconds: 10,
        spin: 1000,
        interfaces: Vec::new(),
        macs: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seconds" => arguments.seconds = value()?.parse()?,
            "--workers" => arguments.workers = value()?.parse()?,
            "--spin" => arguments.spin = value()?.parse()?,
            "--ring" => arguments.options.ring = value()?.parse()?,
            "--busy-poll" => {
                let busy = BusyPoll { micros: value()?.parse()?, budget: 64 };
                arguments.options.busy_poll = Some(busy);
            }
            "--mode" => {
                arguments.options.mode = match value()?.as_str() {
                    "auto" => AttachMode::Auto,
                    "native" => AttachMode::Native,
                    "generic" => AttachMode::Generic,
                    other => return Err(format!("{other} is no mode").into()),
                }
            }
            pair => {
                let (interface, mac) = pair.split_once('=').ok_or("INTERFACE=MAC expected")?;
                arguments.interfaces.push(interface.into());
                arguments.macs.push(parse_mac(mac)?);
            }
        }
    }
    if arguments.macs.len() == 2 { Ok(arguments) } else { Err("two INTERFACE=MAC expected".into()) }
}

fn parse_mac(text: &str) -> Result<[u8; 6], Box<dyn Error>> {
    let octets: Result<Vec<u8>, _> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    octets?.try_into().map_err(|octets| format!("{text} is no link address: {octets:x?}").into())
}
