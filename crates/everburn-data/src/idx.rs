//! The IDX format of MNIST and its family (LeCun, Cortes and Burges 1998): two zero bytes, a type, the
//! number of sides, the sides as big-endian 32-bit numbers, the values in rows and big-endian.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, ImageShape, Result};
use flate2::read::MultiGzDecoder;

use crate::catalogue::{Entry, FASHION_MNIST, MNIST};
use crate::preprocess::Pipeline;
use crate::sink::{Room, chunk};
use crate::{Dataset, LoadOptions, Split, files, names};

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
    let mut source = Source::open(path)?;
    let values = source.next(source.size)?;
    source.end()?;
    let (file, kind) = (&source.file, source.kind);
    let values = IdxValues::from_bytes(kind, values)
        .ok_or_else(|| Error::input(format!("{file}: type"), kind, "a known type"))?;
    Ok(Idx {
        dims: source.dims,
        values,
    })
}

/// Deflate makes no byte into more than this (zlib's technical notes).
const MOST_PER_BYTE: u64 = 1032;

/// An IDX file whose header has been read, and some of its values.
struct Source {
    reader: Box<dyn Read>,
    /// What errors call it.
    file: String,
    kind: u8,
    dims: Vec<usize>,
    /// Bytes of all values, by the header.
    size: u64,
    /// Bytes of values that have been read.
    read: u64,
    /// Bytes that the file cannot have more of, whatever its header says.
    most: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let fault = |e: std::io::Error| files::unreadable(path, &e);
        let mut source = File::open(path).map_err(fault)?;
        let bytes = source.metadata().map_err(fault)?.len();
        let mut magic = Vec::new();
        (&mut source)
            .take(2)
            .read_to_end(&mut magic)
            .map_err(fault)?;
        source.rewind().map_err(fault)?;
        let source = BufReader::new(source);
        let (reader, most): (Box<dyn Read>, u64) = if magic == [0x1f, 0x8b] {
            let most = bytes.saturating_mul(MOST_PER_BYTE);
            (Box::new(MultiGzDecoder::new(source)), most)
        } else {
            (Box::new(source), bytes)
        };
        Self::with_header(reader, files::show(path), most)
    }

    fn with_header(mut reader: Box<dyn Read>, file: String, most: u64) -> Result<Self> {
        let magic = up_to(&mut reader, 4, &file, "magic number")?;
        let (kind, sides, bytes_each) = match magic[..] {
            [0, 0, kind, sides] if sides > 0 => width(kind).map(|width| (kind, sides, width)),
            _ => None,
        }
        .ok_or_else(|| {
            let expected = "00 00, a type of 08, 09, 0b, 0c, 0d or 0e, and at least one side";
            Error::input(format!("{file}: magic number"), hex(&magic), expected)
        })?;
        let sides = u64::from(sides) * 4;
        let header = up_to(&mut reader, sides, &file, "sides")?;
        exactly(&file, "sides", header.len() as u64, sides)?;
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
                let expected = "an array that fits into memory";
                Error::input(format!("{file}: sides"), format!("{dims:?}"), expected)
            })?;
        Ok(Self {
            reader,
            file,
            kind,
            dims: dims.into_iter().map(|side| side as usize).collect(),
            size,
            read: 0,
            most,
        })
    }

    /// The next bytes of the values.
    fn next(&mut self, bytes: u64) -> Result<Vec<u8>> {
        let found = up_to(&mut self.reader, bytes, &self.file, "values")?;
        self.read += found.len() as u64;
        if found.len() as u64 != bytes {
            exactly(&self.file, "values", self.read, self.size)?;
        }
        Ok(found)
    }

    /// Checks that the file ends with the last value.
    fn end(&mut self) -> Result<()> {
        if up_to(&mut self.reader, 1, &self.file, "end")?.is_empty() {
            return Ok(());
        }
        let expected = format!("the end after {} bytes of values", self.size);
        let what = format!("{}: values", self.file);
        Err(Error::input(what, "more bytes", expected))
    }

    fn describe(&self) -> String {
        let values = IdxValues::from_bytes(self.kind, Vec::new());
        let dtype = values.map_or("unknown", |values| values.dtype());
        format!("{dtype} {:?}", self.dims)
    }
}

/// The next bytes, or fewer at the end.
fn up_to(reader: &mut dyn Read, bytes: u64, file: &str, what: &str) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    let result = reader.take(bytes).read_to_end(&mut found);
    result.map_err(|e| Error::other(format!("{file}: {what}"), e))?;
    Ok(found)
}

fn exactly(file: &str, what: &str, found: u64, bytes: u64) -> Result<()> {
    if found == bytes {
        return Ok(());
    }
    let (found, expected) = (format!("{found} bytes"), format!("{bytes} bytes"));
    Err(Error::input(format!("{file}: {what}"), found, expected))
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// The grey images of an IDX file, read some at a time.
pub(crate) struct ImageFile {
    source: Source,
    shape: ImageShape,
    /// How many images there are, by the header.
    pub(crate) count: usize,
    /// How many of them have been read.
    read: usize,
}

impl ImageFile {
    /// Opens a file and checks its header.
    pub(crate) fn open(path: &Path, shape: ImageShape) -> Result<Self> {
        let source = Source::open(path)?;
        match source.dims[..] {
            [count, height, width]
                if source.kind == 0x08
                    && [height, width] == [shape.height, shape.width]
                    && count > 0 =>
            {
                Ok(Self {
                    source,
                    shape,
                    count,
                    read: 0,
                })
            }
            _ => Err(Error::input(
                format!("{}: images", source.file),
                source.describe(),
                format!("u8 [at least 1, {}, {}]", shape.height, shape.width),
            )),
        }
    }

    /// How many images there can be: a broken header may promise more than the file can hold.
    fn at_most(&self) -> usize {
        let most = self.source.most / self.shape.bytes().max(1) as u64;
        usize::try_from(most).unwrap_or(usize::MAX).min(self.count)
    }

    /// The pixels of the next images, at most so many; `None` after the last, which must be the end
    /// of the file.
    fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let count = most.min(self.count - self.read);
        if count == 0 {
            self.source.end()?;
            return Ok(None);
        }
        self.read += count;
        let bytes = (count * self.shape.bytes()) as u64;
        self.source.next(bytes).map(Some)
    }
}

/// How many images an IDX file has, all of it being read.
pub(crate) fn count_images(path: &Path, shape: ImageShape) -> Result<usize> {
    let mut images = ImageFile::open(path, shape)?;
    while images.next(chunk(shape))?.is_some() {}
    Ok(images.count)
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

    fn load(&self, options: &LoadOptions, room: &mut Room) -> Result<Split> {
        let mut images = ImageFile::open(&self.images, SHAPE)?;
        let labels = read_labels(&self.labels, CLASSES)?;
        if images.count != labels.len() {
            return Err(Error::input(
                format!("{}: labels", files::show(&self.labels)),
                labels.len(),
                format!(
                    "{}, one for each image of {}",
                    images.count,
                    files::show(&self.images)
                ),
            ));
        }
        let pipeline = Pipeline::new(&options.preprocess, SHAPE)?;
        let mut sink = room.sink(pipeline.output(), images.at_most())?;
        while let Some(pixels) = images.next(chunk(pipeline.output()))? {
            sink.push(pipeline.run_all(pixels)?)?;
        }
        Split::new(sink.finish(), labels)
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

fn load(entry: &Entry, class_names: &[&str], dir: &Path, options: LoadOptions) -> Result<Dataset> {
    let folder = entry.find(dir)?;
    let mut room = Room::new(&options);
    let mut split = |part: &str| Pair::find(&folder, part).load(&options, &mut room);
    let class_names = class_names.iter().map(|name| (*name).to_owned()).collect();
    let mut dataset = Dataset::new(entry.name, class_names, split("train")?, split("t10k")?)?;
    dataset.preprocess = options.preprocess;
    Ok(dataset)
}

pub(crate) const SHAPE: ImageShape = ImageShape::new(28, 28, 1);

/// Loads MNIST from `dir`, or its folder `mnist` or `MNIST/raw`: four IDX files, each plain or gzipped.
///
/// # Errors
/// If a file is missing or broken, images are not 28×28 bytes, a label is above 9, or there are not
/// as many labels as images. Or as [`load`](crate::load).
pub fn load_mnist(dir: &Path, options: impl Into<LoadOptions>) -> Result<Dataset> {
    load(&MNIST, &names::DIGITS, dir, options.into())
}

/// Loads Fashion-MNIST from `dir`, or its folder `fashion-mnist` or `FashionMNIST/raw`, in the format of
/// [`load_mnist`].
///
/// # Errors
/// As [`load_mnist`].
pub fn load_fashion_mnist(dir: &Path, options: impl Into<LoadOptions>) -> Result<Dataset> {
    load(&FASHION_MNIST, &names::FASHION_MNIST, dir, options.into())
}
