use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use everburn_core::ImageKey;

use crate::keys::KeyMap;
use crate::memory::Memory;
use crate::segment::{Segment, Trouble};

/// Segments whose files are held open; those beyond are opened for each reading.
const HELD: usize = 128;

/// Which rows there are, and where.
pub(crate) struct State {
    pub(crate) memory: Memory,
    /// Images whose rows are in memory and shall be stored.
    pub(crate) pending: Vec<ImageKey>,
    pub(crate) disk: KeyMap<Place>,
    /// By number; those that turned out to be useless are `None`.
    pub(crate) segments: Vec<Option<Arc<Segment>>>,
    /// The files that have been looked at.
    pub(crate) known: BTreeSet<PathBuf>,
}

/// Where a row is on the disk.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) row: u32,
}

/// A segment that is no longer used, and the images whose rows were to be read from it.
pub(crate) type Forgotten = (Arc<Segment>, Vec<(ImageKey, Place)>);

/// Rows on their way out: their values, and which of them came from the disk.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) values: Vec<f32>,
    pub(crate) from_disk: Vec<usize>,
}

/// Why rows could not be gathered.
pub(crate) enum Lacking {
    Absent,
    Trouble(u32, Trouble),
}

impl State {
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            memory: Memory::new(dim),
            pending: Vec::new(),
            disk: KeyMap::default(),
            segments: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    pub(crate) fn contains(&self, key: &ImageKey) -> bool {
        self.memory.contains(key) || self.disk.contains_key(key)
    }

    /// Rows in memory that are not pending.
    pub(crate) fn clean(&self) -> usize {
        self.memory.len().saturating_sub(self.pending.len())
    }

    pub(crate) fn gather(&self, keys: &[ImageKey], dim: usize) -> Result<Gathered, Lacking> {
        let mut gathered = Gathered::default();
        gathered.values.reserve_exact(keys.len() * dim);
        for (number, key) in keys.iter().enumerate() {
            if let Some(row) = self.memory.row(key) {
                gathered.values.extend_from_slice(row);
                continue;
            }
            let place = self.disk.get(key).ok_or(Lacking::Absent)?;
            let segment = self.segments.get(place.segment as usize);
            let segment = segment.and_then(Option::as_ref).ok_or(Lacking::Absent)?;
            segment
                .read(place.row as usize, key, &mut gathered.values)
                .map_err(|trouble| Lacking::Trouble(place.segment, trouble))?;
            gathered.from_disk.push(number);
        }
        Ok(gathered)
    }

    /// Adds a segment; the first to have an image's row keeps it. Returns how many images are new.
    pub(crate) fn add(&mut self, mut segment: Segment, keys: &[ImageKey]) -> usize {
        let held = self.segments.iter().flatten();
        if held.filter(|segment| segment.is_held()).count() >= HELD {
            segment.close();
        }
        let number = self.segments.len() as u32;
        let mut new = 0;
        for (row, key) in (0..).zip(keys) {
            new += usize::from(!self.contains(key));
            let place = Place {
                segment: number,
                row,
            };
            self.disk.entry(*key).or_insert(place);
        }
        self.known.insert(segment.path().to_owned());
        self.segments.push(Some(Arc::new(segment)));
        new
    }

    /// Forgets a segment; with the images whose rows were to be read from it, by row.
    pub(crate) fn forget(&mut self, number: u32) -> Option<Forgotten> {
        let segment = self.segments.get_mut(number as usize)?.take()?;
        let in_it = |place: &Place| place.segment == number;
        let rows = self.disk.iter().filter(|(_, place)| in_it(place));
        let mut rows: Vec<_> = rows.map(|(key, place)| (*key, *place)).collect();
        rows.sort_by_key(|(_, place)| place.row);
        self.disk.retain(|_, place| !in_it(place));
        self.known.remove(segment.path());
        Some((segment, rows))
    }
}
