//! Programs that a laboratory runs: to their end, or until it is done with them.

use std::{
    env, fs,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

use super::interrupt;

/// How long a process may take to end once told to.
const GRACE: Duration = Duration::from_secs(3);

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// How much of a log is shown when its process failed.
const LINES_SHOWN: usize = 20;

/// A program that runs in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it prints goes to `log`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or its log cannot be made.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let (out, err) = open().and_then(|out| Ok((out, open()?))).context("log")?;
        let child = command.stdout(out).stderr(err).spawn().with_context(|| name.to_owned())?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until `ready`, failing if the process ends first or `patience` is over.
    ///
    /// # Errors
    ///
    /// It is not ready in time; the error shows the end of what it printed.
    pub fn wait_until(
        &mut self,
        patience: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !ready() {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, self.tail());
            }
            if start.elapsed() > patience {
                let seconds = patience.as_secs();
                bail!("{} is not ready after {seconds} s:\n{}", self.name, self.tail());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It runs on after `patience`.
    pub fn wait_end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                bail!("{} runs on:\n{}", self.name, self.tail());
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.context("no process id")?;
        kill_process(id, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it printed.
    fn tail(&self) -> String {
        let printed = self.printed();
        let lines: Vec<_> = printed.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only if it has ended, which is what is wanted.
        self.signal(Signal::TERM).ok();
        if self.wait_end(GRACE).is_err() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// It cannot be started or fails; the error holds what it printed on standard error.
pub fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ({}): {}", spelled(command), output.status, said.trim());
    }
    Ok(output)
}

/// Runs a command to its end, however that comes.
///
/// # Errors
///
/// It cannot be started.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    interrupt::check()?;
    match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{}: not installed", spelled(command))
        }
        other => other.with_context(|| spelled(command)),
    }
}

/// A command as one would type it.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether a program is where a shell would look for it, or where root's are.
pub fn is_installed(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let root = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(root).any(|folder| folder.join(name).is_file())
}

/// Pins the calling thread to a CPU.
///
/// # Errors
///
/// There is no such CPU.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("CPU {cpu}"))
}

/// One of our own programs, built beside the running one.
///
/// # Errors
///
/// It has not been built.
pub fn own(name: &str) -> anyhow::Result<PathBuf> {
    let this = env::current_exe().context("own path")?;
    // A test lies in `deps`, one level below.
    let folders = this.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found
        .with_context(|| format!("{name} is not built: `cargo build --workspace --bins` does that"))
}
