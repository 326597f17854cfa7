//! Who gets a place on the unix socket: nobody without a role, and an operator always.
//!
//! Needs root, which alone can ask as somebody else; without it says so and passes.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// How long anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user with the role read, and one without any.
const READER: u32 = 65_532;
const STRANGER: u32 = 65_533;

/// More than there are places.
const MANY: usize = 300;

/// A daemon with roles, whose socket everybody may reach.
struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Daemon {
    /// `None`, with the reason printed, where there can be none.
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can ask as somebody else");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let (socket, file) = (folder.path().join("xvsd.sock"), folder.path().join("xvsd.toml"));
        let role = format!("[[api.role]]\nrole = \"read\"\nuser = \"{READER}\"\n");
        let api = format!("[api]\nsocket = \"{}\"\n{role}", socket.display());
        fs::write(&file, format!("daemon.flows = 1024\n{api}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsd"));
        let child = command.args(["--log", "error", "--config"]).arg(file).spawn().unwrap();
        let daemon = Self { folder, child };
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "xvsd does not start");
            thread::sleep(Duration::from_millis(5));
        }
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("xvsd.sock")
    }

    /// Connections of a user, which say nothing.
    fn held_by(&self, user: u32, count: usize) -> Vec<UnixStream> {
        let socket = self.socket();
        let connect = move || {
            set_thread_groups(&[]).unwrap();
            let (group, user) = (Gid::from_raw(user), Uid::from_raw(user));
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
            (0..count).map(|_| UnixStream::connect(&socket).unwrap()).collect()
        };
        thread::spawn(connect).join().unwrap()
    }

    /// Whether root is answered, with a new connection.
    fn answers(&self) {
        let mut adm = Command::new(env!("CARGO_BIN_EXE_xvsadm"));
        adm.env("XVS_SERVER", format!("unix:{}", self.socket().display()));
        let output = adm.arg("info").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a connection is told when it begins HTTP/2: nothing if it has no place.
fn greeted(stream: &mut UnixStream) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A connection that was sent away may be gone already.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").ok();
    stream.read(&mut [0; 64]).unwrap_or(0)
}

#[test]
fn who_has_no_role_gets_no_place() {
    let Some(daemon) = Daemon::start() else { return };
    let mut strangers = daemon.held_by(STRANGER, MANY);
    for stranger in &mut strangers {
        assert_eq!(greeted(stranger), 0, "somebody without a role is served");
    }
    let mut reader = daemon.held_by(READER, 1);
    assert!(greeted(&mut reader[0]) > 0, "who has a role is served");
    daemon.answers();
}

#[test]
fn who_holds_all_places_does_not_keep_root_out_and_loses_them_in_silence() {
    let Some(daemon) = Daemon::start() else { return };
    let mut held = daemon.held_by(READER, MANY);
    for _ in 0..3 {
        daemon.answers();
    }
    // Whoever says nothing loses the place; whoever came too late has none.
    for stream in &mut held {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        let is_silent = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(is_silent), "it keeps its place: {ended:?}");
    }
    let mut late = daemon.held_by(READER, 1);
    assert!(greeted(&mut late[0]) > 0, "there is a place again");
}
