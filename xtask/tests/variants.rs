//! Variants of a method in one suite: rows of their own, from the plan to the ledger.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Features of the tests, apart from the user's.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/features");

const SUITE: &str = r#"
name = "variants"
methods = ["er", "er/tiny", "joint/short"]
streams = ["split-5"]
seeds = [1, 2]
train-per-class = 8
test-per-class = 4

[set.er]
buffer = 30

[set."er/tiny"]
buffer = 5

[set."joint/short"]
epochs = 1
"#;

fn xtask(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .env("EVERBURN_CACHE_DIR", CACHE)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[track_caller]
fn out(folder: &Path, arguments: &[&str]) -> String {
    let output = xtask(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn variants_are_rows_with_runs_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("suite.toml"), SUITE).unwrap();
    let bench = ["bench", "--suite", "suite.toml"];

    let plan = out(path, &[&bench[..], &["--dry-run"]].concat());
    says(&plan, &["er/tiny", "joint/short"]);

    let table = out(path, &bench);
    let rows: Vec<usize> = ["\ner ", "\ner/tiny ", "\njoint/short "]
        .iter()
        .map(|row| {
            table
                .find(row)
                .unwrap_or_else(|| panic!("{row} in {table}"))
        })
        .collect();
    assert!(rows.is_sorted(), "{table}");
    says(&table, &["er − er/tiny", "joint/short − er"]);
    assert!(!table.contains("buffer="), "{table}");

    let runs = path.join("runs/variants");
    let ledger = fs::read_to_string(runs.join("ledger.jsonl")).unwrap();
    assert_eq!(ledger.lines().count(), 6);
    says(
        &ledger,
        &[r#""method":"er/tiny""#, r#""buffer":5"#, r#""buffer":30"#],
    );
    assert!(out(path, &["ledger", "verify", "runs/variants"]).contains('6'));
    let csv = fs::read_to_string(runs.join("runs.csv")).unwrap();
    says(&csv, &["er/tiny", "learning/intransigence"]);

    // The same command finds them all, in processes beside each other, too.
    let plan = out(path, &[&bench[..], &["--dry-run"]].concat());
    assert_eq!(plan.matches("done").count(), 6, "{plan}");
    let beside = [&bench[..], &["--jobs", "2", "--runs-dir", "beside"]].concat();
    out(path, &beside);
    let other = fs::read_to_string(path.join("beside/variants/ledger.jsonl")).unwrap();
    assert!(other == ledger, "another ledger with --jobs 2");
}

#[test]
fn a_row_is_spelt_the_same_where_it_is_run_and_where_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let output = xtask(folder.path(), &[&["bench"], arguments].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        says(&message, parts);
    };
    refused(
        &["--methods", "er/tiny"],
        &["methods: found er/tiny", "--set er/tiny.KEY=VALUE"],
    );
    refused(
        &["--methods", "er", "--set", "er/tiny.buffer=5"],
        &["set.\"er/tiny\"", "`er/tiny` among `methods`, which are er"],
    );
    refused(
        &["--methods", "er/tiny", "--set", "er/tiny.bufer=5"],
        &["`buffer`"],
    );
    refused(
        &["--methods", "er/tiny", "--set", "er/tiny.buffer=0"],
        &["er.buffer: found 0"],
    );
    assert!(!folder.path().join("runs").exists());
}
