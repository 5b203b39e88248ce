//! CIFAR-10 and CIFAR-100 in their binary versions (Krizhevsky 2009): records of one or two label
//! bytes and 3,072 pixels, the planes R, G and B one after the other, each 32×32 in rows.

use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, ImageShape, Images, Result};
use rayon::prelude::*;

use crate::catalogue::{CIFAR_10, CIFAR_100};
use crate::{Dataset, Preprocess, Split, files, names};

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

/// The checked records of one file.
pub(crate) struct Records {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Records {
    /// Reads a file and checks its size and every label.
    pub(crate) fn read(path: &Path, layout: Layout) -> Result<Self> {
        let bytes = files::read(path)?;
        let records = Self { bytes, layout };
        records.check(&files::show(path))?;
        Ok(records)
    }

    fn check(&self, file: &str) -> Result<()> {
        let record = self.layout.record();
        let (bytes, rest) = (self.bytes.len(), self.bytes.len() % record);
        if bytes == 0 || rest != 0 {
            return Err(Error::input(
                format!("{file}: size"),
                format!(
                    "{bytes} bytes ({} records and {rest} bytes)",
                    bytes / record
                ),
                format!("a whole number of {record}-byte records, at least one"),
            ));
        }
        for (index, labels) in self.bytes.chunks_exact(record).enumerate() {
            for (place, (label, (what, classes))) in
                labels.iter().zip(self.layout.labels).enumerate()
            {
                if label >= classes {
                    let offset = index * record + place;
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
    fn append_to(&self, pixels: &mut Vec<u8>) {
        let start = pixels.len();
        let (record, labels) = (self.layout.record(), self.layout.labels.len());
        pixels.resize(start + self.bytes.len() / record * SHAPE.bytes(), 0);
        let (_, added) = pixels.split_at_mut(start);
        let images = added.par_chunks_exact_mut(SHAPE.bytes());
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
    }
}

fn split(paths: &[PathBuf], layout: Layout, preprocess: &Preprocess) -> Result<Split> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let records = Records::read(path, layout)?;
        records.append_to(&mut pixels);
        labels.extend(records.labels());
    }
    Split::new(preprocess.apply_all(Images::new(SHAPE, pixels)?)?, labels)
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
/// the record and the byte.
pub fn load_cifar10(dir: &Path, preprocess: &Preprocess) -> Result<Dataset> {
    let folder = CIFAR_10.find(dir)?;
    let train = CIFAR_10_TRAIN.map(|file| folder.join(file));
    let mut dataset = Dataset::new(
        CIFAR_10.name,
        named(&folder.join(CIFAR_10_NAMES), &names::CIFAR_10)?,
        split(&train, CIFAR_10_LAYOUT, preprocess)?,
        split(&[folder.join(CIFAR_10_TEST)], CIFAR_10_LAYOUT, preprocess)?,
    )?;
    dataset.preprocess = *preprocess;
    Ok(dataset)
}

/// Loads CIFAR-100 from `dir` or its folder `cifar-100-binary`: `train.bin` and `test.bin`, each of any
/// number of records. The files of the label names may be absent.
///
/// # Errors
/// If a file is missing, is not a whole number of records, or has a coarse label above 19 or a fine
/// label above 99: names the file, the record and the byte.
pub fn load_cifar100(
    dir: &Path,
    labels: Cifar100Labels,
    preprocess: &Preprocess,
) -> Result<Dataset> {
    let folder = CIFAR_100.find(dir)?;
    let layout = labels.layout();
    let mut dataset = Dataset::new(
        match labels {
            Cifar100Labels::Fine => "cifar100",
            Cifar100Labels::Coarse => "cifar100-coarse",
        },
        named(&folder.join(labels.names_file()), labels.names())?,
        split(&[folder.join(CIFAR_100_TRAIN)], layout, preprocess)?,
        split(&[folder.join(CIFAR_100_TEST)], layout, preprocess)?,
    )?;
    dataset.preprocess = *preprocess;
    Ok(dataset)
}
