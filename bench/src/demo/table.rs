//! Who answered, for each method and family.

use xvs_bench::lab::{Family, Tally, world::Real};

/// One method and family.
pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) family: Family,
    pub(super) tally: Tally,
}

impl Row {
    /// The row in words.
    pub(super) fn said(&self) -> String {
        let answers: Vec<_> =
            self.tally.answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!("{}; failed {}", answers.join(", "), self.tally.failures.len())
    }
}

/// All rows.
pub(super) struct Table {
    /// Names of the servers.
    pub(super) reals: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(reals: &[Real]) -> Self {
        let name = |real: &Real| real.namespace.label().to_owned();
        Self { reals: reals.iter().map(name).collect(), rows: Vec::new() }
    }

    /// The table, drawn.
    pub(super) fn drawn(&self) -> String {
        let names: String = self.reals.iter().map(|name| format!("{name:>8}")).collect();
        let head = format!(
            "  {:<8}{:<8}{:>8}{names}{:>8}{:>12}",
            "method", "family", "asked", "failed", "slowest"
        );
        let line = "-".repeat(head.len() - 2);
        let mut text = format!("{head}\n  {line}\n");
        for row in &self.rows {
            let tally = &row.tally;
            let count = |name| tally.answers.get(name).copied().unwrap_or_default();
            let counts: String =
                self.reals.iter().map(|name| format!("{:>8}", count(name))).collect();
            let (asked, failed) = (tally.answered() + tally.failures.len(), tally.failures.len());
            let (method, family) = (row.method, row.family.name());
            let slowest = format!("{:.1} ms", tally.slowest.as_secs_f64() * 1000.0);
            text.push_str(&format!(
                "  {method:<8}{family:<8}{asked:>8}{counts}{failed:>8}{slowest:>12}\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    #[test]
    fn a_server_that_never_answered_has_a_zero() {
        let answers = BTreeMap::from([("real1".to_owned(), 2)]);
        let (failures, slowest) =
            (vec!["status 000: refused".to_owned()], Duration::from_millis(7));
        let row =
            Row { method: "nat", family: Family::V4, tally: Tally { answers, failures, slowest } };
        assert_eq!(row.said(), "real1 2; failed 1");
        let table = Table { reals: vec!["real1".into(), "real2".into()], rows: vec![row] };
        let drawn = table.drawn();
        let last = drawn.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(last, ["nat", "IPv4", "3", "2", "0", "1", "7.0", "ms"]);
    }
}
