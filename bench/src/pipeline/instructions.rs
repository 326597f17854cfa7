//! `--instructions`: how many instructions a packet takes, counted by callgrind.
//!
//! The number does not depend on how busy the machine is, so a change that makes the packet path
//! dearer shows as one, and a ceiling can be kept: this fails if one is exceeded. Counted is what a
//! worker does in a turn, [`super::ring`]'s `measured_turn`: all stages of the pipeline and its share
//! of housekeeping, but for the device. Compilers differ; the ceilings are those of the release
//! profile and the toolchain of `rust-toolchain.toml`, with some room.

use std::{env, io::Write, process::Command};

use anyhow::Context as _;

/// Windows that are counted: more change nothing.
const WINDOWS: usize = 40;
/// Packets in them.
const PACKETS: u64 = 256 * WINDOWS as u64;

/// Method, family, whether every packet opens a flow, and instructions for a packet at most.
const CEILINGS: [(&str, &str, bool, u64); 12] = [
    ("nat", "v4", false, 375),
    ("nat", "v6", false, 430),
    ("dr", "v4", false, 360),
    ("dr", "v6", false, 420),
    ("ipip", "v4", false, 455),
    ("ipip", "v6", false, 490),
    ("nat", "v4", true, 2850),
    ("nat", "v6", true, 2950),
    ("dr", "v4", true, 2350),
    ("dr", "v6", true, 2400),
    ("ipip", "v4", true, 2450),
    ("ipip", "v6", true, 2450),
];

/// The same for nat's packet work without a table ([`super::bare`]): what of a hit is not the table's.
const BARE: [(&str, u64); 2] = [("v4", 225), ("v6", 260)];

/// Counts and prints. Whether no ceiling was exceeded.
///
/// # Errors
///
/// Valgrind cannot be run, or `out` cannot be written.
pub(super) fn run(out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut kept = true;
    for (method, family, new, ceiling) in CEILINGS {
        let turn = Counted { function: "*measured_turn*", only: true, method, family, new };
        let kind = if new { "new flow" } else { "hit" };
        kept &= turn.held_against(ceiling, kind, out)?;
    }
    for (family, ceiling) in BARE {
        let function = "*Bare*work*";
        let bare = Counted { function, only: false, method: "nat", family, new: false };
        kept &= bare.held_against(ceiling, "no table", out)?;
    }
    Ok(kept)
}

/// What is counted: a function, while this program runs the pipeline.
struct Counted {
    function: &'static str,
    /// Without what a run is compared with.
    only: bool,
    method: &'static str,
    family: &'static str,
    new: bool,
}

impl Counted {
    /// Whether so many instructions suffice; says so.
    fn held_against(&self, ceiling: u64, kind: &str, out: &mut dyn Write) -> anyhow::Result<bool> {
        let instructions = self.count()?;
        let kept = instructions <= ceiling;
        let verdict = if kept { "ok" } else { "TOO MANY" };
        writeln!(
            out,
            "{:4} {} {kind:8} {instructions:5} instructions per packet, at most {ceiling}: {verdict}",
            self.method, self.family
        )?;
        out.flush()?;
        Ok(kept)
    }

    fn count(&self) -> anyhow::Result<u64> {
        let own = env::current_exe().context("this program's path")?;
        let windows = WINDOWS.to_string();
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", &format!("--toggle-collect={}", self.function)])
            .arg("--callgrind-out-file=/dev/null")
            .arg(own)
            .args(["pipeline", "--flows", "1000", "--windows", &windows])
            .args(["--method", self.method, "--family", self.family])
            .args(self.only.then_some("--only"))
            .args(self.new.then_some("--new"));
        let output = command.output().context("valgrind cannot be run: is it installed?")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "callgrind failed: {said}");
        collected(&said).map(|all| all / PACKETS).with_context(|| format!("no count in: {said}"))
    }
}

/// The number behind "Collected :" in what callgrind says.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(':').next()?.trim().parse().ok().filter(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_off_what_callgrind_says() {
        let said = "==1== Events    : Ir\n==1== Collected : 5027840\n==1==\n";
        assert_eq!(collected(said), Some(5_027_840));
        assert_eq!(collected("==1== Collected : 0"), None, "nothing was watched");
        assert_eq!(collected(""), None);
    }
}
