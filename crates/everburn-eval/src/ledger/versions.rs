use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Ledger};
use crate::RunRecord;

/// Runs of one code that can stand in one report: no two that tables do not tell apart have the same
/// seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Version<'a> {
    /// The code that made them.
    pub code: &'a str,
    /// In what they differ from runs of the first version of this code: other images or weights under
    /// the same names. Empty for the first version.
    pub changes: Vec<Change>,
    /// The runs.
    pub records: Vec<&'a RunRecord>,
}

impl Ledger {
    /// The runs, code by code, those of a code apart that one report could not hold.
    pub fn versions(&self) -> Vec<Version<'_>> {
        let mut codes: BTreeMap<&str, Vec<&RunRecord>> = BTreeMap::new();
        for record in self.records() {
            let code = record.provenance.code.as_str();
            codes.entry(code).or_default().push(record);
        }
        let split = |(code, records)| versions(code, records);
        codes.into_iter().flat_map(split).collect()
    }
}

fn versions<'a>(code: &'a str, records: Vec<&'a RunRecord>) -> Vec<Version<'a>> {
    let mut versions: Vec<Version<'a>> = Vec::new();
    // What a report tells apart, and the runs of which it can hold one.
    let mut alike: BTreeMap<String, Vec<&RunRecord>> = BTreeMap::new();
    for record in records {
        let shown = format!("{:?} {}", record.run, record.settings);
        let before = alike.entry(shown).or_default();
        if versions.len() == before.len() {
            versions.push(Version {
                code,
                changes: Vec::new(),
                records: Vec::new(),
            });
        }
        if let Some(version) = versions.get_mut(before.len()) {
            version.records.push(record);
            if let Some(first) = before.first() {
                version.changes.extend(first.changes(record));
            }
        }
        before.push(record);
    }
    for version in &mut versions {
        let mut seen = BTreeSet::new();
        (version.changes).retain(|change| seen.insert(change.to_string()));
    }
    versions
}
