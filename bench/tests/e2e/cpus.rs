//! Who runs where: a worker has its CPU to itself, as far as the daemon's own threads go.

use std::{collections::BTreeSet, fs, thread};

use crate::{Bed, configuration};

/// Every thread's name and the CPUs it may use, as the kernel writes them.
fn threads(id: u32) -> BTreeSet<(String, String)> {
    let folders = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let read = |folder: fs::DirEntry| {
        let name = fs::read_to_string(folder.path().join("comm")).unwrap();
        let status = fs::read_to_string(folder.path().join("status")).unwrap();
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        (name.trim().to_owned(), cpus.unwrap().trim().to_owned())
    };
    folders.map(|folder| read(folder.unwrap())).collect()
}

#[test]
fn no_other_thread_uses_a_workers_cpu() {
    let Some(bed) = Bed::new() else { return };
    if thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let pinned = configuration("native").replace("[daemon]", "[daemon]\nworkers = 1\ncpus = [1]");
    let balancer = bed.balancer(&pinned);
    let threads = threads(balancer.id());
    assert!(threads.len() > 2, "{threads:?}");
    let here = |cpus: &str| {
        cpus.split(',').any(|range| {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            (low.parse::<u16>().unwrap()..=high.parse().unwrap()).contains(&1)
        })
    };
    for (name, cpus) in &threads {
        assert_eq!(here(cpus), name == "xvs-worker-0", "{name} on {cpus}: {threads:?}");
    }
}
