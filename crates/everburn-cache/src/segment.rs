//! A segment: a file of rows that never changes.
//!
//! ```text
//!  8  magic, which says the version
//! 32  BLAKE3 of the extractor
//!  4  values per row      } little endian
//!  4  rows                }
//! 16  key                                   for each row: the index
//! 32  BLAKE3 of all of the above
//!  …  values, f32 little endian           } for each row
//!  8  BLAKE3 of extractor, key and values }
//! ```

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blake3::Hash;
use everburn_core::ImageKey;

use crate::positioned::Positioned;

/// Another version gets another magic and another file ending, so that neither removes the other's.
const MAGIC: &[u8; 8] = b"EVBFEAT1";
/// Values of the longest row.
pub(crate) const MAX_DIM: usize = 1 << 24;
const HEADER: usize = 48;
const KEY: usize = 16;
const INDEX_CHECK: usize = 32;
const ROW_CHECK: usize = 8;

/// Why a segment, or a row of it, cannot be had.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Another process has deleted it.
    Gone,
    /// The disk or the system refuses; the file may be sound.
    Unreadable(PathBuf, io::Error),
    /// It is not what it should be.
    Damaged {
        path: PathBuf,
        found: String,
        expected: String,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("deleted"),
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged {
                path,
                found,
                expected,
            } => write!(
                f,
                "{}: found {found}, expected {expected}; removed, to be computed again",
                path.display()
            ),
        }
    }
}

impl Trouble {
    fn damaged(path: &Path, found: impl ToString, expected: impl ToString) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    fn of(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            io::ErrorKind::UnexpectedEof => {
                Self::damaged(path, "a file that ends early", "all of its rows")
            }
            _ => Self::Unreadable(path.to_owned(), error),
        }
    }
}

/// Where things are in a segment of so many rows.
#[derive(Clone, Copy, Debug)]
struct Layout {
    dim: usize,
    rows: usize,
}

impl Layout {
    /// Bytes of header and index.
    fn index(self) -> u64 {
        HEADER as u64 + KEY as u64 * self.rows as u64
    }

    fn row_bytes(self) -> usize {
        4 * self.dim + ROW_CHECK
    }

    fn row(self, row: usize) -> u64 {
        self.index() + INDEX_CHECK as u64 + row as u64 * self.row_bytes() as u64
    }

    fn file(self) -> u64 {
        self.row(self.rows)
    }
}

/// The bytes of a segment with these rows of `dim` values.
pub(crate) fn encode(extractor: &Hash, dim: usize, rows: &[(ImageKey, &[f32])]) -> Vec<u8> {
    let layout = Layout {
        dim,
        rows: rows.len(),
    };
    let mut bytes = Vec::with_capacity(layout.file() as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(extractor.as_bytes());
    bytes.extend_from_slice(&(dim as u32).to_le_bytes());
    bytes.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    for (key, _) in rows {
        bytes.extend_from_slice(&key.0);
    }
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    for (key, row) in rows {
        let start = bytes.len();
        bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        let check = row_check(extractor, key, &bytes[start..]);
        bytes.extend_from_slice(&check);
    }
    bytes
}

/// The checksum of a row.
fn row_check(extractor: &Hash, key: &ImageKey, values: &[u8]) -> [u8; ROW_CHECK] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(extractor.as_bytes());
    hasher.update(&key.0);
    hasher.update(values);
    let mut check = [0; ROW_CHECK];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// A segment on the disk, of which header and index have been checked.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    extractor: Hash,
    layout: Layout,
    /// The file if it is held open; else each reading opens it.
    file: Option<Positioned>,
    used: AtomicBool,
}

impl Segment {
    /// Opens a file and checks its header and index; with the keys of its rows.
    pub(crate) fn open(
        path: &Path,
        extractor: &Hash,
        dim: Option<usize>,
    ) -> Result<(Self, Vec<ImageKey>), Trouble> {
        let failed = |error| Trouble::of(path, error);
        let damaged = |found: String, expected: String| Trouble::damaged(path, found, expected);
        let file = Positioned::open(path).map_err(failed)?;
        let length = file.len().map_err(failed)?;
        let mut bytes = vec![0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        if !bytes.starts_with(MAGIC) {
            return Err(damaged(
                "some other file".into(),
                "a segment of features".into(),
            ));
        }
        let layout = Layout {
            dim: number(&bytes[40..44]),
            rows: number(&bytes[44..48]),
        };
        if !(1..=MAX_DIM).contains(&layout.dim) {
            return Err(damaged(
                format!("{} values per row", layout.dim),
                format!("1 to {MAX_DIM}"),
            ));
        }
        // Before anything as long as the header claims is allocated.
        if layout.file() != length {
            return Err(damaged(
                format!("{length} bytes"),
                format!("{} for {} rows", layout.file(), layout.rows),
            ));
        }
        bytes.resize(layout.index() as usize + INDEX_CHECK, 0);
        file.read_exact_at(&mut bytes[HEADER..], HEADER as u64)
            .map_err(failed)?;
        let (bytes, check) = bytes.split_at(layout.index() as usize);
        if blake3::hash(bytes).as_bytes() != check {
            return Err(damaged(
                "a damaged index".into(),
                "one with its checksum".into(),
            ));
        }
        if bytes[8..40] != *extractor.as_bytes() {
            return Err(damaged(
                "features of another extractor".into(),
                "of this one".into(),
            ));
        }
        let wanted = dim.unwrap_or(layout.dim);
        if layout.dim != wanted {
            return Err(damaged(
                format!("{} values per row", layout.dim),
                wanted.to_string(),
            ));
        }
        let keys = bytes[HEADER..].as_chunks().0;
        let keys = keys.iter().map(|key| ImageKey(*key)).collect();
        let segment = Self {
            path: path.to_owned(),
            extractor: *extractor,
            layout,
            file: Some(file),
            used: AtomicBool::new(false),
        };
        Ok((segment, keys))
    }

    /// A segment that was just written.
    pub(crate) fn written(
        path: PathBuf,
        file: File,
        extractor: &Hash,
        dim: usize,
        rows: usize,
    ) -> Self {
        Self {
            path,
            extractor: *extractor,
            layout: Layout { dim, rows },
            file: Some(Positioned::new(file)),
            used: AtomicBool::new(false),
        }
    }

    /// Closes the file, to be opened for each reading.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.file()
    }

    /// Appends the values of row number `row`, which must be that of `key`, to `values`; of a row that
    /// cannot be had, nothing.
    pub(crate) fn read(
        &self,
        row: usize,
        key: &ImageKey,
        values: &mut Vec<f32>,
    ) -> Result<(), Trouble> {
        let mut bytes = vec![0; self.layout.row_bytes()];
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => {
                opened = Positioned::open(&self.path).map_err(|e| Trouble::of(&self.path, e))?;
                &opened
            }
        };
        file.read_exact_at(&mut bytes, self.layout.row(row))
            .map_err(|error| Trouble::of(&self.path, error))?;
        let (bytes, check) = bytes.split_at(4 * self.layout.dim);
        if row_check(&self.extractor, key, bytes) != check {
            return Err(Trouble::damaged(
                &self.path,
                format!("row {row} damaged"),
                "one with its checksum",
            ));
        }
        let (numbers, _) = bytes.as_chunks();
        values.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        self.used.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the disk that it was used, if it was since the last time.
    pub(crate) fn touch_if_used(&self) {
        if self.used.swap(false, Ordering::Relaxed) {
            self.touch();
        }
    }

    /// Tells the disk that it is in use.
    pub(crate) fn touch(&self) {
        match &self.file {
            Some(file) => file.touch(),
            None => Positioned::open(&self.path).map_or((), |file| file.touch()),
        }
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | *byte as usize)
}
