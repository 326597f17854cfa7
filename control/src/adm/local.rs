//! `xvsadm local`: the addresses and ports that full NAT speaks to real servers from.

use clap::Subcommand;
use dataplane::ipvsadm::Failure;

use super::{client::Client, output::Format, verbs};
use crate::{
    proto::v1::{self, LocalPool},
    words,
};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Shows them.
    Show,
    /// Adds addresses of the box that nothing else uses at these ports, and sets the ports.
    Add {
        /// Addresses, divided by commas.
        #[arg(value_name = "ADDRESS[,ADDRESS]", value_delimiter = ',', required = true)]
        addresses: Vec<String>,
        /// The first and the last port of every local address, as 1024-65535. Without it they stay.
        #[arg(long, value_name = "FIRST-LAST")]
        ports: Option<String>,
    },
    /// Takes addresses out; flows that have them keep them.
    Remove {
        /// Addresses, divided by commas.
        #[arg(value_name = "ADDRESS[,ADDRESS]", value_delimiter = ',', required = true)]
        addresses: Vec<String>,
    },
}

/// Carries it out; gives back what is to be printed.
pub(super) fn carry_out(
    action: Action,
    output: Format,
    client: &mut Client<'_>,
) -> Result<String, Failure> {
    let request = v1::GetLocalPoolRequest {};
    let got = client.ask(async |client| client.get_local_pool(request).await)?;
    let mut pool = got.local_pool.unwrap_or_default();
    match action {
        Action::Show => return Ok(output.show("LocalPool", &pool, shown)),
        Action::Add { addresses, ports } => {
            for address in canonical(addresses)? {
                if !pool.addresses.contains(&address) {
                    pool.addresses.push(address);
                }
            }
            if let Some(ports) = ports {
                let (first, last) = words::parse_ports(&ports).map_err(|error| usage(&error))?;
                (pool.first_port, pool.last_port) = (first.into(), last.into());
            }
        }
        Action::Remove { addresses } => {
            for address in canonical(addresses)? {
                let place = pool.addresses.iter().position(|known| *known == address);
                let place =
                    place.ok_or_else(|| usage(&format!("{address} is no local address")))?;
                pool.addresses.remove(place);
            }
        }
    }
    let request = v1::SetLocalPoolRequest { local_pool: Some(pool) };
    client.ask(async |client| client.set_local_pool(request).await).map(|_| String::new())
}

/// A refusal of the command line.
fn usage(message: &str) -> Failure {
    Failure::Other(verbs::usage(message))
}

/// The addresses as the daemon writes them.
fn canonical(addresses: Vec<String>) -> Result<Vec<String>, Failure> {
    let read = |text: String| match words::parse_addr(&text) {
        Ok(addr) => Ok(addr.to_string()),
        Err(reason) => Err(usage(&reason)),
    };
    addresses.into_iter().map(read).collect()
}

/// One line for each address.
fn shown(pool: &LocalPool) -> String {
    let ports = format!("{}-{}", pool.first_port, pool.last_port);
    pool.addresses.iter().map(|address| format!("{address} ports {ports}\n")).collect()
}
