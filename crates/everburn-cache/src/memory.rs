use everburn_core::ImageKey;

use crate::keys::KeyMap;

/// Values of one block: 1 MiB. Growing by blocks neither copies rows nor holds room for twice as many.
const BLOCK: usize = 1 << 18;

/// Rows in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    dim: usize,
    rows_per_block: usize,
    slots: KeyMap<u32>,
    blocks: Vec<Vec<f32>>,
    /// Slots ever used.
    used: u32,
    /// Those of them that are empty again.
    free: Vec<u32>,
}

impl Memory {
    /// Room for rows of `dim` values, `dim` being at least 1.
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            dim,
            rows_per_block: (BLOCK / dim).max(1),
            slots: KeyMap::default(),
            blocks: Vec::new(),
            used: 0,
            free: Vec::new(),
        }
    }

    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn contains(&self, key: &ImageKey) -> bool {
        self.slots.contains_key(key)
    }

    /// The row of an image, `[dim]`.
    pub(crate) fn row(&self, key: &ImageKey) -> Option<&[f32]> {
        let slot = *self.slots.get(key)? as usize;
        let start = slot % self.rows_per_block * self.dim;
        self.blocks[slot / self.rows_per_block].get(start..start + self.dim)
    }

    /// Keeps a row `[dim]`; false if the image has one already, which then stays.
    pub(crate) fn insert(&mut self, key: ImageKey, row: &[f32]) -> bool {
        if self.contains(&key) || self.used == u32::MAX {
            return false;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        let (block, place) = (
            slot as usize / self.rows_per_block,
            slot as usize % self.rows_per_block * self.dim,
        );
        if block == self.blocks.len() {
            let values = self.rows_per_block * self.dim;
            self.blocks.push(Vec::with_capacity(values));
        }
        let values = &mut self.blocks[block];
        if place == values.len() {
            values.extend_from_slice(row);
        } else {
            values[place..place + self.dim].copy_from_slice(row);
        }
        self.slots.insert(key, slot);
        true
    }

    /// Forgets a row.
    pub(crate) fn remove(&mut self, key: &ImageKey) {
        self.free.extend(self.slots.remove(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_across_blocks_and_reused_slots() {
        let dim = BLOCK / 3;
        let mut memory = Memory::new(dim);
        let row = |value: u8| vec![f32::from(value); dim];
        for value in 0..10 {
            assert!(memory.insert(ImageKey([value; 16]), &row(value)));
        }
        assert!(!memory.insert(ImageKey([3; 16]), &row(99)));
        for value in [2, 7] {
            memory.remove(&ImageKey([value; 16]));
        }
        for value in 20..24 {
            assert!(memory.insert(ImageKey([value; 16]), &row(value)));
        }
        assert_eq!((memory.len(), memory.blocks.len()), (12, 4));
        for value in (0..10).filter(|v| ![2, 7].contains(v)).chain(20..24) {
            assert!(memory.row(&ImageKey([value; 16])).unwrap() == row(value));
        }
        assert!(memory.row(&ImageKey([2; 16])).is_none());
    }
}
