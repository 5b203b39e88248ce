use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use everburn_core::{Error, Result};

use crate::folder::{Contents, LOCK, digest, extractors};
use crate::segment::Segment;

/// What a cache holds of one extractor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtractorSummary {
    /// The extractor.
    pub extractor: String,
    /// Rows in segments whose index is sound; an image counts as often as it is stored.
    pub rows: u64,
    /// Bytes of all its segments.
    pub bytes: u64,
    /// When one of them was last used; `None` if there is none.
    pub last_used: Option<SystemTime>,
}

/// What [`clear`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What the cache in a folder holds, by extractor. Changes nothing. A folder that is not there holds
/// nothing.
///
/// # Errors
/// If a folder cannot be read.
pub fn summary(root: &Path) -> Result<Vec<ExtractorSummary>> {
    let mut summaries = Vec::new();
    for extractor in extractors(root).map_err(|error| failed(root, error))? {
        let folder = root.join(&extractor);
        let found = Contents::of(&folder).map_err(|error| failed(&folder, error))?;
        let found = found.segments;
        let rows = |path| Segment::open(path, &digest(&extractor), None);
        summaries.push(ExtractorSummary {
            rows: found
                .iter()
                .filter_map(|found| rows(&found.path).ok())
                .map(|(_, keys)| keys.len() as u64)
                .sum(),
            bytes: found.iter().map(|found| found.bytes).sum(),
            last_used: found.iter().map(|found| found.modified).max(),
            extractor,
        });
    }
    Ok(summaries)
}

/// Deletes the cache in a folder: what has the name of a segment or of its temporary file, and folders
/// that are empty then. Processes that use it go on: what they had not read by then may be absent.
///
/// # Errors
/// If a folder cannot be read or a file cannot be deleted.
pub fn clear(root: &Path) -> Result<Cleared> {
    let mut cleared = Cleared::default();
    for extractor in extractors(root).map_err(|error| failed(root, error))? {
        let folder = root.join(&extractor);
        let contents = Contents::of(&folder).map_err(|error| failed(&folder, error))?;
        let lock = folder.join(LOCK);
        let ours = contents.temporary.len() + contents.segments.len() > 0 || lock.is_file();
        for found in &contents.temporary {
            remove(&found.path)?;
        }
        for found in &contents.segments {
            remove(&found.path)?;
            cleared.segments += 1;
            cleared.bytes += found.bytes;
        }
        // A lock that somebody holds stays, and the folder with it.
        if let Ok(file) = File::open(&lock)
            && file.try_lock().is_ok()
        {
            remove(&lock)?;
        }
        // It stays if there is anything else in it.
        if ours {
            fs::remove_dir(&folder).unwrap_or_default();
        }
    }
    Ok(cleared)
}

/// Deletes a file, unless somebody else has.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::other(path.display().to_string(), error)
}
