//! Every pixel case of `transforms.safetensors`, computed with torchvision on Pillow 10.4.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use everburn_core::ImageShape;
use everburn_data::{Channels, Filter, Fit, Preprocess, Raster, Size, normalise};
use safetensors::SafeTensors;
use serde_json::Value;

struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn open() -> Self {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        let dir = std::env::var_os("EVERBURN_GOLDEN_DIR").unwrap_or_else(|| own.into());
        let path = PathBuf::from(dir).join("transforms.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { bytes }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn meta(&self, key: &str) -> Value {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let text = header.metadata().as_ref().unwrap()[key].clone();
        serde_json::from_str(&text).unwrap()
    }

    fn hyper(&self, key: &str) -> Value {
        self.meta("hyper")[key].clone()
    }

    /// Pixels `[h, w, 3]`.
    fn raster(&self, name: &str) -> Raster {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        let values = tensor.data().as_chunks::<8>().0.iter();
        let pixels = values
            .map(|b| u8::try_from(i64::from_le_bytes(*b)).unwrap())
            .collect();
        let [height, width, channels] = tensor.shape().try_into().unwrap();
        Raster::new(ImageShape::new(height, width, channels), pixels).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        tensor
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect()
    }
}

fn numbers(value: &Value) -> Vec<usize> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|n| usize::try_from(n.as_u64().unwrap()).unwrap())
        .collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_f64().unwrap() as f32)
        .collect()
}

const FILTERS: [(Filter, &str); 2] = [(Filter::Bilinear, "bilinear"), (Filter::Bicubic, "bicubic")];

#[track_caller]
fn assert_same(found: &Raster, expected: &Raster, case: &str) {
    assert_eq!(found.shape(), expected.shape(), "{case}");
    let pairs = found.pixels().iter().zip(expected.pixels());
    assert_eq!(
        pairs.filter(|(a, b)| a != b).count(),
        0,
        "{case}: pixels that differ"
    );
}

#[test]
fn every_case_of_the_file_is_tested_here() {
    let golden = Golden::open();
    let tensors = golden.tensors();
    let kinds: BTreeSet<&str> = (tensors.names().into_iter())
        .filter_map(|name| name.strip_prefix("out.")?.split('.').next())
        .collect();
    let ours = [
        "brightness",
        "center_crop",
        "hflip",
        "pipeline",
        "resize",
        "resize_square",
        "resized_crop",
    ];
    // `resize_float` is of another crate.
    let expected: BTreeSet<&str> = ours.into_iter().chain(["resize_float"]).collect();
    assert_eq!(kinds, expected);
}

#[test]
fn resizing_by_the_shorter_side() {
    let golden = Golden::open();
    let image = golden.raster("input.image");
    let sides = numbers(&golden.hyper("resize_shorter_side"));
    assert!(!sides.is_empty());
    for (filter, name) in FILTERS {
        for (k, side) in sides.iter().enumerate() {
            let case = format!("out.resize.{name}.{k}");
            let found = image.resize_shorter_side(*side, filter).unwrap();
            assert_same(&found, &golden.raster(&case), &case);
        }
    }
}

#[test]
fn resizing_squares() {
    let golden = Golden::open();
    let image = golden.raster("input.square");
    for (filter, name) in FILTERS {
        for (k, side) in numbers(&golden.hyper("resize_square"))
            .into_iter()
            .enumerate()
        {
            let case = format!("out.resize_square.{name}.{k}");
            let found = image.resize(Size::square(side), filter).unwrap();
            assert_same(&found, &golden.raster(&case), &case);
        }
    }
}

#[test]
fn resized_crops() {
    let golden = Golden::open();
    let image = golden.raster("input.image");
    let size = Size::square(golden.hyper("resized_crop_out").as_u64().unwrap() as usize);
    let crops = golden.hyper("resized_crop_top_left_h_w");
    for (filter, name) in FILTERS {
        for (k, crop) in crops.as_array().unwrap().iter().enumerate() {
            let [top, left, height, width] = numbers(crop).try_into().unwrap();
            let case = format!("out.resized_crop.{name}.{k}");
            let crop = image.crop(top, left, Size::new(height, width)).unwrap();
            assert_same(
                &crop.resize(size, filter).unwrap(),
                &golden.raster(&case),
                &case,
            );
        }
    }
}

#[test]
fn centre_crops_and_their_padding() {
    let golden = Golden::open();
    let image = golden.raster("input.image");
    let sizes = golden.hyper("center_crop_hw");
    for (k, size) in sizes.as_array().unwrap().iter().enumerate() {
        let [height, width] = numbers(size).try_into().unwrap();
        let case = format!("out.center_crop.{k}");
        let found = image.centre_crop(Size::new(height, width)).unwrap();
        assert_same(&found, &golden.raster(&case), &case);
    }
}

#[test]
fn flip_and_brightness() {
    let golden = Golden::open();
    let image = golden.raster("input.image");
    assert_same(
        &image.flip_horizontal(),
        &golden.raster("out.hflip"),
        "out.hflip",
    );
    for (k, factor) in floats(&golden.hyper("brightness_factor"))
        .into_iter()
        .enumerate()
    {
        let case = format!("out.brightness.{k}");
        assert_same(
            &image.brightness(factor).unwrap(),
            &golden.raster(&case),
            &case,
        );
    }
}

#[test]
fn whole_pipelines() {
    let golden = Golden::open();
    let image = golden.raster("input.image");
    let [resize, crop] = numbers(&golden.hyper("pipeline_resize_crop"))
        .try_into()
        .unwrap();
    let (mean, std) = (floats(&golden.hyper("mean")), floats(&golden.hyper("std")));
    let tolerances = golden.meta("tolerance_f32");
    for (filter, name) in FILTERS {
        let preprocess = Preprocess {
            size: Some(Size::square(crop)),
            filter,
            fit: Fit::ShorterSideCentreCrop { resize },
            channels: Channels::Keep,
        };
        let found = preprocess.apply(&image).unwrap();
        let case = format!("out.pipeline.{name}.pixels");
        assert_same(&found, &golden.raster(&case), &case);

        let mut tensor = found.to_tensor();
        let close = |tensor: &[f32], case: String| {
            let expected = golden.floats(&case);
            let tolerance = tolerances[&case].as_f64().unwrap();
            assert_eq!(tensor.len(), expected.len(), "{case}");
            for (found, expected) in tensor.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() <= tolerance, "{case}");
            }
        };
        close(&tensor, format!("out.pipeline.{name}.tensor"));
        normalise(&mut tensor, &mean, &std).unwrap();
        close(&tensor, format!("out.pipeline.{name}.normalised"));
    }
}
