use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Ledger};
use crate::{RunDescription, RunRecord};

/// Runs of one code that can stand in tables together: no two that tables do not tell apart have the
/// same seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Version<'a> {
    /// The code that made them.
    pub code: &'a str,
    /// What is different from the first version of this code, as [`Change`]s read;
    /// empty for the first.
    pub changes: Vec<String>,
    /// The runs.
    pub records: Vec<&'a RunRecord>,
}

impl Ledger {
    /// The runs, code by code, those of a code apart where settings or data differ that tables do
    /// not show.
    pub fn versions(&self) -> Vec<Version<'_>> {
        let mut codes: BTreeMap<&str, Vec<&RunRecord>> = BTreeMap::new();
        for record in self.records() {
            codes
                .entry(&record.provenance.code)
                .or_default()
                .push(record);
        }
        let split = |(code, records)| versions(code, records);
        codes.into_iter().flat_map(split).collect()
    }
}

fn versions<'a>(code: &'a str, records: Vec<&'a RunRecord>) -> Vec<Version<'a>> {
    // What tables put into one row, then what they do not see, then seeds.
    let mut rows: BTreeMap<_, BTreeMap<_, Vec<&RunRecord>>> = BTreeMap::new();
    for record in records {
        let unseen = (record.settings.to_string(), &record.provenance.dataset_hash);
        let row = rows.entry(row(record)).or_default();
        row.entry(unseen).or_default().push(record);
    }
    let mut versions: Vec<Version<'a>> = Vec::new();
    let mut put = |index: usize, record: &'a RunRecord| {
        while versions.len() <= index {
            versions.push(Version {
                code,
                changes: Vec::new(),
                records: Vec::new(),
            });
        }
        versions[index].records.push(record);
    };
    for row in rows.into_values() {
        // What most runs have comes first.
        let mut row: Vec<_> = row.into_values().collect();
        row.sort_by_key(|records| Reverse(records.len()));
        let mut first = 0;
        for records in row {
            // The same seed once more: another backbone, say, under the same name.
            let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
            for record in records {
                let times = seen.entry(record.run.seed).or_default();
                put(first + *times, record);
                *times += 1;
            }
            first += seen.into_values().max().unwrap_or_default();
        }
    }
    name_changes(&mut versions);
    versions
}

/// What tables put into one row: all that they say of a run but its seed.
fn row(record: &RunRecord) -> String {
    let (seed, kind) = (0, None);
    let run = record.run.clone();
    format!("{:?}", RunDescription { seed, kind, ..run })
}

fn name_changes(versions: &mut [Version<'_>]) {
    let Some((first, others)) = versions.split_first_mut() else {
        return;
    };
    for version in others {
        let mut changes = BTreeSet::new();
        for record in &version.records {
            let of_row = |other: &&RunRecord| row(other) == row(record);
            let same_seed = |other: &&RunRecord| other.run.seed == record.run.seed;
            let row: Vec<&RunRecord> = first.records.iter().copied().filter(of_row).collect();
            let (other, by_seed) = match row.iter().copied().find(same_seed) {
                Some(other) => (Some(other), false),
                None => (row.first().copied(), true),
            };
            let found = other.map(|other| other.changes(record)).unwrap_or_default();
            // What differs between any two seeds.
            let seeds = ["seed", "manifest", "weights"];
            let tells = |change: &&Change| !by_seed || !seeds.contains(&change.path.as_str());
            changes.extend(found.iter().filter(tells).map(ToString::to_string));
        }
        version.changes = changes.into_iter().collect();
    }
}
