use std::fmt;

use everburn_core::{ClassId, Error, ImageShape, Key, Result};
use serde::{Deserialize, Serialize};

use crate::sink::chunk;
use crate::{ImageSet, Preprocess};

/// Labelled images: the training or the test set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The images, in the order of the files, in memory or on the disk.
    pub images: ImageSet,
    /// The class of each.
    pub labels: Vec<ClassId>,
}

impl Split {
    /// Labelled images: an [`ImageSet`], or [`Images`](everburn_core::Images) in memory.
    ///
    /// # Errors
    /// If there are not as many labels as images.
    pub fn new(images: impl Into<ImageSet>, labels: Vec<ClassId>) -> Result<Self> {
        let images = images.into();
        if images.len() != labels.len() {
            let expected = format!("{}, one for each image", images.len());
            return Err(Error::input("labels", labels.len(), expected));
        }
        Ok(Self { images, labels })
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images at `indices`, in that order; see [`ImageSet::subset`] for what is copied.
    ///
    /// # Errors
    /// If an index is past the end.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        let label = |index: &usize| {
            self.labels.get(*index).copied().ok_or_else(|| {
                Error::input("image index", index, format!("less than {}", self.len()))
            })
        };
        let labels = indices.iter().map(label).collect::<Result<_>>()?;
        Self::new(self.images.subset(indices)?, labels)
    }

    /// The indices of each class's images, in the order of the files.
    ///
    /// # Errors
    /// If a label is not below `classes`.
    pub fn by_class(&self, classes: usize) -> Result<Vec<Vec<usize>>> {
        by_class(&self.labels, classes)
    }

    /// How many images each class has.
    ///
    /// # Errors
    /// If a label is not below `classes`.
    pub fn counts(&self, classes: usize) -> Result<Vec<usize>> {
        Ok(self.by_class(classes)?.iter().map(Vec::len).collect())
    }

    /// The first `n` images of each class, in the order of the files.
    ///
    /// # Errors
    /// If a class has fewer, or a label is not below `classes`.
    pub fn take_per_class(&self, n: usize, classes: usize) -> Result<Self> {
        let mut chosen = Vec::new();
        for (class, indices) in self.by_class(classes)?.iter().enumerate() {
            let first = indices.get(..n).ok_or_else(|| {
                let what = format!("images of class {class}");
                Error::input(what, indices.len(), format!("at least {n}"))
            })?;
            chosen.extend_from_slice(first);
        }
        chosen.sort_unstable();
        self.select(&chosen)
    }
}

fn by_class(labels: &[ClassId], classes: usize) -> Result<Vec<Vec<usize>>> {
    let mut indices = vec![Vec::new(); classes];
    for (index, label) in labels.iter().enumerate() {
        indices
            .get_mut(label.0 as usize)
            .ok_or_else(|| {
                let what = format!("label of image {index}");
                Error::input(what, label.0, format!("less than {classes}"))
            })?
            .push(index);
    }
    Ok(indices)
}

/// Who decided which images are for testing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SplitRule {
    /// The authors of the data set, or whoever built it in memory.
    #[default]
    Given,
    /// The folders `train` and `test`.
    Folders,
    /// A file in the folder, by its name.
    File(String),
    /// Nobody: every fifth image of each class is for testing.
    EveryFifth,
    /// [`Dataset::holdout`]: the test images are training images of the original.
    HeldOut,
}

impl fmt::Display for SplitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("training and test set as given"),
            Self::Folders => f.write_str("folders train/ and test/"),
            Self::File(name) => write!(f, "split file {name}"),
            Self::EveryFifth => f.write_str("every fifth image of each class is a test image"),
            Self::HeldOut => f.write_str("test images held out from the training set"),
        }
    }
}

/// How much training data to hold out, of each class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holdout {
    /// A part between 0 and 1, rounded to the nearest number of images.
    Fraction(f64),
    /// One image in so many, rounded down.
    Every(usize),
}

impl Holdout {
    fn check(self) -> Result<()> {
        match self {
            Self::Fraction(part) if !(part > 0.0 && part < 1.0) => Err(Error::config(
                "holdout.fraction",
                part,
                "a number between 0 and 1",
            )),
            Self::Every(n) if n < 2 => Err(Error::config(
                "holdout.every",
                n,
                "a whole number of at least 2",
            )),
            _ => Ok(()),
        }
    }

    fn of(self, images: usize) -> usize {
        match self {
            Self::Fraction(part) => (images as f64 * part).round() as usize,
            Self::Every(n) => images / n.max(1),
        }
    }
}

/// A data set: classes with training and test images of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name in the catalogue, or of its folder.
    pub name: String,
    /// The name of each class, by its number.
    pub class_names: Vec<String>,
    /// The images to learn from.
    pub train: Split,
    /// The images to test on.
    pub test: Split,
    /// What was done to the images.
    pub preprocess: Preprocess,
    /// Who decided which images are for testing.
    pub split_rule: SplitRule,
    /// Files below a class folder that were left alone, being hidden or no images.
    pub skipped_files: usize,
}

impl Dataset {
    /// A data set built in memory.
    ///
    /// # Errors
    /// If training and test images differ in size, or a label has no class name.
    pub fn new(
        name: impl Into<String>,
        class_names: Vec<String>,
        train: Split,
        test: Split,
    ) -> Result<Self> {
        let name = name.into();
        if train.images.shape() != test.images.shape() {
            return Err(Error::input(
                format!("{name}: size of the test images"),
                test.images.shape(),
                format!("{}, as the training images have", train.images.shape()),
            ));
        }
        for (which, split) in [("training", &train), ("test", &test)] {
            by_class(&split.labels, class_names.len())
                .map_err(|e| Error::other(format!("{name}, {which} set"), e))?;
        }
        Ok(Self {
            name,
            class_names,
            train,
            test,
            preprocess: Preprocess::default(),
            split_rule: SplitRule::default(),
            skipped_files: 0,
        })
    }

    /// How many classes.
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }

    /// The size of every image.
    pub fn shape(&self) -> ImageShape {
        self.train.images.shape()
    }

    /// What the data set *is*: the BLAKE3 hash, in hexadecimal, of its name, its class names, its
    /// preprocessing, and all labels and pixels in their order. Where the pixels lie is no part of it.
    ///
    /// # Errors
    /// If an image cannot be read from the disk.
    pub fn identity(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new_derive_key("everburn 2026-11 data set identity");
        // Every field is preceded by its length, so that no two data sets run together.
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(&self.name);
        text(&self.preprocess.describe());
        text(&self.num_classes().to_string());
        self.class_names.iter().for_each(|name| text(name));
        for Split { images, labels } in [&self.train, &self.test] {
            let ImageShape {
                height,
                width,
                channels,
            } = images.shape();
            for number in [height, width, channels, labels.len(), images.len()] {
                hasher.update(&(number as u64).to_le_bytes());
            }
            for label in labels {
                hasher.update(&label.0.to_le_bytes());
            }
            for images in images.chunks(chunk(images.shape())) {
                hasher.update(images?.pixels());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// A data set for tuning: part of the training images, drawn from each class alike, take the
    /// place of the test images, and the other training images remain. The test images are not in
    /// it, so nothing can be tuned on them.
    ///
    /// Which images of a class are held out depends on `key` alone. Both parts keep the order of the
    /// files. The name gets `-holdout` appended.
    ///
    /// # Errors
    /// If the part is not between 0 and 1, or a class would have no image in one of the two.
    pub fn holdout(&self, part: Holdout, key: Key) -> Result<Self> {
        part.check()?;
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (class, indices) in self.train.by_class(self.num_classes())?.iter().enumerate() {
            let count = part.of(indices.len());
            if count == 0 || count >= indices.len() {
                return Err(Error::input(
                    format!("{}: images to hold out of {}", self.name, self.class(class)),
                    format!("{count} of {}", indices.len()),
                    "at least one held out and one left",
                ));
            }
            let order = key.at(class as u64).permutation(indices.len());
            for (place, position) in order.into_iter().enumerate() {
                let side = if place < count { &mut held } else { &mut kept };
                side.extend(indices.get(position));
            }
        }
        kept.sort_unstable();
        held.sort_unstable();
        Ok(Self {
            name: format!("{}-holdout", self.name),
            class_names: self.class_names.clone(),
            train: self.train.select(&kept)?,
            test: self.train.select(&held)?,
            split_rule: SplitRule::HeldOut,
            ..*self
        })
    }

    /// Only the first `n` training images of each class, in the order of the files; the test images
    /// stay as they are.
    ///
    /// # Errors
    /// If a class has fewer.
    pub fn take_per_class(&self, n: usize) -> Result<Self> {
        Ok(Self {
            train: self.first_per_class(&self.train, "training", n)?,
            ..self.clone()
        })
    }

    /// Only the first `n` test images of each class, in the order of the files; the training images
    /// stay as they are.
    ///
    /// # Errors
    /// If a class has fewer.
    pub fn take_test_per_class(&self, n: usize) -> Result<Self> {
        Ok(Self {
            test: self.first_per_class(&self.test, "test", n)?,
            ..self.clone()
        })
    }

    fn first_per_class(&self, split: &Split, which: &str, n: usize) -> Result<Split> {
        let counts = split.counts(self.num_classes())?;
        if let Some(class) = counts.iter().position(|count| *count < n) {
            return Err(Error::input(
                format!("{}: {which} images of {}", self.name, self.class(class)),
                counts.get(class).copied().unwrap_or_default(),
                format!("at least {n}"),
            ));
        }
        split.take_per_class(n, self.num_classes())
    }

    fn class(&self, class: usize) -> String {
        let name = self.class_names.get(class).map_or("", String::as_str);
        format!("class {class} ({name})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everburn_core::Images;

    fn pixels(split: &Split) -> Vec<u8> {
        split.images.to_images().unwrap().pixels().to_vec()
    }

    fn split(labels: &[u32], first: u8) -> Split {
        let pixels = (first..).take(labels.len()).collect();
        let images = Images::new(ImageShape::new(1, 1, 1), pixels).unwrap();
        Split::new(images, labels.iter().copied().map(ClassId).collect()).unwrap()
    }

    fn toy() -> Dataset {
        let train = split(&[0, 1, 1, 0, 0, 1, 0, 1, 1, 1], 0);
        Dataset::new(
            "toy",
            vec!["a".into(), "b".into()],
            train,
            split(&[1, 0], 100),
        )
        .unwrap()
    }

    #[test]
    fn labels_without_class_or_image_are_refused() {
        let names = vec!["a".to_owned()];
        let error = Dataset::new("toy", names, split(&[0, 1], 0), split(&[0], 0)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("label of image 1: found 1, expected less than 1")
        );
        let images = Images::new(ImageShape::new(1, 1, 1), vec![1, 2]).unwrap();
        assert!(Split::new(images, vec![ClassId(0)]).is_err());
    }

    #[test]
    fn every_part_changes_the_identity() {
        let toy = toy();
        let mut others = vec![toy.clone(); 7];
        others[0].name = "toz".into();
        others[1].class_names = vec!["ab".into(), String::new()];
        others[2].train.labels[0] = ClassId(1);
        let images = Images::new(ImageShape::new(1, 1, 1), vec![100, 102]).unwrap();
        others[3].test.images = images.into();
        others[4].preprocess.channels = crate::Channels::Rgb;
        others[5].test.labels.swap(0, 1);
        others[6] = toy.take_per_class(4).unwrap();
        let identity = |data: &Dataset| data.identity().unwrap();
        let mut identities: Vec<_> = others.iter().map(identity).collect();
        identities.push(identity(&toy));
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), 8);
        assert_eq!(identity(&toy), identity(&toy.clone()));
    }

    #[test]
    fn the_identity_is_pinned() {
        // Changing this changes the name of every data set in every ledger: do so only on purpose.
        assert_eq!(toy().identity().unwrap(), PINNED);
    }

    const PINNED: &str = "f58076a002d3149e4349a4a8cc518457a0dc077e09ee95353ed3b7cf18268cb9";

    #[test]
    fn held_out_images_are_a_part_of_each_class_and_no_test_images() {
        let toy = toy();
        let key = Key::from_seed(3);
        let tuning = toy.holdout(Holdout::Every(2), key).unwrap();
        assert_eq!(tuning.test.counts(2).unwrap(), [2, 3]);
        assert_eq!(tuning.train.counts(2).unwrap(), [2, 3]);
        let mut both = [pixels(&tuning.train), pixels(&tuning.test)].concat();
        both.sort_unstable();
        assert_eq!(both, pixels(&toy.train));
        for part in [&tuning.train, &tuning.test] {
            assert!(pixels(part).is_sorted());
            for (pixel, label) in pixels(part).iter().zip(&part.labels) {
                assert_eq!(*label, toy.train.labels[usize::from(*pixel)]);
            }
        }
        assert_eq!(tuning, toy.holdout(Holdout::Fraction(0.5), key).unwrap());
        let others = (0..9).map(|seed| toy.holdout(Holdout::Every(2), Key::from_seed(seed)));
        assert!(others.map(Result::unwrap).any(|other| other != tuning));
    }

    #[test]
    fn a_class_too_small_to_divide_is_named() {
        let error = toy()
            .holdout(Holdout::Every(5), Key::from_seed(0))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "toy: images to hold out of class 0 (a): found 0 of 4, expected at least one held out \
             and one left"
        );
        for part in [
            Holdout::Every(1),
            Holdout::Fraction(0.0),
            Holdout::Fraction(f64::NAN),
        ] {
            assert!(toy().holdout(part, Key::from_seed(0)).is_err());
        }
    }

    #[test]
    fn the_first_of_each_class_stay_in_order() {
        let small = toy().take_per_class(2).unwrap();
        assert_eq!(pixels(&small.train), [0, 1, 2, 3]);
        assert_eq!(small.test, toy().test);
        let error = toy().take_per_class(5).unwrap_err().to_string();
        assert_eq!(
            error,
            "toy: training images of class 0 (a): found 4, expected at least 5"
        );
        assert!(toy().take_test_per_class(2).is_err());
        assert_eq!(toy().take_test_per_class(1).unwrap().test.len(), 2);
    }
}
