//! The journal: what was asked for, so that nothing acknowledged is lost, however the daemon ends.
//!
//! A change is written here, and synchronised to the disk, before whoever asked for it is answered.
//! A record says how the desired state differs from the one before: whole services that are new or
//! differ, keys of those that went. Records are laid over each other in order when the daemon starts
//! again. When they have grown to several times the state itself, a file with the state alone takes
//! the journal's place by a rename, so that there is a whole one at every moment.
//!
//! File: eight octets that name its form, then for each record its length and CRC-32C (32 bits each,
//! low octet first) and a `xvs.v1.JournalRecord`. A record that is cut short or does not fit its sum
//! was never acknowledged: the file ends before it, and what follows is kept aside and told.

mod content;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use tokio::sync::watch;

pub use self::content::{Content, Held};
pub(crate) use self::writer::Written;
use self::writer::{Job, Writer};
use crate::proto::v1;

/// How the file begins.
const MAGIC: &[u8; 8] = b"XVSJ0001";

/// Octets in front of a record.
const HEAD: usize = 8;

/// A record is no longer than this: far above any state that fits the daemon.
const RECORD_MAX: usize = 256 << 20;

/// A journal is not made anew before it has grown to this.
const GROWN: u64 = 1 << 20;

/// Nor before it is so many times as long as the state.
const GROWN_TIMES: u64 = 4;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("journal {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon writes it.
    #[error("journal {path}: another xvsd writes it", path = path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It is no journal, or one of another make.
    #[error("journal {path}: {reason}", path = path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a journal had when it was opened.
#[derive(Debug)]
pub struct Restored {
    /// The state.
    pub content: Content,
    /// The sum of the configuration that the daemon had been started with.
    pub base: u64,
    /// Octets at the end that were no whole record, kept aside.
    pub cut: usize,
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    writer: Writer,
    /// The state as of the last record.
    last: Content,
    base: u64,
    /// The number of the last record.
    sequence: u64,
    /// Octets since the journal was made anew, and those of the state then.
    grown: u64,
    whole: u64,
    /// Held so that no other daemon writes here.
    _lock: File,
}

/// A journal's path, locked, and what is in it.
#[derive(Debug)]
pub struct Found {
    path: PathBuf,
    lock: File,
    /// What it had; `None` if there was none.
    pub restored: Option<Restored>,
}

/// Locks and reads a journal; it need not be there yet.
///
/// # Errors
///
/// It cannot be read, is none, or another daemon has it.
pub fn find(path: &Path) -> Result<Found, JournalError> {
    let fault = |source| JournalError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(fault)?;
    }
    let beside = path.with_added_extension("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(beside);
    let lock = lock.map_err(fault)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => JournalError::Taken { path: path.to_owned() },
        TryLockError::Error(source) => fault(source),
    })?;
    let octets = match fs::read(path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found { path: path.to_owned(), lock, restored: None });
        }
        Err(error) => return Err(fault(error)),
    };
    let strange = |reason| JournalError::Strange { path: path.to_owned(), reason };
    let (restored, end) = read(&octets).map_err(strange)?;
    if restored.cut > 0 {
        let aside = path.with_added_extension("cut");
        fs::write(&aside, &octets[end..]).map_err(fault)?;
        tracing::warn!(
            "journal {}: the last {} octets were no whole record, never acknowledged; kept in {}",
            path.display(),
            restored.cut,
            aside.display()
        );
    }
    Ok(Found { path: path.to_owned(), lock, restored: Some(restored) })
}

impl Found {
    /// Begins a journal anew with this state; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn begin(self, content: Content, base: u64) -> Result<Journal, JournalError> {
        let fault = |source| JournalError::Io { path: self.path.clone(), source };
        let whole = framed(&content.whole(base));
        let writer = Writer::start(self.path.clone(), &whole).map_err(fault)?;
        let whole = whole.len() as u64;
        let last = content;
        Ok(Journal { writer, last, base, sequence: 0, grown: 0, whole, _lock: self.lock })
    }
}

impl Journal {
    /// The state from now on is the result of a configuration with this sum.
    pub const fn set_base(&mut self, base: u64) {
        self.base = base;
    }

    /// Hands what differs from the last record to the writer. Returns the number of the record that
    /// has to be on the disk, or `None` if nothing differs.
    pub fn note(&mut self, content: Content) -> Option<u64> {
        let broken = self.writer.is_broken();
        if content == self.last && !broken {
            return None;
        }
        self.sequence += 1;
        let record = framed(&content.after(&self.last, self.base));
        self.grown += record.len() as u64;
        if broken || self.grown > GROWN.max(self.whole * GROWN_TIMES) {
            let whole = framed(&content.whole(self.base));
            (self.grown, self.whole) = (0, whole.len() as u64);
            self.writer.send(self.sequence, Job::Replace(whole));
        } else {
            self.writer.send(self.sequence, Job::Append(record));
        }
        self.last = content;
        Some(self.sequence)
    }

    /// How far the writer is, followed live.
    pub(crate) fn written(&self) -> watch::Receiver<Written> {
        self.writer.written()
    }
}

/// A record with what stands in front of it.
fn framed(record: &v1::JournalRecord) -> Vec<u8> {
    let payload = record.encode_to_vec();
    let length = u32::try_from(payload.len()).expect("a state is far below 4 GiB");
    let sum = crc32c::crc32c(&payload);
    [&length.to_le_bytes()[..], &sum.to_le_bytes(), &payload].concat()
}

/// What all whole records together say, and where the last one ends.
fn read(octets: &[u8]) -> Result<(Restored, usize), String> {
    if !octets.starts_with(MAGIC) {
        return Err("is no journal of this version".to_owned());
    }
    let (mut content, mut base, mut at) = (Content::default(), 0, MAGIC.len());
    while let Some(payload) = payload(&octets[at..]) {
        let record = v1::JournalRecord::decode(payload)
            .map_err(|error| format!("the record at octet {at}: {error}"))?;
        base = record.base;
        content.lay_over(&record).map_err(|error| format!("the record at octet {at}: {error}"))?;
        at += HEAD + payload.len();
    }
    Ok((Restored { content, base, cut: octets.len() - at }, at))
}

/// The payload of the record that begins here, if it is whole.
fn payload(octets: &[u8]) -> Option<&[u8]> {
    let (length, rest) = octets.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let payload = rest.get(..length).filter(|_| (1..=RECORD_MAX).contains(&length))?;
    (crc32c::crc32c(payload) == u32::from_le_bytes(*sum)).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn content(ports: &[u16], weight: u32) -> Content {
        let services: String = ports
            .iter()
            .map(|port| {
                format!(
                    "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\nport = {port}\n\
                     [[service.real]]\naddress = \"10.2.0.11\"\nweight = {weight}\n"
                )
            })
            .collect();
        Content { desired: Config::parse(&services).unwrap().desired, held: Vec::new() }
    }

    async fn on_disk(journal: &mut Journal, content: Content) {
        let number = journal.note(content).unwrap();
        let mut written = journal.written();
        let written = written.wait_for(|written| written.sequence >= number).await.unwrap();
        assert_eq!(written.broken, None);
    }

    #[tokio::test]
    async fn records_laid_over_each_other_are_the_last_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/journal");
        let mut journal = find(&path).unwrap().begin(content(&[80], 1), 7).unwrap();
        assert!(matches!(find(&path), Err(JournalError::Taken { .. })));
        on_disk(&mut journal, content(&[80, 81], 1)).await;
        on_disk(&mut journal, content(&[81, 82], 2)).await;
        assert_eq!(journal.note(content(&[81, 82], 2)), None, "nothing differs");
        drop(journal);
        let restored = find(&path).unwrap().restored.unwrap();
        assert_eq!((restored.content, restored.base), (content(&[81, 82], 2), 7));
    }

    #[tokio::test]
    async fn a_journal_that_has_grown_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let ports: Vec<_> = (1..400).collect();
        let mut journal = find(&path).unwrap().begin(content(&ports, 0), 0).unwrap();
        for weight in 1..60 {
            on_disk(&mut journal, content(&ports, weight)).await;
        }
        let length = fs::metadata(&path).unwrap().len();
        assert!(length < 2 * GROWN, "{length}");
        drop(journal);
        assert_eq!(find(&path).unwrap().restored.unwrap().content, content(&ports, 59));
    }

    #[tokio::test]
    async fn a_record_cut_anywhere_leaves_the_state_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = find(&path).unwrap().begin(content(&[80], 1), 0).unwrap();
        let before = fs::read(&path).unwrap().len();
        on_disk(&mut journal, content(&[80], 2)).await;
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for end in before..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let restored = find(&path).unwrap().restored.unwrap();
            assert_eq!((restored.content, restored.cut), (content(&[80], 1), end - before));
        }
        let mut spoilt = whole.clone();
        *spoilt.last_mut().unwrap() ^= 1;
        fs::write(&path, &spoilt).unwrap();
        assert_eq!(find(&path).unwrap().restored.unwrap().content, content(&[80], 1));
        assert_eq!(fs::read(path.with_added_extension("cut")).unwrap(), &spoilt[before..]);
        fs::write(&path, b"[daemon]\n").unwrap();
        assert!(matches!(find(&path), Err(JournalError::Strange { .. })));
    }
}
