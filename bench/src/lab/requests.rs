//! Many HTTP requests by curl, each on a connection of its own, and who answered them.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{Namespace, process::output};

/// How long one request may take, in seconds.
const PATIENCE_S: u32 = 5;

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers by the server's name.
    pub answers: BTreeMap<String, usize>,
    /// What curl says of requests that nobody answered.
    pub failures: Vec<String>,
    /// How long the slowest took.
    pub slowest: Duration,
}

impl Tally {
    /// Asks `count` times for `/`, one request after the other, each on a new connection.
    ///
    /// # Errors
    ///
    /// curl cannot be run.
    pub fn take(client: &Namespace, vip: IpAddr, count: usize) -> anyhow::Result<Self> {
        let host = match vip {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let mut command = client.command("curl");
        command.args(["-s", "-g", "-H", "Connection: close", "--noproxy", "*"]);
        command.args(["--max-time", &PATIENCE_S.to_string()]);
        command.args(["-w", "\t%{http_code}\t%{time_total}\t%{errormsg}\n"]);
        // `-g` lets IPv6 addresses be and switches ranges off, so each request is spelled out.
        command.args(vec![format!("http://{host}/"); count]);
        let printed = output(&mut command)?;
        Ok(Self::read(&String::from_utf8_lossy(&printed.stdout), count))
    }

    /// Reads what curl printed: a body, and behind it the line that was asked for.
    fn read(printed: &str, count: usize) -> Self {
        let mut tally = Self::default();
        let mut body = String::new();
        for line in printed.lines() {
            let [before, status, seconds, error] = line.split('\t').collect::<Vec<_>>()[..] else {
                body.push_str(line);
                continue;
            };
            body.push_str(before);
            let name = std::mem::take(&mut body);
            if status == "200" {
                *tally.answers.entry(name).or_default() += 1;
            } else {
                tally.failures.push(format!("status {status}: {error}"));
            }
            let took = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            tally.slowest = tally.slowest.max(took.unwrap_or_default());
        }
        let silent = count.saturating_sub(tally.answered() + tally.failures.len());
        tally.failures.resize(tally.failures.len() + silent, "curl was ended".to_owned());
        tally
    }

    /// How many requests were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_server_and_silence_is_a_failure() {
        let printed = "real1\n\t200\t0.001\t\nreal2\n\t200\t0.002\t\n\t000\t5.0\ttimed out\n";
        let tally = Tally::read(printed, 5);
        assert_eq!(tally.answers, BTreeMap::from([("real1".into(), 1), ("real2".into(), 1)]));
        assert_eq!(tally.failures, ["status 000: timed out", "curl was ended", "curl was ended"]);
        assert_eq!(tally.slowest, Duration::from_secs(5));
    }
}
