//! A real web server: Apache httpd with a configuration of its own.
//!
//! Each server answers every request for `/` with its name, keeps connections, and serves the files
//! of its folder, so that big ones can be downloaded.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{Namespace, Process, process::output};

/// Apache's program, of the Debian package apache2-bin, which runs no service by itself.
pub const PROGRAM: &str = "apache2";

/// Where the servers listen: the service's own port, one that nat has to map to, and one whose
/// connections end after a hundred requests, as those of most servers do.
pub const PORTS: [u16; 3] = [80, 8080, 8081];

/// Where a server listens for connections that begin with a header of the PROXY protocol.
pub const PROXY_PORT: u16 = 8082;

/// How long a server may take to start.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub struct Web {
    folder: PathBuf,
    _process: Process,
}

impl Web {
    /// Starts one in a namespace, with its files in `folder`.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn start(namespace: &Namespace, folder: &Path) -> anyhow::Result<Self> {
        let name = namespace.label();
        let folder = folder.join(name);
        let documents = folder.join("documents");
        fs::create_dir_all(&documents).context("documents")?;
        fs::write(documents.join("index.html"), format!("{name}\n")).context("documents")?;
        let file = folder.join("apache2.conf");
        fs::write(&file, configuration(name, &folder)).context("apache2.conf")?;
        let mut command = namespace.command(PROGRAM);
        command.arg("-f").arg(&file).arg("-DFOREGROUND");
        let mut process = Process::start(PROGRAM, &mut command, &folder.join("apache2.log"))?;
        process.wait_until(PATIENCE, || serves(namespace))?;
        Ok(Self { folder: documents, _process: process })
    }

    /// The addresses of those who asked at [`PROXY_PORT`] so far, as the server was told them.
    ///
    /// # Errors
    ///
    /// Its log cannot be read.
    pub fn told(&self) -> anyhow::Result<Vec<String>> {
        let log = self.folder.with_file_name("told.log");
        Ok(fs::read_to_string(log).context("told.log")?.lines().map(str::to_owned).collect())
    }

    /// Where the files it serves lie.
    pub fn documents(&self) -> &Path {
        &self.folder
    }
}

/// Whether a server answers in this namespace, at all its ports.
fn serves(namespace: &Namespace) -> bool {
    PORTS.iter().all(|port| {
        let mut command = namespace.command("curl");
        command.args(["-s", "-o", "/dev/null", "--max-time", "2"]);
        output(command.arg(format!("http://127.0.0.1:{port}/"))).is_ok_and(|o| o.status.success())
    })
}

/// Apache's configuration for a server called `name`.
fn configuration(name: &str, folder: &Path) -> String {
    let folder = folder.display();
    let ports = PORTS.iter().chain([&PROXY_PORT]);
    let listen: Vec<_> = ports.map(|port| format!("Listen {port}")).collect();
    format!(
        r##"ServerRoot /usr/lib/apache2
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule dir_module modules/mod_dir.so
LoadModule remoteip_module modules/mod_remoteip.so
ServerName {name}
{listen}
User nobody
Group nogroup
DefaultRuntimeDir {folder}
PidFile {folder}/apache2.pid
ErrorLog {folder}/error.log
DocumentRoot {folder}/documents
DirectoryIndex index.html
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
StartServers 1
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
<VirtualHost *:{ending}>
MaxKeepAliveRequests 100
</VirtualHost>
<VirtualHost *:{PROXY_PORT}>
RemoteIPProxyProtocol On
CustomLog {folder}/told.log "%a"
</VirtualHost>
"##,
        listen = listen.join("\n"),
        ending = PORTS[2],
    )
}
