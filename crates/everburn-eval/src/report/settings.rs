use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{RowKey, Run};
use crate::format;

/// The settings of a run, each under its path with dots: `recipe.epochs`.
type Flat = BTreeMap<String, String>;

/// The label of runs whose settings nobody recorded, beside others of which they are known.
const UNKNOWN: &str = "settings not recorded";

/// The rows of a table: its runs by what tells them apart, settings included. The key names those
/// settings in which rows of a method differ that differ in nothing else.
pub(super) fn groups(all: &[Run], members: &[usize]) -> BTreeMap<RowKey, Vec<usize>> {
    let mut variants: BTreeMap<RowKey, BTreeMap<Flat, Vec<usize>>> = BTreeMap::new();
    for &index in members {
        if let Some((record, _)) = all.get(index) {
            let variants = variants.entry(RowKey::of(record)).or_default();
            variants
                .entry(flat(&record.settings))
                .or_default()
                .push(index);
        }
    }
    let mut paths: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, variants) in &variants {
        let differing = differing(variants.keys());
        paths
            .entry(key.method.clone())
            .or_default()
            .extend(differing);
    }
    let mut groups: BTreeMap<RowKey, Vec<usize>> = BTreeMap::new();
    for (key, variants) in variants {
        let several = variants.len() > 1;
        for (settings, runs) in variants {
            let mut key = key.clone();
            key.settings = match paths.get(&key.method) {
                _ if several && settings.is_empty() => UNKNOWN.to_owned(),
                Some(paths) if !settings.is_empty() => label(&settings, paths),
                _ => String::new(),
            };
            groups.entry(key).or_default().extend(runs);
        }
    }
    groups
}

fn flat(settings: &Value) -> Flat {
    let mut flat = Flat::new();
    flatten("", settings, &mut flat);
    flat
}

fn flatten(path: &str, value: &Value, flat: &mut Flat) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{name}"), value, flat);
            }
        }
        // Nothing was recorded at all.
        _ if path.is_empty() => {}
        Value::String(text) => {
            flat.insert(path.to_owned(), text.clone());
        }
        other => {
            flat.insert(path.to_owned(), other.to_string());
        }
    }
}

/// The paths whose values are not the same in all of these; those that know nothing aside.
fn differing<'a>(settings: impl Iterator<Item = &'a Flat>) -> BTreeSet<String> {
    let known: Vec<_> = settings.filter(|settings| !settings.is_empty()).collect();
    let paths: BTreeSet<_> = known.iter().flat_map(|settings| settings.keys()).collect();
    let differs = |path: &&String| {
        let values: BTreeSet<_> = known.iter().map(|settings| settings.get(*path)).collect();
        values.len() > 1
    };
    paths.into_iter().filter(differs).cloned().collect()
}

fn label(settings: &Flat, paths: &BTreeSet<String>) -> String {
    let value = |path: &String| settings.get(path).map_or(format::MISSING, String::as_str);
    let parts = paths.iter().map(|path| format!("{path}={}", value(path)));
    parts.collect::<Vec<_>>().join(", ")
}
