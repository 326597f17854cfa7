//! `xvsadm health`: what health checks found.

use std::time::SystemTime;

use dataplane::ipvsadm::Failure;

use super::{
    client::Client,
    operate::{named, service},
    output::Format,
};
use crate::proto::v1;

/// Shows what was found about every service that is checked.
pub(super) fn health(output: Format, client: &mut Client<'_>) -> Result<String, Failure> {
    let request = v1::ListHealthRequest::default();
    let found = client.examine(async |client| client.list_health(request).await)?;
    let now = SystemTime::now();
    Ok(output.show("ListHealthResponse", &found, |found| table(&found.services, now)))
}

fn table(services: &[v1::ServiceHealth], now: SystemTime) -> String {
    if services.is_empty() {
        return "no service is checked\n".to_owned();
    }
    services.iter().map(|each| group(each, now)).collect::<Vec<_>>().join("\n")
}

fn group(group: &v1::ServiceHealth, now: SystemTime) -> String {
    let quorum = if group.quorum { "" } else { ", quorum lost" };
    let panic = if group.panic { ", all are used" } else { "" };
    let sorry = if group.sorry { ", the sorry server is in their place" } else { "" };
    let mut text = format!(
        "{}: {} of {} real servers up{quorum}{panic}{sorry}\n",
        service(group.service.as_ref()),
        group.up,
        group.all,
    );
    let rows: Vec<_> = group.real_servers.iter().map(|real| row(real, now)).collect();
    let name = rows.iter().map(|row| row.0.len()).max().unwrap_or_default();
    for (real, state, since, share, found) in rows {
        let line = format!("  {real:name$}  {state:4}  {since:>8}  {share:>4}  {found}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

type Row = (String, &'static str, String, String, String);

fn row(real: &v1::RealServerHealth, now: SystemTime) -> Row {
    let name = named(&real.real_server.clone().unwrap_or_default());
    let state = if real.up { "up" } else { "DOWN" };
    let found: Vec<_> = if real.checks.is_empty() {
        real.complaints.clone()
    } else {
        let held = real.complaints.iter().filter(|said| !said.contains(": ")).cloned();
        real.checks.iter().map(check).chain(held).collect()
    };
    (name, state, since(real, now), format!("{}%", real.share_percent), found.join("; "))
}

/// For how long a real server is up or down; nothing where that is not known.
pub(super) fn since(real: &v1::RealServerHealth, now: SystemTime) -> String {
    let since = real.since.and_then(|since| SystemTime::try_from(since).ok());
    let since = since.and_then(|since| now.duration_since(since).ok());
    since.map_or_else(String::new, |since| age(since.as_secs()))
}

/// What a check found last, and how far that is from changing what it has come to.
fn check(check: &v1::CheckHealth) -> String {
    if check.last_at.is_none() {
        return format!("{}: not checked yet", check.kind);
    }
    let took = check.last_took.filter(|_| check.last_passed);
    let took = took.and_then(|took| std::time::Duration::try_from(took).ok());
    let took =
        took.map_or_else(String::new, |took| format!(" in {:.1} ms", took.as_secs_f64() * 1e3));
    let against = match (check.against, check.up) {
        (0, _) => String::new(),
        (times, true) => format!(", failed {times} times"),
        (times, false) => format!(", passed {times} times"),
    };
    format!("{}: {}{took}{against}", check.kind, check.last_note)
}

/// A span of time as people say it.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn each_real_server_has_a_line_that_says_why() {
        let at = |seconds: u64| Some((UNIX_EPOCH + Duration::from_secs(seconds)).into());
        let real = |last: u8, up, note: &str, against| v1::RealServerHealth {
            real_server: Some(v1::RealServerKey {
                address: format!("10.2.0.{last}"),
                port: Some(80),
            }),
            up,
            since: at(940),
            share_percent: if up { 100 } else { 0 },
            complaints: Vec::new(),
            checks: vec![v1::CheckHealth {
                kind: "http".to_owned(),
                up,
                against,
                last_at: at(999),
                last_note: note.to_owned(),
                last_passed: up,
                last_took: Some(prost_types::Duration { seconds: 0, nanos: 1_240_000 }),
                ..v1::CheckHealth::default()
            }],
        };
        let group = v1::ServiceHealth {
            real_servers: vec![real(9, true, "HTTP 200", 0), real(11, false, "HTTP 500", 1)],
            up: 1,
            all: 2,
            ..v1::ServiceHealth::default()
        };
        let text = table(&[group], UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(
            text,
            "?: 1 of 2 real servers up, quorum lost\n  \
             10.2.0.9:80   up        60 s  100%  http: HTTP 200 in 1.2 ms\n  \
             10.2.0.11:80  DOWN      60 s    0%  http: HTTP 500, passed 1 times\n"
        );
    }
}
