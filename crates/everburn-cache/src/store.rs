use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use everburn_core::{Error, ImageKey, Result};

use crate::folder::{Folder, is_extractor};
use crate::notes::Notes;
use crate::segment::{MAX_DIM, Segment, Trouble, encode};
use crate::state::{Gathered, Lacking, Place, State};

/// Rows that wait to be stored, at most: so many, and so many bytes.
const PENDING_ROWS: u64 = 4096;
const PENDING_BYTES: u64 = 16 << 20;
/// However little memory there may be, so many rows are stored at once.
const PENDING_LEAST: u64 = 64;

/// What a store may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Values in memory; the index takes about 60 bytes more for each image. At least 64 rows are held.
    pub memory: u64,
    /// All segments below the root, of all extractors. Processes that store at the same moment may
    /// pass it by a segment each.
    pub disk: u64,
}

impl Default for Limits {
    /// 1 GiB of memory and 8 GiB of disk.
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            disk: 8 << 30,
        }
    }
}

/// What a store holds, and how often it could answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows in memory.
    pub rows_in_memory: usize,
    /// Bytes of their values.
    pub bytes_in_memory: u64,
    /// Rows in memory that are not stored yet.
    pub pending: usize,
    /// Images of this extractor with a row on the disk.
    pub rows_on_disk: usize,
    /// Bytes of the segments they are in.
    pub bytes_on_disk: u64,
    /// Rows that [`get`](FeatureStore::get) has handed out.
    pub hits: u64,
    /// Rows that [`get`](FeatureStore::get) was asked for and that were absent.
    pub misses: u64,
}

/// One extractor's rows by image, in memory and on the disk. Clones share them.
#[derive(Clone)]
pub struct FeatureStore(Arc<Inner>);

struct Inner {
    dim: usize,
    /// Absent in memory only.
    folder: Option<Folder>,
    /// Rows in memory that are not pending, at most.
    clean_limit: usize,
    /// Rows that are pending, at most.
    pending_limit: usize,
    state: RwLock<State>,
    /// Held by whoever adds segments. Taken before `state`.
    adding: Mutex<()>,
    hits: AtomicU64,
    misses: AtomicU64,
    notes: Notes,
}

impl FeatureStore {
    /// A store without a disk, for rows of `dim` values, at least 1. It keeps everything.
    pub fn in_memory(dim: usize) -> Self {
        Self::new(dim.max(1), None, usize::MAX, usize::MAX)
    }

    /// The store of an extractor in the cache at `root`, for rows of `dim` values; `extractor` is a hash
    /// of 8 to 128 lower-case hexadecimal digits. The folder is made when there is something to store,
    /// and that it cannot be read or made is a [note](Self::notes): the store is then one in memory.
    ///
    /// # Errors
    /// If `extractor` is no such hash, or `dim` is 0 or more than 2^24.
    pub fn open(root: &Path, extractor: &str, dim: usize, limits: Limits) -> Result<Self> {
        if !is_extractor(extractor) {
            return Err(Error::input(
                "feature cache, extractor",
                extractor,
                "8 to 128 lower-case hexadecimal digits",
            ));
        }
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(Error::input(
                "feature cache, values per row",
                dim,
                format!("1 to {MAX_DIM}"),
            ));
        }
        let row = 4 * dim as u64;
        let capacity = limits.memory / row;
        let pending = (capacity / 4)
            .min(PENDING_ROWS)
            .min(PENDING_BYTES / row)
            .max(PENDING_LEAST);
        let clean = capacity.saturating_sub(pending);
        let store = Self::new(
            dim,
            Some(Folder::new(root, extractor, limits.disk)),
            usize::try_from(clean).unwrap_or(usize::MAX),
            pending as usize,
        );
        store.refresh();
        Ok(store)
    }

    fn new(dim: usize, folder: Option<Folder>, clean_limit: usize, pending_limit: usize) -> Self {
        Self(Arc::new(Inner {
            dim,
            folder,
            clean_limit,
            pending_limit,
            state: RwLock::new(State::new(dim)),
            adding: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            notes: Notes::default(),
        }))
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.0.dim
    }

    /// Whether there is a row for an image, as far as the index knows: of a row on the disk it shows
    /// only when it is read whether it is sound.
    pub fn contains(&self, key: &ImageKey) -> bool {
        self.0.read().contains(key)
    }

    /// Which of the images, by number, have no row as far as the index knows. See
    /// [`load`](Self::load).
    pub fn missing(&self, keys: &[ImageKey]) -> Vec<usize> {
        let state = self.0.read();
        (0..keys.len())
            .filter(|&number| !state.contains(&keys[number]))
            .collect()
    }

    /// Reads and checks the rows of images, keeps in memory what fits there, and returns which images,
    /// by number, have none.
    pub fn load(&self, keys: &[ImageKey]) -> Vec<usize> {
        let mut missing = Vec::new();
        for (start, part) in (0..).step_by(64).zip(keys.chunks(64)) {
            if self.0.fetch(part).is_none() {
                let alone = |number: &usize| self.0.fetch(&part[*number..=*number]).is_none();
                missing.extend((0..part.len()).filter(alone).map(|number| start + number));
            }
        }
        missing
    }

    /// The rows of images, `[images, dim]` in their order and bit for bit, or nothing if one of them is
    /// absent. Reading changes nothing, except that a row from the disk stays in memory if it fits.
    pub fn get(&self, keys: &[ImageKey]) -> Option<Vec<f32>> {
        let rows = self.0.fetch(keys);
        match &rows {
            Some(_) => self.0.hits.fetch_add(keys.len() as u64, Ordering::Relaxed),
            None => {
                let missing = self.missing(keys).len() as u64;
                self.0.misses.fetch_add(missing, Ordering::Relaxed)
            }
        };
        rows
    }

    /// Keeps the rows `[images, dim]` of images, bit for bit, whatever they are. An image that has a row
    /// keeps that one. Once enough have come together they are stored; what finds room neither in
    /// memory nor on the disk is not kept, which is a [note](Self::notes).
    ///
    /// # Errors
    /// If there are more or fewer values than the images' rows have.
    pub fn put(&self, keys: &[ImageKey], rows: &[f32]) -> Result<()> {
        let dim = self.dim();
        if rows.len() != keys.len() * dim {
            return Err(Error::input(
                format!("features of {} images", keys.len()),
                format!("{} values", rows.len()),
                format!("{dim} for each"),
            ));
        }
        let mut given = keys.iter().zip(rows.chunks_exact(dim)).peekable();
        while given.peek().is_some() {
            let mut state = self.0.write();
            while state.pending.len() < self.0.pending_limit
                && let Some((key, row)) = given.next()
            {
                let new = !state.contains(key) && state.memory.insert(*key, row);
                if new && self.0.folder.is_some() {
                    state.pending.push(*key);
                }
            }
            let full = state.pending.len() >= self.0.pending_limit;
            drop(state);
            if full {
                self.flush();
            }
        }
        Ok(())
    }

    /// Stores what is pending, on the disk when this returns. It also happens when the last clone is
    /// dropped.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Looks for what other processes have stored since. Returns how many images are new.
    pub fn refresh(&self) -> usize {
        self.0.refresh()
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        let state = self.0.read();
        let rows_in_memory = state.memory.len();
        Stats {
            rows_in_memory,
            bytes_in_memory: 4 * (rows_in_memory * self.dim()) as u64,
            pending: state.pending.len(),
            rows_on_disk: state.disk.len(),
            bytes_on_disk: state.segments.iter().flatten().map(|s| s.bytes()).sum(),
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
        }
    }

    /// What went wrong since the last call, for people to read: damaged files, a full disk. Each thing is
    /// said once.
    pub fn notes(&self) -> Vec<String> {
        self.0.notes.take()
    }

    pub(crate) fn folder(&self) -> Option<&Folder> {
        self.0.folder.as_ref()
    }

    pub(crate) fn note(&self, note: String) {
        self.0.notes.add(note);
    }
}

impl Inner {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn adding(&self) -> MutexGuard<'_, ()> {
        self.adding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, keys: &[ImageKey]) -> Option<Vec<f32>> {
        let (gathered, room) = {
            let state = self.read();
            let room = self.clean_limit.saturating_sub(state.clean());
            (state.gather(keys, self.dim), room)
        };
        match gathered {
            Ok(Gathered { values, from_disk }) => {
                if room > 0 && !from_disk.is_empty() {
                    self.keep(keys, &values, &from_disk);
                }
                Some(values)
            }
            Err(Lacking::Absent) => None,
            Err(Lacking::Trouble(segment, trouble)) => {
                self.condemn(segment, &trouble);
                None
            }
        }
    }

    /// Keeps in memory what fits of the rows that were read from the disk.
    fn keep(&self, keys: &[ImageKey], values: &[f32], from_disk: &[usize]) {
        let mut state = self.write();
        for &number in from_disk {
            if state.clean() < self.clean_limit {
                let row = &values[number * self.dim..(number + 1) * self.dim];
                state.memory.insert(keys[number], row);
            }
        }
    }

    /// Forgets a segment of which something could not be read. One that is damaged is deleted, and what is
    /// sound in it waits to be stored anew.
    fn condemn(&self, number: u32, trouble: &Trouble) {
        let full = {
            let mut state = self.write();
            // Else another thread was here first.
            let Some((segment, rows)) = state.forget(number) else {
                return;
            };
            if let Trouble::Damaged { path, .. } = trouble {
                fs::remove_file(path).unwrap_or_default();
                self.save(&mut state, &segment, &rows);
            }
            state.pending.len() >= self.pending_limit
        };
        if !matches!(trouble, Trouble::Gone) {
            self.notes.add(trouble.to_string());
        }
        if full {
            self.flush();
        }
    }

    /// Makes the sound rows of a damaged segment pending, as far as they fit into memory.
    fn save(&self, state: &mut State, segment: &Segment, rows: &[(ImageKey, Place)]) {
        let mut values = Vec::new();
        let waiting: BTreeSet<ImageKey> = state.pending.iter().copied().collect();
        for (key, place) in rows.iter().filter(|(key, _)| !waiting.contains(key)) {
            values.clear();
            let kept = state.memory.contains(key)
                || (state.pending.len() < self.pending_limit
                    && segment.read(place.row as usize, key, &mut values).is_ok()
                    && state.memory.insert(*key, &values));
            if kept {
                state.pending.push(*key);
            }
        }
    }

    fn flush(&self) {
        let Some(folder) = &self.folder else { return };
        let _adding = self.adding();
        let (count, keys, bytes) = {
            let state = self.read();
            for segment in state.segments.iter().flatten() {
                segment.touch_if_used();
            }
            // What another process has stored in the meantime needs no second copy.
            let stored = |key: &&ImageKey| state.disk.contains_key(*key);
            let keys: Vec<_> = state.pending.iter().filter(|key| !stored(key)).collect();
            let row = |key| state.memory.row(key).map(|row| (*key, row));
            let rows: Vec<_> = keys.into_iter().filter_map(row).collect();
            let keys: Vec<_> = rows.iter().map(|(key, _)| *key).collect();
            let bytes = encode(folder.digest(), self.dim, &rows);
            (state.pending.len(), keys, bytes)
        };
        if count == 0 {
            return;
        }
        let written = match keys.is_empty() {
            true => None,
            false => Some(folder.write(&bytes)),
        };
        let mut state = self.write();
        let flushed: Vec<ImageKey> = state.pending.drain(..count).collect();
        match written {
            None => {}
            Some(Ok((path, file))) => {
                let rows = keys.len();
                let segment = Segment::written(path, file, folder.digest(), self.dim, rows);
                state.add(segment, &keys);
            }
            Some(Err(note)) => self.notes.add(note),
        }
        for key in flushed.iter().rev() {
            if state.clean() <= self.clean_limit {
                break;
            }
            state.memory.remove(key);
        }
    }

    fn refresh(&self) -> usize {
        let Some(folder) = &self.folder else { return 0 };
        let _adding = self.adding();
        let found = folder.segments().unwrap_or_else(|error| {
            let path = folder.path().display();
            self.notes
                .add(format!("{path}: {error}; its features are not used"));
            Vec::new()
        });
        let mut new = 0;
        for found in found {
            if self.read().known.contains(&found.path) {
                continue;
            }
            match Segment::open(&found.path, folder.digest(), Some(self.dim)) {
                Ok((segment, keys)) => {
                    segment.touch();
                    new += self.write().add(segment, &keys);
                }
                Err(Trouble::Gone) => {}
                Err(trouble) => {
                    if let Trouble::Damaged { path, .. } = &trouble {
                        fs::remove_file(path).unwrap_or_default();
                    }
                    self.notes.add(trouble.to_string());
                }
            }
        }
        new
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for FeatureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeatureStore")
            .field("extractor", &self.0.folder.as_ref().map(Folder::extractor))
            .field("dim", &self.dim())
            .field("stats", &self.stats())
            .finish()
    }
}
