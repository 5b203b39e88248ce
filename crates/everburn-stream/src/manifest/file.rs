use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use everburn_core::{ClassId, Error, Result, TaskId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Manifest, ManifestTask};
use crate::write_atomically;

/// The version of the manifest file's format that this crate writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What the first line of every manifest file says.
const FORMAT: &str = "everburn-manifest";

/// The first bytes of a Zstandard frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Zstandard's own default.
const ZSTD_LEVEL: i32 = 3;

/// What has to be known before the rest of the header can be read.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

/// The first line of a manifest file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    scenario: String,
    settings: BTreeMap<String, String>,
    seed: u64,
    num_samples: usize,
    num_classes: usize,
    online: bool,
    borders: bool,
    tasks: usize,
    samples: usize,
    hash: String,
    class_order: Vec<ClassId>,
}

/// Any other line, with borrowed lists in writing and owned ones in reading.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLine<C, I> {
    task: TaskId,
    classes: C,
    indices: I,
}

impl Manifest {
    /// Writes the manifest as text: a header object with the counts and the hash on the first line,
    /// then one object for each task.
    ///
    /// # Errors
    /// If `writer` fails.
    pub fn write_jsonl(&self, writer: impl Write) -> Result<()> {
        self.write_lines(writer)
            .map_err(|error| Error::other("writing a manifest", error))
    }

    fn write_lines(&self, writer: impl Write) -> io::Result<()> {
        let mut writer = BufWriter::new(writer);
        let header = Header {
            format: FORMAT.to_owned(),
            version: FORMAT_VERSION,
            scenario: self.scenario.clone(),
            settings: self.settings.clone(),
            seed: self.seed,
            num_samples: self.num_samples,
            num_classes: self.num_classes,
            online: self.online,
            borders: self.borders,
            tasks: self.tasks.len(),
            samples: self.len(),
            hash: self.hash(),
            class_order: self.class_order.clone(),
        };
        write_line(&mut writer, &header)?;
        for (task, body) in self.tasks() {
            let line = TaskLine {
                task,
                classes: &body.classes,
                indices: &body.indices,
            };
            write_line(&mut writer, &line)?;
        }
        writer.flush()
    }

    /// Reads what [`write_jsonl`](Self::write_jsonl) wrote.
    ///
    /// The hash says that the manifest is as it was written; whether it fits a data set, only
    /// [`validate`](Self::validate) says.
    ///
    /// # Errors
    /// If the text is of another format or version, is cut off, or was changed.
    pub fn read_jsonl(reader: impl Read) -> Result<Self> {
        read(reader, "manifest")
    }

    /// Writes the manifest to a file: as plain text if its name ends in `.jsonl`, else compressed
    /// with Zstandard, for which the name should end in `.jsonl.zst`.
    ///
    /// The file is written under a temporary name beside its place, and then renamed, so that
    /// nobody ever finds half of it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.save_to(path)
            .map_err(|error| Error::other(format!("writing manifest {}", path.display()), error))
    }

    fn save_to(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, |file| {
            if path.extension().is_some_and(|end| end == "jsonl") {
                return self.write_lines(file);
            }
            let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            self.write_lines(&mut encoder)?;
            encoder.finish().map(drop)
        })
    }

    /// Reads a manifest file, compressed or not.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it as [`read_jsonl`](Self::read_jsonl) does.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = format!("manifest {}", path.display());
        let failed = |error| Error::other(format!("reading {name}"), error);
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let compressed = file.fill_buf().map_err(failed)?.starts_with(&ZSTD_MAGIC);
        if compressed {
            read(zstd::Decoder::with_buffer(file).map_err(failed)?, &name)
        } else {
            read(file, &name)
        }
    }
}

fn write_line(writer: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}

/// Lines of JSON, with the words for what is wrong with them.
struct Lines<'a, R> {
    reader: BufReader<R>,
    name: &'a str,
    number: usize,
    text: String,
}

impl<R: Read> Lines<'_, R> {
    /// Goes to the next line, and says whether there is one.
    fn advance(&mut self) -> Result<bool> {
        self.text.clear();
        self.number += 1;
        let place = self.place();
        let read = self.reader.read_line(&mut self.text);
        Ok(read.map_err(|error| Error::other(place, error))? > 0)
    }

    /// The line that was last gone to, parsed.
    fn parse<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        serde_json::from_str(self.text.trim_end()).map_err(|error| {
            let place = self.place();
            let cut = if self.text.ends_with('\n') {
                ""
            } else {
                " (the line has no end: the file may be cut off)"
            };
            // serde_json counts lines in what it was given, which here is always one.
            let message = error.to_string().replace(" at line 1 column", ", column");
            Error::input(place, format!("{message}{cut}"), what)
        })
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.name, self.number)
    }
}

fn read(reader: impl Read, name: &str) -> Result<Manifest> {
    let mut lines = Lines {
        reader: BufReader::new(reader),
        name,
        number: 0,
        text: String::new(),
    };
    let header = read_header(&mut lines)?;
    let mut tasks = Vec::new();
    while lines.advance()? {
        let expected = format!("task {} of {}", tasks.len(), header.tasks);
        if tasks.len() == header.tasks {
            let place = lines.place();
            return Err(Error::input(
                place,
                "another line",
                "the end, after the last task",
            ));
        }
        let line: TaskLine<Vec<ClassId>, Vec<u32>> = lines.parse(&expected)?;
        if usize::try_from(line.task.0) != Ok(tasks.len()) {
            let field = format!("{}, field `task`", lines.place());
            return Err(Error::input(field, line.task, expected));
        }
        tasks.push(ManifestTask {
            classes: line.classes,
            indices: line.indices,
        });
    }
    if tasks.len() != header.tasks {
        let expected = format!("{}, as its first line says", header.tasks);
        let what = format!("{name}, tasks up to its end");
        return Err(Error::input(what, tasks.len(), expected));
    }
    checked(header, tasks, name)
}

fn read_header<R: Read>(lines: &mut Lines<'_, R>) -> Result<Header> {
    if !lines.advance()? {
        return Err(Error::input(lines.name, "an empty file", "a manifest"));
    }
    let what = "the header of a manifest";
    let preamble: Preamble = lines.parse(what)?;
    if preamble.format != FORMAT {
        let field = format!("{}, field `format`", lines.place());
        return Err(Error::input(field, preamble.format, FORMAT));
    }
    if preamble.version != FORMAT_VERSION {
        let field = format!("{}, field `version`", lines.place());
        let expected = format!("{FORMAT_VERSION}, the one this program reads");
        return Err(Error::input(field, preamble.version, expected));
    }
    lines.parse(what)
}

/// Puts header and tasks together, if the header's counts and hash say that they belong together.
fn checked(header: Header, tasks: Vec<ManifestTask>, name: &str) -> Result<Manifest> {
    let manifest = Manifest {
        scenario: header.scenario,
        settings: header.settings,
        seed: header.seed,
        num_samples: header.num_samples,
        num_classes: header.num_classes,
        class_order: header.class_order,
        online: header.online,
        borders: header.borders,
        tasks,
    };
    if manifest.len() != header.samples {
        let expected = format!("{}, as its first line says", header.samples);
        let what = format!("{name}, samples in all tasks");
        return Err(Error::input(what, manifest.len(), expected));
    }
    let hash = manifest.hash();
    if hash != header.hash {
        let what = format!("{name}, hash of its content");
        let expected = format!(
            "{} as in its field `hash`: the content was changed",
            header.hash
        );
        return Err(Error::input(what, hash, expected));
    }
    Ok(manifest)
}
