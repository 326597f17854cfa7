//! The daemon as a process: how it starts, refuses, reloads and stops. Without interfaces, so that
//! it needs no rights.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use xvs_control::proto::v1::{
    GetSettingsRequest, ListServicesRequest,
    load_balancer_service_client::LoadBalancerServiceClient,
};

/// How long the daemon may take for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, and the daemon that runs by it.
struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Daemon {
    fn new(config: &str) -> Self {
        let daemon = Self { folder: tempfile::tempdir().unwrap(), child: None };
        daemon.configure(config);
        daemon
    }

    /// Writes the configuration, with a socket in the folder.
    fn configure(&self, config: &str) {
        let socket = self.socket();
        let api = format!("[api]\nsocket = \"{}\"\n", socket.display());
        let text = format!("daemon.flows = 1024\n{api}{config}");
        fs::write(self.folder.path().join("xvs.toml"), text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("xvsd.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsd"));
        command.arg("--config").arg(self.folder.path().join("xvs.toml"));
        command.stderr(Stdio::piped());
        command
    }

    /// Starts, and waits until somebody listens.
    fn start(&mut self, arguments: &[&str]) {
        self.child = Some(self.command().args(arguments).spawn().unwrap());
        wait(|| UnixStream::connect(self.socket()).is_ok());
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Reads the log up to a line that says so.
    fn wait_for_log(&mut self, words: &str) {
        let stderr = self.child.as_mut().unwrap().stderr.as_mut().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        assert!(lines.any(|line| line.unwrap().contains(words)), "the log ended without it");
    }

    /// Waits for the end.
    fn end(&mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// The schedulers of the services there are.
    fn schedulers(&self) -> Vec<String> {
        runtime().block_on(async {
            let mut client = self.client().await;
            let list = client.list_services(ListServicesRequest {}).await.unwrap();
            let mut list = list.into_inner();
            let mut schedulers = Vec::new();
            while let Some(message) = list.message().await.unwrap() {
                schedulers.push(message.service.unwrap().service.unwrap().scheduler);
            }
            schedulers
        })
    }

    async fn client(&self) -> LoadBalancerServiceClient<tonic::transport::Channel> {
        let address = format!("unix://{}", self.socket().display());
        LoadBalancerServiceClient::connect(address).await.unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn wait(mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < PATIENCE, "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn service(scheduler: &str) -> String {
    format!(
        "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\nport = 80\n\
         scheduler = \"{scheduler}\"\n"
    )
}

#[test]
fn it_serves_what_the_file_says_and_leaves_nothing_behind() {
    let mut daemon = Daemon::new(&service("sh"));
    daemon.start(&[]);
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(daemon.schedulers(), ["sh"]);
    for signal in [Signal::TERM, Signal::INT] {
        daemon.signal(signal);
        let output = daemon.end();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(!daemon.socket().exists());
        daemon.start(&[]);
    }
}

#[test]
fn a_killed_daemons_socket_is_replaced() {
    let mut daemon = Daemon::new(&service("sh"));
    daemon.start(&[]);
    daemon.signal(Signal::KILL);
    daemon.end();
    assert!(daemon.socket().exists());
    daemon.start(&[]);
    assert_eq!(daemon.schedulers(), ["sh"]);
}

#[test]
fn a_second_daemon_is_refused_in_one_line() {
    let mut daemon = Daemon::new(&service("sh"));
    daemon.start(&[]);
    let output = daemon.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let want = format!("xvsd: {}: another xvsd is running there\n", daemon.socket().display());
    assert_eq!(stderr(&output), want);
    assert_eq!(daemon.schedulers(), ["sh"]);
}

#[test]
fn a_hangup_reloads_all_or_nothing() {
    let mut daemon = Daemon::new(&service("sh"));
    daemon.start(&[]);
    daemon.configure(&service("wrr"));
    daemon.signal(Signal::HUP);
    wait(|| daemon.schedulers() == ["wrr"]);
    // A bad file changes nothing; a setting that comes with it is not taken either.
    daemon.configure(&format!("[settings]\nexpire_nodest_conn = 1\n{}", service("wrrr")));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("not reloaded");
    assert_eq!(daemon.schedulers(), ["wrr"]);
    let settings = runtime().block_on(async {
        let mut client = daemon.client().await;
        client.get_settings(GetSettingsRequest {}).await.unwrap().into_inner().settings
    });
    let setting = settings.iter().find(|s| s.name == "expire_nodest_conn").unwrap();
    assert_eq!(setting.value, "0");
    daemon.signal(Signal::TERM);
    daemon.end();
}

#[test]
fn rules_join_the_files_services() {
    let mut daemon = Daemon::new(&service("sh"));
    let rules = daemon.folder.path().join("rules");
    fs::write(&rules, "-A -u 10.0.0.1:53 -s rr\n").unwrap();
    daemon.start(&["--rules", rules.to_str().unwrap()]);
    assert_eq!(daemon.schedulers(), ["sh", "rr"]);
}

#[test]
fn a_check_starts_nothing() {
    let daemon = Daemon::new(&service("sh"));
    let output = daemon.command().arg("--check").output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert!(!daemon.socket().exists());
}

/// What is refused before anything was done: arguments, the line, the exit code.
#[test]
fn what_is_wrong_is_told_in_one_line() {
    let daemon = Daemon::new(&service("rrr"));
    let folder = daemon.folder.path().display().to_string();
    let rules = format!("{folder}/rules");
    fs::write(&rules, "-A -t 10.0.0.1:80 -s rr\n-A -t 10.0.0.1:80 -s rr\n").unwrap();
    let said = |daemon: &Daemon, arguments: &[&str]| {
        let output = daemon.command().args(arguments).output().unwrap();
        (output.status.code().unwrap(), stderr(&output))
    };
    let wrong = "service[0].scheduler: unknown scheduler `rrr`; did you mean `rr`?";
    assert_eq!(said(&daemon, &[]), (2, format!("xvsd: {folder}/xvs.toml: {wrong}\n")));
    assert_eq!(said(&daemon, &["--check"]), (2, format!("xvsd: {folder}/xvs.toml: {wrong}\n")));

    daemon.configure("");
    let want = format!("xvsd: {rules}: line 2: Service already exists\n");
    assert_eq!(said(&daemon, &["--rules", &rules]), (2, want));
    let want = format!("xvsd: {folder}/none: No such file or directory (os error 2)\n");
    assert_eq!(said(&daemon, &["--rules", &format!("{folder}/none")]), (2, want));
    assert_eq!(said(&daemon, &["--flows", "12"]).0, 2);

    daemon.configure("[[interface]]\nname = \"xvs-nosuch0\"\n");
    let want = "xvsd: xvs-nosuch0: No such device (os error 19)\n".to_owned();
    assert_eq!(said(&daemon, &[]), (1, want));
    assert!(!daemon.socket().exists());
}

#[test]
fn a_tcp_address_in_use_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let daemon = Daemon::new("");
    daemon.configure(&format!("[api.tcp]\nlisten = \"{address}\"\ninsecure = true\n"));
    let output = daemon.command().args(["--log", "error"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let want = format!("xvsd: cannot listen on {address}: Address already in use (os error 98)\n");
    assert_eq!(stderr(&output), want);
    assert!(!Path::new(&daemon.socket()).exists());
}
