//! Names of hosts from the system's resolver, of services from `/etc/services`.
//!
//! Without `-n` a listing asks for the name of every address in it. Each is asked for once, and
//! all of them together may take [`BUDGET`]: what is not known by then is listed as a number, where
//! ipvsadm would wait for every single one. Services are read from the file alone, as they are on
//! all systems that configure nothing else for them in nsswitch.conf.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use dataplane::{addr::Addr, ipvsadm::Names};

/// How long the names of one listing may take.
const BUDGET: Duration = Duration::from_secs(3);

/// How long the address of a host that a command names may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the system.
#[derive(Debug)]
pub(crate) struct SystemNames {
    services: RefCell<Option<Vec<Service>>>,
    hosts: RefCell<HashMap<Addr, Option<String>>>,
    /// What is left of the budget.
    left: Cell<Duration>,
}

/// One name of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    name: String,
    port: u16,
    protocol: u8,
}

impl SystemNames {
    pub(crate) fn new() -> Self {
        Self {
            services: RefCell::new(None),
            hosts: RefCell::new(HashMap::new()),
            left: Cell::new(BUDGET),
        }
    }

    fn find<T>(&self, meant: impl Fn(&Service) -> bool, take: impl Fn(&Service) -> T) -> Option<T> {
        let mut services = self.services.borrow_mut();
        let services = services.get_or_insert_with(|| {
            // A system without the file knows no services.
            read_services(&fs::read_to_string("/etc/services").unwrap_or_default())
        });
        services.iter().find(|service| meant(service)).map(take)
    }
}

impl Names for SystemNames {
    fn host_addr(&self, name: &str) -> Option<Ipv4Addr> {
        let name = name.to_owned();
        let addresses = within(PATIENCE, move || {
            (name.as_str(), 0).to_socket_addrs().ok().map(Iterator::collect::<Vec<_>>)
        });
        addresses??.into_iter().find_map(|address| match address {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn service_port(&self, name: &str, protocol: u8) -> Option<u16> {
        self.find(|s| s.name == name && s.protocol == protocol, |s| s.port)
    }

    fn host_name(&self, addr: Addr) -> Option<String> {
        if let Some(known) = self.hosts.borrow().get(&addr) {
            return known.clone();
        }
        let started = Instant::now();
        let name = within(self.left.get(), move || dns_lookup::lookup_addr(&addr.to_ip()).ok());
        self.left.set(self.left.get().saturating_sub(started.elapsed()));
        // The resolver gives back the number for what has no name.
        let name = name.flatten().filter(|name| *name != addr.to_string());
        self.hosts.borrow_mut().insert(addr, name.clone());
        name
    }

    fn service_name(&self, port: u16, protocol: u8) -> Option<String> {
        self.find(|s| s.port == port && s.protocol == protocol, |s| s.name.clone())
    }
}

/// What `ask` answers, if it does so in time. The thread that waits for it is left behind.
fn within<T: Send + 'static>(
    time: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if time.is_zero() {
        return None;
    }
    let (answer, answers) = mpsc::channel();
    thread::spawn(move || {
        // Nobody may be waiting any more.
        answer.send(ask()).ok();
    });
    answers.recv_timeout(time).ok()
}

/// Reads services(5); each alias is a service too, behind the name.
fn read_services(text: &str) -> Vec<Service> {
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some(name), Some(place)) = (words.next(), words.next()) else {
            continue;
        };
        let Some((port, protocol)) = place.split_once('/') else {
            continue;
        };
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => continue,
        };
        let Ok(port) = port.parse() else {
            continue;
        };
        for name in std::iter::once(name).chain(words) {
            all.push(Service { name: name.to_owned(), port, protocol });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_alias_and_port() {
        let text = "# c\nhttp\t80/tcp\t\twww # Web\ndomain 53/tcp\ndomain 53/udp\nx 1/ddp\nbad\n";
        let names = SystemNames::new();
        names.services.replace(Some(read_services(text)));
        assert_eq!(names.service_port("www", 6), Some(80));
        assert_eq!(names.service_port("http", 17), None);
        assert_eq!(names.service_name(53, 17).as_deref(), Some("domain"));
        assert_eq!(names.service_name(80, 6).as_deref(), Some("http"));
        assert_eq!(names.service_name(1, 6), None);
    }

    #[test]
    fn a_slow_answer_is_not_waited_for() {
        let (_asked, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || never.recv().is_ok()), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        assert_eq!(within(Duration::ZERO, || 7), None);
    }
}
