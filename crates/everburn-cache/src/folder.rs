use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blake3::Hash;

/// The ending of a segment; a later version of the format gets another one.
const ENDING: &str = ".features";
/// Hexadecimal digits of a segment's name.
const DIGITS: usize = 32;
const TEMPORARY: (&str, &str) = (".everburn-cache-", ".tmp");
/// A temporary file this old was left by a process that died: writing one takes seconds.
const STALE: Duration = Duration::from_secs(3600);
/// Not the name of a run's lock, whose folder has a hexadecimal name too.
pub(crate) const LOCK: &str = ".everburn-cache.lock";

/// Whether this can be the name of an extractor: 8 to 128 lower-case hexadecimal digits.
pub(crate) fn is_extractor(name: &str) -> bool {
    (8..=128).contains(&name.len()) && is_hex(name)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_segment(name: &str) -> bool {
    name.strip_suffix(ENDING)
        .is_some_and(|digits| digits.len() == DIGITS && is_hex(digits))
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1)
}

/// A file of the cache, recognised by its name.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

impl Found {
    fn is_stale(&self) -> bool {
        self.modified
            .elapsed()
            .is_ok_and(|age| is_temporary(&self.name) && age > STALE)
    }
}

/// What is ours in the folder of an extractor, by name.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) segments: Vec<Found>,
    pub(crate) temporary: Vec<Found>,
}

impl Contents {
    /// Looks into a folder; one that is not there is empty.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let mut contents = Self::default();
        for entry in entries(folder)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let list = match () {
                () if is_segment(&name) => &mut contents.segments,
                () if is_temporary(&name) => &mut contents.temporary,
                () => continue,
            };
            // A file that another process has just deleted is not there.
            let Ok(data) = entry.metadata() else { continue };
            if data.is_file() {
                list.push(Found {
                    name,
                    path: entry.path(),
                    bytes: data.len(),
                    modified: data.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        Ok(contents)
    }

    /// Removes what dead processes left behind.
    pub(crate) fn tidy(&self) {
        for found in self.temporary.iter().filter(|found| found.is_stale()) {
            // Should that fail, the next process tries it.
            fs::remove_file(&found.path).unwrap_or_default();
        }
    }
}

/// The extractors of a cache, by name.
pub(crate) fn extractors(root: &Path) -> io::Result<Vec<String>> {
    let folders = entries(root)?;
    Ok(folders
        .iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_extractor(name))
        .collect())
}

/// What is in a folder, by name; nothing if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// The folder of the extractor at hand.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    extractor: String,
    path: PathBuf,
    digest: Hash,
    /// Bytes that all segments below the root may take.
    limit: u64,
}

impl Folder {
    pub(crate) fn new(root: &Path, extractor: &str, limit: u64) -> Self {
        Self {
            root: root.to_owned(),
            extractor: extractor.to_owned(),
            path: root.join(extractor),
            digest: digest(extractor),
            limit,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn extractor(&self) -> &str {
        &self.extractor
    }

    pub(crate) fn digest(&self) -> &Hash {
        &self.digest
    }

    /// The segments that are there, by name. Tidies up.
    pub(crate) fn segments(&self) -> io::Result<Vec<Found>> {
        let contents = Contents::of(&self.path)?;
        contents.tidy();
        Ok(contents.segments)
    }

    /// Writes a segment: whole, and on the disk when this returns, or not at all.
    ///
    /// # Errors
    /// In words, if there is no room for it or the disk refuses.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(PathBuf, File), String> {
        self.make_room(bytes.len() as u64)?;
        let name = format!("{}{ENDING}", &blake3::hash(bytes).to_hex()[..DIGITS]);
        let path = self.path.join(name);
        match self.write_atomically(&path, bytes) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(format!(
                "{}: {error}; new features are not stored there",
                self.path.display()
            )),
        }
    }

    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        fs::create_dir_all(&self.path)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // `tempfile` alone makes files that only their owner may read.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut temporary = builder.tempfile_in(&self.path)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        Ok(temporary.persist(path)?)
    }

    /// Deletes the least recently used segments of other extractors until so many more bytes fit. If
    /// they would not fit even then, none is deleted.
    fn make_room(&self, bytes: u64) -> Result<(), String> {
        let failed = |error| format!("{}: {error}", self.root.display());
        let (mut own, mut others) = (0, Vec::new());
        for extractor in extractors(&self.root).map_err(failed)? {
            // What cannot be seen cannot be deleted either.
            let contents = Contents::of(&self.root.join(&extractor)).unwrap_or_default();
            contents.tidy();
            if extractor == self.extractor {
                own = contents.segments.iter().map(|found| found.bytes).sum();
            } else {
                others.extend(contents.segments);
            }
        }
        if bytes.saturating_add(own) > self.limit {
            return Err(format!(
                "{}: its features take {own} bytes and may take {}; new ones are not stored there",
                self.path.display(),
                self.limit
            ));
        }
        let others_bytes: u64 = others.iter().map(|found| found.bytes).sum();
        let mut total = own.saturating_add(others_bytes);
        others.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
        for found in others {
            if total.saturating_add(bytes) <= self.limit {
                break;
            }
            match fs::remove_file(&found.path) {
                // Somebody else's, perhaps; there are others.
                Err(error) if error.kind() != ErrorKind::NotFound => {}
                _ => total -= found.bytes,
            }
        }
        if total.saturating_add(bytes) > self.limit {
            return Err(format!(
                "{}: segments of {total} bytes cannot be deleted; no room for new ones",
                self.root.display()
            ));
        }
        Ok(())
    }
}

/// What stands for an extractor in files and checksums.
pub(crate) fn digest(extractor: &str) -> Hash {
    blake3::hash(extractor.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_ours() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert!(is_segment(&format!("{digits}.features")));
        for name in [
            digits.to_owned(),
            format!("{digits}0.features"),
            format!("{}.features", digits.to_uppercase()),
            format!("{digits}.features.bak"),
            "notes.features".to_owned(),
            "é23456789abcdef0123456789abcdef.features".to_owned(),
        ] {
            assert!(!is_segment(&name), "{name}");
        }
        assert!(is_extractor(digits) && !is_extractor("../../etc") && !is_extractor("abc"));
    }
}
