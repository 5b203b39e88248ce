//! Folders of class folders of PNG and JPEG images.

mod scan;
mod split_file;

use std::path::Path;

use everburn_core::{Error, ImageShape, Result};
use rayon::prelude::*;

use crate::preprocess::{Pipeline, fill, zeroed};
use crate::sink::{Room, Sink, chunk};
use crate::{Dataset, LoadOptions, Preprocess, Raster, Split, files};

pub(crate) use scan::{Item, Listing, scan};

/// Loads a folder of class folders of PNG and JPEG images as RGB (of one channel, if `preprocess` asks
/// for grey).
///
/// A class's number is the rank of its folder's name in byte order; its images are the files of the
/// folder in byte order, then those of its sub-folders (the order of torchvision's `ImageFolder`). Which
/// images are for testing is decided by the first of these that applies, and told by
/// [`Dataset::split_rule`]:
///
/// 1. There are folders `train/` and `test/`, each with class folders.
/// 2. There is a file `split.txt`, `split.csv` or `split.tsv`: in each line the path of an image below
///    `dir`, a tab, space or comma, and `train` or `test`. Every image is in it once.
/// 3. Every fifth image of each class is a test image.
///
/// Hidden files and files with other endings than `.png`, `.jpg` and `.jpeg` are skipped and counted in
/// [`Dataset::skipped_files`]. Images are decoded in parallel; the result does not depend on it.
///
/// # Errors
/// If there is no class, a class has no training or no test image, the split file is not as above, an
/// image cannot be decoded, or the images differ in size after preprocessing: names the file. Or as
/// [`load`](crate::load).
pub fn load_folder(dir: &Path, options: impl Into<LoadOptions>) -> Result<Dataset> {
    let options = options.into();
    let preprocess = &options.preprocess;
    preprocess.check()?;
    let listing = scan(dir)?;
    let shape = common_shape(&listing, preprocess)?;
    let mut room = Room::new(&options);
    let mut split = |items: &[Item]| {
        let sink = room.sink(shape, items.len())?;
        decode_all(items, preprocess, shape, sink)
    };
    let (train, test) = (split(&listing.train)?, split(&listing.test)?);
    let mut dataset = Dataset::new(listing.name, listing.class_names, train, test)?;
    dataset.preprocess = *preprocess;
    dataset.split_rule = listing.rule;
    dataset.skipped_files = listing.skipped;
    Ok(dataset)
}

/// Reads and decodes one file.
pub(crate) fn decode(item: &Item) -> Result<Raster> {
    let bytes = files::read(&item.path)?;
    Raster::decode(&bytes, &files::show(&item.path))
}

/// The size of the first image, which all others must come to.
fn common_shape(listing: &Listing, preprocess: &Preprocess) -> Result<ImageShape> {
    let first = listing.train.first().ok_or_else(|| {
        Error::input(
            &listing.name,
            "no training image",
            "at least one for each class",
        )
    })?;
    Ok(Pipeline::new(preprocess, decode(first)?.shape())?.output())
}

fn decode_all(
    items: &[Item],
    preprocess: &Preprocess,
    shape: ImageShape,
    mut sink: Sink,
) -> Result<Split> {
    let produce = |(item, target): (&Item, &mut [u8])| {
        let image = preprocess.apply(&decode(item)?)?;
        if image.shape() != shape {
            return Err(Error::input(
                format!("{}: image size", files::show(&item.path)),
                image.shape(),
                format!("{shape} as the first image; give a size to resize all images to"),
            ));
        }
        fill(target, image.pixels())
    };
    for part in items.chunks(chunk(shape)) {
        let mut pixels = zeroed(shape, part.len())?;
        let work = part.par_iter().zip(pixels.par_chunks_mut(shape.bytes()));
        // The first error in the order of the files, so that it is the same one every time.
        if let Some(error) = work.find_map_first(|pair| produce(pair).err()) {
            return Err(error);
        }
        sink.push(pixels)?;
    }
    let labels = items.iter().map(|item| item.class).collect();
    Split::new(sink.finish(), labels)
}
