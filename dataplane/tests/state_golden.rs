//! States, time-outs and loads against recordings of Linux IPVS, packet by packet. Format and
//! origin: `fixtures/golden/state/README.md`.
//!
//! The model around the state machines is one connection at a time and two servers, picked by rr.
#![expect(clippy::unwrap_used, reason = "a malformed fixture ends the test")]

use std::{fs, path::Path};

use serde_json::Value;
use xvs_dataplane::{
    flow::{
        Direction,
        sctp::chunk,
        state::{Sloppy, Step, begins, is_over, opens, state_name, transition},
        tcp::{ACK, FIN, RST, SYN},
        timeout::Timeouts,
    },
    wire::protocol,
};

/// The connection, if there is one.
#[derive(Clone, Copy)]
struct Connection {
    server: usize,
    state: u8,
    class: u8,
    active: bool,
    no_output: bool,
}

/// What a case's mode and setup ask for, and its connection.
struct Director {
    protocol: u8,
    one_way: bool,
    sloppy: Sloppy,
    secure_tcp: bool,
    reuse_mode: u8,
    timeouts: Timeouts,
    connection: Option<Connection>,
    /// Server of the next new connection.
    turn: usize,
}

impl Director {
    fn new(case: &Value) -> Self {
        let name = case["case"].as_str().unwrap();
        let protocol = match name.split('-').next().unwrap() {
            "udp" => protocol::UDP,
            "sctp" => protocol::SCTP,
            _ => protocol::TCP,
        };
        let mut director = Self {
            protocol,
            one_way: case["mode"] != "nat",
            sloppy: Sloppy::default(),
            secure_tcp: false,
            reuse_mode: 1,
            timeouts: Timeouts::default(),
            connection: None,
            turn: 0,
        };
        director.set_up(case["setup"].as_str().unwrap());
        director
    }

    fn set_up(&mut self, setup: &str) {
        if let Some(seconds) = setup.strip_prefix("ipvsadm --set ") {
            let seconds: Vec<u32> = seconds.split(' ').map(|s| s.parse().unwrap()).collect();
            self.timeouts.set(seconds[0], seconds[1], seconds[2]);
        } else if let Some(sysctl) = setup.strip_prefix("sysctl -wq net.ipv4.vs.") {
            match sysctl.split_once('=').unwrap() {
                ("sloppy_tcp", "1") => self.sloppy.tcp = true,
                ("sloppy_sctp", "1") => self.sloppy.sctp = true,
                ("secure_tcp", "3") => self.secure_tcp = true,
                ("conn_reuse_mode", mode) => self.reuse_mode = mode.parse().unwrap(),
                // Connections are kept apart from conntrack's: no difference to be seen.
                ("conntrack", "1") => {}
                _ => panic!("unknown setting {sysctl}"),
            }
        } else {
            assert_eq!(setup, "", "unknown setup");
        }
    }

    /// One packet: `C:` or `B:` and its flags or chunk.
    fn packet(&mut self, text: &str) {
        let (side, what) = text.split_once(':').unwrap();
        let flags = self.flags(what);
        let direction = if side == "C" { Direction::ToReal } else { Direction::ToClient };
        if direction == Direction::ToReal {
            let over = |c: &Connection| {
                begins(self.protocol, flags)
                    && is_over(self.protocol, c.state, c.no_output, self.reuse_mode)
            };
            self.connection = self.connection.filter(|connection| !over(connection));
            if self.connection.is_none() && opens(self.protocol, flags, self.sloppy) {
                self.connection = Some(Connection {
                    server: self.turn % 2,
                    state: 0,
                    class: 0,
                    active: false,
                    no_output: self.one_way,
                });
                self.turn += 1;
            }
        }
        if let Some(connection) = &mut self.connection {
            let next = transition(Step {
                protocol: self.protocol,
                direction,
                state: connection.state,
                flags,
                no_output: connection.no_output,
                secure_tcp: self.secure_tcp,
            });
            connection.state = next.state;
            connection.class = next.class;
            connection.active = next.active;
            connection.no_output = next.no_output;
        }
    }

    fn flags(&self, what: &str) -> u8 {
        match self.protocol {
            protocol::TCP => what.chars().fold(0, |flags, letter| {
                flags
                    | match letter {
                        'F' => FIN,
                        'S' => SYN,
                        'R' => RST,
                        'A' => ACK,
                        'P' => 0x08,
                        'U' => 0x20,
                        'E' => 0x40,
                        'C' => 0x80,
                        _ => panic!("unknown flag {letter}"),
                    }
            }),
            protocol::SCTP => match what {
                "DATA" => 0,
                "INIT" => chunk::INIT,
                "INIT_ACK" => chunk::INIT_ACK,
                "ABORT" => chunk::ABORT,
                "SHUTDOWN" => chunk::SHUTDOWN,
                "SHUTDOWN_ACK" => chunk::SHUTDOWN_ACK,
                "COOKIE_ECHO" => chunk::COOKIE_ECHO,
                "COOKIE_ACK" => chunk::COOKIE_ACK,
                "SHUTDOWN_COMPLETE" => chunk::SHUTDOWN_COMPLETE,
                _ => panic!("unknown chunk {what}"),
            },
            _ => 0,
        }
    }

    /// State and server of the connection as `ipvsadm -Lcn` lists them, and its time-out.
    fn listing(&self, servers: &[String]) -> Option<(String, u32)> {
        let connection = self.connection?;
        let state = state_name(self.protocol, connection.state);
        let seconds = self.timeouts.seconds(connection.class);
        Some((format!("{state} {}", servers[connection.server]), seconds))
    }

    /// Active/InAct of a server.
    fn load(&self, server: usize) -> &'static str {
        match self.connection {
            Some(connection) if connection.server == server => {
                if connection.active {
                    "1/0"
                } else {
                    "0/1"
                }
            }
            _ => "0/0",
        }
    }
}

/// State and server of a listed connection, and the seconds left.
fn listed_as(line: &str) -> (String, u32) {
    let words: Vec<&str> = line.split(' ').collect();
    let (minutes, seconds) = words[1].split_once(':').unwrap();
    let left = minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap();
    (format!("{} {}", words[2], words[5]), left)
}

/// The kernel lists whole seconds, a moment into the first; a listing may come a second late.
fn agree(ours: &Option<(String, u32)>, theirs: &Option<(String, u32)>) -> bool {
    match (ours, theirs) {
        (Some((our, whole)), Some((their, left))) => {
            our == their && (1..=2).contains(&whole.wrapping_sub(*left))
        }
        (None, None) => true,
        _ => false,
    }
}

#[test]
fn every_packet_leaves_the_connection_as_the_kernel_had_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/state/states.json");
    let recording: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let (mut steps, mut failures) = (0, Vec::new());
    for case in recording["cases"].as_array().unwrap() {
        let mut director = Director::new(case);
        for step in case["steps"].as_array().unwrap() {
            steps += 1;
            director.packet(step["pkt"].as_str().unwrap());
            // Last added, first picked: the greater address.
            let loads = step["load"].as_object().unwrap();
            let mut servers: Vec<String> = loads.keys().cloned().collect();
            servers.sort_by(|a, b| b.cmp(a));
            let listed = step["conn"].as_array().unwrap();
            assert!(listed.len() <= 1);
            let theirs = listed.first().map(|line| listed_as(line.as_str().unwrap()));
            let ours = director.listing(&servers);
            let same_load =
                servers.iter().enumerate().all(|(i, server)| loads[server] == director.load(i));
            if !agree(&ours, &theirs) || !same_load {
                failures.push(format!(
                    "{} {} {} at {}: {ours:?}, recorded {theirs:?} {loads:?}",
                    case["case"], case["mode"], case["setup"], step["pkt"]
                ));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(steps > 600, "only {steps} packets compared");
}
