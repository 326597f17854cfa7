//! Plays texts: commands, what they print, how they exit.
//!
//! `errors.txt` gives every command to a director of its own with the rules that the head of the file
//! names; other files give theirs to one director, one after the other.

use super::{
    verdict::{Excuses, Mismatch, Outcome},
    world::World,
};

/// The rules that every command of `errors.txt` finds.
const BASE: [&str; 3] =
    ["-A -t 10.0.0.1:80 -s rr", "-a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m", "-A -f 1 -s rr"];

/// A command and what it did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) command: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) exit: u8,
    /// Rules that it added.
    rules: Vec<String>,
    /// Whether there was traffic right before it.
    pub(super) after_traffic: bool,
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    let (mut to_stderr, mut ended, mut traffic) = (false, true, false);
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            exchanges.push(Exchange {
                command: command.to_owned(),
                after_traffic: traffic,
                ..Exchange::default()
            });
            (to_stderr, ended, traffic) = (false, false, false);
            continue;
        }
        // Between commands there are blank lines and remarks.
        if ended && !line.starts_with('[') {
            traffic |= line.starts_with("# after some traffic");
            continue;
        }
        // The head of the file comes before the first command.
        let Some(exchange) = exchanges.last_mut() else { continue };
        let bracketed = |name: &str| line.strip_prefix(name)?.strip_suffix(']');
        if line == "[stderr]" || line == "[stdout]" {
            to_stderr = line == "[stderr]";
        } else if let Some(exit) = bracketed("[exit ").and_then(|exit| exit.parse().ok()) {
            exchange.exit = exit;
            ended = true;
        } else if let Some(rule) = line.strip_prefix("[rule] ") {
            exchange.rules.push(rule.to_owned());
        } else {
            let stream = if to_stderr { &mut exchange.stderr } else { &mut exchange.stdout };
            stream.push_str(line);
            stream.push('\n');
        }
    }
    for exchange in &mut exchanges {
        // A blank line sets commands apart; it is not printed.
        if exchange.stdout == "\n" {
            exchange.stdout.clear();
        } else if exchange.stdout.ends_with("\n\n") {
            exchange.stdout.pop();
        }
        if exchange.stderr.ends_with("\n\n") {
            exchange.stderr.pop();
        }
    }
    exchanges
}

/// Plays one command of `errors.txt`.
pub(super) fn play_error(exchange: &Exchange, excuses: &mut Excuses<'_>) -> Outcome {
    let mut world = World::new();
    for rule in BASE {
        // A rule that this director does not take is missing from its listings, which is seen there.
        world.ipvsadm_line(rule);
    }
    let before = saved(&mut world);
    if let Err(mismatch) = play_one(&mut world, exchange)
        && !excuses.excuse(&mismatch)
    {
        return Outcome::Fail(mismatch);
    }
    let after = saved(&mut world);
    let added: Vec<_> = after.into_iter().filter(|rule| !before.contains(rule)).collect();
    let (expected, got) = (exchange.rules.join("; "), added.join("; "));
    let mismatch = Mismatch { step: format!("`{}`", exchange.command), expected, got };
    // What several commands in one line added was not recorded.
    let recorded = !exchange.command.contains(';');
    if recorded && added != exchange.rules && !excuses.excuse(&mismatch) {
        return Outcome::Fail(mismatch);
    }
    excuses.outcome(0)
}

/// Plays all commands of a text on one director.
pub(super) fn play(exchanges: &[Exchange], excuses: &mut Excuses<'_>) -> Outcome {
    let mut world = World::new();
    for exchange in exchanges {
        if let Err(mismatch) = play_one(&mut world, exchange)
            && !excuses.excuse(&mismatch)
        {
            return Outcome::Fail(mismatch);
        }
    }
    excuses.outcome(0)
}

fn saved(world: &mut World) -> Vec<String> {
    world.ipvsadm_line("-Sn").stdout.lines().map(str::to_owned).collect()
}

fn play_one(world: &mut World, exchange: &Exchange) -> Result<(), Mismatch> {
    let printed = world.line(&exchange.command);
    let pairs = [
        (exchange.stdout.clone(), printed.stdout),
        (exchange.stderr.clone(), printed.stderr),
        (format!("exit {}", exchange.exit), format!("exit {}", printed.exit)),
    ];
    match pairs.into_iter().find(|(expected, got)| expected != got) {
        None => Ok(()),
        Some(pair) => Err(mismatch(&exchange.command, pair)),
    }
}

/// What a command should have printed, and what it did.
pub(super) fn mismatch(command: &str, (expected, got): (String, String)) -> Mismatch {
    let show = |text: &str| format!("`{}`", text.trim_end().replace('\n', " | "));
    Mismatch { step: format!("`{command}`"), expected: show(&expected), got: show(&got) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_command_by_command() {
        let text = "# head\n\n$ ipvsadm -A -t a\n[stderr]\nno\n[exit 255]\n\n\
            $ ipvsadm -L\none\n\ntwo\n[exit 0]\n[rule] -A -t x\n";
        let exchanges = parse(text);
        assert_eq!(exchanges.len(), 2);
        let first = &exchanges[0];
        assert_eq!((first.stderr.trim_end(), first.exit, first.stdout.as_str()), ("no", 255, ""));
        let second = &exchanges[1];
        assert_eq!((second.stdout.as_str(), second.exit), ("one\n\ntwo\n", 0));
        assert_eq!(second.rules, ["-A -t x"]);
    }
}
