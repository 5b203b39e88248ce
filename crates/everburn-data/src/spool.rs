//! Images in a file, one behind the other, read by their position.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use everburn_core::{Error, ImageKey, ImageShape, Images, Result};
use rayon::prelude::*;

use crate::files;
use crate::preprocess::zeroed;

/// Takes in images and appends them to a file.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    spool: Spool,
}

impl SpoolWriter {
    /// A new file in `dir`, or in the system's folder for temporary files. It has no name and ends
    /// with the process.
    pub(crate) fn anonymous(dir: Option<&Path>, shape: ImageShape) -> Result<Self> {
        let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
        let name = format!("temporary file of images in {}", files::show(&dir));
        let file = tempfile::tempfile_in(&dir).map_err(|e| Error::other(&name, e))?;
        Ok(Self::new(file, name, shape))
    }

    /// Appends to an empty file, which errors call `name`.
    fn new(file: File, name: String, shape: ImageShape) -> Self {
        let keys = Vec::new();
        let spool = Spool {
            file: Positioned::new(file),
            name,
            shape,
            keys,
        };
        Self { spool }
    }

    /// Appends images of the size that was said.
    pub(crate) fn push(&mut self, images: &Images) -> Result<()> {
        let Spool {
            file,
            name,
            shape,
            keys,
        } = &mut self.spool;
        if images.shape() != *shape {
            return Err(Error::input("image size", images.shape(), *shape));
        }
        let written = file.0.write_all(images.pixels());
        written.map_err(|e| {
            let bytes = keys.len() * shape.bytes();
            Error::other(format!("{name}, after {bytes} bytes"), e)
        })?;
        keys.extend_from_slice(images.keys());
        Ok(())
    }

    /// The images, to be read.
    pub(crate) fn finish(self) -> Spool {
        self.spool
    }
}

/// Images in a file. Their keys are in memory, and no image is given out that has another.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Positioned,
    /// What errors call the file.
    name: String,
    shape: ImageShape,
    keys: Vec<ImageKey>,
}

impl Spool {
    pub(crate) fn shape(&self) -> ImageShape {
        self.shape
    }

    pub(crate) fn keys(&self) -> &[ImageKey] {
        &self.keys
    }

    /// The images at `places`, in that order.
    pub(crate) fn select(&self, places: &[usize]) -> Result<Images> {
        let mut pixels = zeroed(self.shape, places.len())?;
        let targets = pixels.par_chunks_mut(self.shape.bytes());
        let work = targets.zip(places.par_iter());
        if let Some(error) = work.find_map_first(|(image, place)| self.read(*place, image).err()) {
            return Err(error);
        }
        let images = Images::new(self.shape, pixels)?;
        for (found, place) in images.keys().iter().zip(places) {
            let expected = self.keys.get(*place);
            if expected != Some(found) {
                let expected = format!("{expected:?}, as when it was written");
                let found = format!("other pixels, {found:?}");
                return Err(Error::input(self.what(*place), found, expected));
            }
        }
        Ok(images)
    }

    fn read(&self, place: usize, image: &mut [u8]) -> Result<()> {
        let offset = place as u64 * self.shape.bytes() as u64;
        let read = self.file.read_exact_at(image, offset);
        read.map_err(|e| Error::other(self.what(place), e))
    }

    fn what(&self, place: usize) -> String {
        let offset = place as u64 * self.shape.bytes() as u64;
        format!("{}: image {place} at byte {offset}", self.name)
    }
}

/// A file that several threads read at once.
#[cfg(unix)]
#[derive(Debug)]
struct Positioned(File);

#[cfg(unix)]
impl Positioned {
    fn new(file: File) -> Self {
        Self(file)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, offset)
    }
}

/// A file that several threads read, one after the other: its position is shared.
#[cfg(not(unix))]
#[derive(Debug)]
struct Positioned(File, std::sync::Mutex<()>);

#[cfg(not(unix))]
impl Positioned {
    fn new(file: File) -> Self {
        Self(file, std::sync::Mutex::new(()))
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _turn = self
            .1
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.0;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    const SHAPE: ImageShape = ImageShape::new(2, 2, 3);

    fn images(count: usize) -> Images {
        let pixels = (0..count * SHAPE.bytes()).map(|i| (i * 7 % 256) as u8);
        Images::new(SHAPE, pixels.collect()).unwrap()
    }

    /// Five images in a file with a name, and that file.
    fn named() -> (Spool, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = SpoolWriter::new(file.reopen().unwrap(), "spool".to_owned(), SHAPE);
        let images = images(5);
        writer.push(&images.select(&[0, 1, 2]).unwrap()).unwrap();
        writer.push(&images.select(&[3, 4]).unwrap()).unwrap();
        (writer.finish(), file)
    }

    #[test]
    fn images_come_back_in_any_order() {
        let (spool, _file) = named();
        let chosen = [4, 0, 0, 3];
        assert_eq!(
            spool.select(&chosen).unwrap(),
            images(5).select(&chosen).unwrap()
        );
        assert_eq!(spool.select(&[]).unwrap().len(), 0);
        assert_eq!(spool.keys(), images(5).keys());
    }

    #[test]
    fn a_damaged_image_is_named_and_never_given_out() {
        let (spool, file) = named();
        let mut damaged = file.reopen().unwrap();
        damaged
            .seek(SeekFrom::Start(3 * SHAPE.bytes() as u64 + 5))
            .unwrap();
        damaged.write_all(&[0]).unwrap();
        let error = spool.select(&[1, 3]).unwrap_err().to_string();
        assert!(
            error.starts_with("spool: image 3 at byte 36: found other pixels"),
            "{error}"
        );
        assert!(spool.select(&[0, 1, 2, 4]).is_ok());
        // A file cut short.
        damaged.set_len(4 * SHAPE.bytes() as u64 + 1).unwrap();
        let error = spool.select(&[0, 4]).unwrap_err().to_string();
        assert!(error.starts_with("spool: image 4 at byte 48"), "{error}");
        // Two images that changed places are both wrong.
        let (spool, file) = named();
        let swapped = images(5).select(&[1, 0]).unwrap();
        file.reopen().unwrap().write_all(swapped.pixels()).unwrap();
        assert!(spool.select(&[0]).is_err() && spool.select(&[1]).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let nowhere = Path::new("/nowhere/at/all");
        let error = SpoolWriter::anonymous(Some(nowhere), SHAPE).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
        let mut writer = SpoolWriter::anonymous(None, SHAPE).unwrap();
        let other = Images::new(ImageShape::new(1, 1, 1), vec![0]).unwrap();
        assert!(writer.push(&other).is_err());
    }
}
