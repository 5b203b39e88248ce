use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use everburn_core::{Error, Result};
use everburn_eval::{Accompanying, ConfusionMatrix, RunRecord};
use everburn_stream::Manifest;

use crate::{Checkpoint, SuiteFolder, suite_folder::lock};

/// Writes a file under a temporary name beside it, flushes it to the disk, and renames it: a reader
/// sees the old file or the new one, never a part.
///
/// # Errors
/// If the disk refuses; the file that was there stays, and no temporary file is left.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    everburn_stream::write_atomically(path, |mut file| file.write_all(bytes))
        .map_err(|error| Error::other(path.display().to_string(), error))
}

/// The folder of one run: `config.toml`, `manifest.jsonl.zst`, `checkpoint`, `confusion.csv`,
/// `result.json`, `timing.json`.
///
/// What decides a result and what accompanies it are different files, so that the first is equal to
/// the byte however often the run was interrupted.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Opens a run's folder, making it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).map_err(|e| Error::other(path.display().to_string(), e))?;
        Ok(Self { path })
    }

    /// Keeps other processes from working on this run, for as long as the file is open.
    ///
    /// # Errors
    /// If one does.
    pub fn lock(&self) -> Result<File> {
        lock(&self.path, ".lock", File::try_lock)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes what the run is about.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn describe(&self, config: &str, manifest: &Manifest) -> Result<()> {
        if !self.file("config.toml").exists() {
            manifest.save(self.file("manifest.jsonl.zst"))?;
            write_atomically(&self.file("config.toml"), config.as_bytes())?;
        }
        Ok(())
    }

    /// The result, if the run has ended.
    ///
    /// # Errors
    /// If there is one that cannot be read or contradicts itself.
    pub fn result(&self) -> Result<Option<RunRecord>> {
        self.read("result.json", RunRecord::from_json)
    }

    /// What accompanies the result.
    ///
    /// # Errors
    /// If there is something that cannot be read.
    pub fn timing(&self) -> Result<Option<Accompanying>> {
        self.read("timing.json", Accompanying::from_json)
    }

    fn read<T>(&self, name: &str, parse: impl Fn(&str, &str) -> Result<T>) -> Result<Option<T>> {
        let path = self.file(name);
        let source = path.display().to_string();
        match fs::read_to_string(&path) {
            Ok(text) => parse(&source, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::other(source, error)),
        }
    }

    /// Ends the run: writes what accompanies it, then the result, then both into the suite's ledger,
    /// then removes the checkpoint. After a crash at any point the next session finds enough to go
    /// on from there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(
        &self,
        record: &RunRecord,
        timing: &Accompanying,
        suite: &SuiteFolder,
    ) -> Result<()> {
        self.conclude(record, timing)?;
        suite.append(record, timing)?;
        self.discard_checkpoint()
    }

    /// The first half of [`finish`](Self::finish), for a process that does not write the ledger:
    /// writes what accompanies the run, then the result. Whoever holds the suite's folder appends
    /// both.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn conclude(&self, record: &RunRecord, timing: &Accompanying) -> Result<()> {
        self.keep_time(timing)?;
        write_atomically(&self.file("result.json"), record.to_json()?.as_bytes())
    }

    /// Writes what each class's test images were taken for in the end, as `confusion.csv`; to be called
    /// before [`finish`](Self::finish), so that a run with a result has it.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn keep_confusion(&self, confusion: &ConfusionMatrix) -> Result<()> {
        write_atomically(&self.file("confusion.csv"), confusion.to_csv()?.as_bytes())
    }

    /// Removes the checkpoint of a run that has ended, if there is one.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn discard_checkpoint(&self) -> Result<()> {
        let path = self.checkpoint_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::other(path.display().to_string(), error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the time spent so far.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn keep_time(&self, timing: &Accompanying) -> Result<()> {
        write_atomically(&self.file("timing.json"), timing.to_json()?.as_bytes())
    }

    /// Where the checkpoint is.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.file("checkpoint")
    }

    /// The checkpoint, if the run was interrupted.
    ///
    /// # Errors
    /// If there is one that is damaged.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let path = self.checkpoint_path();
        if path.exists() {
            Checkpoint::load(&path).map(Some)
        } else {
            Ok(None)
        }
    }
}
