//! What is wrong with a field: its path, the reason, and the nearest right name.
//!
//! One form for everything that comes from outside, TOML and gRPC alike:
//! ``service[0].scheduler: unknown scheduler `rrr`; did you mean `rr`?``

use std::fmt::{self, Write as _};

/// A field that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// Where it stands: `services[0].real_servers[2].address`.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl FieldError {
    /// Says what is wrong with the field at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// Says that the field at `path` has to be given.
    pub fn missing(path: impl Into<String>) -> Self {
        Self::new(path, "must be given")
    }

    /// The same error, seen from the message that holds the field as `outer`.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{outer}{dot}{}", self.path), reason: self.reason }
    }
}

/// The reason to refuse a name that is none of `known`: says what it should have named and which
/// known name is nearest, or all of them if none is near.
pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.into_iter().collect();
    let mut reason = format!("unknown {what} `{name}`");
    let written = match nearest(name, &known) {
        Some(near) => write!(reason, "; did you mean `{near}`?"),
        None => write!(reason, "; there are: {}", known.join(", ")),
    };
    written.expect("writing to a string does not fail");
    reason
}

/// Octets of a name that may be a misspelt one.
const NAME_MAX: usize = 64;

/// The known name that most probably was meant: no more than a third of its letters differ, at
/// least one may.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // The distance takes time and room by the product of both lengths.
    if name.len() > NAME_MAX {
        return None;
    }
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
    let near = known.iter().min_by_key(|known| distance(known))?;
    (distance(near) <= (near.len() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let known = ["rr", "wrr", "wlc", "lblcr"];
        assert_eq!(
            unknown("scheduler", "rrr", known),
            "unknown scheduler `rrr`; did you mean `rr`?"
        );
        assert_eq!(nearest("lbclr", &known), Some("lblcr"));
        assert_eq!(nearest("WLC", &known), Some("wlc"));
        assert_eq!(nearest(&"wrr".repeat(1 << 20), &known), None, "it is not even compared");
    }

    #[test]
    fn a_name_near_to_none_is_answered_with_all() {
        assert_eq!(
            unknown("scheduler", "maglev", ["rr", "mh"]),
            "unknown scheduler `maglev`; there are: rr, mh"
        );
    }

    #[test]
    fn a_path_grows_outwards() {
        let error = FieldError::new("address", "must be given");
        let error = error.within("real_servers[2]").within("services[0]");
        assert_eq!(error.to_string(), "services[0].real_servers[2].address: must be given");
    }
}
