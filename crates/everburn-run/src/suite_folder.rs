use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use everburn_core::{Error, Result};
use everburn_eval::{Accompanying, Ledger, RunRecord, Timings};

use crate::{Partition, RunFolder};

/// The folder of a suite, locked: `ledger.jsonl` and `timing.jsonl` with a line for each finished
/// run, and a folder for each run.
///
/// A partition shares the folder with other partitions and has files of its own,
/// `ledger-2-of-3.jsonl`; readers take all of them together. The locks go with the process, however
/// it ends.
#[derive(Debug)]
pub struct SuiteFolder {
    path: PathBuf,
    partition: Option<Partition>,
    _locks: Vec<File>,
}

impl SuiteFolder {
    /// Opens and locks a suite's folder, making it if need be.
    ///
    /// # Errors
    /// If another process writes to it (for a partition: to all of it, or to this partition), or it
    /// cannot be made.
    pub fn lock(path: PathBuf, partition: Option<Partition>) -> Result<Self> {
        fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
        let locks = match partition {
            None => vec![lock(&path, ".lock", File::try_lock)?],
            Some(partition) => {
                let own = format!(".lock-{}", partition.file_name());
                vec![
                    lock(&path, ".lock", File::try_lock_shared)?,
                    lock(&path, &own, File::try_lock)?,
                ]
            }
        };
        Ok(Self {
            path,
            partition,
            _locks: locks,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a run.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn run(&self, run_id: &str) -> Result<RunFolder> {
        RunFolder::open(self.path.join(run_id))
    }

    /// Appends a finished run, on the disk when this returns.
    ///
    /// # Errors
    /// If the disk refuses; the ledger is then as it was.
    pub fn append(&self, record: &RunRecord, timing: &Accompanying) -> Result<()> {
        let line = Timings::line(&record.provenance.run_id, timing)?;
        append_line(&self.file("timing"), &line, Timings::is_whole)?;
        append_line(
            &self.file("ledger"),
            &Ledger::line(record)?,
            Ledger::is_whole,
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(match self.partition {
            None => format!("{name}.jsonl"),
            Some(partition) => format!("{name}-{}.jsonl", partition.file_name()),
        })
    }
}

/// Reads a ledger's file and the times beside it, or all ledgers of a folder. A folder without one,
/// or that is not there, holds no runs.
///
/// # Errors
/// If a file cannot be read; what is wrong in it the ledger knows ([`Ledger::check`]).
pub fn read_ledger(path: &Path) -> Result<(Ledger, Timings)> {
    let files = match path.is_dir() {
        true => ledgers(path)?,
        false if path.exists() => vec![path.to_owned()],
        false => Vec::new(),
    };
    let (mut ledger, mut timings) = (Ledger::default(), Timings::default());
    for path in files {
        let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
        ledger.read(&path.display().to_string(), &bytes);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(name.replacen("ledger", "timing", 1));
        if beside != path && beside.exists() {
            let bytes = fs::read(&beside).map_err(|error| failed(&beside, error))?;
            timings.read(&beside.display().to_string(), &bytes);
        }
    }
    Ok((ledger, timings))
}

/// Whether a path is a file, or a folder with a ledger in it.
pub fn has_ledger(path: &Path) -> bool {
    path.is_file() || ledgers(path).is_ok_and(|files| !files.is_empty())
}

/// The ledgers in a folder, by name.
fn ledgers(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let entry = entry.map_err(|error| failed(folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("ledger") && name.ends_with(".jsonl") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Opens a lock's file and locks it.
pub(crate) fn lock(
    folder: &Path,
    name: &str,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<File> {
    let path = folder.join(name);
    let file = File::create(&path).map_err(|error| failed(&path, error))?;
    match try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::unsupported(
            path.display().to_string(),
            "another bench is writing to this folder; wait for it, or take another folder",
        )),
        Err(TryLockError::Error(error)) => Err(failed(&path, error)),
    }
}

/// Appends a line that is on the disk when this returns, or leaves the file as it was.
fn append_line(path: &Path, line: &str, is_whole: fn(&str) -> bool) -> Result<()> {
    let append = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let (end, joint) = mend(&mut file, is_whole)?;
        let line = format!("{joint}{line}");
        let written = file.write_all(line.as_bytes());
        written.and_then(|()| file.sync_all()).inspect_err(|_| {
            // Of a line that did not fit on the disk nothing stays; should this fail as well, the
            // next append does it.
            file.set_len(end).unwrap_or_default();
        })
    };
    append().map_err(|error| failed(path, error))
}

/// Cuts off a last line that a crash left incomplete, and goes to the end of the file. Returns where
/// that is, and what the next line has to begin with: a newline, if just that is missing.
fn mend(file: &mut File, is_whole: fn(&str) -> bool) -> io::Result<(u64, &'static str)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last == *b"\n" {
        return Ok((length, ""));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let whole_lines = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let torn = String::from_utf8_lossy(&bytes[whole_lines..]);
    if is_whole(&torn) {
        return Ok((length, "\n"));
    }
    let end = whole_lines as u64;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    Ok((end, ""))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::other(path.display().to_string(), error)
}
