//! Plays a trace: every packet that came out, every listing that was printed, compared.

use dataplane::{director::SETTINGS, verdict::DeviceId};

use super::{
    host, listing, local,
    mask::{self, Seen},
    network::BACKEND,
    packet::summary,
    trace::{Action, Frame, Step, Trace},
    verdict::{Excuses, Mismatch, Outcome},
    world::{BEFORE_STATE, Reaction, World},
};

/// What the kernel did and what we did.
type Difference = (String, String);

/// Plays a trace to its end or to its first step that differs without an excuse.
pub(super) fn play(trace: &Trace, excuses: &mut Excuses<'_>) -> Outcome {
    let mut player = Player { world: World::new(), seen: Seen::default(), host: 0 };
    match player.run(trace, excuses) {
        Ok(()) => excuses.outcome(player.host),
        Err(mismatch) => Outcome::Fail(mismatch),
    }
}

/// A line of a recording's rules as a command.
fn command_of(rule: &str) -> String {
    match rule.strip_prefix('!') {
        Some(command) => command.trim().to_owned(),
        None => format!("ipvsadm {rule}"),
    }
}

/// Commands that a recording does not have as steps: its notes tell of them.
///
/// `NAME=VALUE: ...` means that a sysctl was set before the step; "the same service added again"
/// means the rules from the beginning.
fn unrecorded(note: &str, rules: &[String]) -> Vec<String> {
    if note.starts_with("the same service added again") {
        return rules.iter().map(|rule| command_of(rule)).collect();
    }
    let setting = note.split_once(':').and_then(|(head, _)| head.split_once('='));
    let known =
        setting.filter(|(name, value)| SETTINGS.contains(name) && value.parse::<u32>().is_ok());
    known
        .map(|(name, value)| format!("sysctl -wq net.ipv4.vs.{name}={value}"))
        .into_iter()
        .collect()
}

struct Player {
    world: World,
    seen: Seen,
    host: usize,
}

impl Player {
    fn run(&mut self, trace: &Trace, excuses: &mut Excuses<'_>) -> Result<(), Mismatch> {
        let mut judge = |step: &str, result: Result<(), Difference>| match result {
            Ok(()) => Ok(()),
            Err((expected, got)) => {
                let mismatch = Mismatch { step: step.to_owned(), expected, got };
                if excuses.excuse(&mismatch) { Ok(()) } else { Err(mismatch) }
            }
        };
        for rule in &trace.rules {
            let command = command_of(rule);
            let done = self.world.shell(&command);
            judge("rules", done.map(drop).map_err(|why| (format!("`{command}` to be done"), why)))?;
        }
        for step in &trace.steps {
            for command in unrecorded(&step.note, &trace.rules) {
                let done = self.world.shell(&command).map(drop);
                let wanted = |why| (format!("`{command}` to be done"), why);
                judge(&step.number.to_string(), done.map_err(wanted))?;
            }
            let result = self.step(step).map_err(|(expected, got)| match step.note.as_str() {
                "" => (expected, got),
                note => (expected, format!("{got} ({note})")),
            });
            judge(&step.number.to_string(), result)?;
        }
        self.world.advance(BEFORE_STATE);
        for (command, expected) in &trace.state {
            judge("state", self.command(command, expected))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Difference> {
        match &step.action {
            Action::Command(command, expected) => {
                if let Some((_, frame)) = step.out.first() {
                    return Err((summary(frame), "a command sends nothing".to_owned()));
                }
                self.command(command, expected)
            }
            Action::Packet(input) => {
                let reaction = self.world.inject(input.0, &input.1);
                self.seen.next_step();
                self.packets(input, &step.out, &reaction)
            }
        }
    }

    fn command(&mut self, command: &str, expected: &str) -> Result<(), Difference> {
        let got = self.world.shell(command).map_err(|why| (format!("`{command}`"), why))?;
        listing::compare(command, expected, &got)
            .map_err(|(expected, got)| (format!("`{command}`: {expected}"), got))
    }

    /// What came out, device by device.
    fn packets(
        &mut self,
        input: &Frame,
        expected: &[Frame],
        reaction: &Reaction,
    ) -> Result<(), Difference> {
        if let Some(local) = reaction.local() {
            return self.local(local, expected);
        }
        if !reaction.host.is_empty() && reaction.sent.is_empty() {
            let (world, seen) = (&self.world, &expected);
            let hosts = seen.iter().all(|(device, frame)| {
                host::answered(&input.1, frame, *device == input.0, |addr| world.is_local(addr))
            });
            if hosts {
                self.host += 1;
                return Ok(());
            }
        }
        for device in [DeviceId(0), BACKEND] {
            let on = |frames: &[Frame]| -> Vec<Vec<u8>> {
                frames.iter().filter(|f| f.0 == device).map(|f| f.1.clone()).collect()
            };
            let (theirs, ours) = (on(expected), on(&reaction.sent));
            for at in 0..theirs.len().max(ours.len()) {
                let pair = (theirs.get(at), ours.get(at));
                self.packet(input, pair, device, reaction)?;
            }
        }
        Ok(())
    }

    /// A packet was for a real server on the director itself: the recording shows what the host's
    /// stack answered, as it left. It comes back to us as the stack sent it, and what then leaves
    /// (nothing, where the answer needs no translation and has left by itself) is compared.
    fn local(&mut self, given: &[u8], expected: &[Frame]) -> Result<(), Difference> {
        self.host += 1;
        for (device, theirs) in expected {
            let told = || format!("the host's answer {}", summary(theirs));
            let Some(raw) = local::as_sent(given, theirs) else {
                return Err((told(), "an answer that is none to what the host was given".into()));
            };
            let translated = raw != *theirs;
            let reaction = self.world.inject(DeviceId::HOST, &raw);
            match (translated, reaction.sent.as_slice()) {
                (false, []) => {}
                (true, [(out, ours)]) if out == device => {
                    mask::compare(None, theirs, ours, &mut self.seen)
                        .map_err(|why| (told(), format!("{}: {why}", summary(ours))))?;
                }
                _ => return Err((told(), reaction.outcome())),
            }
        }
        Ok(())
    }

    fn packet(
        &mut self,
        input: &Frame,
        (theirs, ours): (Option<&Vec<u8>>, Option<&Vec<u8>>),
        device: DeviceId,
        reaction: &Reaction,
    ) -> Result<(), Difference> {
        let side = if device == BACKEND { "backend" } else { "client" };
        let told = |frame: &Vec<u8>| format!("{side} {}", summary(frame));
        match (theirs, ours) {
            (Some(theirs), Some(ours)) => {
                mask::compare(Some(&input.1), theirs, ours, &mut self.seen)
                    .map_err(|why| (told(theirs), format!("{}: {why}", told(ours))))
            }
            (Some(theirs), None) => Err((told(theirs), reaction.outcome())),
            (None, Some(ours)) => Err((format!("nothing on {side}"), told(ours))),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_tell_of_commands_that_were_not_recorded() {
        let rules = ["-A -t 10.0.0.1:80 -s rr".to_owned(), "! sleep 1".to_owned()];
        assert_eq!(
            unrecorded("the same service added again: with its counters", &rules),
            ["ipvsadm -A -t 10.0.0.1:80 -s rr", "sleep 1"]
        );
        let set = ["sysctl -wq net.ipv4.vs.sloppy_tcp=1"];
        assert_eq!(unrecorded("sloppy_tcp=1: RST", &rules), set);
        for note in ["tcp S", "data, the server is removed, expire_nodest_conn=1", "a=1: b"] {
            assert!(unrecorded(note, &rules).is_empty());
        }
    }
}
