//! The IDX format of MNIST and its family (LeCun, Cortes and Burges 1998): two zero bytes, a type, the
//! number of sides, the sides as big-endian 32-bit numbers, the values in rows and big-endian.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, ImageShape, Images, Result};
use flate2::read::MultiGzDecoder;

use crate::catalogue::{Entry, FASHION_MNIST, MNIST};
use crate::{Dataset, Preprocess, Split, files, names};

/// The numbers of an [`Idx`].
#[derive(Clone, Debug, PartialEq)]
pub enum IdxValues {
    /// Type 0x08.
    U8(Vec<u8>),
    /// Type 0x09.
    I8(Vec<i8>),
    /// Type 0x0B.
    I16(Vec<i16>),
    /// Type 0x0C.
    I32(Vec<i32>),
    /// Type 0x0D.
    F32(Vec<f32>),
    /// Type 0x0E.
    F64(Vec<f64>),
}

impl IdxValues {
    /// The name of the type.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::I16(_) => "i16",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
        }
    }

    fn from_bytes(kind: u8, bytes: Vec<u8>) -> Option<Self> {
        fn each<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().copied().map(read).collect()
        }
        Some(match kind {
            0x08 => Self::U8(bytes),
            0x09 => Self::I8(each(&bytes, i8::from_be_bytes)),
            0x0b => Self::I16(each(&bytes, i16::from_be_bytes)),
            0x0c => Self::I32(each(&bytes, i32::from_be_bytes)),
            0x0d => Self::F32(each(&bytes, f32::from_be_bytes)),
            0x0e => Self::F64(each(&bytes, f64::from_be_bytes)),
            _ => return None,
        })
    }
}

/// Bytes of a number of a type, or `None` if there is no such type.
fn width(kind: u8) -> Option<u64> {
    match kind {
        0x08 | 0x09 => Some(1),
        0x0b => Some(2),
        0x0c | 0x0d => Some(4),
        0x0e => Some(8),
        _ => None,
    }
}

/// A row-major array out of an IDX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Idx {
    /// Its sides, at least one; their product is the number of values.
    pub dims: Vec<usize>,
    /// Its values.
    pub values: IdxValues,
}

/// Reads an IDX file of any type, plain or gzipped: the first two bytes say which.
///
/// # Errors
/// If the file is missing, is no IDX file, ends early or goes on after its last value.
pub fn read_idx(path: &Path) -> Result<Idx> {
    let file = files::show(path);
    let fault = |e: std::io::Error| files::unreadable(path, &e);
    let mut source = File::open(path).map_err(fault)?;
    let mut magic = Vec::new();
    (&mut source)
        .take(2)
        .read_to_end(&mut magic)
        .map_err(fault)?;
    source.rewind().map_err(fault)?;
    let source = BufReader::new(source);
    if magic == [0x1f, 0x8b] {
        parse(MultiGzDecoder::new(source), &file)
    } else {
        parse(source, &file)
    }
}

fn parse(mut source: impl Read, file: &str) -> Result<Idx> {
    let mut read = |what: &str, bytes: u64| -> Result<Vec<u8>> {
        let mut found = Vec::new();
        let result = (&mut source).take(bytes).read_to_end(&mut found);
        result.map_err(|e| Error::other(format!("{file}: {what}"), e))?;
        Ok(found)
    };
    let exactly = |what: &str, found: &[u8], bytes: u64| {
        if found.len() as u64 == bytes {
            return Ok(());
        }
        let expected = format!("{bytes} bytes");
        Err(Error::input(
            format!("{file}: {what}"),
            format!("{} bytes", found.len()),
            expected,
        ))
    };
    let magic = read("magic number", 4)?;
    let (kind, sides, bytes_each) = match magic[..] {
        [0, 0, kind, sides] if sides > 0 => width(kind).map(|width| (kind, sides, width)),
        _ => None,
    }
    .ok_or_else(|| {
        let expected = "00 00, a type of 08, 09, 0b, 0c, 0d or 0e, and at least one side";
        Error::input(format!("{file}: magic number"), hex(&magic), expected)
    })?;
    let header = read("sides", u64::from(sides) * 4)?;
    exactly("sides", &header, u64::from(sides) * 4)?;
    let dims: Vec<u32> = header
        .as_chunks()
        .0
        .iter()
        .map(|b| u32::from_be_bytes(*b))
        .collect();
    let size = dims
        .iter()
        .try_fold(bytes_each, |size, side| size.checked_mul(u64::from(*side)))
        .filter(|size| *size < u64::MAX)
        .ok_or_else(|| {
            let found = format!("{dims:?}");
            Error::input(
                format!("{file}: sides"),
                found,
                "an array that fits into memory",
            )
        })?;
    let values = read("values", size)?;
    exactly("values", &values, size)?;
    if !read("end", 1)?.is_empty() {
        let expected = format!("the end after {size} bytes of values");
        return Err(Error::input(
            format!("{file}: values"),
            "more bytes",
            expected,
        ));
    }
    let values = IdxValues::from_bytes(kind, values)
        .ok_or_else(|| Error::input(format!("{file}: type"), kind, "a known type"))?;
    Ok(Idx {
        dims: dims.into_iter().map(|side| side as usize).collect(),
        values,
    })
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// The grey images of an IDX file.
pub(crate) fn read_images(path: &Path, size: ImageShape) -> Result<Images> {
    let file = files::show(path);
    match read_idx(path)? {
        Idx {
            dims,
            values: IdxValues::U8(pixels),
        } if dims.len() == 3
            && dims.ends_with(&[size.height, size.width])
            && !pixels.is_empty() =>
        {
            Images::new(size, pixels)
        }
        Idx { dims, values } => Err(Error::input(
            format!("{file}: images"),
            format!("{} {dims:?}", values.dtype()),
            format!("u8 [at least 1, {}, {}]", size.height, size.width),
        )),
    }
}

/// The labels of an IDX file.
pub(crate) fn read_labels(path: &Path, classes: u8) -> Result<Vec<ClassId>> {
    let file = files::show(path);
    let labels = match read_idx(path)? {
        Idx {
            dims,
            values: IdxValues::U8(labels),
        } if dims.len() == 1 => labels,
        Idx { dims, values } => {
            let found = format!("{} {dims:?}", values.dtype());
            return Err(Error::input(
                format!("{file}: labels"),
                found,
                "u8 with one side",
            ));
        }
    };
    if let Some(record) = labels.iter().position(|label| *label >= classes) {
        return Err(Error::input(
            format!("{file}: label {record} at byte {}", record + 8),
            labels.get(record).copied().unwrap_or_default(),
            format!("less than {classes}"),
        ));
    }
    Ok(labels
        .into_iter()
        .map(|label| ClassId(u32::from(label)))
        .collect())
}

/// The images and labels of the training or test set, by the beginning of their files' names.
pub(crate) struct Pair {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
}

pub(crate) const CLASSES: u8 = 10;

impl Pair {
    pub(crate) fn find(folder: &Path, part: &str) -> Self {
        Self {
            images: variant(folder, &format!("{part}-images-idx3-ubyte")),
            labels: variant(folder, &format!("{part}-labels-idx1-ubyte")),
        }
    }

    pub(crate) fn read(&self, size: ImageShape) -> Result<(Images, Vec<ClassId>)> {
        let images = read_images(&self.images, size)?;
        let labels = read_labels(&self.labels, CLASSES)?;
        if images.len() != labels.len() {
            return Err(Error::input(
                format!("{}: labels", files::show(&self.labels)),
                labels.len(),
                format!(
                    "{}, one for each image of {}",
                    images.len(),
                    files::show(&self.images)
                ),
            ));
        }
        Ok((images, labels))
    }
}

/// The plain file if there is one, else the gzipped one.
fn variant(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if plain.is_file() {
        plain
    } else {
        folder.join(format!("{name}.gz"))
    }
}

fn load(
    entry: &Entry,
    class_names: &[&str],
    dir: &Path,
    preprocess: &Preprocess,
) -> Result<Dataset> {
    let folder = entry.find(dir)?;
    let split = |part: &str| {
        let (images, labels) = Pair::find(&folder, part).read(SHAPE)?;
        Split::new(preprocess.apply_all(images)?, labels)
    };
    let class_names = class_names.iter().map(|name| (*name).to_owned()).collect();
    let mut dataset = Dataset::new(entry.name, class_names, split("train")?, split("t10k")?)?;
    dataset.preprocess = *preprocess;
    Ok(dataset)
}

pub(crate) const SHAPE: ImageShape = ImageShape::new(28, 28, 1);

/// Loads MNIST from `dir`, or its folder `mnist` or `MNIST/raw`: four IDX files, each plain or gzipped.
///
/// # Errors
/// If a file is missing or broken, images are not 28×28 bytes, a label is above 9, or there are not
/// as many labels as images.
pub fn load_mnist(dir: &Path, preprocess: &Preprocess) -> Result<Dataset> {
    load(&MNIST, &names::DIGITS, dir, preprocess)
}

/// Loads Fashion-MNIST from `dir`, or its folder `fashion-mnist` or `FashionMNIST/raw`, in the format of
/// [`load_mnist`].
///
/// # Errors
/// As [`load_mnist`].
pub fn load_fashion_mnist(dir: &Path, preprocess: &Preprocess) -> Result<Dataset> {
    load(&FASHION_MNIST, &names::FASHION_MNIST, dir, preprocess)
}
