//! CIFAR-10 and CIFAR-100 in their binary versions (Krizhevsky 2009): records of one or two label
//! bytes and 3,072 pixels, the planes R, G and B one after the other, each 32×32 in rows.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, ImageShape, Result};
use rayon::prelude::*;

use crate::catalogue::{CIFAR_10, CIFAR_100};
use crate::preprocess::Pipeline;
use crate::sink::{Room, chunk};
use crate::{Dataset, LoadOptions, Split, files, names};

const SHAPE: ImageShape = ImageShape::new(32, 32, 3);
const PLANE: usize = 32 * 32;

pub(crate) const CIFAR_10_TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
pub(crate) const CIFAR_10_TEST: &str = "test_batch.bin";
pub(crate) const CIFAR_10_NAMES: &str = "batches.meta.txt";
pub(crate) const CIFAR_100_TRAIN: &str = "train.bin";
pub(crate) const CIFAR_100_TEST: &str = "test.bin";

/// Which of CIFAR-100's two labels is the class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cifar100Labels {
    /// The 100 classes.
    #[default]
    Fine,
    /// The 20 superclasses of five classes each.
    Coarse,
}

impl Cifar100Labels {
    pub(crate) fn layout(self) -> Layout {
        Layout {
            labels: &[("coarse label", 20), ("fine label", 100)],
            class: match self {
                Self::Coarse => 0,
                Self::Fine => 1,
            },
        }
    }

    pub(crate) fn names_file(self) -> &'static str {
        match self {
            Self::Fine => "fine_label_names.txt",
            Self::Coarse => "coarse_label_names.txt",
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Fine => &names::CIFAR_100,
            Self::Coarse => &names::CIFAR_100_COARSE,
        }
    }
}

/// The label bytes of a record: what each is, and how many values it has; which one is the class.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    labels: &'static [(&'static str, u8)],
    class: usize,
}

pub(crate) const CIFAR_10_LAYOUT: Layout = Layout {
    labels: &[("label", 10)],
    class: 0,
};

impl Layout {
    fn record(&self) -> usize {
        self.labels.len() + SHAPE.bytes()
    }
}

/// A file of records, read some at a time.
struct RecordFile {
    source: File,
    path: PathBuf,
    layout: Layout,
    /// How many records it has.
    count: usize,
    /// How many of them have been read.
    read: usize,
}

impl RecordFile {
    /// Opens a file and checks its size.
    fn open(path: &Path, layout: Layout) -> Result<Self> {
        let fault = |e: std::io::Error| files::unreadable(path, &e);
        let source = File::open(path).map_err(fault)?;
        let bytes = source.metadata().map_err(fault)?.len();
        let record = layout.record() as u64;
        let (count, rest) = (bytes / record, bytes % record);
        if bytes == 0 || rest != 0 {
            return Err(Error::input(
                format!("{}: size", files::show(path)),
                format!("{bytes} bytes ({count} records and {rest} bytes)"),
                format!("a whole number of {record}-byte records, at least one"),
            ));
        }
        let count = usize::try_from(count).map_err(|e| Error::other(files::show(path), e))?;
        Ok(Self {
            source,
            path: path.to_owned(),
            layout,
            count,
            read: 0,
        })
    }

    /// The next records, at most so many, with their labels checked; `None` after the last.
    fn next(&mut self, most: usize) -> Result<Option<Records>> {
        let count = most.min(self.count - self.read);
        if count == 0 {
            return Ok(None);
        }
        let (mut bytes, layout) = (vec![0; count * self.layout.record()], self.layout);
        let read = self.source.read_exact(&mut bytes);
        read.map_err(|e| files::unreadable(&self.path, &e))?;
        let records = Records { bytes, layout };
        records.check(&self.path, self.read)?;
        self.read += count;
        Ok(Some(records))
    }
}

/// Records with checked labels.
pub(crate) struct Records {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Records {
    /// Reads a whole file and checks its size and every label.
    pub(crate) fn read(path: &Path, layout: Layout) -> Result<Self> {
        let mut file = RecordFile::open(path, layout)?;
        let none = Self {
            bytes: Vec::new(),
            layout,
        };
        Ok(file.next(file.count)?.unwrap_or(none))
    }

    /// Checks the labels; `before` records of the file came before these.
    fn check(&self, path: &Path, before: usize) -> Result<()> {
        let record = self.layout.record();
        for (index, labels) in (before..).zip(self.bytes.chunks_exact(record)) {
            for (place, (label, (what, classes))) in
                labels.iter().zip(self.layout.labels).enumerate()
            {
                if label >= classes {
                    let (file, offset) = (files::show(path), index * record + place);
                    return Err(Error::input(
                        format!("{file}: {what} of record {index} at byte {offset}"),
                        label,
                        format!("less than {classes}"),
                    ));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn labels(&self) -> impl Iterator<Item = ClassId> {
        let records = self.bytes.chunks_exact(self.layout.record());
        records.filter_map(|record| Some(ClassId(u32::from(*record.get(self.layout.class)?))))
    }

    /// The pixels with interleaved channels.
    fn pixels(&self) -> Vec<u8> {
        let (record, labels) = (self.layout.record(), self.layout.labels.len());
        let mut pixels = vec![0; self.bytes.len() / record * SHAPE.bytes()];
        let images = pixels.par_chunks_exact_mut(SHAPE.bytes());
        let records = self.bytes.par_chunks_exact(record);
        images.zip(records).for_each(|(image, record)| {
            let (_, planes) = record.split_at(labels);
            let (red, rest) = planes.split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            let (image, _) = image.as_chunks_mut::<3>();
            for (pixel, ((r, g), b)) in image.iter_mut().zip(red.iter().zip(green).zip(blue)) {
                *pixel = [*r, *g, *b];
            }
        });
        pixels
    }
}

fn split(
    paths: &[PathBuf],
    layout: Layout,
    options: &LoadOptions,
    room: &mut Room,
) -> Result<Split> {
    let open = |path: &PathBuf| RecordFile::open(path, layout);
    let files: Vec<RecordFile> = paths.iter().map(open).collect::<Result<_>>()?;
    let pipeline = Pipeline::new(&options.preprocess, SHAPE)?;
    let count = files.iter().map(|file| file.count).sum();
    let mut sink = room.sink(pipeline.output(), count)?;
    let mut labels = Vec::with_capacity(count);
    for mut file in files {
        while let Some(records) = file.next(chunk(pipeline.output()))? {
            labels.extend(records.labels());
            sink.push(pipeline.run_all(records.pixels())?)?;
        }
    }
    Split::new(sink.finish(), labels)
}

fn named(path: &Path, names: &[&str]) -> Result<Vec<String>> {
    let read = files::class_names(path, names.len())?;
    Ok(read.unwrap_or_else(|| names.iter().map(|name| (*name).to_owned()).collect()))
}

/// Loads CIFAR-10 from `dir` or its folder `cifar-10-batches-bin`: five training batches and a test
/// batch, each of any number of records. `batches.meta.txt` may be absent.
///
/// # Errors
/// If a file is missing, is not a whole number of records, or has a label above 9: names the file,
/// the record and the byte. Or as [`load`](crate::load).
pub fn load_cifar10(dir: &Path, options: impl Into<LoadOptions>) -> Result<Dataset> {
    let options = options.into();
    let mut room = Room::new(&options);
    let mut split = |paths: &[PathBuf]| split(paths, CIFAR_10_LAYOUT, &options, &mut room);
    let folder = CIFAR_10.find(dir)?;
    let train = CIFAR_10_TRAIN.map(|file| folder.join(file));
    let mut dataset = Dataset::new(
        CIFAR_10.name,
        named(&folder.join(CIFAR_10_NAMES), &names::CIFAR_10)?,
        split(&train)?,
        split(&[folder.join(CIFAR_10_TEST)])?,
    )?;
    dataset.preprocess = options.preprocess;
    Ok(dataset)
}

/// Loads CIFAR-100 from `dir` or its folder `cifar-100-binary`: `train.bin` and `test.bin`, each of any
/// number of records. The files of the label names may be absent.
///
/// # Errors
/// If a file is missing, is not a whole number of records, or has a coarse label above 19 or a fine
/// label above 99: names the file, the record and the byte. Or as [`load`](crate::load).
pub fn load_cifar100(
    dir: &Path,
    labels: Cifar100Labels,
    options: impl Into<LoadOptions>,
) -> Result<Dataset> {
    let options = options.into();
    let mut room = Room::new(&options);
    let mut split = |file: PathBuf| split(&[file], labels.layout(), &options, &mut room);
    let folder = CIFAR_100.find(dir)?;
    let mut dataset = Dataset::new(
        match labels {
            Cifar100Labels::Fine => "cifar100",
            Cifar100Labels::Coarse => "cifar100-coarse",
        },
        named(&folder.join(labels.names_file()), labels.names())?,
        split(folder.join(CIFAR_100_TRAIN))?,
        split(folder.join(CIFAR_100_TEST))?,
    )?;
    dataset.preprocess = options.preprocess;
    Ok(dataset)
}
