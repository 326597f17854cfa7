//! The rules that give packets their firewall marks.
//!
//! There is no packet filter in front of us, so the director keeps the rules itself. They work as
//! iptables' target MARK in the chain PREROUTING of the table mangle: all are looked at, and the last
//! one that takes a packet has set its mark.
//! Source: iptables-extensions(8), MARK; Linux `ip_vs_ctl.c`, `ip_vs_service_find`.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    Director,
    spec::{DirectorError, MarkRule, ServiceKey},
};
use crate::{
    selector::{Prefix, Ranked, SELECTORS_MAX, SOURCES_MAX, Selector, Table},
    wire::protocol,
};

impl Director {
    /// The rules, first to last.
    pub fn mark_rules(&self) -> &[MarkRule] {
        &self.mark_rules
    }

    /// Says why [`Director::set_mark_rules`] would refuse; changes nothing. `at` of the error is
    /// the rule's place.
    ///
    /// # Errors
    ///
    /// A rule is wrong, or there are too many.
    pub fn check_mark_rules(rules: &[MarkRule]) -> Result<(), (usize, DirectorError)> {
        if rules.len() > SELECTORS_MAX {
            let error = DirectorError::Full { what: "mark rule", limit: SELECTORS_MAX };
            return Err((SELECTORS_MAX, error));
        }
        let mut sources = HashMap::<Prefix, usize>::new();
        for (at, rule) in rules.iter().enumerate() {
            selector(&rule.selector).map_err(|error| (at, error))?;
            if rule.selector.from.is_some() {
                let count = sources.entry(rule.selector.to).or_default();
                *count += 1;
                if *count > SOURCES_MAX {
                    let what = "mark rule with a source for this destination";
                    return Err((at, DirectorError::Full { what, limit: SOURCES_MAX }));
                }
            }
        }
        Ok(())
    }

    /// Replaces all rules.
    ///
    /// # Errors
    ///
    /// A rule is wrong, or there are too many; nothing was changed.
    pub fn set_mark_rules(&mut self, rules: Vec<MarkRule>) -> Result<(), DirectorError> {
        Self::check_mark_rules(&rules).map_err(|(_, error)| error)?;
        let ranked: Vec<_> = (0..)
            .zip(&rules)
            .map(|(priority, &MarkRule { mark, selector })| Ranked {
                selector,
                priority,
                value: mark,
            })
            .collect();
        self.marks = Arc::new(Table::new(&ranked));
        self.mark_rules = rules;
        self.generation += 1;
        Ok(())
    }

    /// Adds a rule behind the others.
    ///
    /// # Errors
    ///
    /// It is wrong, or there is no room.
    pub fn add_mark_rule(&mut self, rule: MarkRule) -> Result<(), DirectorError> {
        let mut rules = self.mark_rules.clone();
        rules.push(rule);
        self.set_mark_rules(rules)
    }

    /// Removes the first rule that is like this one.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn delete_mark_rule(&mut self, rule: &MarkRule) -> Result<(), DirectorError> {
        let at = self.mark_rules.iter().position(|known| known == rule);
        let mut rules = self.mark_rules.clone();
        rules.remove(at.ok_or(DirectorError::NoSuchMarkRule)?);
        self.set_mark_rules(rules)
    }

    /// The selectors whose packets come to a firewall-mark service, as far as no later rule marks
    /// them otherwise.
    pub(super) fn marked(&self) -> impl Iterator<Item = &Selector> {
        let served = |rule: &&MarkRule| {
            let family = rule.selector.to.family();
            self.places.contains_key(&ServiceKey::Mark { mark: rule.mark, family })
        };
        self.mark_rules.iter().filter(served).map(|rule| &rule.selector)
    }
}

/// Refuses a selector that cannot be.
fn selector(selector: &Selector) -> Result<(), DirectorError> {
    let invalid = |field, reason| Err(DirectorError::Invalid { field, reason });
    match selector.protocol {
        None | Some(protocol::TCP | protocol::UDP | protocol::SCTP) => {}
        Some(other) => return invalid("protocol", format!("{other} is not tcp, udp or sctp")),
    }
    if selector.ports.first > selector.ports.last {
        return invalid("ports", format!("{} ends before it begins", selector.ports));
    }
    if let Some(from) = selector.from
        && from.family() != selector.to.family()
    {
        return invalid("from", format!("{from} is of another family than {}", selector.to));
    }
    Ok(())
}
