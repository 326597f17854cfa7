//! What the report is made of: measured by this program's other commands, kept as JSON.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::svg::Value;

/// Counts of flows that costs are measured over.
const FLOWS: [u32; 4] = [1000, 100_000, 1_000_000, 10_000_000];

/// Flows where methods and workers are compared.
pub(super) const MANY: u32 = 1_000_000;

/// Methods that are compared.
pub(super) const METHODS: [&str; 3] = ["nat", "dr", "ipip"];

/// One run of `pipeline --json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Run {
    pub(super) method: String,
    pub(super) flows: u32,
    pub(super) workers: u16,
    /// Whether every packet opened a flow.
    #[serde(default)]
    pub(super) new: bool,
    pub(super) ns_per_packet: f64,
    pub(super) mpps: f64,
    pub(super) hot_ns: f64,
    pub(super) bound_ns: f64,
    pub(super) bytes_per_flow: f64,
}

/// What `rig --json` printed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Rig {
    pub(super) machine: String,
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// Seconds since 1970.
    pub(super) date: u64,
    pub(super) commit: String,
    pub(super) rounds: u16,
    pub(super) seconds: u16,
    pub(super) results: Vec<Reached>,
    #[serde(default)]
    pub(super) light: Vec<Json>,
    #[serde(default)]
    pub(super) change: Vec<Json>,
}

/// What one contender reached in one quantity.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Reached {
    pub(super) contender: String,
    pub(super) quantity: String,
    pub(super) samples: Vec<f64>,
}

impl Rig {
    /// A contender's value of a quantity.
    pub(super) fn find(&self, contender: &str, quantity: &str) -> Option<Value> {
        let is = |r: &&Reached| r.contender == contender && r.quantity == quantity;
        Value::of(&self.results.iter().find(is)?.samples)
    }

    /// All contenders with a quantity, in their order.
    pub(super) fn of(&self, quantity: &str) -> Vec<(&str, Value)> {
        let of = self.results.iter().filter(|result| result.quantity == quantity);
        of.filter_map(|r| Some((r.contender.as_str(), Value::of(&r.samples)?))).collect()
    }
}

/// Values of a key in a list of objects.
pub(super) fn each(list: &[Json], key: &str) -> Option<Value> {
    let values: Vec<_> = list.iter().filter_map(|object| object.get(key)?.as_f64()).collect();
    Value::of(&values)
}

/// What `folder` holds under `name`, or what `measure` makes of it, which is kept there.
pub(super) fn kept<T: Serialize + for<'a> Deserialize<'a>>(
    folder: &Path,
    name: &str,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = folder.join(name);
    if path.is_file() {
        let text = fs::read_to_string(&path)?;
        return serde_json::from_str(&text).with_context(|| path.display().to_string());
    }
    let made = measure()?;
    fs::write(&path, serde_json::to_string_pretty(&made)?)?;
    Ok(made)
}

/// Runs this program with other words and reads the JSON it prints.
fn own<T: for<'a> Deserialize<'a>>(words: &[String]) -> anyhow::Result<T> {
    let mut command = Command::new(env::current_exe()?);
    let output = command.args(words).output().context("xvs-bench")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("xvs-bench {}: {}", words.join(" "), said.trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| words.join(" "))
}

/// Measures the pipeline in interleaved rounds.
///
/// # Errors
///
/// A run fails.
pub(super) fn pipeline(rounds: u16, workers: u16) -> anyhow::Result<Vec<Run>> {
    let mut plan: Vec<(&str, u32, u16, bool)> = Vec::new();
    for flows in FLOWS {
        plan.extend([("nat", flows, 1, false), ("nat", flows, 1, true)]);
    }
    for method in METHODS {
        for workers in 1..=workers {
            plan.push((method, MANY, workers, false));
        }
    }
    plan.sort_unstable();
    plan.dedup();
    let mut runs = Vec::new();
    for _ in 0..rounds {
        for &(method, flows, workers, new) in &plan {
            let mut words = vec!["pipeline".to_owned(), "--json".to_owned()];
            for (option, value) in [
                ("--method", method.to_owned()),
                ("--flows", flows.to_string()),
                ("--workers", workers.to_string()),
            ] {
                words.extend([option.to_owned(), value]);
            }
            words.extend(new.then(|| "--new".to_owned()));
            let run: Run = own(&words)?;
            runs.push(Run { new, ..run });
        }
    }
    Ok(runs)
}

/// Measures on the wire; nothing without root.
///
/// # Errors
///
/// The rig fails.
pub(super) fn rig(rounds: u16, seconds: u16) -> anyhow::Result<Rig> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Rig::default());
    }
    let words =
        ["rig", "--json", "--rounds", &rounds.to_string(), "--seconds", &seconds.to_string()];
    own(&words.map(str::to_owned))
}

/// Values of runs of one kind: what `get` takes from those that `is` picks.
pub(super) fn among(
    runs: &[Run],
    is: impl Fn(&Run) -> bool,
    get: impl Fn(&Run) -> f64,
) -> Option<Value> {
    Value::of(&runs.iter().filter(|run| is(run)).map(get).collect::<Vec<_>>())
}

/// The counts of flows that were measured.
pub(super) fn flows(runs: &[Run]) -> Vec<u32> {
    let mut flows: Vec<_> = runs.iter().map(|run| run.flows).collect();
    flows.sort_unstable();
    flows.dedup();
    flows
}
