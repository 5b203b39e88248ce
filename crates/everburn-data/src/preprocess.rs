use std::fmt;
use std::str::FromStr;

use everburn_core::{Error, ImageShape, Images, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::raster::{grey, rgb};
use crate::resize::check_channels;
use crate::{Filter, Raster, Resizer, Size};

/// How an image comes to its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Resized to exactly the size; the proportions change.
    #[default]
    Stretch,
    /// Resized until the shorter side has `resize` pixels, then the middle is cut out.
    ShorterSideCentreCrop {
        /// Pixels of the shorter side before cropping.
        resize: usize,
    },
}

/// What channels an image has in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// Those of the data set. Class folders, whose images may differ, are RGB.
    #[default]
    Keep,
    /// Three; grey is replicated.
    Rgb,
    /// One, by PIL's formula; see [`Raster::to_grey`].
    Grey,
}

/// What is done to every image when a data set is loaded. The default does nothing.
///
/// A [preset](Self::preset) can be had by its name:
///
/// ```
/// use everburn_data::Preprocess;
/// let pilot: Preprocess = "pilot-test-224".parse()?;
/// assert_eq!(pilot.to_string(), "pilot-test-224");
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preprocess {
    /// The common size of all images; `None` leaves each as it is.
    pub size: Option<Size>,
    /// How pixels are interpolated, exactly as PIL does.
    pub filter: Filter,
    /// How the size is reached.
    pub fit: Fit,
    /// What channels there are in the end.
    pub channels: Channels,
}

/// A [`Preprocess`] with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it does, and where it is from.
    pub about: &'static str,
    /// The settings.
    pub preprocess: Preprocess,
}

const fn stretched(side: usize, filter: Filter) -> Preprocess {
    Preprocess {
        size: Some(Size::square(side)),
        filter,
        fit: Fit::Stretch,
        channels: Channels::Rgb,
    }
}

const fn native(channels: Channels) -> Preprocess {
    Preprocess {
        size: None,
        filter: Filter::Bilinear,
        fit: Fit::Stretch,
        channels,
    }
}

const PRESETS: [Preset; 7] = [
    Preset {
        name: "native",
        about: "as the data set has them",
        preprocess: native(Channels::Keep),
    },
    Preset {
        name: "rgb",
        about: "native size, three channels",
        preprocess: native(Channels::Rgb),
    },
    Preset {
        name: "grey",
        about: "native size, one channel",
        preprocess: native(Channels::Grey),
    },
    Preset {
        name: "resize-32",
        about: "32×32, bilinear, RGB: for CIFAR-sized networks (torchvision's Resize((32, 32)))",
        preprocess: stretched(32, Filter::Bilinear),
    },
    Preset {
        name: "resize-224",
        about: "224×224, bilinear, RGB: CIFAR for vision transformers (torchvision's Resize(224))",
        preprocess: stretched(224, Filter::Bilinear),
    },
    Preset {
        name: "resize-224-bicubic",
        about: "224×224, bicubic, RGB",
        preprocess: stretched(224, Filter::Bicubic),
    },
    Preset {
        name: "pilot-test-224",
        about: "shorter side to 256, bicubic, the middle 224×224, RGB: LAMDA-PILOT's test transform",
        preprocess: Preprocess {
            size: Some(Size::square(224)),
            filter: Filter::Bicubic,
            fit: Fit::ShorterSideCentreCrop { resize: 256 },
            channels: Channels::Rgb,
        },
    },
];

impl Preprocess {
    /// All presets.
    pub fn presets() -> &'static [Preset] {
        &PRESETS
    }

    /// The preset with a name.
    ///
    /// # Errors
    /// Names the nearest one if there is none.
    pub fn preset(name: &str) -> Result<Self> {
        PRESETS
            .iter()
            .find(|preset| preset.name == name)
            .map(|preset| preset.preprocess)
            .ok_or_else(|| Error::unknown("preprocessing", name, PRESETS.iter().map(|p| p.name)))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If a side is 0 or too large, or there is to be a crop without a size.
    pub fn check(&self) -> Result<()> {
        if let Some(size) = self.size {
            size.check("preprocess.size")?;
        }
        match (self.fit, self.size) {
            (Fit::ShorterSideCentreCrop { .. }, None) => Err(Error::config(
                "preprocess.size",
                "none",
                "rows and columns of the centre crop",
            )),
            (Fit::ShorterSideCentreCrop { resize }, _) => {
                Size::square(resize).check("preprocess.fit.resize")
            }
            (Fit::Stretch, _) => Ok(()),
        }
    }

    /// Applies the settings to one image.
    ///
    /// # Errors
    /// If the settings are wrong, or a side would be too large.
    pub fn apply(&self, image: &Raster) -> Result<Raster> {
        let pipeline = Pipeline::new(self, image.shape())?;
        Raster::new(pipeline.output(), pipeline.run(image.pixels())?)
    }

    /// Applies the settings to each of a number of images, in parallel.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); or if the result does not fit into memory.
    pub fn apply_all(&self, images: Images) -> Result<Images> {
        let pipeline = Pipeline::new(self, images.shape())?;
        if pipeline.does_nothing() {
            return Ok(images);
        }
        Images::new(pipeline.output(), pipeline.run_each(images.pixels())?)
    }

    /// The settings in words, the same for settings that do the same.
    pub(crate) fn describe(&self) -> String {
        let size = match (self.size, self.fit) {
            (None, _) => "native size".to_owned(),
            (Some(size), Fit::Stretch) => format!("{size} {}", self.filter.name()),
            (Some(size), Fit::ShorterSideCentreCrop { resize }) => {
                let filter = self.filter.name();
                format!("shorter side {resize} {filter}, centre crop {size}")
            }
        };
        let channels = match self.channels {
            Channels::Keep => "channels kept",
            Channels::Rgb => "rgb",
            Channels::Grey => "grey",
        };
        format!("{size}, {channels}")
    }
}

impl fmt::Display for Preprocess {
    /// The preset's name if it is one, else the settings in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PRESETS.iter().find(|preset| preset.preprocess == *self) {
            Some(preset) => f.write_str(preset.name),
            None => f.write_str(&self.describe()),
        }
    }
}

impl FromStr for Preprocess {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::preset(name)
    }
}

/// A [`Preprocess`] worked out for images of one size.
pub(crate) struct Pipeline {
    input: ImageShape,
    output: ImageShape,
    to_grey: bool,
    resizer: Option<Resizer>,
    crop: Option<Size>,
    to_rgb: bool,
}

impl Pipeline {
    pub(crate) fn new(preprocess: &Preprocess, input: ImageShape) -> Result<Self> {
        preprocess.check()?;
        check_channels(input)?;
        let to_grey = preprocess.channels == Channels::Grey && input.channels == 3;
        let to_rgb = preprocess.channels == Channels::Rgb && input.channels == 1;
        let channels = if to_grey { 1 } else { input.channels };
        let (resized, crop) = match (preprocess.size, preprocess.fit) {
            (None, _) => (Size::of(input), None),
            (Some(size), Fit::Stretch) => (size, None),
            (Some(size), Fit::ShorterSideCentreCrop { resize }) => {
                (Size::of(input).with_shorter_side(resize)?, Some(size))
            }
        };
        let resizer = (resized != Size::of(input))
            .then(|| Resizer::new(Size::of(input).shape(channels), resized, preprocess.filter))
            .transpose()?;
        let crop = crop.filter(|size| *size != resized);
        Ok(Self {
            input,
            output: crop
                .unwrap_or(resized)
                .shape(if to_rgb { 3 } else { channels }),
            to_grey,
            resizer,
            crop,
            to_rgb,
        })
    }

    pub(crate) fn output(&self) -> ImageShape {
        self.output
    }

    fn does_nothing(&self) -> bool {
        !self.to_grey && !self.to_rgb && self.resizer.is_none() && self.crop.is_none()
    }

    /// Takes in the pixels of a number of images, gives out those of as many.
    pub(crate) fn run_all(&self, pixels: Vec<u8>) -> Result<Vec<u8>> {
        if self.does_nothing() {
            Ok(pixels)
        } else {
            self.run_each(&pixels)
        }
    }

    /// In parallel.
    fn run_each(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let source = pixels.par_chunks(self.input.bytes());
        let mut output = zeroed(self.output, pixels.len() / self.input.bytes())?;
        let targets = output.par_chunks_mut(self.output.bytes());
        let produce = |(image, target): (&[u8], &mut [u8])| fill(target, &self.run(image)?);
        match (source.zip(targets)).find_map_first(|pair| produce(pair).err()) {
            Some(error) => Err(error),
            None => Ok(output),
        }
    }

    /// Channels fall away before resizing and are replicated after it: less to resize, same result.
    pub(crate) fn run(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let mut image = if self.to_grey {
            grey(pixels)
        } else {
            pixels.to_vec()
        };
        let mut shape = self.input;
        if self.to_grey {
            shape.channels = 1;
        }
        if let Some(resizer) = &self.resizer {
            image = resizer.resize(&image)?;
            shape = resizer.output();
        }
        if let Some(size) = self.crop {
            image = Raster::new(shape, image)?.centre_crop(size)?.into_pixels();
        }
        Ok(if self.to_rgb { rgb(&image) } else { image })
    }
}

/// Room for `count` images.
pub(crate) fn zeroed(shape: ImageShape, count: usize) -> Result<Vec<u8>> {
    let refused = || {
        let room = format!("room for {count} images of {shape}");
        Error::other(
            room,
            "not enough memory; choose a smaller size or fewer images",
        )
    };
    let bytes = count.checked_mul(shape.bytes()).ok_or_else(refused)?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes).map_err(|_| refused())?;
    pixels.resize(bytes, 0);
    Ok(pixels)
}

/// Copies an image into its place.
pub(crate) fn fill(target: &mut [u8], image: &[u8]) -> Result<()> {
    if target.len() != image.len() {
        let expected = format!("{}, as all images have", target.len());
        return Err(Error::input("bytes of an image", image.len(), expected));
    }
    target.copy_from_slice(image);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_found_by_their_names() {
        for preset in Preprocess::presets() {
            preset.preprocess.check().unwrap();
            assert_eq!(
                preset.name.parse::<Preprocess>().unwrap(),
                preset.preprocess
            );
            assert_eq!(preset.preprocess.to_string(), preset.name);
        }
        let error = Preprocess::preset("resize-23").unwrap_err().to_string();
        assert!(error.contains("did you mean `resize-224`?") || error.contains("`resize-32`?"));
    }

    #[test]
    fn a_crop_needs_a_size() {
        let preprocess = Preprocess {
            fit: Fit::ShorterSideCentreCrop { resize: 8 },
            ..Preprocess::default()
        };
        let error = preprocess.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "preprocess.size: found none, expected rows and columns of the centre crop"
        );
    }

    #[test]
    fn all_images_get_what_each_gets() {
        let shape = ImageShape::new(5, 7, 3);
        let pixels: Vec<u8> = (0..3 * shape.bytes())
            .map(|i| (i * 37 % 251) as u8)
            .collect();
        let images = Images::new(shape, pixels).unwrap();
        for channels in [Channels::Keep, Channels::Rgb, Channels::Grey] {
            for fit in [Fit::Stretch, Fit::ShorterSideCentreCrop { resize: 9 }] {
                let preprocess = Preprocess {
                    size: Some(Size::new(6, 11)),
                    filter: Filter::Bicubic,
                    fit,
                    channels,
                };
                let all = preprocess.apply_all(images.clone()).unwrap();
                for index in 0..images.len() {
                    let image = Raster::new(shape, images.image(index).to_vec()).unwrap();
                    let alone = preprocess.apply(&image).unwrap();
                    assert_eq!(all.shape(), alone.shape());
                    assert_eq!(all.image(index), alone.pixels());
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error() {
        let error = zeroed(ImageShape::new(1 << 15, 1 << 15, 3), usize::MAX >> 30).unwrap_err();
        assert!(error.to_string().contains("not enough memory"));
    }
}
