//! What becomes of a recording, and the two lists of recordings that are not judged.

use std::fmt;

use serde::Deserialize;

/// What was found about one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As the kernel did it, at every step; at `host` of them the host's own stack was asked.
    Ok {
        /// How many steps rest on the host's answer.
        host: usize,
        /// What was compared otherwise than to the letter.
        note: Option<String>,
    },
    /// Not as the kernel did it.
    Fail(Mismatch),
    /// Deliberately not as the kernel did it, for this reason.
    Differs(String),
    /// Not played, for this reason.
    Skip(String),
}

/// The first step that was not as the kernel did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// The step as the recording numbers it.
    pub(super) step: String,
    /// What the kernel did.
    pub(super) expected: String,
    /// What xvs did.
    pub(super) got: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: expected {}, got {}", self.step, self.expected, self.got)
    }
}

/// One entry of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Name of a recording; `*` stands for any text.
    name: String,
    /// The step it is about, as [`Mismatch::step`] names it, with `*` as in a name; every step if it
    /// is left out.
    step: Option<String>,
    /// Why.
    reason: String,
}

/// The recordings that differ on purpose and those that cannot be played yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exceptions {
    #[serde(default)]
    differs: Vec<Entry>,
    #[serde(default)]
    skip: Vec<Entry>,
}

impl Exceptions {
    /// Reads the list.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Why the recording `name` is not played, if so.
    pub(super) fn skip(&self, name: &str) -> Option<&str> {
        self.skip.iter().find(|e| matches(&e.name, name)).map(|e| e.reason.as_str())
    }

    /// The deliberate differences of the recording `name`.
    pub(super) fn of(&self, name: &str) -> Excuses<'_> {
        let about = |e: &&Entry| matches(&e.name, name);
        Excuses { entries: self.differs.iter().filter(about).collect(), used: None, note: None }
    }
}

/// What may differ in one recording, and whether it did.
#[derive(Debug)]
pub(super) struct Excuses<'a> {
    entries: Vec<&'a Entry>,
    used: Option<&'a str>,
    note: Option<String>,
}

impl Excuses<'_> {
    /// Whether the mismatch is deliberate: then the rest of the recording is played all the same.
    pub(super) fn excuse(&mut self, mismatch: &Mismatch) -> bool {
        let about = |e: &&&Entry| e.step.as_ref().is_none_or(|step| matches(step, &mismatch.step));
        let found = self.entries.iter().find(about);
        self.used = self.used.or_else(|| found.map(|entry| entry.reason.as_str()));
        found.is_some()
    }

    /// Says what is compared otherwise than to the letter.
    pub(super) fn note(&mut self, what: String) {
        self.note = Some(what);
    }

    /// The outcome of a recording whose other steps all ended like the kernel's.
    pub(super) fn outcome(&self, host: usize) -> Outcome {
        match self.used {
            Some(reason) => Outcome::Differs(reason.to_owned()),
            None => Outcome::Ok { host, note: self.note.clone() },
        }
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|name| {
            (0..=name.len()).any(|skip| name.is_char_boundary(skip) && matches(rest, &name[skip..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: &str) -> Mismatch {
        let (step, expected, got) = (step.to_owned(), String::new(), String::new());
        Mismatch { step, expected, got }
    }

    #[test]
    fn a_deliberate_difference_is_bound_to_its_step() {
        let list = Exceptions::parse(
            "[[differs]]\nname = \"behave/edited*\"\nstep = \"6\"\nreason = \"a kernel flaw\"\n\
             [[skip]]\nname = \"*/sync-*\"\nreason = \"no sync daemon\"\n",
        )
        .unwrap();
        let mut excuses = list.of("behave/edited-server");
        assert!(!excuses.excuse(&failed("5")));
        assert_eq!(excuses.outcome(2), Outcome::Ok { host: 2, note: None });
        assert!(excuses.excuse(&failed("6")));
        assert_eq!(excuses.outcome(2), Outcome::Differs("a kernel flaw".to_owned()));
        assert!(!list.of("behave/other").excuse(&failed("6")));
        assert_eq!(list.skip("behave/sync-v1-master"), Some("no sync daemon"));
        assert_eq!(list.skip("behave/persist"), None);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(
            matches("fwd/gue*", "fwd/gue4csum") && matches("*", "") && matches("a*b*c", "axbbc")
        );
        assert!(!matches("fwd/gue", "fwd/gue4") && !matches("a*b", "ac"));
    }

    #[test]
    fn a_list_with_a_misspelt_field_is_refused() {
        assert!(Exceptions::parse("[[skip]]\nname = \"a\"\nwhy = \"b\"\n").is_err());
    }
}
