//! Where decoded images go: into memory while there is room, else to the disk.

use std::path::PathBuf;

use everburn_core::{ImageShape, Images, Result};

use crate::spool::SpoolWriter;
use crate::{ImageSet, LoadOptions};

/// Bytes of pixels that are decoded before they go to the sink.
const CHUNK: usize = 2 << 20;

/// Images that are decoded at once: few enough to need little memory, enough for all threads.
pub(crate) fn chunk(shape: ImageShape) -> usize {
    (CHUNK / shape.bytes().max(1)).max(8 * rayon::current_num_threads())
}

/// What is left of a memory budget.
pub(crate) struct Room {
    left: Option<u64>,
    dir: Option<PathBuf>,
}

impl Room {
    pub(crate) fn new(options: &LoadOptions) -> Self {
        Self {
            left: options.memory_budget,
            dir: options.spool_dir.clone(),
        }
    }

    /// A place for `count` images, in memory if they all fit into what is left.
    pub(crate) fn sink(&mut self, shape: ImageShape, count: usize) -> Result<Sink> {
        let bytes = (count as u64).saturating_mul(shape.bytes() as u64);
        match &mut self.left {
            Some(left) if *left < bytes => {
                let writer = SpoolWriter::anonymous(self.dir.as_deref(), shape)?;
                return Ok(Sink::Disk(writer, shape));
            }
            Some(left) => *left -= bytes,
            None => {}
        }
        let mut images = Images::empty(shape);
        images.reserve(count)?;
        Ok(Sink::Memory(images))
    }
}

/// Takes in images, in their order.
pub(crate) enum Sink {
    Memory(Images),
    Disk(SpoolWriter, ImageShape),
}

impl Sink {
    /// Takes in the pixels of some images.
    pub(crate) fn push(&mut self, pixels: Vec<u8>) -> Result<()> {
        match self {
            Self::Memory(images) => images.extend(&Images::new(images.shape(), pixels)?),
            Self::Disk(writer, shape) => writer.push(&Images::new(*shape, pixels)?),
        }
    }

    /// The set of all images that were taken in.
    pub(crate) fn finish(self) -> ImageSet {
        match self {
            Self::Memory(images) => images.into(),
            Self::Disk(writer, _) => ImageSet::on_disk(writer.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_for_both_sets_together() {
        let shape = ImageShape::new(1, 1, 1);
        let places = |memory_budget: Option<u64>, counts: [usize; 2]| {
            let mut room = Room::new(&LoadOptions {
                memory_budget,
                ..LoadOptions::default()
            });
            counts.map(|count| {
                let sink = room.sink(shape, count).unwrap();
                matches!(sink, Sink::Memory(_))
            })
        };
        assert_eq!(places(None, [1000, 1000]), [true, true]);
        assert_eq!(places(Some(10), [5, 5]), [true, true]);
        assert_eq!(places(Some(10), [6, 5]), [true, false]);
        assert_eq!(places(Some(10), [11, 10]), [false, true]);
        assert_eq!(places(Some(0), [1, 1]), [false, false]);
    }
}
