//! An agent on the real server tells what it is fit for, as HAProxy's `agent-check` does: one line of
//! words, `75%`, `up`, `down`, `failed`, `stopped`, `drain`, `maint`, `ready`, and a comment behind `#`.
//!
//! An agent that is silent says nothing about its server: what it advised last stays.
//! Source: HAProxy configuration manual, "agent-check".

use tokio::io::AsyncReadExt as _;

use super::{Found, Good, Means, connect::connect};
use crate::health::{board::Probe, member::Advice};

/// Octets of a line that are read.
const LINE_MAX: u64 = 256;

pub(super) async fn run(probe: &Probe, means: &Means) -> Found {
    let asked = async {
        let stream = connect(probe, means).await?;
        let mut line = Vec::new();
        let mut limited = stream.take(LINE_MAX);
        // Its end may be a line's or the connection's.
        while !line.contains(&b'\n') {
            match limited.read_buf(&mut line).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if !line.is_empty() => break,
                Err(error) => return Err(super::connect::words(&error)),
            }
        }
        Ok(String::from_utf8_lossy(&line).lines().next().unwrap_or_default().to_owned())
    };
    match tokio::time::timeout(probe.check.timeout.mul_f32(0.9), asked).await {
        Ok(Ok(line)) => read(&line),
        Ok(Err(error)) => Ok(Good::new(format!("silent: {error}"))),
        Err(_elapsed) => Ok(Good::new("silent")),
    }
}

/// What a line says.
fn read(line: &str) -> Found {
    let line = line.trim();
    let mut advice = Advice::default();
    let mut down = false;
    let (words, _) = line.split_once('#').unwrap_or((line, ""));
    for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "up" => {}
            "ready" => advice.drain = Some(false),
            "drain" => advice.drain = Some(true),
            "maint" | "down" | "failed" | "fail" | "stopped" => down = true,
            other => match other.strip_suffix('%').and_then(|number| number.parse().ok()) {
                Some(percent) => advice.percent = Some(percent),
                None => return Err(format!("`{line}` is no agent's answer")),
            },
        }
    }
    if down {
        return Err(line.to_owned());
    }
    Ok(Good { note: line.to_owned(), advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_words_are_those_of_haproxy() {
        let advice = |line: &str| read(line).map(|good| (good.advice.percent, good.advice.drain));
        assert_eq!(advice("75%\n"), Ok((Some(75), None)));
        assert_eq!(advice("up, 100% # all well"), Ok((Some(100), None)));
        assert_eq!(advice("drain"), Ok((None, Some(true))));
        assert_eq!(advice("ready up 5%"), Ok((Some(5), Some(false))));
        assert_eq!(advice(""), Ok((None, None)));
        assert_eq!(advice("down # disk full").unwrap_err(), "down # disk full");
        assert!(
            advice("maint").is_err() && advice("stopped").is_err() && advice("failed").is_err()
        );
        assert!(advice("75 percent").unwrap_err().contains("is no agent's answer"));
    }
}
