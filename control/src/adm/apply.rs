//! A file of services as one request.

use std::{fs, io::Read as _, path::Path};

use dataplane::{
    director::spec::{RealSpec, ServiceSpec},
    ipvsadm::Refusal,
};

use super::{
    names::SystemNames,
    verbs::{failed, usage},
};
use crate::{
    config::{Config, Desired},
    convert::{answer, marks},
    proto::v1,
    rules,
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
    let entry = |service: &(ServiceSpec, Vec<RealSpec>)| {
        answer::service_entry(service, desired.policy(&service.0.key))
    };
    let setting = |(name, value): &(String, u32)| v1::Setting {
        name: name.clone(),
        value: value.to_string(),
    };
    Ok(v1::ApplyRequest {
        services: desired.services.iter().map(entry).collect(),
        timeouts: desired.timeouts.as_ref().map(answer::timeouts),
        settings: desired.settings.iter().map(setting).collect(),
        mark_rules: desired
            .mark_rules
            .as_deref()
            .map(|rules| v1::MarkRules { rules: rules.iter().map(marks::write).collect() }),
        expected_generation,
        validate_only,
        local_pool: desired.locals.as_ref().map(answer::local_pool),
        // Rules cannot speak of health checks.
        keep_health_policies: desired.policies.is_none(),
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
    // No line makes more than one of them.
    let endpoints = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
    let followed = rules::follow(text, &SystemNames::new(), &Desired::default(), endpoints);
    followed.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_a_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.2.0.1 -m\n").unwrap();
        let request = request(file.path(), true, Some(7)).unwrap();
        assert_eq!((request.services.len(), request.services[0].real_servers.len()), (1, 1));
        assert!(request.validate_only);
        assert_eq!(request.expected_generation, Some(7));
    }

    #[test]
    fn a_rule_that_cannot_be_is_refused_with_file_and_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "-C\n-D -t 10.0.0.1:80\n").unwrap();
        let refused = request(file.path(), false, None).unwrap_err();
        assert_eq!(refused.exit, 2);
        assert!(refused.message.ends_with(": line 2: No such service"), "{}", refused.message);
    }
}
