use std::fmt;
use std::path::{Path, PathBuf};

use everburn_core::{ImageShape, Result};

use crate::cifar::{CIFAR_10_TEST, CIFAR_10_TRAIN, CIFAR_100_TEST, CIFAR_100_TRAIN};
use crate::{files, load::unknown};

/// How many images a data set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// For training.
    pub train: usize,
    /// For testing.
    pub test: usize,
}

/// The gzipped form in which a file is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its name.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its MD5 checksum in hexadecimal.
    pub md5: &'static str,
}

/// A file of a data set, as its authors published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfficialFile {
    /// Its name, unpacked.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its MD5 checksum in hexadecimal, where one is known.
    pub md5: Option<&'static str>,
    /// How many images or labels it holds.
    pub records: usize,
    /// Its gzipped form, which may be there in its place.
    pub packed: Option<Packed>,
}

/// Mean and standard deviation of each channel, of values from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Who uses these numbers.
    pub source: &'static str,
    /// The means.
    pub mean: &'static [f32],
    /// The standard deviations.
    pub std: &'static [f32],
}

/// What is known about a data set. Its `Display` form is the page that a user wants to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The name to load it by.
    pub name: &'static str,
    /// Its full name and what it shows.
    pub title: &'static str,
    /// How many classes, if that is fixed.
    pub classes: Option<usize>,
    /// How many images the complete set has, if that is fixed.
    pub counts: Option<Counts>,
    /// The size of its images, if that is fixed.
    pub shape: Option<ImageShape>,
    /// Licence or terms of use.
    pub terms: &'static str,
    /// What to cite.
    pub citation: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// The folders below the data folder in which it is looked for, in this order; then the data
    /// folder itself.
    pub folders: &'static [&'static str],
    /// Its files.
    pub files: &'static [OfficialFile],
    /// The archive that holds the files, where there is one.
    pub archive: Option<Packed>,
    /// Published statistics, the most usual first. Empty where values from 0 to 1 are used as they are.
    pub normalisation: &'static [Normalisation],
}

impl Entry {
    /// The folder that holds one of the data set's files in one of its forms.
    pub(crate) fn find(&self, dir: &Path) -> Result<PathBuf> {
        let plain = self.files.iter().map(|file| file.name);
        let packed = self.files.iter().filter_map(|file| Some(file.packed?.name));
        files::find_folder(self, dir, &plain.chain(packed).collect::<Vec<_>>())
    }
}

/// All data sets that can be loaded by name.
pub fn catalogue() -> &'static [Entry] {
    &CATALOGUE
}

/// What is known about the data set with a name; `folder:PATH` is a `folder`.
///
/// # Errors
/// Names the nearest one if there is none.
pub fn info(name: &str) -> Result<&'static Entry> {
    let known = match name.split_once(':') {
        Some(("folder", _)) => "folder",
        _ => name,
    };
    let entry = CATALOGUE.iter().find(|entry| entry.name == known);
    entry.ok_or_else(|| unknown(name))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.title)?;
        if let (Some(classes), Some(counts), Some(shape)) = (self.classes, self.counts, self.shape)
        {
            let Counts { train, test } = counts;
            writeln!(
                f,
                "  {classes} classes, {train} training and {test} test images, {shape}"
            )?;
        }
        writeln!(f, "  terms: {}", self.terms)?;
        writeln!(f, "  cite: {}", self.citation)?;
        writeln!(f, "  from: {}", self.source)?;
        if let Some(Packed { name, bytes, md5 }) = self.archive {
            writeln!(f, "  archive: {name}, {bytes} bytes, md5 {md5}")?;
        }
        if !self.folders.is_empty() {
            let folders = self.folders.join(", ");
            writeln!(
                f,
                "  looked for in: {folders} below the data folder, and the data folder itself"
            )?;
        }
        for file in self.files {
            write!(f, "  file: {}, {} bytes", file.name, file.bytes)?;
            if let Some(md5) = file.md5 {
                write!(f, ", md5 {md5}")?;
            }
            if let Some(Packed { name, bytes, md5 }) = file.packed {
                write!(f, "; or {name}, {bytes} bytes, md5 {md5}")?;
            }
            writeln!(f)?;
        }
        for Normalisation { source, mean, std } in self.normalisation {
            writeln!(f, "  mean {mean:?}, standard deviation {std:?} ({source})")?;
        }
        Ok(())
    }
}

static CATALOGUE: [Entry; 7] = [
    DIGITS,
    MNIST,
    FASHION_MNIST,
    CIFAR_10,
    CIFAR_100,
    CIFAR_100_COARSE,
    FOLDER,
];

const DIGITS: Entry = Entry {
    name: "digits",
    title: "handwritten digits, embedded: the test set of Optical Recognition of Handwritten Digits",
    classes: Some(10),
    counts: Some(Counts {
        train: 1442,
        test: 355,
    }),
    shape: Some(ImageShape::new(8, 8, 1)),
    terms: "CC BY 4.0",
    citation: "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning \
               Repository, 1998, doi 10.24432/C50P49",
    source: "part of this crate; originally optdigits.tes, https://doi.org/10.24432/C50P49",
    folders: &[],
    files: &[],
    archive: None,
    normalisation: &[],
};

const fn idx(
    name: &'static str,
    bytes: u64,
    md5: &'static str,
    records: usize,
    packed: Packed,
) -> OfficialFile {
    OfficialFile {
        name,
        bytes,
        md5: Some(md5),
        records,
        packed: Some(packed),
    }
}

const fn gz(name: &'static str, bytes: u64, md5: &'static str) -> Packed {
    Packed { name, bytes, md5 }
}

// Checksums: of the gzipped files as torchvision has them; of the unpacked ones as several public
// repositories list them.
pub(crate) const MNIST: Entry = Entry {
    name: "mnist",
    title: "MNIST, handwritten digits",
    classes: Some(10),
    counts: Some(Counts {
        train: 60_000,
        test: 10_000,
    }),
    shape: Some(ImageShape::new(28, 28, 1)),
    terms: "CC BY-SA 3.0",
    citation: "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document \
               recognition. Proceedings of the IEEE 86(11), 1998",
    source: "https://ossci-datasets.s3.amazonaws.com/mnist/",
    folders: &["mnist", "MNIST/raw"],
    files: &[
        idx(
            "train-images-idx3-ubyte",
            47_040_016,
            "6bbc9ace898e44ae57da46a324031adb",
            60_000,
            gz(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            ),
        ),
        idx(
            "train-labels-idx1-ubyte",
            60_008,
            "a25bea736e30d166cdddb491f175f624",
            60_000,
            gz(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "d53e105ee54ea40749a09fcbcd1e9432",
            ),
        ),
        idx(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "2646ac647ad5339dbf082846283269ea",
            10_000,
            gz(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "9fb629c4189551a2d022fa330f9573f3",
            ),
        ),
        idx(
            "t10k-labels-idx1-ubyte",
            10_008,
            "27ae3e4e09519cfbb04c329615203637",
            10_000,
            gz(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
    ],
    archive: None,
    normalisation: &[Normalisation {
        source: "usual",
        mean: &[0.1307],
        std: &[0.3081],
    }],
};

pub(crate) const FASHION_MNIST: Entry = Entry {
    name: "fashion-mnist",
    title: "Fashion-MNIST, articles of clothing",
    classes: Some(10),
    counts: Some(Counts {
        train: 60_000,
        test: 10_000,
    }),
    shape: Some(ImageShape::new(28, 28, 1)),
    terms: "MIT (Zalando SE)",
    citation: "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking \
               machine learning algorithms. arXiv 1708.07747, 2017",
    source: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    folders: &["fashion-mnist", "FashionMNIST/raw"],
    files: &[
        idx(
            "train-images-idx3-ubyte",
            47_040_016,
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            60_000,
            gz(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
        ),
        idx(
            "train-labels-idx1-ubyte",
            60_008,
            "9018921c3c673c538a1fc5bad174d6f9",
            60_000,
            gz(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "25c81989df183df01b3e8a0aad5dffbe",
            ),
        ),
        idx(
            "t10k-images-idx3-ubyte",
            7_840_016,
            "8181f5470baa50b63fa0f6fddb340f0a",
            10_000,
            gz(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "bef4ecab320f06d8554ea6380940ec79",
            ),
        ),
        idx(
            "t10k-labels-idx1-ubyte",
            10_008,
            "15d484375f8d13e6eb1aabb0c3f46965",
            10_000,
            gz(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
    ],
    archive: None,
    normalisation: &[Normalisation {
        source: "usual",
        mean: &[0.2860],
        std: &[0.3530],
    }],
};

const fn batch(name: &'static str) -> OfficialFile {
    OfficialFile {
        name,
        bytes: 30_730_000,
        md5: None,
        records: 10_000,
        packed: None,
    }
}

const KRIZHEVSKY: &str = "A. Krizhevsky: Learning multiple layers of features from tiny images. \
                          Technical report, University of Toronto, 2009";

pub(crate) const CIFAR_10: Entry = Entry {
    name: "cifar10",
    title: "CIFAR-10, objects and animals",
    classes: Some(10),
    counts: Some(Counts {
        train: 50_000,
        test: 10_000,
    }),
    shape: Some(ImageShape::new(32, 32, 3)),
    terms: "no licence stated; cite the technical report",
    citation: KRIZHEVSKY,
    source: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    folders: &["cifar-10-batches-bin"],
    files: &[
        batch(CIFAR_10_TRAIN[0]),
        batch(CIFAR_10_TRAIN[1]),
        batch(CIFAR_10_TRAIN[2]),
        batch(CIFAR_10_TRAIN[3]),
        batch(CIFAR_10_TRAIN[4]),
        batch(CIFAR_10_TEST),
    ],
    archive: Some(gz(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c32a1d4ab5d03f1284b67883e8d87530",
    )),
    normalisation: &[
        Normalisation {
            source: "Mammoth, Si-Blurry",
            mean: &[0.4914, 0.4822, 0.4465],
            std: &[0.2470, 0.2435, 0.2616],
        },
        Normalisation {
            source: "PyCIL, PILOT",
            mean: &[0.4914, 0.4822, 0.4465],
            std: &[0.2023, 0.1994, 0.2010],
        },
    ],
};

pub(crate) const CIFAR_100: Entry = Entry {
    name: "cifar100",
    title: "CIFAR-100, objects, plants, animals and people, 100 classes",
    classes: Some(100),
    counts: Some(Counts {
        train: 50_000,
        test: 10_000,
    }),
    shape: Some(ImageShape::new(32, 32, 3)),
    terms: "no licence stated; cite the technical report",
    citation: KRIZHEVSKY,
    source: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    folders: &["cifar-100-binary"],
    files: &[
        OfficialFile {
            name: CIFAR_100_TRAIN,
            bytes: 153_700_000,
            md5: Some("6172c7755cfe09b2fe270c85cebc1b15"),
            records: 50_000,
            packed: None,
        },
        OfficialFile {
            name: CIFAR_100_TEST,
            bytes: 30_740_000,
            md5: Some("4499cfba6c016c1be1438163640a0898"),
            records: 10_000,
            packed: None,
        },
    ],
    archive: Some(gz(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "03b5dce01913d631647c71ecec9e9cb8",
    )),
    normalisation: &[
        Normalisation {
            source: "usual",
            mean: &[0.5071, 0.4867, 0.4408],
            std: &[0.2675, 0.2565, 0.2761],
        },
        Normalisation {
            source: "OnPro and GCIL: those of CIFAR-10",
            mean: &[0.4914, 0.4822, 0.4465],
            std: &[0.2470, 0.2435, 0.2616],
        },
        Normalisation {
            source: "the complete training set, computed",
            mean: &[0.507_075_2, 0.486_548_9, 0.440_917_8],
            std: &[0.267_334_3, 0.256_438_5, 0.276_150_5],
        },
    ],
};

const CIFAR_100_COARSE: Entry = Entry {
    name: "cifar100-coarse",
    title: "CIFAR-100 with its 20 superclasses as the classes",
    classes: Some(20),
    ..CIFAR_100
};

const FOLDER: Entry = Entry {
    name: "folder",
    title: "any folder of class folders of PNG and JPEG images (`folder` or `folder:PATH`)",
    classes: None,
    counts: None,
    shape: None,
    terms: "those of the images",
    citation: "the source of the images",
    source: "you: train/ and test/ with class folders, or class folders and, if you like, a split.txt",
    folders: &[],
    files: &[],
    archive: None,
    normalisation: &[Normalisation {
        source: "ImageNet, as usual for photographs",
        mean: &[0.485, 0.456, 0.406],
        std: &[0.229, 0.224, 0.225],
    }],
};
