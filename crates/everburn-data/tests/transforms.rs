//! What is true of the transforms whatever the image.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{ImageShape, Images};
use everburn_data::{Channels, Filter, Fit, MAX_SIDE, Preprocess, Raster, Size, normalise};
use proptest::prelude::*;

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![Just(Filter::Bilinear), Just(Filter::Bicubic)]
}

fn shape() -> impl Strategy<Value = ImageShape> {
    let channels = prop_oneof![Just(1_usize), Just(3_usize)];
    (1..40_usize, 1..40_usize, channels).prop_map(|(h, w, c)| ImageShape::new(h, w, c))
}

fn size() -> impl Strategy<Value = Size> {
    (1..50_usize, 1..50_usize).prop_map(|(h, w)| Size::new(h, w))
}

fn raster() -> impl Strategy<Value = Raster> {
    shape().prop_flat_map(|shape| {
        let pixels = proptest::collection::vec(any::<u8>(), shape.bytes());
        pixels.prop_map(move |pixels| Raster::new(shape, pixels).unwrap())
    })
}

/// Black and white only: where sums are largest.
fn extreme() -> impl Strategy<Value = Raster> {
    raster().prop_map(|image| {
        let pixels = image
            .pixels()
            .iter()
            .map(|p| if *p < 128 { 0 } else { 255 })
            .collect();
        Raster::new(image.shape(), pixels).unwrap()
    })
}

proptest! {
    #[test]
    fn a_constant_image_stays_constant(
        value: u8, shape in shape(), size in size(), filter in filter()
    ) {
        let image = Raster::new(shape, vec![value; shape.bytes()]).unwrap();
        let resized = image.resize(size, filter).unwrap();
        prop_assert!(resized.pixels().iter().all(|pixel| *pixel == value));
    }

    #[test]
    fn the_same_size_is_the_same_image(image in raster(), filter in filter()) {
        let size = Size::new(image.shape().height, image.shape().width);
        prop_assert_eq!(&image.resize(size, filter).unwrap(), &image);
        prop_assert_eq!(&image.centre_crop(size).unwrap(), &image);
    }

    #[test]
    fn resizing_commutes_with_the_mirror(image in extreme(), size in size()) {
        // Rounding halves is not symmetric, and weights of mirrored pixels can differ in the last
        // bit: one unit each pass.
        let one = image.flip_horizontal().resize(size, Filter::Bilinear).unwrap();
        let other = image.resize(size, Filter::Bilinear).unwrap().flip_horizontal();
        for (a, b) in one.pixels().iter().zip(other.pixels()) {
            prop_assert!(a.abs_diff(*b) <= 2);
        }
    }

    #[test]
    fn extreme_images_overflow_nothing(image in extreme(), size in size(), filter in filter()) {
        let resized = image.resize(size, filter).unwrap();
        prop_assert_eq!(resized.shape(), ImageShape::new(size.height, size.width, image.shape().channels));
    }

    #[test]
    fn bilinear_stays_between_the_extremes(image in raster(), size in size()) {
        let resized = image.resize(size, Filter::Bilinear).unwrap();
        let (low, high) = (image.pixels().iter().min(), image.pixels().iter().max());
        prop_assert!(resized.pixels().iter().min() >= low);
        prop_assert!(resized.pixels().iter().max() <= high);
    }

    #[test]
    fn channels_are_resized_one_by_one(image in raster(), size in size(), filter in filter()) {
        let rgb = image.to_rgb();
        let whole = rgb.resize(size, filter).unwrap();
        for channel in 0..3 {
            let plane = |image: &Raster| image.pixels().iter().skip(channel).step_by(3).copied().collect();
            let shape = ImageShape::new(image.shape().height, image.shape().width, 1);
            let alone = Raster::new(shape, plane(&rgb)).unwrap().resize(size, filter).unwrap();
            let expected: Vec<u8> = plane(&whole);
            prop_assert_eq!(alone.pixels(), expected);
        }
    }

    #[test]
    fn mirrored_twice_is_the_same(image in raster()) {
        prop_assert_eq!(image.flip_horizontal().flip_horizontal(), image);
    }

    #[test]
    fn padding_and_cropping_back_is_the_same(image in raster(), rows in 0..9_usize, columns in 0..9_usize) {
        let ImageShape { height, width, .. } = image.shape();
        let larger = image.centre_crop(Size::new(height + rows, width + columns)).unwrap();
        let back = larger.crop(rows / 2, columns / 2, Size::new(height, width)).unwrap();
        prop_assert_eq!(back, image);
    }

    #[test]
    fn grey_to_rgb_and_back_is_the_same(image in raster()) {
        let grey = image.to_grey();
        prop_assert_eq!(grey.to_rgb().to_grey(), grey);
    }

    #[test]
    fn any_settings_give_what_they_say_or_an_error(
        image in raster(), height in 0..40_usize, width in 0..40_usize, resize in 0..40_usize,
        filter in filter(), crop: bool, grey: bool
    ) {
        let preprocess = Preprocess {
            size: Some(Size::new(height, width)),
            filter,
            fit: if crop { Fit::ShorterSideCentreCrop { resize } } else { Fit::Stretch },
            channels: if grey { Channels::Grey } else { Channels::Rgb },
        };
        let result = preprocess.apply(&image);
        let valid = height > 0 && width > 0 && (!crop || resize > 0);
        prop_assert_eq!(result.is_ok(), valid);
        if let Ok(found) = result {
            let channels = if grey { 1 } else { 3 };
            prop_assert_eq!(found.shape(), ImageShape::new(height, width, channels));
        }
    }
}

#[test]
fn grey_is_pils_formula() {
    // Image.new("RGB", (1, 1), colour).convert("L") in Pillow 10.
    for (colour, luma) in [
        ([255, 0, 0], 76),
        ([0, 255, 0], 150),
        ([0, 0, 255], 29),
        ([12, 200, 77], 130),
        ([255, 255, 255], 255),
    ] {
        let image = Raster::new(ImageShape::new(1, 1, 3), colour.to_vec()).unwrap();
        assert_eq!(image.to_grey().pixels(), [luma], "{colour:?}");
    }
}

#[test]
fn an_image_is_padded_evenly_and_cropped_to_even_halves() {
    let row = Raster::new(ImageShape::new(1, 4, 1), vec![1, 2, 3, 4]).unwrap();
    let cut = |width| row.centre_crop(Size::new(1, width)).unwrap().into_pixels();
    // The difference 3 has the half 1.5, rounded to 2; the difference 1 has 0.5, rounded to 0.
    assert_eq!(cut(1), [3]);
    assert_eq!(cut(3), [1, 2, 3]);
    assert_eq!(cut(2), [2, 3]);
    assert_eq!(cut(7), [0, 1, 2, 3, 4, 0, 0]);
}

#[test]
fn wrong_arguments_are_errors() {
    let image = Raster::new(ImageShape::new(2, 3, 1), vec![0; 6]).unwrap();
    assert!(Raster::new(ImageShape::new(2, 3, 1), vec![0; 5]).is_err());
    assert!(Raster::new(ImageShape::new(2, 3, 4), vec![0; 24]).is_err());
    assert!(Raster::new(ImageShape::new(0, 3, 1), vec![]).is_err());
    assert!(
        image
            .resize(Size::new(1, MAX_SIDE + 1), Filter::Bicubic)
            .is_err()
    );
    assert!(image.resize(Size::new(0, 1), Filter::Bicubic).is_err());
    assert!(image.centre_crop(Size::new(usize::MAX, 1)).is_err());
    assert!(image.crop(1, 0, Size::new(2, 3)).is_err());
    assert!(image.crop(usize::MAX, 0, Size::new(2, 3)).is_err());
    assert!(image.crop(0, 0, Size::new(0, 3)).is_err());
    assert!(
        image
            .resize_shorter_side(usize::MAX, Filter::Bilinear)
            .is_err()
    );
    for factor in [-0.1, f32::NAN, f32::INFINITY] {
        assert!(image.brightness(factor).is_err());
    }
    let mut tensor = image.to_tensor();
    assert!(normalise(&mut tensor, &[0.0], &[0.0]).is_err());
    assert!(normalise(&mut tensor, &[0.0], &[f32::NAN]).is_err());
    assert!(normalise(&mut tensor, &[], &[]).is_err());
    assert!(normalise(&mut tensor, &[0.0; 4], &[1.0; 4]).is_err());
    assert!(normalise(&mut [], &[0.0], &[1.0]).is_ok());
}

#[test]
fn images_of_four_channels_are_refused_by_preprocessing() {
    let images = Images::new(ImageShape::new(1, 1, 4), vec![0; 8]).unwrap();
    assert!(Preprocess::default().apply_all(images).is_err());
}
