use std::fmt;
use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, Result};
use md5::{Digest, Md5};
use rayon::prelude::*;

use crate::cifar::{
    CIFAR_10_LAYOUT, CIFAR_10_TEST, CIFAR_10_TRAIN, CIFAR_100_TEST, CIFAR_100_TRAIN, Layout,
    Records,
};
use crate::idx::{CLASSES, Pair, SHAPE, count_images, read_labels};
use crate::load::{folder_path, unknown};
use crate::{
    Cifar100Labels, Counts, Entry, LoadOptions, OfficialFile, digits, files, folder, info,
};

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// It is not there.
    Missing,
    /// Its checksum is the official one.
    Official {
        /// Images or labels in it.
        records: usize,
    },
    /// It has fewer records than the official file, every one valid.
    Subset {
        /// Images or labels in it.
        records: usize,
        /// Images or labels in the official file.
        official: usize,
    },
    /// Every record is valid and there are at least as many as in the official file, but its checksum is
    /// another: packed by somebody else, in another order, or damaged.
    Altered {
        /// Images or labels in it.
        records: usize,
        /// Its MD5 checksum.
        found: String,
        /// The official one.
        expected: String,
    },
    /// Every record is valid, and there is no official checksum to compare with.
    Unchecked {
        /// Images or labels in it.
        records: usize,
    },
    /// It cannot be read: the error says where and why.
    Invalid {
        /// The error.
        why: String,
    },
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Official { records } => write!(f, "the official file, {records} records"),
            Self::Subset { records, official } => {
                write!(
                    f,
                    "a subset: {records} of {official} records, every record valid"
                )
            }
            Self::Altered {
                records,
                found,
                expected,
            } => write!(
                f,
                "not the official file: {records} records, every record valid, md5 {found}, \
                 expected {expected}"
            ),
            Self::Unchecked { records } => {
                write!(
                    f,
                    "{records} records, every record valid, no official checksum"
                )
            }
            Self::Invalid { why } => write!(f, "invalid: {why}"),
        }
    }
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Where it lies, or should.
    pub path: PathBuf,
    /// Its size, if it is there.
    pub bytes: Option<u64>,
    /// What it turned out to be.
    pub state: FileState,
}

/// What lies on the disk of a data set. Its `Display` form is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The name of the data set.
    pub dataset: String,
    /// Its files. Of class folders: the folder as a whole, then every image that cannot be decoded.
    pub files: Vec<FileReport>,
    /// How many valid training images each class has.
    pub train_per_class: Vec<usize>,
    /// How many valid test images each class has.
    pub test_per_class: Vec<usize>,
}

impl VerifyReport {
    /// Whether the data set can be loaded: all files are there and every record in them is valid.
    pub fn is_usable(&self) -> bool {
        let broken = |file: &FileReport| {
            matches!(file.state, FileState::Missing | FileState::Invalid { .. })
        };
        !self.files.iter().any(broken)
    }

    /// Whether it is the data set that its authors published: every file has the official checksum.
    /// CIFAR-10's unpacked files have none, so they are never official.
    pub fn is_official(&self) -> bool {
        let official = |file: &FileReport| matches!(file.state, FileState::Official { .. });
        self.files.iter().all(official)
    }

    fn new(dataset: &str, classes: usize) -> Self {
        Self {
            dataset: dataset.to_owned(),
            files: Vec::new(),
            train_per_class: vec![0; classes],
            test_per_class: vec![0; classes],
        }
    }

    fn count(&mut self, part: Part, labels: impl Iterator<Item = ClassId>) {
        let counts = match part {
            Part::Train => &mut self.train_per_class,
            Part::Test => &mut self.test_per_class,
        };
        for label in labels {
            if let Some(count) = counts.get_mut(label.0 as usize) {
                *count += 1;
            }
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.is_official(), self.is_usable()) {
            (true, _) => "the official data set",
            (false, true) => "usable, but not known to be the complete official data set",
            (false, false) => "not usable",
        };
        writeln!(f, "{}: {verdict}", self.dataset)?;
        for FileReport { path, bytes, state } in &self.files {
            write!(f, "  {}", path.display())?;
            if let Some(bytes) = bytes {
                write!(f, ", {bytes} bytes")?;
            }
            writeln!(f, ": {state}")?;
        }
        let parts = [
            ("training", &self.train_per_class),
            ("test", &self.test_per_class),
        ];
        for (part, counts) in parts {
            let total: usize = counts.iter().sum();
            write!(f, "  {part} images: {total}, ")?;
            match (counts.iter().min(), counts.iter().max()) {
                (Some(least), Some(most)) if least == most => writeln!(f, "{least} of each class")?,
                _ => {
                    let counts: Vec<_> = counts.iter().map(usize::to_string).collect();
                    writeln!(f, "by class {}", counts.join(" "))?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Part {
    Train,
    Test,
}

/// Looks at every file of a data set of the [`catalogue`](crate::catalogue): whether it is there, its
/// size, its checksum, every record, and how many images each class has. The embedded digits too.
///
/// Names and folders are those of [`load`](crate::load). What is missing or broken is in the report and
/// no error.
///
/// # Errors
/// If the name is unknown, a data folder is needed and not given, or class folders cannot be listed.
pub fn verify(name: &str, data_dir: Option<&Path>) -> Result<VerifyReport> {
    if let Some(path) = folder_path(name, data_dir) {
        return verify_folder(name, &path?);
    }
    let entry = info(name)?;
    let mut report = VerifyReport::new(name, entry.classes.unwrap_or_default());
    if name == "digits" {
        verify_digits(&mut report)?;
        return Ok(report);
    }
    let dir = files::required(name, data_dir)?;
    let usual = || dir.join(entry.folders.first().copied().unwrap_or_default());
    let folder = entry.find(dir).unwrap_or_else(|_| usual());
    match name {
        "mnist" | "fashion-mnist" => verify_idx(&mut report, entry, &folder),
        "cifar10" => {
            let train = CIFAR_10_TRAIN.map(|file| (file, Part::Train));
            let files = train.into_iter().chain([(CIFAR_10_TEST, Part::Test)]);
            verify_cifar(&mut report, entry, &folder, files, CIFAR_10_LAYOUT);
        }
        "cifar100" | "cifar100-coarse" => {
            let files = [(CIFAR_100_TRAIN, Part::Train), (CIFAR_100_TEST, Part::Test)];
            let labels = match name {
                "cifar100" => Cifar100Labels::Fine,
                _ => Cifar100Labels::Coarse,
            };
            verify_cifar(&mut report, entry, &folder, files, labels.layout());
        }
        _ => return Err(unknown(name)),
    }
    verify_archive(&mut report, entry, dir);
    Ok(report)
}

fn md5(bytes: &[u8]) -> String {
    let digest = Md5::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a file whose records are all valid with the official one.
fn judge(bytes: &[u8], records: usize, official: usize, checksum: Option<&str>) -> FileState {
    if records < official {
        return FileState::Subset { records, official };
    }
    let Some(expected) = checksum else {
        return FileState::Unchecked { records };
    };
    let found = md5(bytes);
    if found == expected {
        FileState::Official { records }
    } else {
        FileState::Altered {
            records,
            found,
            expected: expected.to_owned(),
        }
    }
}

fn file(path: PathBuf, bytes: Option<u64>, state: FileState) -> FileReport {
    FileReport { path, bytes, state }
}

/// The report of a file that `check` reads, or of one that is not there.
fn look(path: &Path, check: impl FnOnce() -> Result<FileState>) -> FileReport {
    let bytes = std::fs::metadata(path)
        .ok()
        .filter(|data| data.is_file())
        .map(|data| data.len());
    let state = match bytes {
        None => FileState::Missing,
        Some(_) => check().unwrap_or_else(|e| FileState::Invalid { why: e.to_string() }),
    };
    file(path.to_owned(), bytes, state)
}

fn verify_digits(report: &mut VerifyReport) -> Result<()> {
    let digits = crate::load_digits(LoadOptions::default())?;
    let records = digits.train.len() + digits.test.len();
    let state = judge(digits::FILE, records, records, Some(digits::MD5));
    report.files.push(file(
        digits::FILE_NAME.into(),
        Some(digits::FILE.len() as u64),
        state,
    ));
    report.count(Part::Train, digits.train.labels.into_iter());
    report.count(Part::Test, digits.test.labels.into_iter());
    Ok(())
}

fn verify_cifar(
    report: &mut VerifyReport,
    entry: &Entry,
    folder: &Path,
    files: impl IntoIterator<Item = (&'static str, Part)>,
    layout: Layout,
) {
    for (name, part) in files {
        let path = folder.join(name);
        let official = entry.files.iter().find(|file| file.name == name);
        let checked = look(&path, || {
            let records = Records::read(&path, layout)?;
            let count = records.labels().count();
            report.count(part, records.labels());
            let official_count = official.map_or(count, |file| file.records);
            let checksum = official.and_then(|file| file.md5);
            Ok(judge(records.bytes(), count, official_count, checksum))
        });
        report.files.push(checked);
    }
}

fn verify_idx(report: &mut VerifyReport, entry: &Entry, folder: &Path) {
    for (name, part) in [("train", Part::Train), ("t10k", Part::Test)] {
        let pair = Pair::find(folder, name);
        let mut image_count = None;
        let images = look(&pair.images, || {
            let count = count_images(&pair.images, SHAPE)?;
            image_count = Some(count);
            judge_idx(&pair.images, count, entry)
        });
        let labels = look(&pair.labels, || {
            let labels = read_labels(&pair.labels, CLASSES)?;
            if let Some(images) = image_count.filter(|images| *images != labels.len()) {
                let what = format!("{}: labels", files::show(&pair.labels));
                let expected = format!("{images}, one for each image");
                return Err(Error::input(what, labels.len(), expected));
            }
            let count = labels.len();
            report.count(part, labels.into_iter());
            judge_idx(&pair.labels, count, entry)
        });
        report.files.extend([images, labels]);
    }
}

fn judge_idx(path: &Path, records: usize, entry: &Entry) -> Result<FileState> {
    let bytes = files::read(path)?;
    let name = path.file_name().unwrap_or_default();
    let official = |file: &OfficialFile| match file.packed {
        Some(packed) if name == packed.name => Some((file.records, Some(packed.md5))),
        _ if name == file.name => Some((file.records, file.md5)),
        _ => None,
    };
    let (official, checksum) = entry
        .files
        .iter()
        .find_map(official)
        .unwrap_or((records, None));
    Ok(judge(&bytes, records, official, checksum))
}

/// The archive is not needed; if it lies beside the folder, it is looked at.
fn verify_archive(report: &mut VerifyReport, entry: &Entry, dir: &Path) {
    let Some(archive) = entry.archive else { return };
    let path = dir.join(archive.name);
    if path.is_file() {
        let records = entry
            .counts
            .map_or(0, |Counts { train, test }| train + test);
        let state = || {
            Ok(judge(
                &files::read(&path)?,
                records,
                records,
                Some(archive.md5),
            ))
        };
        report.files.push(look(&path, state));
    }
}

fn verify_folder(name: &str, dir: &Path) -> Result<VerifyReport> {
    let listing = folder::scan(dir)?;
    let mut report = VerifyReport::new(name, listing.class_names.len());
    let (mut records, mut bytes, mut broken) = (0, 0, Vec::new());
    for (part, items) in [(Part::Train, &listing.train), (Part::Test, &listing.test)] {
        let reports: Vec<FileReport> = items
            .par_iter()
            .map(|item| {
                look(&item.path, || {
                    folder::decode(item)?;
                    Ok(FileState::Unchecked { records: 1 })
                })
            })
            .collect();
        for (item, file) in items.iter().zip(reports) {
            if matches!(file.state, FileState::Unchecked { .. }) {
                records += 1;
                bytes += file.bytes.unwrap_or_default();
                report.count(part, [item.class].into_iter());
            } else {
                broken.push(file);
            }
        }
    }
    report.files.push(file(
        dir.to_owned(),
        Some(bytes),
        FileState::Unchecked { records },
    ));
    report.files.extend(broken);
    Ok(report)
}
