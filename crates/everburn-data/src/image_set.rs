use std::sync::Arc;

use everburn_core::{Error, ImageKey, ImageShape, ImageSource, Images, Result};

use crate::spool::Spool;

/// The images of a training or test set, in memory or in a file on the disk.
///
/// Which of the two is decided when a data set is loaded
/// ([`LoadOptions::memory_budget`](crate::LoadOptions::memory_budget)) and changes nothing else: an
/// image out of the file is checked against its key, so what comes back is what was stored, or an
/// error. A clone or a [subset](Self::subset) shares the pixels. Two sets are equal if they hold the
/// same images, wherever these lie.
#[derive(Clone, Debug)]
pub struct ImageSet {
    store: Arc<Store>,
    /// Which of the stored images are in the set; `None` is all of them.
    view: Option<Arc<View>>,
}

#[derive(Debug)]
enum Store {
    Memory(Images),
    Disk(Spool),
}

#[derive(Debug)]
struct View {
    places: Vec<usize>,
    keys: Vec<ImageKey>,
}

impl ImageSet {
    pub(crate) fn on_disk(spool: Spool) -> Self {
        Self::whole(Store::Disk(spool))
    }

    fn whole(store: Store) -> Self {
        Self {
            store: Arc::new(store),
            view: None,
        }
    }

    /// The size of each image.
    pub fn shape(&self) -> ImageShape {
        match &*self.store {
            Store::Memory(images) => images.shape(),
            Store::Disk(spool) => spool.shape(),
        }
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.keys().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// The key of each image.
    pub fn keys(&self) -> &[ImageKey] {
        match (&self.view, &*self.store) {
            (Some(view), _) => &view.keys,
            (None, Store::Memory(images)) => images.keys(),
            (None, Store::Disk(spool)) => spool.keys(),
        }
    }

    /// Whether the pixels lie on the disk.
    pub fn is_on_disk(&self) -> bool {
        matches!(&*self.store, Store::Disk(_))
    }

    /// Bytes that the set holds in memory: pixels, 16 for each key and 8 for each position of a
    /// subset. What sets share is counted for each of them, and whole.
    pub fn memory_bytes(&self) -> u64 {
        let store = match &*self.store {
            Store::Memory(images) => images.pixels().len() + size_of_val(images.keys()),
            Store::Disk(spool) => size_of_val(spool.keys()),
        };
        let of_view =
            |view: &Arc<View>| size_of_val(&view.places[..]) + size_of_val(&view.keys[..]);
        let view = self.view.as_ref().map_or(0, of_view);
        (store + view) as u64
    }

    /// The images at `indices` in memory, in that order, repeats included.
    ///
    /// # Errors
    /// If an index is past the end, or an image cannot be read from the disk as it was written: names
    /// the file and the image.
    pub fn select(&self, indices: &[usize]) -> Result<Images> {
        match (&self.view, &*self.store) {
            (None, Store::Memory(images)) => images.select(indices),
            (_, Store::Memory(images)) => images.select(&self.places(indices)?),
            (_, Store::Disk(spool)) => spool.select(&self.places(indices)?),
        }
    }

    /// The set of the images at `indices`, in that order, repeats included. No pixel is copied, with
    /// one exception: fewer than half of the images in memory are, so that the others can be let go.
    ///
    /// # Errors
    /// If an index is past the end.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let places = self.places(indices)?;
        if let Store::Memory(images) = &*self.store
            && 2 * places.len() < images.len()
        {
            return Ok(images.select(&places)?.into());
        }
        let all = self.keys();
        let keys = indices.iter().filter_map(|index| all.get(*index).copied());
        let keys = keys.collect();
        Ok(Self {
            store: Arc::clone(&self.store),
            view: Some(Arc::new(View { places, keys })),
        })
    }

    /// All images, in memory.
    ///
    /// # Errors
    /// As [`select`](Self::select), or if there is not enough memory.
    pub fn to_images(&self) -> Result<Images> {
        self.select(&(0..self.len()).collect::<Vec<_>>())
    }

    /// All images in their order, so many at a time; 0 is taken as 1.
    pub fn chunks(&self, images: usize) -> impl Iterator<Item = Result<Images>> {
        let (images, len) = (images.max(1), self.len());
        (0..len).step_by(images).map(move |start| {
            let end = len.min(start.saturating_add(images));
            self.select(&(start..end).collect::<Vec<_>>())
        })
    }

    /// Where the images at `indices` are stored.
    fn places(&self, indices: &[usize]) -> Result<Vec<usize>> {
        let len = self.len();
        let place = |index: &usize| {
            if *index >= len {
                let expected = format!("less than {len}");
                return Err(Error::input("image index", index, expected));
            }
            let place = (self.view.as_ref()).and_then(|view| view.places.get(*index));
            Ok(place.copied().unwrap_or(*index))
        };
        indices.iter().map(place).collect()
    }
}

impl From<Images> for ImageSet {
    fn from(images: Images) -> Self {
        Self::whole(Store::Memory(images))
    }
}

impl PartialEq for ImageSet {
    fn eq(&self, other: &Self) -> bool {
        // The key of an image is the hash of its size and pixels.
        self.shape() == other.shape() && self.keys() == other.keys()
    }
}

impl Eq for ImageSet {}

impl ImageSource for ImageSet {
    fn shape(&self) -> ImageShape {
        self.shape()
    }

    fn keys(&self) -> &[ImageKey] {
        self.keys()
    }

    fn select(&self, indices: &[usize]) -> Result<Images> {
        self.select(indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::SpoolWriter;

    const SHAPE: ImageShape = ImageShape::new(1, 2, 1);

    fn images() -> Images {
        Images::new(SHAPE, (0..20).collect()).unwrap()
    }

    fn both() -> [ImageSet; 2] {
        let mut writer = SpoolWriter::anonymous(None, SHAPE).unwrap();
        writer.push(&images()).unwrap();
        [images().into(), ImageSet::on_disk(writer.finish())]
    }

    #[test]
    fn memory_and_disk_give_the_same() {
        let [memory, disk] = both();
        assert_eq!(memory, disk);
        assert!(disk.is_on_disk() && !memory.is_on_disk());
        for set in [&memory, &disk] {
            assert_eq!(set.to_images().unwrap(), images());
            let chosen = [7, 7, 0];
            assert_eq!(
                set.select(&chosen).unwrap(),
                images().select(&chosen).unwrap()
            );
            let all: Vec<u8> = (set.chunks(3))
                .flat_map(|chunk| chunk.unwrap().pixels().to_vec())
                .collect();
            assert_eq!((all, set.chunks(3).count()), (images().pixels().into(), 4));
            let error = set.select(&[10]).unwrap_err().to_string();
            assert_eq!(error, "image index: found 10, expected less than 10");
        }
        assert_eq!(memory.memory_bytes(), 20 + 10 * 16);
        assert_eq!(disk.memory_bytes(), 10 * 16);
    }

    #[test]
    fn a_subset_of_a_subset_is_the_right_one() {
        for set in both() {
            let odd = set.subset(&[9, 7, 5, 3, 1]).unwrap();
            assert_eq!(odd.select(&[1]).unwrap(), images().select(&[7]).unwrap());
            let few = odd.subset(&[4, 0, 4, 1, 2]).unwrap();
            let expected = images().select(&[1, 9, 1, 7, 5]).unwrap();
            assert_eq!(few.to_images().unwrap(), expected);
            assert_eq!(few, expected.into());
            assert!(odd.subset(&[5]).is_err() && odd.select(&[5]).is_err());
            assert_ne!(few, odd);
        }
    }

    #[test]
    fn only_a_small_part_of_what_is_in_memory_is_copied() {
        let [memory, disk] = both();
        let shares = |of: &ImageSet, indices: &[usize]| {
            Arc::ptr_eq(&of.subset(indices).unwrap().store, &of.store)
        };
        assert!(shares(&memory, &[0, 1, 2, 3, 4]) && !shares(&memory, &[0, 1, 2, 3]));
        assert!(shares(&disk, &[0, 1, 2, 3, 4]) && shares(&disk, &[3]));
        let few = memory.subset(&[0, 1]).unwrap();
        assert_eq!(few.memory_bytes(), 2 * (2 + 16));
        let few = disk.subset(&[0, 1]).unwrap();
        assert_eq!(few.memory_bytes(), 10 * 16 + 2 * 24);
    }
}
