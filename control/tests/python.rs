//! A client in another language, made from `proto/` by Google's own tools, calls every method of the daemon
//! and compares the answers with xvsadm's. The checks stand in `python/client.py`.
//!
//! Needs Python with gRPC, and protoc with its plugin for it (`make setup`); without them it says so and
//! passes.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};

/// How long the daemon may take to start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files that clients compile.
const FILES: [&str; 5] = ["types", "health", "load_balancer", "diagnostics", "operations"];

/// Pythons that may have gRPC: the one in the path may be another than the system's.
const PYTHONS: [&str; 2] = ["python3", "/usr/bin/python3"];

/// Python with gRPC and a compiler for it, and a daemon.
struct Bed {
    python: &'static str,
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// Where a shell would find a program.
fn found(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Bed {
    /// `None`, with the reason printed, where there can be none.
    fn new() -> Option<Self> {
        let modules = "import grpc, google.protobuf.json_format";
        let python = PYTHONS.iter().find(|name| succeeds(Command::new(name).args(["-c", modules])));
        let plugin = found("grpc_python_plugin");
        let (Some(python), Some(plugin), Some(_)) = (python, plugin, found("protoc")) else {
            eprintln!(
                "skipped: Python's gRPC and protoc are not installed: `make setup` does that"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path(), &plugin);
        describe(folder.path());
        let socket = folder.path().join("xvsd.sock");
        let file = folder.path().join("xvsd.toml");
        let text = format!("daemon.flows = 1024\n[api]\nsocket = \"{}\"\n", socket.display());
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvsd"));
        let daemon = command.args(["--log", "error", "--config"]).arg(file).spawn().unwrap();
        let bed = Self { python, folder, daemon };
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "xvsd does not start");
            thread::sleep(Duration::from_millis(5));
        }
        Some(bed)
    }

    /// Runs the checks; of `without` a method's is left out.
    fn check(&self, without: Option<&str>) -> Output {
        let folder = self.folder.path();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
        let mut command = Command::new(self.python);
        command.arg("-B").arg(scripts.join("client.py"));
        command.args([&folder.join("xvsd.sock"), Path::new(env!("CARGO_BIN_EXE_xvsadm")), folder]);
        command.args(without).env("PYTHONPATH", folder.join("stubs")).output().unwrap()
    }
}

/// Compiles `proto/` into stubs.
fn generate(folder: &Path, plugin: &Path) {
    let stubs = folder.join("stubs");
    fs::create_dir(&stubs).unwrap();
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut command = Command::new("protoc");
    command.arg("-I").arg(&proto);
    command.arg(format!("--plugin=protoc-gen-grpc_python={}", plugin.display()));
    for out in ["--python_out", "--grpc_python_out"] {
        command.arg(format!("{out}={}", stubs.display()));
    }
    let output = command.args(FILES.map(|name| format!("xvs/v1/{name}.proto"))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes the descriptors of what every gRPC client knows already.
fn describe(folder: &Path) {
    let sets = [
        ("health.bin", tonic_health::pb::FILE_DESCRIPTOR_SET),
        ("reflection.bin", tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET),
        ("status.bin", tonic_types::pb::FILE_DESCRIPTOR_SET),
    ];
    for (name, octets) in sets {
        fs::write(folder.join(name), octets).unwrap();
    }
}

#[test]
fn a_generated_client_calls_every_method_and_reads_what_xvsadm_prints() {
    let Some(bed) = Bed::new() else { return };
    let output = bed.check(None);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}{err}");
    let last = out.lines().last().unwrap();
    eprintln!("{last}");
    assert!(last.ends_with("methods called, all that there are"), "{out}");
}

#[test]
fn a_method_that_no_check_calls_is_noticed() {
    let Some(bed) = Bed::new() else { return };
    let output = bed.check(Some("Explain"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "nobody noticed");
    assert!(err.contains("no check calls xvs.v1.OperationsService/Explain"), "{err}");
}
