//! Variants of a method in one suite: rows of their own, from the plan to the ledger. And a reference that
//! learns once.
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

#[test]
fn a_reference_that_learns_once_ends_where_one_that_learns_again_and_again_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let small = "bench --methods joint,finetune --streams split-5,si-blurry --seeds 1,2 \
                 --train-per-class 8 --test-per-class 4 --name small";
    let small: Vec<&str> = small.split_whitespace().collect();
    let once = [&small[..], &["--offline-once", "--runs-dir", "once"]].concat();
    out(path, &small);
    let table = out(path, &once);
    let read = |runs: &str, file: &str| fs::read_to_string(path.join(runs).join(file)).unwrap();
    let csv = ["runs/small", "once/small"].map(|runs| read(runs, "runs.csv"));
    // Of the joint runs on tasks, the last accuracy alone is left, and it is the same.
    let joint = |csv: &str, metric: &str| -> Vec<String> {
        let lines = csv.lines().filter(|line| line.contains(",split-5,joint,"));
        let lines = lines.filter(|line| line.contains(metric));
        lines
            .map(|line| line.rsplit(',').next().unwrap().to_owned())
            .collect()
    };
    let last = "accuracy/last/sample-weighted";
    let [again, alone] = csv.each_ref().map(|csv| joint(csv, last));
    assert_eq!((again.len(), &again), (2, &alone));
    let incremental = "accuracy/incremental/sample-weighted";
    let counts = csv.each_ref().map(|csv| joint(csv, incremental).len());
    assert_eq!(counts, [2, 0], "{table}");
    // Without an accuracy after each task it is no reference of intransigence.
    let counts = csv
        .each_ref()
        .map(|csv| csv.matches("learning/intransigence").count());
    assert_eq!(counts, [2, 0]);

    // Other runs are the same runs; those of the reference on tasks are others.
    let ids = ["runs/small", "once/small"].map(|runs| {
        let text = read(runs, "ledger.jsonl");
        let id = |line: &str| line.split("\"run_id\":\"").nth(1).unwrap()[..16].to_owned();
        text.lines().map(id).collect::<Vec<_>>()
    });
    let differ = ids[0].iter().zip(&ids[1]).filter(|(a, b)| a != b).count();
    assert_eq!((ids[0].len(), differ), (8, 2));
    assert!(read("once/small", "ledger.jsonl").contains("\"offline_once\":true"));
    out(path, &["ledger", "verify", "once/small"]);

    // The plan knows it, and a suite file may say it.
    fs::write(
        path.join("suite.toml"),
        "name = \"small\"\noffline-once = true\n",
    )
    .unwrap();
    let more = ["--suite", "suite.toml", "--runs-dir", "once", "--dry-run"];
    let plan = out(path, &[&small[..], &more].concat());
    assert_eq!(plan.matches("done").count(), 8, "{plan}");
    let steps = |arguments: &[&str]| -> u64 {
        let plan = out(path, arguments);
        let row = plan.lines().find(|line| line.contains("joint")).unwrap();
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields[5].parse().unwrap()
    };
    let fresh = ["--runs-dir", "fresh", "--dry-run"];
    let again = steps(&[&small[..], &fresh].concat());
    let alone = steps(&[&small[..], &fresh, &["--offline-once"]].concat());
    assert!(again > 2 * alone, "{again} {alone}");
}
