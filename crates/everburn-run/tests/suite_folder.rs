//! Ledgers on the disk: what is appended after a crash, who may append, what a reader finds.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use everburn_eval::{Accompanying, History, Ledger, Provenance, RunDescription, RunRecord};
use everburn_run::{SuiteFolder, read_ledger};

fn record(seed: u64) -> RunRecord {
    let run = RunDescription {
        method: "er".to_owned(),
        seed,
        ..RunDescription::default()
    };
    let record = RunRecord::new(run, Provenance::default(), History::default(), None).unwrap();
    let provenance = Provenance::default().identified(&record.run, &record.settings);
    RunRecord {
        provenance,
        ..record
    }
}

fn append(folder: &Path, partition: Option<&str>, seed: u64) {
    let partition = partition.map(|text| text.parse().unwrap());
    let suite = SuiteFolder::lock(folder.to_owned(), partition).unwrap();
    suite
        .append(&record(seed), &Accompanying::default())
        .unwrap();
}

fn text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn finished_runs_are_appended_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits");
    assert!(read_ledger(&path).unwrap().0.is_empty());
    append(&path, None, 1);
    append(&path, None, 2);
    let (ledger, timings) = read_ledger(&path).unwrap();
    ledger.check().unwrap();
    assert_eq!(ledger.len(), 2);
    for record in ledger.records() {
        assert!(timings.get(&record.provenance.run_id).is_some());
    }
    assert_eq!(
        read_ledger(&path.join("ledger.jsonl")).unwrap(),
        (ledger, timings)
    );
}

#[test]
fn an_incomplete_line_is_cut_off_before_the_next_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    append(path, None, 1);
    let (first, first_timing) = (text(path, "ledger.jsonl"), text(path, "timing.jsonl"));
    append(path, None, 2);
    let (both, both_timings) = (text(path, "ledger.jsonl"), text(path, "timing.jsonl"));
    for lost in (1..both.len() - first.len()).step_by(7) {
        fs::write(path.join("ledger.jsonl"), &both[..both.len() - lost]).unwrap();
        let torn = both_timings
            .len()
            .saturating_sub(lost)
            .max(first_timing.len());
        fs::write(path.join("timing.jsonl"), &both_timings[..torn]).unwrap();
        append(path, None, 3);
        // Where just the newline was lost, the line was whole and stays.
        let kept = if lost == 1 { &both } else { &first };
        let expected = format!("{kept}{}", Ledger::line(&record(3)).unwrap());
        assert_eq!(text(path, "ledger.jsonl"), expected, "{lost} bytes lost");
        assert!(read_ledger(path).unwrap().1.notes().is_empty());
    }
}

#[test]
fn partitions_share_a_folder_and_nobody_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let open = |partition: Option<&str>| {
        let partition = partition.map(|text| text.parse().unwrap());
        SuiteFolder::lock(folder.path().to_owned(), partition)
    };
    let one = open(Some("1/2")).unwrap();
    let _two = open(Some("2/2")).unwrap();
    let again = open(Some("1/2")).unwrap_err().to_string();
    assert!(again.contains(".lock-1-of-2: another bench"), "{again}");
    let whole = open(None).unwrap_err().to_string();
    assert!(whole.contains(".lock: another bench"), "{whole}");
    drop(one);
    open(Some("1/2")).unwrap();
    drop(_two);
    let _whole = open(None).unwrap();
    assert!(
        open(Some("1/2"))
            .unwrap_err()
            .to_string()
            .contains("another bench")
    );
}

#[test]
fn readers_take_the_ledgers_of_all_partitions() {
    let folder = tempfile::tempdir().unwrap();
    for (partition, seed) in [(Some("1/2"), 1), (Some("2/2"), 2), (None, 3), (None, 1)] {
        append(folder.path(), partition, seed);
    }
    assert_eq!(
        text(folder.path(), "ledger-2-of-2.jsonl"),
        Ledger::line(&record(2)).unwrap()
    );
    let (ledger, _) = read_ledger(folder.path()).unwrap();
    ledger.check().unwrap();
    assert_eq!(ledger.len(), 3);
}

#[test]
fn a_run_is_worked_on_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let suite = SuiteFolder::lock(folder.path().to_owned(), None).unwrap();
    let held = suite.run("0123").unwrap().lock().unwrap();
    assert!(suite.run("0123").unwrap().lock().is_err());
    drop(held);
    suite.run("0123").unwrap().lock().unwrap();
}

#[test]
fn a_ledger_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("ledger.jsonl")).unwrap();
    let suite = SuiteFolder::lock(folder.path().to_owned(), None).unwrap();
    let error = suite
        .append(&record(1), &Accompanying::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("ledger.jsonl"), "{error}");
    fs::write(folder.path().join("file"), "").unwrap();
    let error = SuiteFolder::lock(folder.path().join("file"), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("file"), "{error}");
}

#[test]
fn a_finished_run_leaves_its_result_and_its_line_and_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let suite = SuiteFolder::lock(folder.path().to_owned(), None).unwrap();
    let run = suite.run("0123").unwrap();
    fs::write(run.checkpoint_path(), "old").unwrap();
    run.finish(&record(1), &Accompanying::default(), &suite)
        .unwrap();
    assert!(!run.checkpoint_path().exists());
    assert_eq!(run.result().unwrap(), Some(record(1)));
    assert_eq!(read_ledger(folder.path()).unwrap().0.len(), 1);
}
