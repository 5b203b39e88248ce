use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use super::Ledger;
use crate::RunRecord;

/// One thing in which two runs differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What: `code`, `device`, a setting such as `recipe.epochs`, `manifest`, `data set`, `weights`.
    pub path: String,
    /// Its value on the one side; `None` where that side has none.
    pub left: Option<Value>,
    /// Its value on the other side.
    pub right: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| match value {
            None => "nothing".to_owned(),
            // Twelve digits of a hash tell it from others.
            Some(Value::String(hash)) if is_hash(hash) => hash.chars().take(12).collect(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let (left, right) = (text(&self.left), text(&self.right));
        write!(f, "{} {left} → {right}", self.path)
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Two ledgers compared, run by run; all lists by data set, stream, method and seed.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerDiff<'a> {
    /// How many runs both have alike.
    pub equal: usize,
    /// Runs with one id and different records, which no two machines should have.
    pub different: Vec<(&'a RunRecord, &'a RunRecord)>,
    /// Runs of the same method, stream, data set and seed with other ids.
    pub changed: Vec<(&'a RunRecord, &'a RunRecord)>,
    /// Runs that only the left ledger has.
    pub only_left: Vec<&'a RunRecord>,
    /// Runs that only the right ledger has.
    pub only_right: Vec<&'a RunRecord>,
}

impl LedgerDiff<'_> {
    /// Whether both ledgers hold the same.
    pub fn is_empty(&self) -> bool {
        let Self {
            different,
            changed,
            only_left,
            only_right,
            ..
        } = self;
        different.is_empty() && changed.is_empty() && only_left.is_empty() && only_right.is_empty()
    }
}

impl Ledger {
    /// Compares it with another one.
    pub fn diff<'a>(&'a self, other: &'a Self) -> LedgerDiff<'a> {
        let mut diff = LedgerDiff {
            equal: 0,
            different: Vec::new(),
            changed: Vec::new(),
            only_left: Vec::new(),
            only_right: Vec::new(),
        };
        let mut lefts: BTreeMap<_, Vec<&RunRecord>> = BTreeMap::new();
        for (id, left) in &self.runs {
            let Some(left) = left.first() else { continue };
            match other.runs.get(id).and_then(|right| right.first()) {
                Some(right) if left.text == right.text => diff.equal += 1,
                Some(right) => diff.different.push((&left.record, &right.record)),
                None => lefts
                    .entry(kind(&left.record))
                    .or_default()
                    .push(&left.record),
            }
        }
        let mut rights: BTreeMap<_, Vec<&RunRecord>> = BTreeMap::new();
        for (id, right) in &other.runs {
            let Some(right) = right.first() else { continue };
            if !self.runs.contains_key(id) {
                rights
                    .entry(kind(&right.record))
                    .or_default()
                    .push(&right.record);
            }
        }
        for (kind, mut rights) in rights {
            let lefts = lefts.entry(kind).or_default();
            // Of several those that differ least belong together.
            while let Some((left, right)) = nearest(lefts, &rights) {
                diff.changed
                    .push((lefts.remove(left), rights.remove(right)));
            }
            diff.only_right.extend(rights);
        }
        diff.only_left = lefts.into_values().flatten().collect();
        diff.only_right.sort_by_key(|right| kind(right));
        diff.changed.sort_by_key(|(_, right)| kind(right));
        diff.different.sort_by_key(|(_, right)| kind(right));
        diff
    }
}

/// The places of the two runs that differ least, if both sides have one.
fn nearest(lefts: &[&RunRecord], rights: &[&RunRecord]) -> Option<(usize, usize)> {
    let pairs = lefts.iter().enumerate().flat_map(|(left, a)| {
        let of_left = move |(right, b): (usize, &&RunRecord)| (a.changes(b).len(), left, right);
        rights.iter().enumerate().map(of_left)
    });
    pairs.min().map(|(_, left, right)| (left, right))
}

fn kind(record: &RunRecord) -> impl Ord + use<> {
    let run = record.run.clone();
    (run.dataset, run.stream, run.method, run.seed)
}

impl RunRecord {
    /// In what two runs differ of all that decides a result.
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        let code = |record: &Self| json!({ "code": record.provenance.code });
        let run = |record: &Self| json!(record.run);
        let settings = |record: &Self| record.settings.clone();
        let hashes = |record: &Self| {
            let provenance = &record.provenance;
            json!({
                "data set": provenance.dataset_hash,
                "manifest": provenance.manifest_hash,
                "weights": provenance.weights_hash,
            })
        };
        let parts: [&dyn Fn(&Self) -> Value; 4] = [&code, &run, &settings, &hashes];
        let changes = |part: &&dyn Fn(&Self) -> Value| between(&part(self), &part(other));
        parts.iter().flat_map(changes).collect()
    }

    /// All in which two records differ, results included.
    pub fn differences(&self, other: &Self) -> Vec<Change> {
        between(&json!(self), &json!(other))
    }
}

fn between(left: &Value, right: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(String::new(), Some(left), Some(right), &mut changes);
    changes
}

fn compare(path: String, left: Option<&Value>, right: Option<&Value>, changes: &mut Vec<Change>) {
    if left == right {
        return;
    }
    let below = |part: &str| match path.is_empty() {
        true => part.to_owned(),
        false => format!("{path}.{part}"),
    };
    match (left, right) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                compare(below(key), left.get(key), right.get(key), changes);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(below(&index.to_string()), Some(left), Some(right), changes);
            }
        }
        _ => changes.push(Change {
            path,
            left: left.cloned(),
            right: right.cloned(),
        }),
    }
}
