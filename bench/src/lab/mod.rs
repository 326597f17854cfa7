//! A laboratory: machines, links and servers on one box, each machine a network namespace.
//!
//! What the demonstration and the end-to-end tests stand on. The rule: a laboratory is gone when
//! its owner is gone. Namespaces have no names, so they end with the last process in them; every
//! process gets SIGTERM from the kernel when the thread that started it ends; folders that a killed
//! owner left are removed by the next one. Nothing outside the namespaces is changed.

pub mod balancer;
pub mod folder;
pub mod interrupt;
pub mod method;
pub mod namespace;
pub mod process;
pub mod requests;
pub mod web;
pub mod world;

pub use balancer::{Adm, Balancer};
pub use method::Method;
pub use namespace::Namespace;
pub use process::Process;
pub use requests::Tally;
pub use web::Web;
pub use world::{Family, Gateway, VIP, World};

/// Why there can be no laboratory here, if so: it needs root, and programs that `make setup`
/// installs.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let programs = ["ip", "nsenter", "setpriv", "curl", web::PROGRAM];
    let absent: Vec<_> = programs.into_iter().filter(|name| !process::is_installed(name)).collect();
    if absent.is_empty() {
        return None;
    }
    Some(format!("{} not installed: `make setup` does that", absent.join(", ")))
}
