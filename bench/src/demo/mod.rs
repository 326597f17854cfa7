//! `xvs-bench demo`: real HTTP from a real client to three real web servers, through xvs.
//!
//! Everything happens in network namespaces that end with the program, however it ends
//! ([`xvs_bench::lab`]). Each forwarding method serves each family of addresses; one request that
//! nobody answers, or a server that answers none, makes the demonstration fail.

mod screen;
mod table;

use std::{env, io::Write, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use xvs_bench::lab::{self, Balancer, Family, Method, Tally, World, interrupt};

use self::{
    screen::Screen,
    table::{Row, Table},
};

/// Requests for each method and family.
const REQUESTS: usize = 300;

/// What `xvsd` is told at its start; services come later, by `xvsadm`.
const CONFIGURATION: &str = "\
[daemon]
flows = 65_536

[[interface]]
name = \"front\"

[[interface]]
name = \"back\"
";

/// Shows real HTTP through nat, dr, ipip and fullnat, in namespaces of its own.
#[derive(clap::Args, Debug)]
pub(crate) struct Demo {
    /// A capture, or a folder of them, to replay where there can be no namespaces.
    #[arg(long, default_value = "fixtures/pcaps", value_name = "PATH")]
    capture: PathBuf,
}

/// What happens under a method, in one line.
const fn story(method: Method) -> &'static str {
    match method {
        Method::Nat => "address and port are rewritten; answers come back through lb",
        Method::Dr => "only the link address changes; answers go to the client directly",
        Method::Ipip | Method::Gue | Method::Gre => {
            "packets travel whole inside others; answers go to the client directly"
        }
        Method::FullNat => "both ends are rewritten; answers come back whatever the routes say",
    }
}

impl Demo {
    /// Runs the demonstration; gives back the exit status.
    ///
    /// # Errors
    ///
    /// A request was not answered, something does not run, or a signal came.
    pub(crate) fn run(&self, out: &mut impl Write) -> anyhow::Result<u8> {
        let mut screen = Screen::new(out);
        if let Some(reason) = lab::missing() {
            return self.replay(&reason, &mut screen);
        }
        interrupt::watch()?;
        let ended = show(&mut screen);
        if interrupt::came() {
            screen.paragraph("Interrupted: everything that ran is ended and removed.")?;
            return Ok(130);
        }
        ended.map(|()| 0)
    }

    /// What can be shown without namespaces.
    fn replay(&self, reason: &str, screen: &mut Screen<'_>) -> anyhow::Result<u8> {
        screen.paragraph(&format!("The demonstration cannot run here: {reason}."))?;
        screen.paragraph("Instead, a capture of real traffic goes through the same dataplane:")?;
        let status = Command::new(env::current_exe()?)
            .args(["replay", "--in"])
            .arg(&self.capture)
            .status()
            .context("replay")?;
        Ok(if status.success() { 0 } else { 1 })
    }
}

/// The demonstration itself.
fn show(screen: &mut Screen<'_>) -> anyhow::Result<()> {
    screen.title("xvs: one client, one load balancer, three web servers")?;
    screen.lines(MAP)?;
    let mut world = World::new()?;
    world.serve()?;
    let balancer = Balancer::start(&world.lb, world.folder.path(), CONFIGURATION)?;
    screen.command("lb", "xvsd --config xvsd.toml")?;
    screen.dim(&interfaces(&balancer.adm.run("info")?))?;

    let mut table = Table::new(&world.reals);
    for method in Method::SHOWN {
        screen.title(&format!("{}: {}", method.name(), story(method)))?;
        world.answer_by(method.gateway())?;
        let lines = Family::ALL.into_iter().flat_map(|family| method.lines(&world, family));
        // A real server that comes back has its old counters, as in IPVS.
        for line in lines.chain(["-Z".to_owned()]) {
            screen.command("lb", &format!("xvsadm {line}"))?;
            balancer.adm.run(&line)?;
        }
        for family in Family::ALL {
            let asked = format!("curl http://{}/", family.host(family.vip()));
            screen.command("client", &format!("{asked}     {REQUESTS} times"))?;
            let tally = Tally::take(&world.client, family.vip(), REQUESTS)?;
            interrupt::check()?;
            let row = Row { method: method.name(), family, tally };
            screen.dim(&row.said())?;
            table.rows.push(row);
        }
        for line in ["-L -n --stats", "-C"] {
            screen.command("lb", &format!("xvsadm {line}"))?;
            screen.dim(&balancer.adm.run(line)?)?;
        }
    }
    drop((balancer, world));
    screen.title("Who answered")?;
    screen.lines(&table.drawn())?;
    judge(screen, &table)
}

/// Says what came of it all.
fn judge(screen: &mut Screen<'_>, table: &Table) -> anyhow::Result<()> {
    let failures: Vec<_> = table.rows.iter().flat_map(|row| &row.tally.failures).collect();
    if let Some(first) = failures.first() {
        bail!("{} requests were not answered; the first: {first}", failures.len());
    }
    if let Some(row) = table.rows.iter().find(|row| row.tally.answers.len() < table.reals.len()) {
        bail!("{} over {}: not every server answered", row.method, row.family.name());
    }
    let asked: usize = table.rows.iter().map(|row| row.tally.answered()).sum();
    screen
        .good(&format!("{asked} requests, {asked} answered, 0 failed. Everything is removed."))?;
    Ok(())
}

/// What `xvsadm info` says about interfaces: the modes they reached.
fn interfaces(info: &str) -> String {
    info.lines().skip_while(|line| !line.starts_with("Interface")).collect::<Vec<_>>().join("\n")
}

/// The laboratory, drawn.
const MAP: &str = "  client                 lb                     real1  10.2.0.11  fd02::11
  10.1.0.2 --------- front  back -- switch ---- real2  10.2.0.12  fd02::12
  fd01::2            10.1.0.1  10.2.0.1  |      real3  10.2.0.13  fd02::13
     |               fd01::1   fd02::1   |
     +-----------------------------------+      virtual address:
       answers of dr and ipip                   10.1.0.100  fd01::100
";
