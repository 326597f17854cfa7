//! The verb `mark`: rules that give packets their firewall marks.

use clap::{Args, Subcommand};
use dataplane::{
    director::spec::MarkRule,
    ipvsadm::{Failure, Refusal},
    selector::{Ports, Prefix, Selector},
};

use super::{FAILED, client::Client, output::Format, status::other};
use crate::{convert::marks, proto::v1, words};

/// What to do with the rules.
#[derive(Debug, Subcommand)]
pub(super) enum Mark {
    /// Lists the rules, first to last, each as the arguments of `mark add`.
    List,
    /// Adds a rule behind the others.
    Add(Rule),
    /// Removes the first rule like this one.
    Remove(Rule),
    /// Removes all rules.
    Clear,
}

/// One rule.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Rule {
    /// The mark; 0 takes packets out of what earlier rules marked.
    mark: u32,
    /// Where packets go: an address or a prefix, as 10.0.0.0/24 or fd00::/64. It is a VIP.
    #[arg(long, value_name = "PREFIX")]
    to: Prefix,
    /// To which ports: 80, 80-90 or any.
    #[arg(long, visible_alias = "port", value_name = "PORTS", default_value = "any")]
    ports: Ports,
    /// tcp, udp or sctp; all three if it is left out.
    #[arg(long, value_parser = words::parse_protocol)]
    protocol: Option<u8>,
    /// Where packets come from: an address or a prefix.
    #[arg(long, value_name = "PREFIX")]
    from: Option<Prefix>,
}

/// Does it; gives back what is to be printed.
pub(super) fn run(mark: &Mark, output: Format, client: &mut Client<'_>) -> Result<String, Failure> {
    match mark {
        Mark::List => {
            let request = v1::ListMarkRulesRequest {};
            let listed = client.ask(async |client| client.list_mark_rules(request).await)?;
            if output != Format::Table {
                return Ok(output.show("ListMarkRulesResponse", &listed, |_| String::new()));
            }
            let mut text = String::new();
            for rule in listed.rules.unwrap_or_default().rules {
                let rule = marks::read(&rule).map_err(|error| {
                    let Refusal { message, exit } =
                        Refusal { message: format!("the daemon says {error}"), exit: FAILED };
                    other(message, exit)
                })?;
                text.push_str(&line(&rule));
            }
            Ok(text)
        }
        Mark::Add(rule) => {
            let request = v1::CreateMarkRuleRequest { rule: Some(marks::write(&rule.read())) };
            client.ask(async |client| client.create_mark_rule(request).await).map(|_| String::new())
        }
        Mark::Remove(rule) => {
            let request = v1::DeleteMarkRuleRequest { rule: Some(marks::write(&rule.read())) };
            client.ask(async |client| client.delete_mark_rule(request).await).map(|_| String::new())
        }
        Mark::Clear => {
            let request = v1::SetMarkRulesRequest { rules: Some(v1::MarkRules::default()) };
            client.ask(async |client| client.set_mark_rules(request).await).map(|_| String::new())
        }
    }
}

impl Rule {
    const fn read(self) -> MarkRule {
        let Self { mark, to, ports, protocol, from } = self;
        MarkRule { mark, selector: Selector { protocol, to, ports, from } }
    }
}

/// A rule as `mark add` takes it.
fn line(rule: &MarkRule) -> String {
    let Selector { protocol, to, ports, from } = rule.selector;
    let mut line = format!("{} --to {to}", rule.mark);
    if ports != Ports::ANY {
        line.push_str(&format!(" --ports {ports}"));
    }
    let named = |protocol: u8| words::PROTOCOLS.iter().find(|(_, number)| *number == protocol);
    if let Some((name, _)) = protocol.and_then(named) {
        line.push_str(&format!(" --protocol {name}"));
    }
    if let Some(from) = from {
        line.push_str(&format!(" --from {from}"));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        mark: Mark,
    }

    #[test]
    fn what_is_listed_can_be_added() {
        for text in [
            "5 --to 10.0.0.0/24",
            "0 --to 10.0.0.1 --ports 80-90 --protocol tcp --from 192.0.2.0/24",
            "4294967295 --to fd00::/64 --ports 53 --protocol udp",
        ] {
            let words = ["mark", "add"].into_iter().chain(text.split(' '));
            let Mark::Add(rule) = Line::try_parse_from(words).unwrap().mark else { panic!() };
            assert_eq!(line(&rule.read()), format!("{text}\n"));
        }
        for wrong in ["5", "5 --to 10.0.0.1/24", "5 --to 10.0.0.1 --port 90-80", "-1 --to ::/0"] {
            let words = ["mark", "add"].into_iter().chain(wrong.split(' '));
            assert!(Line::try_parse_from(words).is_err(), "{wrong}");
        }
    }
}
