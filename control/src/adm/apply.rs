//! A file of services as one request.

use std::{fs, io::Read as _, path::Path};

use dataplane::{
    director::spec::{DirectorError, RealSpec, ServiceKey, ServiceSpec, TimeoutSpec},
    ipvsadm::{Command, Refusal, parse_rules, refusal},
};

use super::{
    names::SystemNames,
    verbs::{failed, usage},
};
use crate::{
    config::{Config, Desired},
    convert::answer,
    proto::v1,
};

/// Reads a file into a request.
///
/// # Errors
///
/// It cannot be read, or something in it is wrong.
pub(super) fn request(
    file: &Path,
    validate_only: bool,
    expected_generation: Option<u64>,
) -> Result<v1::ApplyRequest, Refusal> {
    let desired = read(file)?;
    let entry = |(spec, reals): &(ServiceSpec, Vec<RealSpec>)| v1::ServiceEntry {
        service: Some(answer::service(spec)),
        real_servers: reals.iter().map(answer::real_server).collect(),
    };
    let setting = |(name, value): &(String, u32)| v1::Setting {
        name: name.clone(),
        value: value.to_string(),
    };
    Ok(v1::ApplyRequest {
        services: desired.services.iter().map(entry).collect(),
        timeouts: desired.timeouts.as_ref().map(answer::timeouts),
        settings: desired.settings.iter().map(setting).collect(),
        expected_generation,
        validate_only,
    })
}

fn read(file: &Path) -> Result<Desired, Refusal> {
    let name = file.display();
    if file.extension().is_some_and(|extension| extension == "toml") {
        let config = Config::load(file).map_err(|error| usage(&format!("{name}: {error}")))?;
        return Ok(config.desired);
    }
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| failed(&format!("{name}: {error}")))?;
    rules(&text).map_err(|message| usage(&format!("{name}: {message}")))
}

/// What is there after all commands of a rules text, begun with nothing.
fn rules(text: &str) -> Result<Desired, String> {
    let mut desired = Desired::default();
    for rule in parse_rules(text, &SystemNames::new()).map_err(|error| error.to_string())? {
        take(&mut desired, &rule.command).map_err(|error| {
            format!("line {}: {}", rule.line, refusal(&rule.command, &error).message)
        })?;
    }
    Ok(desired)
}

fn take(desired: &mut Desired, command: &Command) -> Result<(), DirectorError> {
    let services = &mut desired.services;
    let at = |services: &[(ServiceSpec, Vec<RealSpec>)], key: &ServiceKey| {
        let found = services.iter().position(|(spec, _)| spec.key == *key);
        found.ok_or(DirectorError::NoSuchService)
    };
    let real_at = |reals: &[RealSpec], (addr, port)| {
        let found = reals.iter().position(|real| (real.addr, real.port) == (addr, port));
        found.ok_or(DirectorError::NoSuchReal)
    };
    match command {
        Command::AddService(spec) => {
            if at(services, &spec.key).is_ok() {
                return Err(DirectorError::ServiceExists);
            }
            services.push((spec.clone(), Vec::new()));
        }
        Command::EditService(spec) => {
            let place = at(services, &spec.key)?;
            services[place].0 = spec.clone();
        }
        Command::DeleteService(key) => {
            services.remove(at(services, key)?);
        }
        Command::Flush => services.clear(),
        Command::AddReal { service, real } => {
            let place = at(services, service)?;
            let reals = &mut services[place].1;
            if real_at(reals, (real.addr, real.port)).is_ok() {
                return Err(DirectorError::RealExists);
            }
            reals.push(*real);
        }
        Command::EditReal { service, real } => {
            let place = at(services, service)?;
            let reals = &mut services[place].1;
            let place = real_at(reals, (real.addr, real.port))?;
            reals[place] = *real;
        }
        Command::DeleteReal { service, addr, port } => {
            let place = at(services, service)?;
            let reals = &mut services[place].1;
            reals.remove(real_at(reals, (*addr, *port))?);
        }
        Command::SetTimeouts(asked) => {
            let now =
                desired.timeouts.get_or_insert(TimeoutSpec { tcp_s: 0, tcp_fin_s: 0, udp_s: 0 });
            let keep = |now: u32, asked| if asked == 0 { now } else { asked };
            *now = TimeoutSpec {
                tcp_s: keep(now.tcp_s, asked.tcp_s),
                tcp_fin_s: keep(now.tcp_fin_s, asked.tcp_fin_s),
                udp_s: keep(now.udp_s, asked.udp_s),
            };
        }
        // Counters are no part of what is desired.
        Command::Zero(_) => {}
        _ => {
            let reason = "a configuration cannot say this".to_owned();
            return Err(DirectorError::Invalid { field: "command", reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_add_up_to_what_they_leave_behind() {
        let desired = rules(
            "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.2.0.1 -m\n\
             -a -t 10.0.0.1:80 -r 10.2.0.2 -m\n-e -t 10.0.0.1:80 -r 10.2.0.2 -m -w 7\n\
             -d -t 10.0.0.1:80 -r 10.2.0.1\n-A -f 1\n-D -f 1\n-E -t 10.0.0.1:80 -s sh\n\
             --set 10 0 0\n--set 0 0 30\n",
        )
        .unwrap();
        let [(service, reals)] = &desired.services[..] else {
            panic!("{desired:?}");
        };
        assert_eq!((service.scheduler.as_str(), reals.len(), reals[0].weight), ("sh", 1, 7));
        let timeouts = TimeoutSpec { tcp_s: 10, tcp_fin_s: 0, udp_s: 30 };
        assert_eq!(desired.timeouts, Some(timeouts));
    }

    #[test]
    fn a_rule_that_cannot_be_is_refused_with_its_line() {
        for (text, message) in [
            ("-C\n-D -f 1", "line 2: No such service"),
            ("-a -f 1 -r 10.2.0.1", "line 1: Service not defined"),
            ("-A -f 1\n-A -f 1", "line 2: Service already exists"),
            ("-A -f 1\n-e -f 1 -r 10.2.0.1", "line 2: No such destination"),
            ("-A -f 0", "line 1: invalid fwmark value `0' specified"),
            ("--stop-daemon master", "line 1: command: a configuration cannot say this"),
        ] {
            assert_eq!(rules(text).unwrap_err(), message);
        }
    }
}
