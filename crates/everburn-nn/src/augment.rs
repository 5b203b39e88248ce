//! Augmentation as tensor operations, drawn from a [`Key`].
//!
//! Cropping, resizing and flipping of an image are one matrix for its rows and one for its columns.
//! So a policy of any length costs two batched matrix products, on every device, and an image's
//! augmentation depends on the step's key and its place in the batch alone.

use burn::tensor::{Tensor, TensorData};
use everburn_core::{Checker, Key, Result, Rng};
use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resample::{Kernel, Window, resample_weights, stack_weights};
use crate::settings::nothing_more;

/// How an image is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
#[non_exhaustive]
pub enum Crop {
    /// Not at all.
    #[default]
    #[serde(deserialize_with = "nothing_more")]
    None,
    /// The image's own size, after padding every side with zeros (black).
    Padded {
        /// Pixels added on each side; 4 for CIFAR.
        padding: usize,
    },
    /// torchvision's `RandomResizedCrop`: a part of the area, of random aspect ratio, resized to the
    /// image's own size with an antialiased bilinear kernel.
    Resized {
        /// Smallest part of the area; 0.08 in torchvision, 0.05 in PILOT.
        min_area: f64,
        /// Largest part of the area.
        max_area: f64,
        /// The aspect ratio lies in `1/ratio..=ratio`, uniform in its logarithm; 4/3.
        ratio: f64,
    },
    /// The crop of online contrastive methods (OCM, OnPro): as `resized`, but sampled on a grid without antialiasing,
    /// in places half a pixel apart, and the whole image where ten draws of a size do not fit.
    Sampled {
        /// Smallest part of the area; 0.3 in OnPro.
        min_area: f64,
        /// Largest part of the area.
        max_area: f64,
        /// The aspect ratio lies in `1/ratio..=ratio`, uniform in its logarithm; 4/3.
        ratio: f64,
    },
}

/// More would leave nothing of the largest image.
const MAX_PADDING: usize = 1024;

/// A policy of augmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// How images are cut.
    pub crop: Crop,
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// The part of the images that lose their colour; 0.25 in OnPro.
    pub gray: f64,
    /// Brightness is multiplied by a factor in 1 ± this, and cut at white; 63/255 in PyCIL.
    pub brightness: f64,
}

/// The weight of each channel in the grey of an image.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Augment {
    /// OCM's and OnPro's policy, which they apply to normalised images: flip, a quarter in grey, area 0.3 to 1 and
    /// ratio 3/4 to 4/3.
    pub fn online_contrastive() -> Self {
        Self {
            crop: Crop::Sampled {
                min_area: 0.3,
                max_area: 1.0,
                ratio: 4.0 / 3.0,
            },
            flip: true,
            gray: 0.25,
            ..Self::default()
        }
    }

    /// Random crop with 4 pixels of padding, and flip: the usual policy for small images.
    pub fn pad_crop_flip() -> Self {
        Self {
            crop: Crop::Padded { padding: 4 },
            flip: true,
            ..Self::default()
        }
    }

    /// PILOT's policy for ViTs: area 0.05 to 1, ratio 3/4 to 4/3, and flip.
    pub fn pilot() -> Self {
        Self {
            crop: Crop::Resized {
                min_area: 0.05,
                max_area: 1.0,
                ratio: 4.0 / 3.0,
            },
            flip: true,
            ..Self::default()
        }
    }

    /// torchvision's `RandomResizedCrop` as it comes (area 0.08 to 1, ratio 3/4 to 4/3), and flip: LAE's and
    /// L2P's policy.
    pub fn imagenet() -> Self {
        Self {
            crop: Crop::Resized {
                min_area: 0.08,
                max_area: 1.0,
                ratio: 4.0 / 3.0,
            },
            flip: true,
            ..Self::default()
        }
    }

    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        let check = Checker::new("augment");
        check.within("brightness", self.brightness, 0.0..=1.0, "from 0 to 1")?;
        check.within("gray", self.gray, 0.0..=1.0, "from 0 to 1")?;
        match self.crop {
            Crop::None => Ok(()),
            Crop::Padded { padding } => check.within(
                "crop.padding",
                padding,
                0..=MAX_PADDING,
                "at most 1024 pixels",
            ),
            Crop::Resized {
                min_area,
                max_area,
                ratio,
            }
            | Crop::Sampled {
                min_area,
                max_area,
                ratio,
            } => {
                check.within("crop.max_area", max_area, 0.0..=1.0, "from 0 to 1")?;
                let expected = "above 0 and at most max_area";
                check.within(
                    "crop.min_area",
                    min_area,
                    f64::MIN_POSITIVE..=max_area,
                    expected,
                )?;
                check.within("crop.ratio", ratio, 1.0..f64::INFINITY, "1 or more")
            }
        }
    }

    /// Augments images `[batch, channels, height, width]`. Values should lie in 0..=1 where the brightness changes or
    /// padding is to be black.
    pub fn apply(&self, images: Tensor<4>, key: Key) -> Tensor<4> {
        let images = self.in_gray(self.reshape(images, key), key);
        if self.brightness == 0.0 {
            return images;
        }
        let [batch, ..] = images.dims();
        let mut rng = key.child("brightness").rng();
        let reach = self.brightness as f32;
        let factors: Vec<f32> = (0..batch)
            .map(|_| 1.0 - reach + 2.0 * reach * rng.random::<f32>())
            .collect();
        let factors = TensorData::new(factors, [batch, 1, 1, 1]);
        (images.clone() * Tensor::from_data(factors, &images.device())).clamp(0.0, 1.0)
    }

    /// Crop and flip.
    fn reshape(&self, images: Tensor<4>, key: Key) -> Tensor<4> {
        if self.crop == Crop::None && !self.flip {
            return images;
        }
        let [batch, _, height, width] = images.dims();
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for index in 0..batch {
            let mut rng = key.child("geometry").at(index as u64).rng();
            let [vertical, horizontal] = self.windows([height, width], &mut rng);
            rows.extend(self.side(height, vertical));
            let side = self.side(width, horizontal);
            if self.flip && rng.random::<bool>() {
                columns.extend(side.chunks_exact(width).rev().flatten());
            } else {
                columns.extend(side);
            }
        }
        let device = images.device();
        let rows = stack_weights(rows, [batch, height, height], &device);
        let columns = stack_weights(columns, [batch, width, width], &device);
        rows.matmul(images).matmul(columns.swap_dims(2, 3))
    }

    /// Takes the colour of some.
    fn in_gray(&self, images: Tensor<4>, key: Key) -> Tensor<4> {
        let [batch, channels, ..] = images.dims();
        if self.gray == 0.0 || channels != LUMA.len() {
            return images;
        }
        let device = images.device();
        let mut rng = key.child("gray").rng();
        let share = |_| f32::from(u8::from(rng.random_bool(self.gray)));
        let shares: Vec<f32> = (0..batch).map(share).collect();
        let shares = Tensor::<4>::from_data(TensorData::new(shares, [batch, 1, 1, 1]), &device);
        let luma = Tensor::<4>::from_data(TensorData::new(LUMA.to_vec(), [1, 3, 1, 1]), &device);
        let gray = (images.clone() * luma).sum_dim(1);
        images * (-shares.clone() + 1.0) + gray * shares
    }

    fn windows(&self, sides: [usize; 2], rng: &mut Rng) -> [Window; 2] {
        match self.crop {
            Crop::None => sides.map(Window::whole),
            Crop::Padded { padding } => sides.map(|side| Window {
                start: rng.random_range(0..=2 * padding) as f64 - padding as f64,
                length: side as f64,
            }),
            Crop::Resized {
                min_area,
                max_area,
                ratio,
            } => resized_windows(sides, [min_area, max_area], ratio, rng),
            Crop::Sampled {
                min_area,
                max_area,
                ratio,
            } => sampled_windows(sides, [min_area, max_area], ratio, rng),
        }
    }

    /// The matrix of one side.
    fn side(&self, pixels: usize, window: Window) -> Vec<f32> {
        match self.crop {
            // A shift by whole pixels; what comes from outside is black.
            Crop::None | Crop::Padded { .. } => {
                let mut matrix = vec![0.0; pixels * pixels];
                for row in 0..pixels {
                    let source = row as i64 + window.start as i64;
                    if (0..pixels as i64).contains(&source) {
                        matrix[row * pixels + source as usize] = 1.0;
                    }
                }
                matrix
            }
            // torchvision crops first and then resizes: the kernel does not see beyond the window.
            Crop::Resized { .. } => {
                let (start, length) = (window.start as usize, window.length as usize);
                let inner = Window::whole(length);
                let weights = resample_weights(length, pixels, inner, Kernel::Bilinear, true);
                let mut matrix = vec![0.0; pixels * pixels];
                for (row, taps) in weights.chunks_exact(length).enumerate() {
                    let from = row * pixels + start;
                    matrix[from..from + length].copy_from_slice(taps);
                }
                matrix
            }
            // The grid stays within the image but for half a pixel, where the border is repeated.
            Crop::Sampled { .. } => {
                resample_weights(pixels, pixels, window, Kernel::Bilinear, false)
            }
        }
    }
}

/// Draws the height and width of a part of an image, up to ten times until it fits.
fn draw_size(
    [height, width]: [usize; 2],
    [min_area, max_area]: [f64; 2],
    ratio: f64,
    rng: &mut Rng,
) -> Option<[usize; 2]> {
    let area = (height * width) as f64;
    let mut draw = || {
        let target = area * (min_area + (max_area - min_area) * rng.random::<f64>());
        let aspect = ratio.powf(2.0 * rng.random::<f64>() - 1.0);
        let w = (target * aspect).sqrt().round() as usize;
        let h = (target / aspect).sqrt().round() as usize;
        [h, w]
    };
    let fits =
        |size: &[usize; 2]| (1..=height).contains(&size[0]) && (1..=width).contains(&size[1]);
    (0..10).map(|_| draw()).find(fits)
}

/// The window that OCM's and OnPro's crop draws: any place in steps of half a pixel.
fn sampled_windows(sides: [usize; 2], areas: [f64; 2], ratio: f64, rng: &mut Rng) -> [Window; 2] {
    let size = draw_size(sides, areas, ratio, rng).unwrap_or(sides);
    let mut window = |side: usize, length: usize| Window {
        start: rng.random_range(0..=2 * (side - length)) as f64 / 2.0,
        length: length as f64,
    };
    [window(sides[0], size[0]), window(sides[1], size[1])]
}

/// The window that torchvision's `RandomResizedCrop` draws: ten tries, then the central crop with the
/// nearest allowed ratio.
fn resized_windows(
    [height, width]: [usize; 2],
    areas: [f64; 2],
    ratio: f64,
    rng: &mut Rng,
) -> [Window; 2] {
    let window = |start: usize, length: usize| Window {
        start: start as f64,
        length: length as f64,
    };
    if let Some([h, w]) = draw_size([height, width], areas, ratio, rng) {
        let top = rng.random_range(0..=height - h);
        let left = rng.random_range(0..=width - w);
        return [window(top, h), window(left, w)];
    }
    let shape = width as f64 / height as f64;
    let (h, w) = if shape < 1.0 / ratio {
        (
            ((width as f64 * ratio).round() as usize).clamp(1, height),
            width,
        )
    } else if shape > ratio {
        (
            height,
            ((height as f64 * ratio).round() as usize).clamp(1, width),
        )
    } else {
        (height, width)
    };
    [window((height - h) / 2, h), window((width - w) / 2, w)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use everburn_backend::{DeviceChoice, to_vec};

    fn ramp(batch: usize, side: usize) -> Tensor<4> {
        let device = DeviceChoice::CPU.open().unwrap();
        let n = batch * 3 * side * side;
        let values: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
        Tensor::from_data(TensorData::new(values, [batch, 3, side, side]), &device)
    }

    #[test]
    fn crop_and_flip_move_pixels_and_invent_none() {
        let images = ramp(16, 8);
        let out = Augment::pad_crop_flip().apply(images.clone(), Key::from_seed(1));
        let (before, after) = (to_vec(&images).unwrap(), to_vec(&out).unwrap());
        let per = 3 * 64;
        let mut moved = 0;
        for (old, new) in before.chunks(per).zip(after.chunks(per)) {
            assert!(new.iter().all(|p| *p == 0.0 || old.contains(p)));
            moved += usize::from(old != new);
        }
        assert!(moved > 8);
    }

    #[test]
    fn a_flip_alone_mirrors_about_half() {
        let images = ramp(64, 4);
        let flip = Augment {
            flip: true,
            ..Augment::default()
        };
        let out = flip.apply(images.clone(), Key::from_seed(2));
        let mirrored = images.clone().flip([3]);
        let [a, b, c] = [images, mirrored, out].map(|t| to_vec(&t).unwrap());
        let mut flipped = 0;
        for i in 0..64 {
            let range = i * 48..(i + 1) * 48;
            assert!(c[range.clone()] == a[range.clone()] || c[range.clone()] == b[range.clone()]);
            flipped += usize::from(c[range.clone()] == b[range]);
        }
        assert!((16..48).contains(&flipped), "{flipped}");
    }

    #[test]
    fn a_resized_crop_keeps_a_constant_image_and_the_range() {
        let device = DeviceChoice::CPU.open().unwrap();
        let constant = Tensor::<4>::full([8, 3, 16, 16], 0.25, &device);
        let out = to_vec(&Augment::pilot().apply(constant, Key::from_seed(3))).unwrap();
        assert!(out.iter().all(|p| (p - 0.25).abs() < 1e-6));
        let out = to_vec(&Augment::pilot().apply(ramp(8, 16), Key::from_seed(3))).unwrap();
        assert!(out.iter().all(|p| (0.0..=1.0).contains(p)));
    }

    /// `grid_sample` of the official code: coordinates from −1 to 1, bilinear, beyond the image reflected and then cut.
    fn grid_sampled(image: &[f32], side: usize, sizes: [f64; 2], biases: [f64; 2]) -> Vec<f32> {
        let along = |place: usize, axis: usize| {
            let grid = (2 * place + 1) as f64 / side as f64 - 1.0;
            let position = ((sizes[axis] * grid + biases[axis] + 1.0) * side as f64 - 1.0) / 2.0;
            let (low, high) = (-0.5, side as f64 - 0.5);
            let reflected = match position {
                p if p < low => 2.0 * low - p,
                p if p > high => 2.0 * high - p,
                p => p,
            };
            let position = reflected.clamp(0.0, side as f64 - 1.0);
            let first = position.floor();
            (
                first as usize,
                (first as usize + 1).min(side - 1),
                (position - first) as f32,
            )
        };
        let mut out = Vec::new();
        for place in 0..side * side {
            let (y0, y1, dy) = along(place / side, 0);
            let (x0, x1, dx) = along(place % side, 1);
            let row = |y: usize| image[y * side + x0] * (1.0 - dx) + image[y * side + x1] * dx;
            out.push(row(y0) * (1.0 - dy) + row(y1) * dy);
        }
        out
    }

    #[test]
    fn a_sampled_crop_is_that_of_a_grid() {
        let (count, side, key) = (40, 8, Key::from_seed(6));
        let crop = Augment {
            flip: false,
            gray: 0.0,
            ..Augment::online_contrastive()
        };
        let device = DeviceChoice::CPU.open().unwrap();
        let images = everburn_backend::random::normal(key, [count, 3, side, side], 1.0, &device);
        let found = to_vec(&crop.apply(images.clone(), key)).unwrap();
        let images = to_vec(&images).unwrap();
        let mut halves = 0;
        for index in 0..count {
            let mut rng = key.child("geometry").at(index as u64).rng();
            let windows = crop.windows([side, side], &mut rng);
            let area: f64 = windows.iter().map(|window| window.length).product();
            // Sizes are rounded to whole pixels.
            assert!((0.2..=1.0).contains(&(area / (side * side) as f64)));
            halves += usize::from(windows.iter().any(|window| window.start.fract() != 0.0));
            // θ of the official code: sizes and biases as parts of the side, biases from the middle.
            let sizes = windows.map(|window| window.length / side as f64);
            let biases =
                windows.map(|window| (2.0 * window.start + window.length) / side as f64 - 1.0);
            for channel in 0..3 {
                let range =
                    (index * 3 + channel) * side * side..(index * 3 + channel + 1) * side * side;
                let expected = grid_sampled(&images[range.clone()], side, sizes, biases);
                for (found, expected) in found[range].iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
        assert!(halves > 5, "{halves}");
    }

    #[test]
    fn a_part_of_the_images_loses_its_colour() {
        let images = ramp(400, 2);
        let gray = |gray| Augment {
            gray,
            ..Augment::default()
        };
        let pixels = to_vec(&images).unwrap();
        let luma = |image: &[f32], place: usize| {
            0.299 * image[place] + 0.587 * image[4 + place] + 0.114 * image[8 + place]
        };
        let out = to_vec(&gray(0.25).apply(images, Key::from_seed(7))).unwrap();
        let mut changed = 0;
        for (old, new) in pixels.chunks(12).zip(out.chunks(12)) {
            if old == new {
                continue;
            }
            changed += 1;
            for (place, new) in new.iter().enumerate() {
                assert!((new - luma(old, place % 4)).abs() < 1e-6);
            }
        }
        // 99.9 % of Binomial(400, 1/4).
        assert!((72..=129).contains(&changed), "{changed}");
    }

    #[test]
    fn the_same_key_gives_the_same_and_an_image_ignores_its_neighbours() {
        let (images, key) = (ramp(4, 8), Key::from_seed(4));
        let both = |images: Tensor<4>| to_vec(&Augment::pilot().apply(images, key)).unwrap();
        assert_eq!(both(images.clone()), both(images.clone()));
        let first = both(images.clone().narrow(0, 0, 1));
        assert_eq!(first, both(images)[..first.len()]);
    }

    #[test]
    fn wrong_settings_are_refused() {
        let bad = |crop| Augment {
            crop,
            ..Augment::default()
        };
        let resized = |min_area, max_area, ratio| Crop::Resized {
            min_area,
            max_area,
            ratio,
        };
        assert!(bad(resized(0.0, 1.0, 1.3)).validate().is_err());
        assert!(bad(resized(0.5, 0.4, 1.3)).validate().is_err());
        assert!(bad(resized(0.5, 1.0, 0.5)).validate().is_err());
        assert!(
            bad(Crop::Padded {
                padding: usize::MAX
            })
            .validate()
            .is_err()
        );
        let sampled = |min_area, max_area, ratio| Crop::Sampled {
            min_area,
            max_area,
            ratio,
        };
        assert!(bad(sampled(0.0, 1.0, 1.3)).validate().is_err());
        let gray = Augment {
            gray: 1.5,
            ..Augment::default()
        };
        assert!(gray.validate().unwrap_err().to_string().contains("gray"));
        assert!(Augment::pilot().validate().is_ok());
        assert!(Augment::online_contrastive().validate().is_ok());
    }
}
