//! Where a laboratory keeps its files: a folder of its own, removed with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::Context as _;

/// What every laboratory's folder and namespace is called; its owner's process id follows.
pub(super) const PREFIX: &str = "xvs-lab-";

/// A name that no other laboratory on this box has.
pub(super) fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), NUMBER.fetch_add(1, Relaxed))
}

/// Whether something with this name was left by a laboratory whose owner is dead.
fn is_left(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let owner: Option<u32> = rest.split('-').next().and_then(|id| id.parse().ok());
    owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
}

/// A folder that others can read, as the web servers' users must.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new one below the system's folder for temporary files, after removing what killed
    /// laboratories left there.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        sweep(&env::temp_dir());
        let path = env::temp_dir().join(unique());
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is by the next laboratory.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Removes what dead owners left. Another laboratory may do the same at the same time.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(is_left) {
            // Whoever may not remove it leaves it to one who may.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_left_is_swept() {
        assert!(!is_left(&unique()));
        assert!(!is_left("xvs-lab-"));
        assert!(!is_left("other-4194305-0"));
        // Above the greatest process id that the kernel ever gives.
        assert!(is_left("xvs-lab-4194305-0"));
    }

    #[test]
    fn a_folder_goes_with_its_owner() {
        let folder = Folder::new().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "content").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
