use std::fs::{self, File, TryLockError};
use std::thread;
use std::time::Duration;

use crate::FeatureStore;
use crate::folder::LOCK;

/// How often a process that waits asks again.
const POLL: Duration = Duration::from_millis(50);

/// The right to compute what is missing, until dropped. See [`FeatureStore::computing`].
#[derive(Debug)]
#[must_use = "others compute as soon as it is dropped"]
pub struct Computing {
    store: FeatureStore,
    /// Absent where nothing can be locked.
    _lock: Option<File>,
}

impl Drop for Computing {
    fn drop(&mut self) {
        // Before the lock goes, so that the next one finds what this one computed.
        self.store.flush();
    }
}

impl FeatureStore {
    /// Waits until no other process, or thread, computes features of this extractor, and keeps others
    /// waiting until the guard is dropped, which [flushes](Self::flush). What others have stored by then
    /// is known when this returns: ask [`missing`](Self::missing) again.
    ///
    /// `should_stop` is asked about twenty times a second as long as it waits; if it says yes there is
    /// no guard. The lock is only advice, which nothing else here heeds, and it goes with its process,
    /// however that ends. Where nothing can be locked the guard comes at once, with a note. A thread
    /// that holds one and asks for a second waits for itself.
    pub fn computing(&self, mut should_stop: impl FnMut() -> bool) -> Option<Computing> {
        let lock = match self.open_lock() {
            None => None,
            Some(file) => loop {
                match file.try_lock() {
                    Ok(()) => break Some(file),
                    Err(TryLockError::WouldBlock) if should_stop() => return None,
                    Err(TryLockError::WouldBlock) => thread::sleep(POLL),
                    Err(TryLockError::Error(error)) => {
                        self.note_lock(error);
                        break None;
                    }
                }
            },
        };
        self.refresh();
        Some(Computing {
            store: self.clone(),
            _lock: lock,
        })
    }

    fn open_lock(&self) -> Option<File> {
        let folder = self.folder()?.path();
        let path = folder.join(LOCK);
        fs::create_dir_all(folder)
            // In a cache of somebody else it may be there to be read only, which is enough.
            .and_then(|()| File::create(&path).or_else(|_| File::open(&path)))
            .map_err(|error| self.note_lock(error))
            .ok()
    }

    fn note_lock(&self, error: std::io::Error) {
        if let Some(folder) = self.folder() {
            self.note(format!(
                "{}: {error}; other processes may compute the same features",
                folder.path().join(LOCK).display()
            ));
        }
    }
}
