//! Rules of marks, from messages and into them.

use dataplane::{
    director::spec::MarkRule,
    selector::{Ports, Prefix, Selector},
};

use crate::{field::FieldError, proto::v1};

/// Reads a rule.
///
/// # Errors
///
/// A field is missing, malformed or out of range.
pub fn read(message: &v1::MarkRule) -> Result<MarkRule, FieldError> {
    let selector = message.selector.as_ref().ok_or_else(|| FieldError::missing("selector"))?;
    let selector = selector_of(selector).map_err(|error| error.within("selector"))?;
    Ok(MarkRule { mark: message.mark, selector })
}

fn selector_of(message: &v1::Selector) -> Result<Selector, FieldError> {
    let protocol = match v1::Protocol::try_from(message.protocol) {
        Ok(v1::Protocol::Unspecified) => None,
        Ok(v1::Protocol::Tcp) => Some(6),
        Ok(v1::Protocol::Udp) => Some(17),
        Ok(v1::Protocol::Sctp) => Some(132),
        Err(_) => {
            let reason = format!("{} is neither TCP, UDP nor SCTP", message.protocol);
            return Err(FieldError::new("protocol", reason));
        }
    };
    if message.to.is_empty() {
        return Err(FieldError::missing("to"));
    }
    let from = match message.from.as_str() {
        "" => None,
        text => Some(prefix("from", text)?),
    };
    let ports = match (message.first_port, message.last_port) {
        (None, None) => Ports::ANY,
        (None, Some(_)) => return Err(FieldError::missing("first_port")),
        (Some(first), last) => Ports {
            first: port("first_port", first)?,
            last: port("last_port", last.unwrap_or(first))?,
        },
    };
    if ports.first > ports.last {
        let reason = format!("{} is below first_port {}", ports.last, ports.first);
        return Err(FieldError::new("last_port", reason));
    }
    Ok(Selector { protocol, to: prefix("to", &message.to)?, ports, from })
}

fn prefix(path: &str, text: &str) -> Result<Prefix, FieldError> {
    text.parse().map_err(|reason: String| FieldError::new(path, reason))
}

fn port(path: &str, value: u32) -> Result<u16, FieldError> {
    u16::try_from(value)
        .map_err(|_large| FieldError::new(path, format!("{value} is not within 0 to 65535")))
}

/// Writes a rule, every field filled in.
pub fn write(rule: &MarkRule) -> v1::MarkRule {
    let MarkRule { mark, selector: Selector { protocol, to, ports, from } } = *rule;
    v1::MarkRule {
        mark,
        selector: Some(v1::Selector {
            protocol: protocol.unwrap_or(0).into(),
            to: to.to_string(),
            first_port: Some(ports.first.into()),
            last_port: Some(ports.last.into()),
            from: from.map_or_else(String::new, |from| from.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_as_it_was() {
        for (protocol, to, ports, from) in [
            (None, "10.0.0.0/24", "any", None),
            (Some(6), "10.0.0.1", "80-90", Some("192.0.2.0/24")),
            (Some(132), "fd00::/64", "53", Some("::/0")),
        ] {
            let selector = Selector {
                protocol,
                to: to.parse().unwrap(),
                ports: ports.parse().unwrap(),
                from: from.map(|from| from.parse().unwrap()),
            };
            let rule = MarkRule { mark: 5, selector };
            assert_eq!(read(&write(&rule)), Ok(rule));
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let good = v1::Selector { to: "10.0.0.1".to_owned(), ..v1::Selector::default() };
        let error = |selector: v1::Selector| {
            let rule = v1::MarkRule { mark: 1, selector: Some(selector) };
            read(&rule).unwrap_err().to_string()
        };
        let with = |edit: fn(&mut v1::Selector)| {
            let mut selector = good.clone();
            edit(&mut selector);
            error(selector)
        };
        for (message, field) in [
            (with(|s| s.to.clear()), "selector.to"),
            (with(|s| s.to = "10.0.0.1/24".to_owned()), "selector.to"),
            (with(|s| s.from = "x".to_owned()), "selector.from"),
            (with(|s| s.last_port = Some(1)), "selector.first_port"),
            (with(|s| s.first_port = Some(65536)), "selector.first_port"),
            (with(|s| (s.first_port, s.last_port) = (Some(2), Some(1))), "selector.last_port"),
            (with(|s| s.protocol = 1), "selector.protocol"),
        ] {
            assert!(message.starts_with(field), "{message}");
        }
    }
}
