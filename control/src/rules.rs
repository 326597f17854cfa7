//! Rules in ipvsadm's language (`ipvsadm -S`) as part of a desired state.
//!
//! The lines are carried out one after the other on a director of their own, which starts with what
//! the configuration file wants; what that leads to is the desired state. So a rule may refer to
//! a service of the file, and a line that IPVS would refuse is refused here, with its number.

use dataplane::{
    director::{
        Director,
        spec::{DirectorError, ServiceInfo, TimeoutSpec},
    },
    ipvsadm::{self, Command, Names, RulesError},
};

use crate::config::{Desired, scratch};

/// Why rules were refused. One line.
#[derive(Debug, thiserror::Error)]
pub enum RulesRefused {
    /// A line is no rule.
    #[error(transparent)]
    Line(#[from] RulesError),
    /// IPVS would refuse a line.
    #[error("line {line}: {message}")]
    Refused {
        /// Its number, from 1.
        line: usize,
        /// What ipvsadm would print.
        message: String,
    },
    /// The state before the rules is refused, which was checked.
    #[error("{0}")]
    Before(String),
}

/// The state that these rules lead to from `before`, in a daemon with room for `endpoints`.
///
/// # Errors
///
/// The first line that is refused.
pub fn follow(
    text: &str,
    names: &dyn Names,
    before: &Desired,
    endpoints: u32,
) -> Result<Desired, RulesRefused> {
    let rules = ipvsadm::parse_rules(text, names)?;
    let mut director = scratch(endpoints);
    director.apply(&before.services).map_err(|error| RulesRefused::Before(error.to_string()))?;
    let mut timeouts = before.timeouts;
    for rule in rules {
        perform(&mut director, &mut timeouts, &rule.command).map_err(|error| {
            let message = ipvsadm::refusal(&rule.command, &error).message;
            RulesRefused::Refused { line: rule.line, message }
        })?;
    }
    let services = director.services().into_iter().map(asked).collect();
    let (settings, mark_rules) = (before.settings.clone(), before.mark_rules.clone());
    let (locals, policies) = (before.locals.clone(), before.policies.clone());
    Ok(Desired { services, timeouts, settings, mark_rules, locals, policies })
}

fn perform(
    director: &mut Director,
    timeouts: &mut Option<TimeoutSpec>,
    command: &Command,
) -> Result<(), DirectorError> {
    match command {
        Command::AddService(spec) => director.add_service(spec),
        Command::EditService(spec) => director.edit_service(spec),
        Command::DeleteService(key) => director.delete_service(key),
        Command::Flush => {
            director.flush();
            Ok(())
        }
        Command::AddReal { service, real } => director.add_real(service, real),
        Command::EditReal { service, real } => director.edit_real(service, real),
        Command::DeleteReal { service, addr, port } => director.delete_real(service, *addr, *port),
        Command::SetTimeouts(spec) => {
            let before = timeouts.unwrap_or(TimeoutSpec { tcp_s: 0, tcp_fin_s: 0, udp_s: 0 });
            let later = |new, old| if new == 0 { old } else { new };
            *timeouts = Some(TimeoutSpec {
                tcp_s: later(spec.tcp_s, before.tcp_s),
                tcp_fin_s: later(spec.tcp_fin_s, before.tcp_fin_s),
                udp_s: later(spec.udp_s, before.udp_s),
            });
            Ok(())
        }
        // There is nothing to zero yet.
        Command::Zero(_) => Ok(()),
        Command::StartDaemon(spec) => Err(DirectorError::Invalid {
            field: "start-daemon",
            reason: ipvsadm::Refusal::start_daemon(spec.role).message,
        }),
        // None ever runs.
        Command::StopDaemon(_) => Ok(()),
        Command::List(_)
        | Command::Save { .. }
        | Command::Restore
        | Command::Help
        | Command::Version => unreachable!("parse_rules() gives only commands that change"),
    }
}

/// A listed service as it would be asked for: lists show the real server added last first.
fn asked(
    info: ServiceInfo,
) -> (dataplane::director::spec::ServiceSpec, Vec<dataplane::director::spec::RealSpec>) {
    let reals = info.reals.iter().rev().map(|real| real.spec).collect();
    (info.spec, reals)
}

#[cfg(test)]
mod tests {
    use dataplane::ipvsadm::Numeric;

    use super::*;

    fn followed(text: &str) -> Result<Desired, RulesRefused> {
        follow(text, &Numeric, &Desired::default(), 64)
    }

    #[test]
    fn rules_lead_to_the_state_that_ipvsadm_would_make() {
        let text = "-A -t 10.0.0.1:80 -s rr\n\
                    -a -t 10.0.0.1:80 -r 10.2.0.11:8080 -m\n\
                    -a -t 10.0.0.1:80 -r 10.2.0.12:8080 -m -w 2\n\
                    -A -t 10.0.0.1:81 -s rr\n\
                    -e -t 10.0.0.1:80 -r 10.2.0.11:8080 -m -w 7\n\
                    -D -t 10.0.0.1:81\n\
                    --set 0 60 0\n";
        let desired = followed(text).unwrap();
        let [(service, reals)] = &desired.services[..] else { panic!("{desired:?}") };
        assert_eq!(service.scheduler, "rr");
        let weights: Vec<_> =
            reals.iter().map(|real| (real.addr.low32() & 255, real.weight)).collect();
        assert_eq!(weights, [(11, 7), (12, 2)]);
        let timeouts = TimeoutSpec { tcp_s: 0, tcp_fin_s: 60, udp_s: 0 };
        assert_eq!(desired.timeouts, Some(timeouts));
        // Again from there: nothing is left to do, so order is kept too.
        assert_eq!(follow("", &Numeric, &desired, 64).unwrap(), desired);
    }

    #[test]
    fn a_line_that_ipvs_would_refuse_is_named() {
        let refused = |text: &str| followed(text).unwrap_err().to_string();
        assert_eq!(
            refused("-A -t 10.0.0.1:80 -s rr\n\n-A -t 10.0.0.1:80 -s wlc"),
            "line 3: Service already exists"
        );
        assert_eq!(refused("-a -t 10.0.0.1:80 -r 10.2.0.11 -g"), "line 1: Service not defined");
        assert_eq!(
            refused("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.2.0.11 -w x"),
            "line 2: illegal weight specified"
        );
    }
}
