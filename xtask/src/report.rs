//! `cargo xtask report`: a page of results from ledgers, the same bytes for the same ledgers.

use std::collections::{BTreeMap, BTreeSet};

use everburn::core::Error;
use everburn::eval::{Accompanying, Report, RunRecord};
use everburn::run::write_atomically;

use crate::bench::print;
use crate::cli::ReportOptions;
use crate::ledger::{Group, read, with_changes, with_timings};

/// Digits of a hash on the page; the ledger has all of them.
const DIGITS: usize = 16;

/// `report`.
pub fn report(options: ReportOptions) -> anyhow::Result<()> {
    let Group {
        name,
        ledger,
        timings,
    } = read(&options.paths)?;
    ledger.check()?;
    if ledger.is_empty() {
        return Err(Error::input(name, "no runs", "at least one").into());
    }
    let mut page = format!(
        "# {}\n\n{} runs. Made by `cargo xtask report` from their ledger; edits are lost.\n\n",
        options.title,
        ledger.len()
    );
    let versions = ledger.versions();
    for version in &versions {
        if versions.len() > 1 {
            let changes = with_changes(version);
            page += &format!("## Code {}{changes}\n\n", version.code);
        }
        let runs = with_timings(&version.records, &timings);
        page += &format!("{}\n", Report::new(runs.clone())?.markdown());
        page += &origin(version.code, &runs);
    }
    match options.output {
        None => print(&page),
        Some(path) => {
            write_atomically(&path, page.as_bytes())?;
            print(&format!("{}: {} runs\n", path.display(), ledger.len()))
        }
    }
}

/// Where the numbers of some tables come from.
fn origin(code: &str, runs: &[(RunRecord, Accompanying)]) -> String {
    let mut text = "### Where these numbers come from\n\n".to_owned();
    text += &format!("- code: `{code}`, the hash of the sources\n");
    let known = |value: fn(&Accompanying) -> Option<String>| -> BTreeSet<String> {
        runs.iter()
            .filter_map(|(_, timing)| value(timing))
            .collect()
    };
    let commit = |timing: &Accompanying| {
        let commit = timing.commit.as_ref()?;
        let changed = if timing.dirty {
            " with uncommitted changes"
        } else {
            ""
        };
        Some(format!("{commit}{changed}"))
    };
    for (name, values) in [
        ("commit", known(commit)),
        ("command", known(|timing| timing.command.clone())),
        ("machine", known(|timing| timing.machine.clone())),
        ("device", known(|timing| timing.device.clone())),
    ] {
        for value in values {
            text += &format!("- {name}: `{}`\n", value.replace('`', "'"));
        }
    }
    text += "\n| what | name | seeds | hash |\n|:--|:--|:--|:--|\n";
    for ((what, name), hashes) in hashes(runs) {
        let mut lines: Vec<(Vec<u64>, String)> = Vec::new();
        for (hash, seeds) in hashes {
            lines.push((seeds.into_iter().collect(), hash));
        }
        lines.sort();
        for (seeds, hash) in lines {
            let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
            let name = name.replace('|', "\\|");
            text += &format!("| {what} | {name} | {} | `{hash}` |\n", seeds.join(", "));
        }
    }
    text + "\n"
}

/// The hashes of data sets, streams and weights, each with the seeds that had it.
type Hashes = BTreeMap<(&'static str, String), BTreeMap<String, BTreeSet<u64>>>;

fn hashes(runs: &[(RunRecord, Accompanying)]) -> Hashes {
    let mut hashes = Hashes::new();
    for (record, _) in runs {
        let (run, from) = (&record.run, &record.provenance);
        let mut add = |what, name: String, hash: &str| {
            let hash = hash.chars().take(DIGITS).collect();
            let named = hashes.entry((what, name)).or_default();
            named.entry(hash).or_default().insert(run.seed);
        };
        let stream = format!("{} / {}", run.dataset, run.stream);
        add("data set", run.dataset.clone(), &from.dataset_hash);
        add("stream", stream, &from.manifest_hash);
        if let Some(weights) = &from.weights_hash {
            add("weights", run.backbone.clone(), weights);
        }
    }
    hashes
}
