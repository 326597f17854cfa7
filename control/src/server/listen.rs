//! Where gRPC listens: a unix socket that only its owner may use, and TCP if asked for.
//!
//! The rule: of two daemons with one socket path the second is refused, and a socket file that a
//! dead daemon left is replaced. A lock beside the socket decides, which the kernel lets go of
//! however the daemon ends. The socket gets its mode before it gets its name, so that nobody ever
//! finds it open.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// Why nothing can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon has the lock.
    #[error("{path}: another xvsd is running there", path = .0.display())]
    Taken(PathBuf),
    /// Another program accepts connections on the socket.
    #[error("{path}: another program is listening there", path = .0.display())]
    Foreign(PathBuf),
    /// The path names something else.
    #[error("{path}: is there already and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// A file could not be made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The TCP address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A unix socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Held, not read.
    _lock: File,
}

impl UnixSocket {
    /// Listens at `path`, mode 0600; makes the folder if there is none.
    ///
    /// # Errors
    ///
    /// Somebody else is there, or a file cannot be made. Nothing was changed then but, maybe, the
    /// folder and the lock file.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        Self::bind_for(path, 0o600)
    }

    /// Listens at `path`, with this mode: whoever it lets through is asked for a role.
    ///
    /// # Errors
    ///
    /// As [`UnixSocket::bind`].
    pub fn bind_for(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ListenError::File { path, source }
        };
        if let Some(folder) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(failed(folder))?;
        }
        let lock = lock(path)?;
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(ListenError::Foreign(path.to_owned()));
            }
        }
        let unnamed = beside(path, ".new");
        match fs::remove_file(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&unnamed)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&unnamed).map_err(failed(&unnamed))?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(mode))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::rename(&unnamed, path))
            .map_err(failed(path))?;
        Ok(Self { path: path.to_owned(), listener, _lock: lock })
    }

    /// The listener, not blocking.
    ///
    /// # Errors
    ///
    /// No more descriptors.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The lock file stays: removing it would let two daemons lock two files of one name.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("{}: cannot remove the socket: {error}", self.path.display());
        }
    }
}

/// Listens on a TCP address; not blocking.
///
/// # Errors
///
/// It is in use, not ours, or not allowed.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| ListenError::Tcp { address, source })
}

/// Takes the lock beside a socket, or says who has it.
fn lock(socket: &Path) -> Result<File, ListenError> {
    let path = beside(socket, ".lock");
    let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(|source| ListenError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ListenError::Taken(socket.to_owned())),
        Err(TryLockError::Error(source)) => Err(ListenError::File { path, source }),
    }
}

/// The path with something added to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own; removed with it.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_the_daemon() {
        let folder = folder();
        let path = folder.path().join("made/on/the/way/xvsd.sock");
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_the_first_stays() {
        let folder = folder();
        let path = folder.path().join("xvsd.sock");
        let first = UnixSocket::bind(&path).unwrap();
        let error = UnixSocket::bind(&path).unwrap_err();
        let want = format!("{}: another xvsd is running there", path.display());
        assert_eq!(error.to_string(), want);
        UnixStream::connect(&path).unwrap();
        drop(first);
        UnixSocket::bind(&path).unwrap();
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced() {
        let folder = folder();
        let path = folder.path().join("xvsd.sock");
        // Dropping the standard library's listener leaves the file, as a killed daemon does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let _socket = UnixSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_not_replaced() {
        let folder = folder();
        let path = folder.path().join("xvsd.sock");
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(UnixSocket::bind(&path), Err(ListenError::Foreign(_))));
        drop(foreign);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(UnixSocket::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_tcp_address_in_use_is_named() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind_tcp(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: Address")), "{error}");
    }
}
