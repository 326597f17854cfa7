//! The thread that writes: one synchronisation of the disk for all records that wait.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::watch;

use super::MAGIC;

/// What is to be done with the file.
#[derive(Debug)]
pub(super) enum Job {
    /// Add a record.
    Append(Vec<u8>),
    /// Put a file with this record alone in its place.
    Replace(Vec<u8>),
}

/// How far the writer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The last record that was dealt with.
    pub(crate) sequence: u64,
    /// The first record that is not on the disk, and why; until a whole state could be written.
    pub(crate) broken: Option<(u64, String)>,
}

/// The thread's other end.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<(u64, Job)>>,
    written: watch::Receiver<Written>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Writes a file with a first record, and begins to wait for more.
    pub(super) fn start(path: PathBuf, whole: &[u8]) -> io::Result<Self> {
        let file = replace(&path, whole)?;
        let (jobs, waiting) = unbounded();
        let (tell, written) = watch::channel(Written::default());
        let body = move || run(&path, file, &waiting, &tell);
        let thread = thread::Builder::new().name("xvs-journal".to_owned()).spawn(body)?;
        Ok(Self { jobs: Some(jobs), written, thread: Some(thread) })
    }

    /// Hands a job over. Those that wait are changes whose callers wait, so there are few.
    pub(super) fn send(&self, sequence: u64, job: Job) {
        if let Some(jobs) = &self.jobs {
            jobs.send((sequence, job)).expect("the writer ends after its jobs do");
        }
    }

    pub(super) fn written(&self) -> watch::Receiver<Written> {
        self.written.clone()
    }

    /// Whether the file lacks something.
    pub(super) fn is_broken(&self) -> bool {
        self.written.borrow().broken.is_some()
    }
}

impl Drop for Writer {
    /// Everything that waits is written first.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn run(path: &Path, mut file: File, jobs: &Receiver<(u64, Job)>, tell: &watch::Sender<Written>) {
    let mut broken: Option<(u64, String)> = None;
    while let Ok(first) = jobs.recv() {
        let (begun, mut last) = (first.0, first.0);
        let mut appended = false;
        for (sequence, job) in std::iter::once(first).chain(jobs.try_iter()) {
            last = sequence;
            let done = match job {
                Job::Replace(whole) => replace(path, &whole).map(|new| {
                    (file, broken) = (new, None);
                }),
                // What follows a gap may not be laid over what is before it.
                Job::Append(_) if broken.is_some() => Ok(()),
                Job::Append(record) => {
                    appended = true;
                    file.write_all(&record)
                }
            };
            if let Err(error) = done {
                broken.get_or_insert_with(|| (sequence, error.to_string()));
            }
        }
        if appended && let Err(error) = file.sync_data() {
            broken.get_or_insert_with(|| (begun, error.to_string()));
        }
        if let Some((_, error)) = &broken {
            tracing::error!("journal {}: {error}", path.display());
        }
        tell.send_replace(Written { sequence: last, broken: broken.clone() });
    }
}

/// Puts a file with this record alone in the place of the journal: first on the disk, then renamed,
/// then the folder on the disk.
fn replace(path: &Path, whole: &[u8]) -> io::Result<File> {
    let beside = path.with_added_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(MAGIC)?;
    file.write_all(whole)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    Ok(file)
}
