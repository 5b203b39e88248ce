//! `cargo xtask ledger`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use everburn::core::Error;
use everburn::eval::{Accompanying, Ledger, Report, RunRecord, Timings, Version, format};
use everburn::run::{has_ledger, read_ledger};

use crate::bench::{print, terminal_width};
use crate::cli::LedgerCommand;
use crate::code::CODE;

/// Where benches write unless told otherwise.
const RUNS: &str = "runs";

/// How many of the differences within one run are shown.
const SHOWN: usize = 5;

/// `ledger`.
pub fn ledger(command: LedgerCommand) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Show {
            paths,
            code,
            markdown,
        } => show(&paths, code.as_deref(), markdown),
        LedgerCommand::Verify { paths } => verify(&paths),
        LedgerCommand::Diff { left, right } => diff(&left, &right),
    }
}

/// Ledgers that are looked at as one.
pub struct Group {
    pub name: String,
    pub ledger: Ledger,
    pub timings: Timings,
}

/// Reads ledgers into one.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Group> {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let (mut ledger, mut timings) = (Ledger::default(), Timings::default());
    for (path, name) in paths.iter().zip(&names) {
        if !has_ledger(path) {
            bail!(Error::input(
                name,
                "no ledger",
                "a file, or a folder with a ledger.jsonl"
            ));
        }
        let (more, times) = read_ledger(path)?;
        ledger.merge(more);
        timings.merge(times);
    }
    for note in ledger.notes().iter().chain(timings.notes()) {
        eprintln!("note: {note}");
    }
    let name = names.join(", ");
    Ok(Group {
        name,
        ledger,
        timings,
    })
}

/// The ledgers that are named, as one; or else those below `runs`, one by one.
fn groups(paths: &[PathBuf]) -> anyhow::Result<Vec<Group>> {
    if !paths.is_empty() {
        return Ok(vec![read(paths)?]);
    }
    let mut suites: Vec<PathBuf> = match Path::new(RUNS).read_dir() {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    suites.retain(|path| path.is_dir() && has_ledger(path));
    suites.sort();
    if suites.is_empty() {
        bail!(Error::input(
            RUNS,
            "no ledger in any folder",
            "results of a bench, or a path"
        ));
    }
    suites.into_iter().map(|path| read(&[path])).collect()
}

/// Runs with what accompanies them, as a report wants them.
pub fn with_timings(records: &[&RunRecord], timings: &Timings) -> Vec<(RunRecord, Accompanying)> {
    let timing = |record: &RunRecord| timings.get(&record.provenance.run_id).cloned();
    let run = |record: &&RunRecord| ((*record).clone(), timing(record).unwrap_or_default());
    records.iter().map(run).collect()
}

fn show(paths: &[PathBuf], code: Option<&str>, markdown: bool) -> anyhow::Result<()> {
    let groups = groups(paths)?;
    let mark = if markdown { "## " } else { "" };
    let mut shown = false;
    for Group {
        name,
        ledger,
        timings,
    } in &groups
    {
        ledger.check()?;
        let mut versions = ledger.versions();
        versions.retain(|version| version.code.starts_with(code.unwrap_or_default()));
        // The current one is read first, so it stands where the eye is: at the end.
        versions.sort_by_key(|version| version.code == *CODE);
        for version in &versions {
            if groups.len() + versions.len() > 2 {
                print(&format!("{mark}{name}: {}\n\n", heading(version)))?;
            }
            let report = Report::new(with_timings(&version.records, timings))?;
            match markdown {
                true => print(&format!("{}\n", report.markdown()))?,
                false => print(&report.terminal(terminal_width()))?,
            }
            shown = true;
        }
    }
    match code {
        Some(code) if !shown => {
            let known: Vec<String> = groups
                .iter()
                .flat_map(|group| codes(&group.ledger))
                .collect();
            bail!(Error::input(
                "--code",
                code,
                format!("one of {}", known.join(", "))
            ))
        }
        _ => Ok(()),
    }
}

/// What a version of the runs is.
pub fn heading(version: &Version<'_>) -> String {
    let this = if version.code == *CODE {
        " (this code)"
    } else {
        ""
    };
    format!("code {}{this}{}", version.code, with_changes(version))
}

/// What sets a version apart from the first of its code.
pub fn with_changes(version: &Version<'_>) -> String {
    let changes = version.changes.iter().map(|change| format!(", {change}"));
    changes.collect()
}

fn codes(ledger: &Ledger) -> Vec<String> {
    let mut codes: Vec<String> = ledger
        .records()
        .map(|r| r.provenance.code.clone())
        .collect();
    codes.sort();
    codes.dedup();
    codes
}

fn verify(paths: &[PathBuf]) -> anyhow::Result<()> {
    let mut wrong = 0;
    for Group { name, ledger, .. } in groups(paths)? {
        let mut text = format!("{name}: {} runs\n", ledger.len());
        for code in codes(&ledger) {
            let count = ledger
                .records()
                .filter(|r| r.provenance.code == code)
                .count();
            let stale = if code == *CODE { "this code" } else { "stale" };
            text += &format!("  {count:>5} of code {code} ({stale})\n");
        }
        let (edited, by_other_formulas) = ledger.other_formulas(&CODE);
        if by_other_formulas > 0 {
            text += &format!(
                "  {by_other_formulas} of other code have metrics by other formulas than today's, which tables use\n"
            );
        }
        let mut problems = ledger.problems();
        problems.extend(edited);
        for problem in &problems {
            text += &format!("  wrong: {problem}\n");
        }
        if problems.is_empty() {
            text += "  all records are unchanged, and their metrics and ids follow from them\n";
        }
        wrong += problems.len();
        print(&text)?;
    }
    match wrong {
        0 => Ok(()),
        _ => bail!(Error::input(
            "ledger",
            format!("{wrong} problems, named above"),
            "none"
        )),
    }
}

fn diff(left_path: &Path, right_path: &Path) -> anyhow::Result<()> {
    let (left, right) = (
        read(&[left_path.to_owned()])?,
        read(&[right_path.to_owned()])?,
    );
    left.ledger.check()?;
    right.ledger.check()?;
    let diff = left.ledger.diff(&right.ledger);
    let mut text = format!("equal in both: {} runs\n", diff.equal);
    if !diff.different.is_empty() {
        text += "\nDIFFERENT results under one id, which should not be:\n";
    }
    for (one, other) in &diff.different {
        text += &format!("  {}  {}\n", one.provenance.run_id, pair(one, other));
        let changes = one.differences(other);
        for change in changes.iter().take(SHOWN) {
            text += &format!("      {change}\n");
        }
        if changes.len() > SHOWN {
            text += &format!("      and {} more\n", changes.len() - SHOWN);
        }
    }
    // Runs that differ in the same way stand together.
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (one, other) in &diff.changed {
        let changes: Vec<String> = one.changes(other).iter().map(ToString::to_string).collect();
        alike
            .entry(changes.join(", "))
            .or_default()
            .push(pair(one, other));
    }
    for (changes, runs) in alike {
        text += &format!("\nother runs, because of {changes}:\n");
        text.extend(runs.iter().map(|run| format!("  {run}\n")));
    }
    for (path, only) in [(left_path, &diff.only_left), (right_path, &diff.only_right)] {
        if !only.is_empty() {
            text += &format!("\nonly in {}:\n", path.display());
        }
        for record in only {
            let run = title(record);
            let accuracy = last(record).map_or_else(String::new, |a| format!("A_last {a}"));
            text += &format!("  {}  {run}  {accuracy}\n", record.provenance.run_id);
        }
    }
    print(&text)?;
    if diff.is_empty() {
        return Ok(());
    }
    bail!(
        "{} and {} differ",
        left_path.display(),
        right_path.display()
    )
}

fn title(record: &RunRecord) -> String {
    let run = &record.run;
    let stream = format!("{} / {}", run.dataset, run.stream);
    format!("{stream:<28}  {:<10}  seed {:<4}", run.method, run.seed)
}

/// A run in two ledgers, and what became of its last accuracy.
fn pair(one: &RunRecord, other: &RunRecord) -> String {
    let accuracy = |record: &RunRecord| record.metrics.get(LAST).copied();
    let gained = match (accuracy(one), accuracy(other)) {
        (Some(one), Some(other)) if one == other => {
            format!("A_last {} in both", format::percent(one))
        }
        (Some(one), Some(other)) => format!(
            "A_last {} → {} ({:+.2})",
            format::percent(one),
            format::percent(other),
            100.0 * (other - one)
        ),
        _ => String::new(),
    };
    format!("{}  {gained}", title(one))
}

const LAST: &str = "accuracy/last/sample-weighted";

fn last(record: &RunRecord) -> Option<String> {
    record
        .metrics
        .get(LAST)
        .map(|value| format::percent(*value))
}
