//! What ipvsadm cannot say: verbs.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use dataplane::ipvsadm::{
    Backend as _, Failure, ListOptions, PROC_APP, Refusal, Stream, list_services, proc_conn,
    proc_conn_sync, proc_services, proc_stats, proc_stats_percpu,
};

use super::{
    FAILED, Streams, SystemNames, USAGE, apply,
    capture::{self, CaptureArgs},
    client::Client,
    completion::{self, Shell},
    explain::{self, ExplainArgs},
    health,
    import::{self, Origin},
    local,
    mark::{self, Mark},
    operate::{self, DrainArgs, FlowsArgs},
    output::Format,
    show, top,
};
use crate::{
    convert::request,
    proto::v1::{self, FlowFilter},
    words,
};

/// HZ of the kernel whose ticks /proc/net/ip_vs counts persistence in; that of the recordings.
const TICKS_PER_S: u32 = 100;

/// The verbs, for those who look for one.
const VERBS: [&str; 20] = [
    "info",
    "get",
    "stats",
    "top",
    "flows",
    "capture",
    "drain",
    "watch",
    "health",
    "explain",
    "apply",
    "import",
    "settings",
    "set",
    "mark",
    "local",
    "proc",
    "completion",
    "version",
    "help",
];

#[derive(Debug, Parser)]
#[command(
    name = "xvsadm",
    about = "What ipvsadm cannot say to a load balancer",
    after_help = "All of ipvsadm's commands are there too: see xvsadm -h."
)]
struct Line {
    /// In which form to show what there is.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows the daemon, its devices and what they reached.
    Info,
    /// Shows all services with their real servers, counters and rates; as a table as `xvsadm -L -n` does.
    Get,
    /// Shows what became of all packets: totals, drops by reason, devices, workers, flow table.
    Stats,
    /// Shows what happens now, on a screen that is drawn anew every second: rates, workers, drops by
    /// reason, real servers with their health and drains. `q` ends it, `s` changes the order.
    Top,
    /// Lists flows with their packets and octets; or counts or ends those that fit.
    Flows(FlowsArgs),
    /// Shows packets as they came, with what became of them, and as they left; or writes them for tshark.
    /// Packets that come faster than they can be told are left out and counted. A real server of dr has
    /// no place in any packet: ask by client or VIP.
    Capture(CaptureArgs),
    /// Takes a real server out without breaking anyone: it gets no new flows, the old ones live on
    /// until they end or the deadline comes. Shows the progress; ending this command does not end
    /// the drain.
    Drain(DrainArgs),
    /// Shows what is, and then what happens: changes, drains, health, thresholds, failures of
    /// workers.
    Watch,
    /// Shows which real servers are up, since when, how much of their weight counts, and what their
    /// checks found last.
    Health,
    /// Says what would become of a packet and why, by a dry run of the code that forwards.
    Explain(ExplainArgs),
    /// Makes the services of a file the present ones: all of it or nothing, in one step. What is
    /// the same already is not touched and keeps its flows.
    Apply {
        /// A configuration in TOML if its name ends in .toml, else rules as `xvsadm -S` writes
        /// them; `-` reads rules from standard input.
        #[arg(short, long)]
        file: PathBuf,
        /// Say what would change, and change nothing.
        #[arg(long)]
        plan: bool,
        /// Refuse unless this is the present generation.
        #[arg(long, value_name = "GENERATION")]
        expect: Option<u64>,
    },
    /// Prints the services of another program's configuration as a configuration of xvsd, and on standard
    /// error each line that was not carried over. Asks no daemon.
    Import {
        /// Of which program.
        from: Origin,
        /// Its file.
        file: PathBuf,
    },
    /// Shows the settings: the sysctls of net.ipv4.vs.
    Settings,
    /// Changes a setting.
    Set {
        /// Its name, as sysctl has it.
        name: String,
        /// Its value.
        value: String,
    },
    /// The rules that give packets their firewall marks, for services of -f. All are looked at, and
    /// the last one that takes a packet decides, as with iptables' target MARK.
    #[command(subcommand)]
    Mark(Mark),
    /// Shows or changes full NAT's local addresses.
    #[command(subcommand)]
    Local(local::Action),
    /// Shows what a kernel with IPVS shows in a file below /proc/net.
    Proc {
        /// The file.
        name: Proc,
    },
    /// Writes a script that completes commands.
    Completion {
        /// For which shell.
        shell: Shell,
    },
    /// Shows the version of this program.
    Version,
}

/// Which flows; all of what is given must fit.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    #[command(flatten)]
    ends: Ends,
    /// State, as ESTABLISHED or syn_recv.
    #[arg(long)]
    state: Option<String>,
}

/// Between whom; all of what is given must fit.
#[derive(Debug, clap::Args)]
pub(super) struct Ends {
    /// tcp, udp or sctp.
    #[arg(long)]
    protocol: Option<String>,
    /// Client, as 10.9.0.1, 10.9.0.1:4711, fd00::1 or [fd00::1]:4711.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<String>,
    /// Virtual address, written like the client's.
    #[arg(long = "virtual", value_name = "ADDRESS[:PORT]")]
    virt: Option<String>,
    /// Real server, written like the client.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    real: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proc {
    #[value(name = "ip_vs")]
    Services,
    #[value(name = "ip_vs_app")]
    Applications,
    #[value(name = "ip_vs_conn")]
    Flows,
    #[value(name = "ip_vs_conn_sync")]
    Origins,
    #[value(name = "ip_vs_stats")]
    Totals,
    #[value(name = "ip_vs_stats_percpu")]
    Workers,
}

/// Whether a word is a verb.
pub(super) fn is_verb(word: &str) -> bool {
    VERBS.contains(&word)
}

/// The grammar of the verbs.
pub(super) fn command() -> clap::Command {
    Line::command()
}

/// The script that completes commands in a shell, if there is such a shell.
pub(super) fn completion(shell: &str) -> Option<String> {
    Shell::from_str(shell, false).ok().map(|shell| completion::script(shell, &VERBS))
}

/// Runs a verb; gives back the exit status.
pub(super) fn run(program: &str, words: &[&str], client: &mut Client<'_>, streams: &Streams) -> u8 {
    let line = match Line::try_parse_from(std::iter::once(&program).chain(words)) {
        Ok(line) => line,
        Err(error) => {
            let (stream, status) =
                if error.use_stderr() { (Stream::Err, USAGE) } else { (Stream::Out, 0) };
            streams.print(stream, &error.render().to_string());
            return status;
        }
    };
    let print = |text: &str| streams.print(Stream::Out, text);
    match execute(line, client, &print) {
        Ok(text) => {
            print(&text);
            0
        }
        Err(refusal) => streams.refuse(&refusal),
    }
}

/// Carries a verb out; what it has not printed yet is given back.
fn execute(line: Line, client: &mut Client<'_>, print: &dyn Fn(&str)) -> Result<String, Refusal> {
    let Line { output, verb } = line;
    let text = match verb {
        Verb::Info => {
            let request = v1::GetInfoRequest {};
            let info = client.diagnose(async |client| client.get_info(request).await);
            info.map(|info| output.show("GetInfoResponse", &info, show::info))
        }
        Verb::Get => get(output, client, print),
        Verb::Stats => statistics(client)
            .map(|found| output.show("GetStatisticsResponse", &found, show::statistics)),
        Verb::Top => top::top(client),
        Verb::Flows(flows) => operate::flows(&flows, output, client, print),
        Verb::Capture(args) => capture::capture(&args, output, client, print),
        Verb::Drain(drain) => operate::drain(&drain, output, client, print),
        Verb::Watch => operate::watch(output, client, print),
        Verb::Health => health::health(output, client),
        Verb::Explain(explain) => explain::explain(&explain, output, client),
        Verb::Apply { file, plan, expect } => {
            let request = apply::request(&file, plan, expect)?;
            let applied = client.ask(async |client| client.apply(request).await);
            applied.map(|applied| {
                output.show("ApplyResponse", &applied, |applied| show::changes(applied, plan))
            })
        }
        Verb::Import { from, file } => import::import(from, &file, &mut std::io::stderr()),
        Verb::Settings => {
            let request = v1::GetSettingsRequest {};
            let settings = client.ask(async |client| client.get_settings(request).await);
            settings.map(|found| {
                output.show("GetSettingsResponse", &found, |found| show::settings(&found.settings))
            })
        }
        Verb::Set { name, value } => {
            let request = v1::SetSettingRequest { setting: Some(v1::Setting { name, value }) };
            client.ask(async |client| client.set_setting(request).await).map(|_| String::new())
        }
        Verb::Mark(mark) => mark::run(&mark, output, client),
        Verb::Local(action) => local::carry_out(action, output, client),
        Verb::Proc { name } => proc(name, client),
        Verb::Completion { shell } => Ok(completion::script(shell, &VERBS)),
        Verb::Version => Ok(format!("xvsadm {}\n", env!("CARGO_PKG_VERSION"))),
    };
    text.map_err(told)
}

/// Shows all services.
fn get(output: Format, client: &mut Client<'_>, print: &dyn Fn(&str)) -> Result<String, Failure> {
    if output == Format::Table {
        let (services, size) = (client.services()?, client.table_size()?);
        let options = ListOptions { numeric: true, ..ListOptions::PLAIN };
        return Ok(list_services(&services, size, &options, &SystemNames::new()));
    }
    for service in client.service_messages()? {
        print(&output.show_one("ServiceStatus", &service, |_| String::new()));
    }
    Ok(String::new())
}

/// What a failure says.
fn told(failure: Failure) -> Refusal {
    match failure {
        Failure::Other(refusal) if refusal.message.starts_with("xvsadm: ") => refusal,
        Failure::Other(Refusal { message, exit }) => {
            Refusal { message: format!("xvsadm: {message}"), exit }
        }
        Failure::Refused(error) => Refusal { message: format!("xvsadm: {error}"), exit: 255 },
    }
}

fn statistics(client: &mut Client<'_>) -> Result<v1::GetStatisticsResponse, Failure> {
    let request = v1::GetStatisticsRequest {};
    client.diagnose(async |client| client.get_statistics(request).await)
}

fn proc(name: Proc, client: &mut Client<'_>) -> Result<String, Failure> {
    let mut flows = Vec::new();
    if let Proc::Flows | Proc::Origins = name {
        client.flows(&mut |page| flows.extend_from_slice(page))?;
    }
    Ok(match name {
        Proc::Services => {
            let size = client.table_size()?;
            proc_services(&client.services()?, size, TICKS_PER_S)
        }
        Proc::Applications => PROC_APP.to_owned(),
        Proc::Flows => proc_conn(&flows),
        Proc::Origins => proc_conn_sync(&flows),
        Proc::Totals => {
            let statistics = statistics(client)?;
            let totals = request::counters(statistics.totals.unwrap_or_default());
            proc_stats(&totals, &request::rates(statistics.rates.unwrap_or_default()))
        }
        Proc::Workers => {
            let statistics = statistics(client)?;
            let totals = request::counters(statistics.totals.unwrap_or_default());
            let workers = statistics.workers.iter();
            let workers: Vec<_> =
                workers.map(|w| request::counters(w.counters.unwrap_or_default())).collect();
            let rates = request::rates(statistics.rates.unwrap_or_default());
            proc_stats_percpu(&workers, &totals, &rates)
        }
    })
}

impl Filter {
    pub(super) fn read(&self) -> Result<FlowFilter, Refusal> {
        let state = self.state.clone().unwrap_or_default();
        Ok(FlowFilter { state, ..self.ends.read()? })
    }
}

impl Ends {
    /// As a filter of flows in any state.
    pub(super) fn read(&self) -> Result<FlowFilter, Refusal> {
        let mut filter = FlowFilter::default();
        if let Some(name) = &self.protocol {
            filter.protocol = words::parse_protocol(name).map_err(|e| usage(&e))?.into();
        }
        if let Some(end) = &self.client {
            (filter.client_address, filter.client_port) = endpoint(end)?;
        }
        if let Some(end) = &self.virt {
            (filter.virtual_address, filter.virtual_port) = endpoint(end)?;
        }
        if let Some(end) = &self.real {
            (filter.real_address, filter.real_port) = endpoint(end)?;
        }
        Ok(filter)
    }
}

/// Reads an address with or without a port.
pub(super) fn endpoint(text: &str) -> Result<(String, Option<u32>), Refusal> {
    if words::parse_addr(text).is_ok() {
        return Ok((text.to_owned(), None));
    }
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_unparsed| usage(&format!("`{text}` is no address, with or without a port")))?;
    Ok((address.ip().to_string(), Some(address.port().into())))
}

/// A refusal of the command line.
pub(super) fn usage(message: &str) -> Refusal {
    Refusal { message: format!("xvsadm: {message}"), exit: USAGE }
}

/// A refusal of something that was read.
pub(super) fn failed(message: &str) -> Refusal {
    Refusal { message: format!("xvsadm: {message}"), exit: FAILED }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_verb_is_known_as_one() {
        let command = Line::command();
        command.clone().debug_assert();
        let mut names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        names.push("help");
        assert_eq!(names, VERBS);
    }

    #[test]
    fn every_file_below_proc_has_its_name() {
        let variants = Proc::value_variants().iter().filter_map(Proc::to_possible_value);
        let names: Vec<_> = variants.map(|value| value.get_name().to_owned()).collect();
        assert_eq!(names, dataplane::ipvsadm::PROC_NAMES);
    }

    #[test]
    fn an_endpoint_may_have_a_port() {
        assert_eq!(endpoint("10.0.0.1").unwrap(), ("10.0.0.1".to_owned(), None));
        assert_eq!(endpoint("[fd00::1]:80").unwrap(), ("fd00::1".to_owned(), Some(80)));
        assert_eq!(endpoint("fd00::1").unwrap(), ("fd00::1".to_owned(), None));
        assert_eq!(endpoint("x").unwrap_err().exit, USAGE);
    }
}
