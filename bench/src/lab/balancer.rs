//! The daemon `xvsd` in a namespace, and `xvsadm` to tell it what to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::{Namespace, Process, process};

/// How long the daemon may take to start: it allocates its flow table first.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to be gone after SIGKILL.
const KILLED: Duration = Duration::from_secs(5);

/// A running daemon.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    /// Its command line tool.
    pub adm: Adm,
    /// Its configuration.
    pub file: PathBuf,
}

impl Balancer {
    /// Starts `xvsd` in a namespace, its files in `folder`. `configuration` is TOML, to which the
    /// path of the API's socket is added. Waits until the daemon answers.
    ///
    /// # Errors
    ///
    /// It is not built or ends; the error shows the end of its log.
    pub fn start(lb: &Namespace, folder: &Path, configuration: &str) -> anyhow::Result<Self> {
        let (mut command, adm, file) = Self::prepare(lb, folder, configuration)?;
        let mut process = Process::start("xvsd", &mut command, &folder.join("xvsd.log"))?;
        let answers = || adm.output(&["info"]).is_ok_and(|output| output.status.success());
        process.wait_until(PATIENCE, answers)?;
        Ok(Self { process, adm, file })
    }

    /// What [`Balancer::start`] would start.
    ///
    /// # Errors
    ///
    /// A program is not built.
    pub fn prepare(
        lb: &Namespace,
        folder: &Path,
        configuration: &str,
    ) -> anyhow::Result<(Command, Adm, PathBuf)> {
        let (socket, file) = (folder.join("xvsd.sock"), folder.join("xvsd.toml"));
        let api = format!("\n[api]\nsocket = \"{}\"\n", socket.display());
        fs::write(&file, format!("{}{api}", configuration.trim_end())).context("xvsd.toml")?;
        let mut command = lb.command(process::own("xvsd")?);
        command.arg("--config").arg(&file);
        Ok((command, Adm { program: process::own("xvsadm")?, socket }, file))
    }

    /// Kills the daemon, with no chance to clean up, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// It is gone already, or does not go.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait_end(KILLED).map(drop)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All that the daemon logged.
    pub fn log(&self) -> String {
        self.process.printed()
    }
}

/// `xvsadm`, for one daemon.
#[derive(Clone, Debug)]
pub struct Adm {
    program: PathBuf,
    socket: PathBuf,
}

impl Adm {
    /// Runs it with these words, however it ends.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn output(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.env("XVS_SERVER", format!("unix:{}", self.socket.display()));
        process::output(command.args(words))
    }

    /// Runs it with the words of a line; gives back what it printed.
    ///
    /// # Errors
    ///
    /// It failed; the error is its message.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        let output = self.output(&line.split_whitespace().collect::<Vec<_>>())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("xvsadm {line}: {} ({})", said.trim(), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The socket by which it reaches the daemon.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
