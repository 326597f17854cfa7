//! Rules: what `ipvsadm -S` writes and `-R` reads, one command a line.
//!
//! Words are divided by blanks; there is no quoting. A word `ipvsadm` is passed over, so that a
//! script of ipvsadm commands is a rules text too. Lines without words are passed over.
//! Source: ipvsadm-restore(8); ipvsadm 1.31, observed.

use std::borrow::Cow;

use super::{
    check::usage,
    command::{Command, Usage},
    names::Names,
    parse::parse,
};

/// One command of a rules text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its line, from 1.
    pub line: usize,
    /// What it asks for.
    pub command: Command,
}

/// The first line that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {usage}")]
pub struct RulesError {
    /// Its line, from 1.
    pub line: usize,
    /// Why.
    pub usage: Usage,
}

/// The words of a line.
pub(super) fn words(line: &str) -> Vec<&str> {
    let words = line.split([' ', '\t', '\r', '\n']);
    words.filter(|word| !word.is_empty() && *word != "ipvsadm").collect()
}

/// A line with the marks in it as `-A -f` takes them: ipvsadm saves those above 2147483647 as
/// negative numbers, which it refuses to read again.
pub(super) fn unsigned_marks(line: &str) -> Cow<'_, str> {
    let found = words(line);
    let negative = found.windows(2).find_map(|pair| {
        let mark: i32 = pair[1].parse().ok()?;
        let named = matches!(pair[0], "-f" | "--fwmark-service");
        (named && mark < 0).then(|| mark.cast_unsigned().to_string())
    });
    let Some(mark) = negative else { return Cow::Borrowed(line) };
    let mut named = false;
    let written = found.iter().map(|&word| {
        let this = std::mem::replace(&mut named, matches!(word, "-f" | "--fwmark-service"));
        if this { mark.as_str() } else { word }
    });
    Cow::Owned(written.collect::<Vec<_>>().join(" "))
}

/// Reads a whole rules text, as a file of it is read before anything is done.
///
/// Two things differ from `-R`, which acts line by line: a `#` at the start of a word makes the
/// rest of its line a comment, as ipvsadm's manual has it but its reader does not, and only
/// commands that change something are rules.
///
/// # Errors
///
/// The first line that is no rule.
pub fn parse_rules(text: &str, names: &dyn Names) -> Result<Vec<Rule>, RulesError> {
    let mut rules = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let text = unsigned_marks(line);
        let (mut words, line) = (words(&text), index + 1);
        words.truncate(words.iter().position(|word| word.starts_with('#')).unwrap_or(words.len()));
        if words.is_empty() {
            continue;
        }
        let refuse = |usage| RulesError { line, usage };
        match parse("ipvsadm", &words, names).map_err(refuse)? {
            Command::List(_)
            | Command::Save { .. }
            | Command::Restore
            | Command::Help
            | Command::Version => {
                return Err(refuse(usage(format!("`{}' is not a rule", words.join(" ")))));
            }
            command => rules.push(Rule { line, command }),
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::{super::names::Numeric, *};
    use crate::{addr::Family, director::spec::ServiceKey};

    #[test]
    fn comments_blank_lines_and_the_program_name_are_passed_over() {
        let text = "# web\n\n  ipvsadm -A -t 10.0.0.1:80 # front\r\n-C\n\t\n-D -f 7";
        let rules = parse_rules(text, &Numeric).unwrap();
        assert_eq!(rules.iter().map(|rule| rule.line).collect::<Vec<_>>(), [3, 4, 6]);
        assert_eq!(rules[1].command, Command::Flush);
    }

    #[test]
    fn a_mark_that_was_saved_as_a_negative_number_is_the_one_it_was() {
        let rules = parse_rules("-A -f -1 -s rr\n-a -f -2147483648 -r 10.2.0.1 -w 1", &Numeric);
        let marks = rules.unwrap().into_iter().map(|rule| match rule.command {
            Command::AddService(spec) => spec.key,
            Command::AddReal { service, .. } => service,
            other => panic!("{other:?}"),
        });
        let mark = |mark| ServiceKey::Mark { mark, family: Family::V4 };
        assert_eq!(marks.collect::<Vec<_>>(), [mark(u32::MAX), mark(1 << 31)]);
        assert!(parse_rules("-A -f 5 -s rr -p -1", &Numeric).is_err());
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let text = "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.2.0.1 -w x\n-Q";
        let error = parse_rules(text, &Numeric).unwrap_err();
        assert_eq!(error.to_string(), "line 2: illegal weight specified");
        let error = parse_rules("-C\n-L -n", &Numeric).unwrap_err();
        assert_eq!(error.to_string(), "line 2: `-L -n' is not a rule");
    }
}
