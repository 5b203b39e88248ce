use everburn_core::ClassId;

use crate::{MAX_CLASSES, Manifest};

/// No rank yet.
const UNSEEN: usize = usize::MAX;

/// How many samples of how many classes come when.
pub(super) struct Density {
    /// The classes in the order of their first appearance.
    pub(super) classes: Vec<ClassId>,
    /// Samples in the stream.
    pub(super) samples: usize,
    /// Rows; each stands for one class or a few.
    pub(super) rows: usize,
    /// Columns; each stands for one sample or some.
    pub(super) columns: usize,
    /// The most samples in a cell.
    pub(super) most: usize,
    /// Samples in each cell, `[rows, columns]`.
    counts: Vec<usize>,
}

impl Density {
    /// Counts a stream into at most so many rows and columns. Samples without a label are left out.
    pub(super) fn new(
        manifest: &Manifest,
        labels: &[ClassId],
        max_rows: usize,
        max_columns: usize,
    ) -> Self {
        let label = |index: u32| labels.get(index as usize).copied();
        let (classes, ranks) = rank(manifest.indices().filter_map(label), manifest.num_classes);
        let samples = manifest.len();
        let rows = classes.len().min(max_rows);
        let columns = samples.min(max_columns);
        let mut counts = vec![0; rows * columns];
        for (position, index) in manifest.indices().enumerate() {
            let rank = label(index).and_then(|class| ranks.get(class.0 as usize));
            let Some(rank) = rank.filter(|rank| **rank != UNSEEN) else {
                continue;
            };
            let row = scaled(*rank, rows, classes.len());
            let cell = row * columns + scaled(position, columns, samples);
            if let Some(count) = counts.get_mut(cell) {
                *count += 1;
            }
        }
        Self {
            most: counts.iter().copied().max().unwrap_or(0),
            classes,
            samples,
            rows,
            columns,
            counts,
        }
    }

    /// The samples in the cells of each row.
    pub(super) fn row_counts(&self) -> impl Iterator<Item = &[usize]> {
        self.counts.chunks(self.columns.max(1))
    }

    /// The ranks of the classes in a row.
    pub(super) fn ranks(&self, row: usize) -> std::ops::Range<usize> {
        let first = |row: usize| (row * self.classes.len()).div_ceil(self.rows.max(1));
        first(row)..first(row + 1)
    }

    /// The shade of a cell among `shades`: 0 for no sample, else from 1.
    ///
    /// Each shade reaches to twice the samples of the one before: few and many both show.
    pub(super) fn shade(&self, count: usize, shades: usize) -> usize {
        let deep_enough = |shade: &usize| count <= self.last_of_shade(*shade, shades);
        (0..=shades).find(deep_enough).unwrap_or(shades)
    }

    /// The numbers of samples that have a shade, first and last; `None` where there is no such
    /// number.
    pub(super) fn shade_range(&self, shade: usize, shades: usize) -> Option<(usize, usize)> {
        let first = self.last_of_shade(shade.checked_sub(1)?, shades) + 1;
        let last = self.last_of_shade(shade, shades);
        (first <= last).then_some((first, last))
    }

    fn last_of_shade(&self, shade: usize, shades: usize) -> usize {
        match shade {
            0 => 0,
            _ => self.most >> shades.saturating_sub(shade).min(63),
        }
    }
}

/// `value` of `from` as so many of `to`, rounded down.
pub(super) fn scaled(value: usize, to: usize, from: usize) -> usize {
    let scaled = value as u128 * to as u128;
    usize::try_from(scaled / (from.max(1) as u128)).unwrap_or(usize::MAX)
}

/// The classes in the order of their first appearance, and the place of each class in it.
fn rank(stream: impl Iterator<Item = ClassId>, num_classes: usize) -> (Vec<ClassId>, Vec<usize>) {
    let mut ranks = vec![UNSEEN; num_classes.min(MAX_CLASSES)];
    let mut classes = Vec::new();
    for class in stream {
        if let Some(rank) = ranks.get_mut(class.0 as usize)
            && *rank == UNSEEN
        {
            *rank = classes.len();
            classes.push(class);
        }
    }
    (classes, ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManifestTask;

    #[test]
    fn every_sample_is_in_one_cell() {
        let labels: Vec<ClassId> = (0..97).map(|i| ClassId(i * i % 13)).collect();
        let manifest = Manifest {
            num_classes: 13,
            tasks: vec![ManifestTask {
                indices: (0..97).rev().collect(),
                ..ManifestTask::default()
            }],
            ..Manifest::default()
        };
        for (rows, columns) in [(1, 1), (3, 10), (5, 97), (13, 200), (100, 7)] {
            let density = Density::new(&manifest, &labels, rows, columns);
            let total: usize = density.row_counts().flatten().sum();
            assert_eq!(total, 97);
            let covered: usize = (0..density.rows).map(|row| density.ranks(row).len()).sum();
            assert_eq!(covered, density.classes.len());
        }
    }

    #[test]
    fn rows_hold_the_ranks_that_they_name() {
        let labels: Vec<ClassId> = (0..10).map(ClassId).collect();
        let manifest = Manifest {
            num_classes: 10,
            tasks: vec![ManifestTask {
                indices: (0..10).collect(),
                ..ManifestTask::default()
            }],
            ..Manifest::default()
        };
        let density = Density::new(&manifest, &labels, 4, 10);
        for (row, counts) in density.row_counts().enumerate() {
            // Class i comes at position i, in column i.
            let filled: Vec<usize> = (0..10).filter(|c| counts[*c] > 0).collect();
            assert_eq!(filled, density.ranks(row).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shades_and_their_ranges_agree() {
        for most in 1..40 {
            let density = Density {
                classes: vec![],
                samples: 0,
                rows: 0,
                columns: 0,
                most,
                counts: vec![],
            };
            for count in 1..=most {
                let shade = density.shade(count, 4);
                let (first, last) = density.shade_range(shade, 4).unwrap();
                assert!((first..=last).contains(&count), "{count} of {most}");
            }
            assert_eq!(density.shade(0, 4), 0);
            assert_eq!(density.shade(most, 4), 4);
        }
    }
}
