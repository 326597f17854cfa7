//! What a flow table says that it costs is what the process pays, within five hundredths; a nat flow
//! costs at most 104 octets of it, its words, its expiry and its share of the quota's ring included.
//! Alone in its process, so that nothing else allocates meanwhile.
#![expect(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::{fs, sync::Arc};

use xvs_dataplane::flow::{FlowTable, HashKey, Pages, TableConfig};

/// Octets of this process in memory, huge pages of the reserved pool included.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    (field("VmRSS:") + field("HugetlbPages:")) << 10
}

#[test]
fn a_table_costs_what_it_says() {
    for (flows, workers, pages) in [
        (1_000_000, 1, Pages::Transparent),
        (1_000_000, 4, Pages::Small),
        (300_000, 2, Pages::Small),
    ] {
        let before = resident();
        let config = TableConfig::new(flows, workers, HashKey::from_seed(1));
        let table = Arc::new(FlowTable::new(&TableConfig { pages, ..config }).unwrap());
        let hands: Vec<_> = (0..workers).map(|id| table.worker(id).unwrap()).collect();
        let (said, paid) = (table.memory(), resident() - before);
        let difference = said.octets.abs_diff(paid);
        assert!(difference * 20 <= said.octets, "said {}, paid {paid}", said.octets);
        assert!(said.per_flow <= 104.0, "{} octets per flow", said.per_flow);
        drop(hands);
    }
}
