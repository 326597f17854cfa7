//! `.seq` recordings: which real server every new connection got.
//!
//! Every line is played through the whole pipeline with real packets: a pick is read off the packet
//! that leaves for a real server, so state machine, load counts and scheduler are judged together.

use std::net::SocketAddr;

/// One operation of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A command on the director.
    Command(String),
    /// A client opens a connection.
    Open {
        /// By a datagram, not by a SYN.
        udp: bool,
        /// The client.
        from: SocketAddr,
        /// Where to, if not the service's own address.
        to: Option<SocketAddr>,
        /// What came of it: a real server, `-`, `rst` or `icmp T/C`.
        pick: String,
    },
    /// The connection's number becomes ESTABLISHED.
    Establish(usize),
    /// It is closed from both sides.
    Finish(usize),
    /// The client resets it.
    Reset(usize),
    /// The real servers in the kernel's own order with weight and loads.
    List(String),
}

/// Reads a recording: every operation with its line number.
///
/// # Errors
///
/// The number of the line that cannot be read, and why.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Op)>, String> {
    let mut ops = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let op = operation(line).map_err(|why| format!("line {number}: {why}: `{line}`"))?;
        ops.extend(op.map(|op| (number, op)));
    }
    Ok(ops)
}

fn operation(line: &str) -> Result<Option<Op>, String> {
    let (kind, rest) = line.trim().split_once(' ').unwrap_or_else(|| (line.trim(), ""));
    let number = || rest.trim().parse().map_err(|error| format!("connection number: {error}"));
    Ok(Some(match kind {
        "" => return Ok(None),
        "#" => match rest.trim().strip_prefix("list ") {
            Some(list) => Op::List(list.trim().to_owned()),
            None => return Ok(None),
        },
        "!" => Op::Command(rest.trim().to_owned()),
        "S" | "U" => {
            let (ends, pick) = rest.split_once('=').ok_or("no pick")?;
            let mut ends = ends
                .split_whitespace()
                .map(|end| end.parse::<SocketAddr>().map_err(|error| format!("address: {error}")));
            let from = ends.next().ok_or("no client")??;
            let to = ends.next().transpose()?;
            Op::Open { udp: kind == "U", from, to, pick: pick.trim().to_owned() }
        }
        "E" => Op::Establish(number()?),
        "F" => Op::Finish(number()?),
        "R" => Op::Reset(number()?),
        _ => return Err("unknown operation".to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_read_and_numbered_by_its_line() {
        let text = "# a comment\n! ipvsadm -C\n# list a=1:0:0\n\nS 10.0.0.9:1 = rst\n\
            U [2001:db8::1]:2 [fd03::2]:80 = [fd02::11]:80\nE 1\nF 1\nR 2\n";
        let open = |udp, from: &str, to: Option<&str>, pick: &str| Op::Open {
            udp,
            from: from.parse().unwrap(),
            to: to.map(|to| to.parse().unwrap()),
            pick: pick.to_owned(),
        };
        let ops = parse(text).unwrap();
        assert_eq!(
            ops,
            [
                (2, Op::Command("ipvsadm -C".to_owned())),
                (3, Op::List("a=1:0:0".to_owned())),
                (5, open(false, "10.0.0.9:1", None, "rst")),
                (6, open(true, "[2001:db8::1]:2", Some("[fd03::2]:80"), "[fd02::11]:80")),
                (7, Op::Establish(1)),
                (8, Op::Finish(1)),
                (9, Op::Reset(2)),
            ]
        );
    }

    #[test]
    fn a_line_nobody_understands_is_an_error_with_its_number() {
        assert!(parse("E 1\nX 2\n").unwrap_err().starts_with("line 2: unknown operation"));
        assert!(parse("S 10.0.0.9:1\n").unwrap_err().contains("no pick"));
        assert!(parse("E one\n").unwrap_err().contains("connection number"));
    }
}
