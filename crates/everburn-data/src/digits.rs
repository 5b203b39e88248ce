//! The embedded digits; `data/ATTRIBUTION.md` says whose they are, `data/make_digits.py` how they came.

use std::io::Read;

use everburn_core::{ClassId, Error, ImageShape, Images, Result};
use flate2::read::GzDecoder;

use crate::preprocess::Pipeline;
use crate::sink::Room;
use crate::{Dataset, LoadOptions, Split, SplitRule, names};

pub(crate) const FILE: &[u8] = include_bytes!("../data/digits.bin");
pub(crate) const MD5: &str = "afd503b569b66e946b5cf0c8ffed4459";
pub(crate) const FILE_NAME: &str = "digits.bin (embedded)";

/// The largest value of a pixel in the file.
const FULL: u8 = 16;

/// A test image for so many images of a class.
const EVERY: usize = 5;

/// The 1,797 handwritten digits of the test set of "Optical Recognition of Handwritten Digits"
/// (E. Alpaydin and C. Kaynak, UCI, CC BY 4.0): 8×8 grey images, values scaled from 0..=16 to 0..=255
/// and rounded, halves up. Every fifth image of each class is a test image. Needs no file.
///
/// # Errors
/// As [`load`](crate::load).
pub fn load_digits(options: impl Into<LoadOptions>) -> Result<Dataset> {
    let options = options.into();
    let (images, labels) = decode(FILE)?;
    let pipeline = Pipeline::new(&options.preprocess, images.shape())?;
    let mut sink = Room::new(&options).sink(pipeline.output(), images.len())?;
    sink.push(pipeline.run_all(images.pixels().to_vec())?)?;
    let (train, test) = every_fifth(&labels);
    let all = Split::new(sink.finish(), labels)?;
    let class_names = names::DIGITS
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    let mut dataset = Dataset::new(
        "digits",
        class_names,
        all.select(&train)?,
        all.select(&test)?,
    )?;
    dataset.preprocess = options.preprocess;
    dataset.split_rule = SplitRule::EveryFifth;
    Ok(dataset)
}

/// The indices of training and test images: the 5th, 10th, … image of each class is for testing.
pub(crate) fn every_fifth(labels: &[ClassId]) -> (Vec<usize>, Vec<usize>) {
    let mut seen = std::collections::BTreeMap::new();
    (0..labels.len())
        .zip(labels)
        .fold((Vec::new(), Vec::new()), |mut parts, (index, label)| {
            let count = seen.entry(*label).or_insert(0_usize);
            *count += 1;
            let part = if count.is_multiple_of(EVERY) {
                &mut parts.1
            } else {
                &mut parts.0
            };
            part.push(index);
            parts
        })
}

fn decode(file: &[u8]) -> Result<(Images, Vec<ClassId>)> {
    let wrong = |what: &str, found: String, expected: String| {
        Err(Error::input(
            format!("{FILE_NAME}: {what}"),
            found,
            expected,
        ))
    };
    let mut bytes = Vec::new();
    let unpacked = GzDecoder::new(file).read_to_end(&mut bytes);
    unpacked.map_err(|e| Error::other(FILE_NAME, e))?;
    let Some((header, data)) = bytes.split_first_chunk::<20>() else {
        return wrong(
            "header",
            format!("{} bytes", bytes.len()),
            "20 bytes".into(),
        );
    };
    let (magic, sides) = header.split_at(8);
    let [count, height, width] = sides.as_chunks().0 else {
        return wrong(
            "header",
            format!("{} bytes", sides.len()),
            "three numbers".into(),
        );
    };
    let [count, height, width] = [count, height, width].map(|b| u32::from_le_bytes(*b) as usize);
    let size = height
        .checked_mul(width)
        .and_then(|side| side.checked_add(1)?.checked_mul(count));
    if magic != b"EVBDIGIT" || size != Some(data.len()) {
        let found = format!(
            "{magic:?}, {count} of {height}×{width}, {} bytes",
            data.len()
        );
        return wrong(
            "header",
            found,
            "EVBDIGIT and a label and the pixels of each image".into(),
        );
    }
    let (labels, values) = data.split_at(count);
    let beyond = |values: &[u8], limit| values.iter().position(|value| *value > limit);
    for (what, values, limit) in [("label", labels, 9), ("pixel", values, FULL)] {
        if let Some(place) = beyond(values, limit) {
            return wrong(
                &format!("{what} {place}"),
                "more".into(),
                format!("at most {limit}"),
            );
        }
    }
    let scale = |value: &u8| {
        let (value, full) = (u32::from(*value), u32::from(FULL));
        ((value * 255 + full / 2) / full) as u8
    };
    let shape = ImageShape::new(height, width, 1);
    Ok((
        Images::new(shape, values.iter().map(scale).collect())?,
        labels
            .iter()
            .map(|label| ClassId(u32::from(*label)))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let mut good = b"EVBDIGIT".to_vec();
        for number in [2_u32, 1, 2] {
            good.extend(number.to_le_bytes());
        }
        good.extend([3, 9, 0, 8, 16, 1]);
        let (images, labels) = decode(&packed(&good)).unwrap();
        assert_eq!(images.pixels(), [0, 128, 255, 16]);
        assert_eq!(labels, [ClassId(3), ClassId(9)]);

        assert!(decode(&good).is_err());
        assert!(decode(&packed(&good[..19])).is_err());
        assert!(decode(&packed(&good[..25])).is_err());
        for (place, value) in [(0, b'X'), (8, 3), (21, 10), (24, 17)] {
            let mut bad = good.clone();
            bad[place] = value;
            assert!(decode(&packed(&bad)).is_err(), "byte {place}");
        }
    }
}
