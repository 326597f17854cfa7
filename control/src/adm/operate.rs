//! The verbs of a box in use: drain, flows, watch.

use std::{
    fmt::Write as _,
    io::IsTerminal as _,
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, ValueEnum};
use dataplane::ipvsadm::{Failure, Refusal};

use super::{
    FAILED,
    client::Client,
    output::Format,
    show,
    status::other,
    verbs::{Filter, endpoint, usage},
};
use crate::{
    convert::{health, request},
    proto::v1,
    words::ServiceName,
};

/// A service, named as ipvsadm names it.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct ServiceArg {
    /// A TCP service.
    #[arg(short = 't', long, value_name = "VIP:PORT")]
    tcp_service: Option<String>,
    /// A UDP service.
    #[arg(short = 'u', long, value_name = "VIP:PORT")]
    udp_service: Option<String>,
    /// An SCTP service.
    #[arg(long, value_name = "VIP:PORT")]
    sctp_service: Option<String>,
    /// A firewall mark of IPv4 packets.
    #[arg(short = 'f', long, value_name = "MARK")]
    fwmark_service: Option<u32>,
}

impl ServiceArg {
    /// The key that it names.
    fn key(&self) -> Result<v1::ServiceKey, Refusal> {
        let named = [
            (v1::Protocol::Tcp, &self.tcp_service),
            (v1::Protocol::Udp, &self.udp_service),
            (v1::Protocol::Sctp, &self.sctp_service),
        ];
        let named = named.into_iter().find_map(|(protocol, text)| Some((protocol, text.as_ref()?)));
        let key = match (named, self.fwmark_service) {
            (Some((protocol, text)), _) => {
                let (address, port) = endpoint(text)?;
                let port = port.ok_or_else(|| usage(&format!("`{text}` has no port")))?;
                let protocol = protocol.into();
                v1::service_key::Key::Address(v1::VirtualAddress { protocol, address, port })
            }
            (None, mark) => v1::service_key::Key::Mark(v1::FirewallMark {
                mark: mark.unwrap_or_default(),
                family: v1::Family::Ipv4.into(),
            }),
        };
        Ok(v1::ServiceKey { key: Some(key) })
    }
}

/// Least time between two lines of progress.
const SHOWN: Duration = Duration::from_millis(500);

/// What to do with what is left at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Then {
    /// Leave them alone.
    #[default]
    Keep,
    /// End them; TCP clients get a reset with their next segment.
    Reset,
    /// Hand them to other real servers.
    Reschedule,
}

/// Which drain.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// The real server; its port is the service's unless given.
    #[arg(short = 'r', long, value_name = "ADDRESS[:PORT]")]
    real_server: String,
    /// How long flows may take to end, as 30s, 5m, 2h. Without it, as long as they like.
    #[arg(short, long, value_name = "TIME", value_parser = seconds)]
    deadline: Option<u32>,
    /// What to do with the flows that are left then.
    #[arg(long, value_enum, default_value_t, requires = "deadline")]
    then: Then,
    /// Persistence templates send no new flows there either.
    #[arg(long)]
    templates: bool,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
    /// Ends a drain: the real server takes new flows again.
    #[arg(long, conflicts_with_all = ["deadline", "then", "templates", "detach"])]
    cancel: bool,
}

/// Reads a time: seconds, or with a unit.
fn seconds(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("`{other}` is none of s, m, h, d")),
    };
    let number: u32 = digits.parse().map_err(|_unparsed| "not a time as 30s or 5m".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too long".to_owned())
}

/// Drains a real server.
pub(super) fn drain(
    args: &DrainArgs,
    output: Format,
    client: &mut Client<'_>,
    print: &dyn Fn(&str),
) -> Result<String, Failure> {
    let (service, real) = args.named().map_err(Failure::Other)?;
    if args.cancel {
        let request = v1::CancelDrainRequest { service: Some(service), real_server: Some(real) };
        let cancelled = client.operate(async |client| client.cancel_drain(request).await)?;
        return Ok(format!("cancelled, generation {}\n", cancelled.generation));
    }
    let request = v1::DrainRequest {
        service: Some(service),
        real_server: Some(real),
        deadline: args.deadline.map(|s| prost_types::Duration { seconds: s.into(), nanos: 0 }),
        end: match args.then {
            Then::Keep => v1::DrainEnd::Keep,
            Then::Reset => v1::DrainEnd::Reset,
            Then::Reschedule => v1::DrainEnd::Reschedule,
        }
        .into(),
        templates: args.templates,
    };
    let mut last = v1::Drain::default();
    let mut told = (String::new(), None::<Instant>, v1::drain::Phase::Unspecified);
    client.follow(
        async |client| client.drain(request).await,
        |message| {
            last = message.drain.unwrap_or_default();
            let line = output.show_one("Drain", &last, |drain| format!("{}\n", progress(drain)));
            let soon = told.1.is_some_and(|at| at.elapsed() < SHOWN) && told.2 == last.phase();
            if line != told.0 && !soon {
                print(&line);
                told = (line, Some(Instant::now()), last.phase());
            }
            if args.detach { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    match last.phase() {
        v1::drain::Phase::Cancelled | v1::drain::Phase::Removed => {
            Err(other("xvsadm: the drain did not come to its end".to_owned(), FAILED))
        }
        _ => Ok(String::new()),
    }
}

impl DrainArgs {
    /// The service and the real server.
    fn named(&self) -> Result<(v1::ServiceKey, v1::RealServerKey), Refusal> {
        let (address, port) = endpoint(&self.real_server)?;
        Ok((self.service.key()?, v1::RealServerKey { address, port }))
    }
}

/// How a drain goes, in a line.
fn progress(drain: &v1::Drain) -> String {
    let phase = match drain.phase() {
        v1::drain::Phase::Draining => "draining",
        v1::drain::Phase::Drained => "drained",
        v1::drain::Phase::Expired => "deadline reached",
        v1::drain::Phase::Cancelled => "cancelled",
        v1::drain::Phase::Removed => "real server removed",
        v1::drain::Phase::Unspecified => "?",
    };
    let mut line = format!("{phase}: {} of {}", real(drain), service(drain.service.as_ref()));
    let (active, inactive) = (drain.active_flows, drain.inactive_flows);
    let text = match active + inactive {
        0 => ", no flows left".to_owned(),
        1 => format!(", 1 flow left ({active} active)"),
        left => format!(", {left} flows left ({active} active)"),
    };
    line.push_str(&text);
    for state in drain.states.iter().filter(|_| active + inactive > 0) {
        write!(line, " {} {}", state.state, state.flows).expect("a string takes everything");
    }
    if drain.persistent_templates > 0 {
        let templates = drain.persistent_templates;
        write!(line, ", {templates} templates").expect("a string takes everything");
    }
    for (count, what) in [(drain.reset_flows, "reset"), (drain.moved_flows, "moved")] {
        if count > 0 {
            write!(line, ", {count} {what}").expect("a string takes everything");
        }
    }
    line
}

fn real(drain: &v1::Drain) -> String {
    let key = drain.real_server.clone().unwrap_or_default();
    named(&key)
}

/// A real server's name.
pub(super) fn named(key: &v1::RealServerKey) -> String {
    let port = key.port.unwrap_or_default();
    if key.address.contains(':') {
        format!("[{}]:{port}", key.address)
    } else {
        format!("{}:{port}", key.address)
    }
}

/// A service's name.
pub(super) fn service(key: Option<&v1::ServiceKey>) -> String {
    let key = key.and_then(|key| request::service_key(key).ok());
    key.map_or_else(|| "?".to_owned(), |key| ServiceName(&key).to_string())
}

/// Which flows, and what with them.
#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    filter: Filter,
    /// Count them by state.
    #[arg(long, conflicts_with = "delete")]
    count: bool,
    /// End them at once. Needs a filter, or --all.
    #[arg(long)]
    delete: bool,
    /// Every flow is meant.
    #[arg(long, requires = "delete")]
    all: bool,
}

/// Lists, counts or ends flows.
pub(super) fn flows(
    args: &FlowsArgs,
    output: Format,
    client: &mut Client<'_>,
    print: &dyn Fn(&str),
) -> Result<String, Failure> {
    let filter = args.filter.read().map_err(Failure::Other)?;
    if args.count {
        let request = v1::CountFlowsRequest { filter: Some(filter) };
        let counted = client.operate(async |client| client.count_flows(request).await)?;
        return Ok(output.show("CountFlowsResponse", &counted, counts));
    }
    if args.delete {
        let request = v1::DeleteFlowsRequest { filter: Some(filter), all: args.all };
        let answer = client.operate(async |client| client.delete_flows(request).await)?;
        return Ok(output.show("DeleteFlowsResponse", &answer, |answer| {
            let plural = if answer.deleted == 1 { "" } else { "s" };
            format!("{} flow{plural} deleted\n", answer.deleted)
        }));
    }
    if output != Format::Table {
        client.flow_messages(&filter, &mut |_, flows| {
            for flow in flows {
                print(&output.show_one("Flow", flow, |_| String::new()));
            }
        })?;
        return Ok(String::new());
    }
    print(show::FLOWS_TITLE);
    client.flows_that(&filter, &mut |flows| print(&show::flows(flows))).map(|()| String::new())
}

fn counts(counted: &v1::CountFlowsResponse) -> String {
    let mut out = format!("{:<8} {:<12} {:>10}\n", "Protocol", "State", "Flows");
    for state in &counted.states {
        let protocol = match state.protocol() {
            v1::Protocol::Unspecified => "IP",
            v1::Protocol::Tcp => "TCP",
            v1::Protocol::Udp => "UDP",
            v1::Protocol::Sctp => "SCTP",
        };
        out.push_str(&format!("{protocol:<8} {:<12} {:>10}\n", state.state, state.flows));
    }
    out.push_str(&format!("{:<21} {:>10}\n", "Total", counted.total));
    out
}

/// Shows what is and what happens.
pub(super) fn watch(
    output: Format,
    client: &mut Client<'_>,
    print: &dyn Fn(&str),
) -> Result<String, Failure> {
    let bold = std::io::stdout().is_terminal();
    let request = v1::WatchRequest {};
    client.follow(
        async |client| client.watch(request).await,
        |message| {
            print(&output.show_one("WatchResponse", &message, |message| event(message, bold)));
            ControlFlow::Continue(())
        },
    )?;
    Ok(String::new())
}

/// An event, a line for each thing that it tells.
fn event(message: &v1::WatchResponse, bold: bool) -> String {
    use v1::watch_response::Event;
    let time = message.time.map_or_else(
        || prost_types::Timestamp::from(SystemTime::UNIX_EPOCH),
        |time| prost_types::Timestamp { nanos: time.nanos / 1_000_000 * 1_000_000, ..time },
    );
    let lines = match &message.event {
        Some(Event::Snapshot(snapshot)) => {
            let reals: usize = snapshot.services.iter().map(|s| s.real_servers.len()).sum();
            let mut lines = vec![format!(
                "generation {}: {} services, {reals} real servers, {} workers",
                snapshot.generation,
                snapshot.services.len(),
                snapshot.workers.len()
            )];
            lines.extend(snapshot.drains.iter().map(progress));
            lines
        }
        Some(Event::Configuration(event)) => {
            let changes = event.changes.iter();
            changes
                .map(|change| format!("generation {}: {}", event.generation, change.description))
                .collect()
        }
        Some(Event::Drain(drain)) => vec![progress(drain)],
        Some(Event::Overload(event)) => {
            let what = if event.overloaded { "overloaded" } else { "no longer overloaded" };
            let real = named(&event.real_server.clone().unwrap_or_default());
            let service = service(event.service.as_ref());
            vec![format!("{what}: {real} of {service} with {} flows", event.flows)]
        }
        Some(Event::Worker(event)) => {
            let what = if event.running { "forwards" } else { "is down" };
            let why = if event.failure.is_empty() {
                String::new()
            } else {
                format!("; failed last: {}", event.failure)
            };
            vec![format!("worker {} {what}, {} restarts{why}", event.worker, event.restarts)]
        }
        Some(Event::Health(event)) => {
            let what = health::event_name(event);
            let real = event.real_server.as_ref();
            let real = real.map_or_else(String::new, |real| format!("{} of ", named(real)));
            vec![format!("{real}{} {what}: {}", service(event.service.as_ref()), event.note)]
        }
        // Of a newer daemon.
        None => vec!["?".to_owned()],
    };
    let (on, off) = if bold { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    lines.iter().map(|line| format!("{on}{time}{off}  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_have_a_unit() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("2h"), Ok(7200));
        assert!(seconds("5w").is_err() && seconds("s").is_err() && seconds("99999999d").is_err());
    }

    #[test]
    fn progress_tells_what_is_left_in_which_states() {
        let drain = v1::Drain {
            real_server: Some(v1::RealServerKey { address: "fd02::11".to_owned(), port: Some(80) }),
            phase: v1::drain::Phase::Draining.into(),
            active_flows: 2,
            inactive_flows: 1,
            states: vec![v1::StateCount { state: "ESTABLISHED".to_owned(), flows: 2, protocol: 6 }],
            ..v1::Drain::default()
        };
        let line = "draining: [fd02::11]:80 of ?, 3 flows left (2 active) ESTABLISHED 2";
        assert_eq!(progress(&drain), line);
    }
}
