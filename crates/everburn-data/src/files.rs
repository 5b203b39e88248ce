//! Finding and reading files, with errors that name them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use everburn_core::{Error, Result};

use crate::Entry;

/// The whole of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| unreadable(path, &e))
}

/// What to say when the system does not let us read.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::input(show(path), "nothing", "a file"),
        _ => Error::other(show(path), error),
    }
}

/// A path in an error.
pub(crate) fn show(path: &Path) -> String {
    path.display().to_string()
}

/// The data folder, or an error that says which data set needs one.
pub(crate) fn required<'a>(name: &str, data_dir: Option<&'a Path>) -> Result<&'a Path> {
    data_dir.ok_or_else(|| Error::input(name, "no data folder", "the folder that it lies in"))
}

/// The first of a data set's usual folders, or `dir` itself, that has one of `proofs` in it.
///
/// # Errors
/// Names all folders that were looked for, and what in them.
pub(crate) fn find_folder(entry: &Entry, dir: &Path, proofs: &[&str]) -> Result<PathBuf> {
    let folders = entry.folders.iter().map(|folder| dir.join(folder));
    let candidates: Vec<PathBuf> = folders.chain([dir.to_owned()]).collect();
    let proven = |folder: &&PathBuf| proofs.iter().any(|file| folder.join(file).is_file());
    candidates.iter().find(proven).cloned().ok_or_else(|| {
        let looked: Vec<_> = candidates.iter().map(|folder| show(folder)).collect();
        let wanted: Vec<_> = entry.files.iter().map(|file| file.name).collect();
        let also = if entry.files.iter().any(|f| f.packed.is_some()) {
            " (plain or .gz)"
        } else {
            ""
        };
        Error::input(
            format!("{}, looked for in {}", entry.name, looked.join(", ")),
            "no file of it",
            format!("{}{also}, from {}", wanted.join(", "), entry.source),
        )
    })
}

/// The class names in a text file, one a line, or `None` if there is no such file.
///
/// # Errors
/// If there are not exactly `classes`.
pub(crate) fn class_names(path: &Path, classes: usize) -> Result<Option<Vec<String>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8(read(path)?)
        .map_err(|e| Error::input(show(path), e.utf8_error(), "UTF-8 text"))?;
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() != classes {
        let expected = format!("{classes}, one a line");
        return Err(Error::input(
            format!("{}: class names", show(path)),
            names.len(),
            expected,
        ));
    }
    Ok(Some(names))
}
