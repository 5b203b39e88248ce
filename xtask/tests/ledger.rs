//! What a bench finds, keeps and refuses in its ledger, and what `ledger` and `report` say of it.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use everburn::eval::Ledger;

/// Features of the tests, apart from the user's.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/features");

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .env("EVERBURN_CACHE_DIR", CACHE)
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn out(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of a command that fails.
#[track_caller]
fn refused(output: &Output) -> String {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let (told, error) = message
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", &message));
    // What comes before a first run.
    let fine =
        told.is_empty() || told.starts_with("features of all images") && !told.contains('\n');
    assert!(fine, "{message}");
    error.to_owned()
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

const SMALL: [&str; 8] = [
    "bench",
    "--train-per-class",
    "5",
    "--test-per-class",
    "2",
    "--name",
    "small",
    "--runs-dir",
];

/// Two methods on two streams with two seeds: eight runs, within a second.
fn bench(runs: &Path, more: &[&str]) -> Output {
    let usual = [
        runs.to_str().unwrap(),
        "--methods",
        "finetune,simplecil",
        "--streams",
        "split-2,si-blurry",
        "--seeds",
        "1,2",
    ];
    xtask(&[&SMALL[..], &usual, more].concat())
}

/// One run.
fn single(runs: &Path, more: &[&str]) -> Output {
    let usual = [
        runs.to_str().unwrap(),
        "--methods",
        "finetune",
        "--streams",
        "split-2",
    ];
    xtask(&[&SMALL[..], &usual, more].concat())
}

fn ledger_path(runs: &Path) -> PathBuf {
    runs.join("small/ledger.jsonl")
}

fn ledger_text(runs: &Path) -> String {
    fs::read_to_string(ledger_path(runs)).unwrap()
}

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn partitions_together_write_the_ledger_of_one_machine() {
    let (one, several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    out(&bench(one.path(), &[]));
    let plan = out(&bench(several.path(), &["--partition", "3/3", "--dry-run"]));
    says(&plan, &["partition 3/3: 2 runs"]);
    let mut merged = String::new();
    for part in ["2/3", "1/3", "3/3"] {
        let text = out(&bench(several.path(), &["--partition", part]));
        says(
            &text,
            &[&format!("partition {part}: "), "without --partition"],
        );
        let name = format!("small/ledger-{}.jsonl", part.replace('/', "-of-"));
        let own = fs::read_to_string(several.path().join(name)).unwrap();
        // Every method has its share.
        says(
            &own,
            &["\"method\":\"finetune\"", "\"method\":\"simplecil\""],
        );
        merged += &own;
    }
    let single = ledger_text(one.path());
    assert_eq!(single.lines().count(), 8);
    assert!(sorted_lines(&merged) == sorted_lines(&single));

    // Everything is done, so this only makes the tables.
    let output = bench(several.path(), &[]);
    let done = String::from_utf8_lossy(&output.stderr);
    assert_eq!(done.matches("already done").count(), 8, "{done}");
    says(&out(&output), &["split-2", "si-blurry", "finetune"]);
    assert!(!ledger_path(several.path()).exists());

    let [one, several] = [&one, &several].map(|f| f.path().join("small"));
    let both = [one.to_str().unwrap(), several.to_str().unwrap()];
    let same = out(&xtask(&[&["ledger", "diff"], &both[..]].concat()));
    says(&same, &["equal in both: 8 runs"]);
}

#[test]
fn a_partition_is_one_process_and_keeps_the_whole_folder_from_others() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("small");
    fs::create_dir(&folder).unwrap();
    let held = File::create(folder.join(".lock-1-of-2")).unwrap();
    held.lock().unwrap();
    let message = refused(&bench(runs.path(), &["--partition", "1/2"]));
    says(&message, &["another bench", ".lock-1-of-2"]);
    let shared = File::create(folder.join(".lock")).unwrap();
    shared.lock_shared().unwrap();
    says(&refused(&bench(runs.path(), &[])), &["another bench"]);
    out(&bench(runs.path(), &["--partition", "2/2"]));
    let wrong = bench(runs.path(), &["--partition", "3/2"]);
    assert_eq!(wrong.status.code(), Some(2));
    says(
        &String::from_utf8_lossy(&wrong.stderr),
        &["partition: found 3/2"],
    );
}

#[test]
fn results_of_other_settings_are_kept_and_not_shown() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1"]));
    let set = ["--seeds", "1", "--set", "finetune.epochs=2"];
    let output = single(runs.path(), &set);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("already done"));
    says(&out(&output), &["Not shown: 1 other result"]);
    assert_eq!(ledger_text(runs.path()).lines().count(), 2);
    let again = single(runs.path(), &set);
    says(&String::from_utf8_lossy(&again.stderr), &["already done"]);
    assert_eq!(ledger_text(runs.path()).lines().count(), 2);
    // Both are shown, as rows of one table.
    let folder = runs.path().join("small");
    let text = out(&xtask(&["ledger", "show", folder.to_str().unwrap()]));
    says(&text, &["epochs=2"]);
    assert_eq!(text.matches("epochs=").count(), 2, "{text}");
}

/// How a stream is tested on the way decides nothing where it is not: there the run stays the same one.
#[test]
fn only_runs_that_are_tested_on_the_way_begin_anew_with_other_tests() {
    let runs = tempfile::tempdir().unwrap();
    out(&bench(runs.path(), &[]));
    let output = bench(runs.path(), &["--evaluations", "7", "--prequential"]);
    out(&output);
    let error = String::from_utf8_lossy(&output.stderr);
    let done: Vec<&str> = (error.lines())
        .filter(|line| line.contains("already done"))
        .collect();
    assert_eq!(done.len(), 4, "{error}");
    assert!(done.iter().all(|line| line.contains("split-2")), "{error}");
}

/// A crash after the ledger's line leaves a checkpoint, which the next bench removes.
#[test]
fn a_checkpoint_beside_a_finished_run_goes_away() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1"]));
    let mut ledger = Ledger::default();
    ledger.read("ledger", ledger_text(runs.path()).as_bytes());
    let id = &ledger.records().next().unwrap().provenance.run_id;
    let checkpoint = runs.path().join("small").join(id).join("checkpoint");
    fs::write(&checkpoint, "left over").unwrap();
    out(&single(runs.path(), &["--seeds", "1"]));
    assert!(!checkpoint.exists());
}

#[test]
fn a_line_that_a_crash_lost_is_appended_and_a_run_without_folder_is_done() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1,2"]));
    let whole = ledger_text(runs.path());
    let first = whole.find('\n').unwrap() + 1;
    for cut in [first, first + 40, whole.len() - 40, whole.len() - 1] {
        fs::write(ledger_path(runs.path()), &whole[..cut]).unwrap();
        let output = single(runs.path(), &["--seeds", "1,2"]);
        let done = String::from_utf8_lossy(&output.stderr);
        assert_eq!(done.matches("already done").count(), 2, "{done}");
        let mended = ledger_text(runs.path());
        assert_eq!(
            mended.trim_end(),
            whole.trim_end(),
            "cut at {cut} of {}",
            whole.len()
        );
    }
    fs::write(ledger_path(runs.path()), &whole).unwrap();
    for entry in fs::read_dir(runs.path().join("small")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let output = single(runs.path(), &["--seeds", "1,2"]);
    let done = String::from_utf8_lossy(&output.stderr);
    assert_eq!(done.matches("already done").count(), 2, "{done}");
    assert_eq!(ledger_text(runs.path()), whole);
}

#[test]
fn verify_finds_what_was_edited_and_no_table_is_made_of_it() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1,2"]));
    let path = ledger_path(runs.path());
    let name = path.to_str().unwrap();
    let whole = ledger_text(runs.path());
    says(
        &out(&xtask(&["ledger", "verify", name])),
        &["2 runs", "2 of code", "this code", "unchanged"],
    );
    let key = "\"accuracy/last/sample-weighted\":";
    let at = whole.find(key).unwrap() + key.len();
    let metric = format!(
        "{}0.123{}",
        &whole[..at],
        &whole[at + whole[at..].find(',').unwrap()..]
    );
    for (edited, parts) in [
        (
            metric,
            &[
                "check: found",
                "metrics.accuracy/last/sample-weighted: found 0.123",
            ][..],
        ),
        (
            whole.replacen("\"correct\":1", "\"correct\":2", 1),
            &["check: found", "metrics."],
        ),
        (
            whole.replacen("\"epochs\":", "\"epochs\":1", 1),
            &["check: found", "provenance.config_hash: found"],
        ),
        (
            whole.replacen("\"seed\":1", "\"seed\":7", 1),
            &["check: found", "provenance.config_hash: found"],
        ),
    ] {
        assert_ne!(edited, whole);
        fs::write(&path, edited).unwrap();
        let output = xtask(&["ledger", "verify", name]);
        refused(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        says(&text, parts);
        says(&text, &["line 1"]);
        says(
            &refused(&single(runs.path(), &["--seeds", "1,2"])),
            &["line 1", "ledger verify"],
        );
        refused(&xtask(&["ledger", "show", name]));
        refused(&xtask(&["report", name]));
    }
}

#[test]
fn two_results_of_one_run_are_a_conflict() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1"]));
    let whole = ledger_text(runs.path());
    let mut ledger = Ledger::default();
    ledger.read("ledger", whole.as_bytes());
    let mut other = ledger.records().next().unwrap().clone();
    other.memory = None; // as if another machine had counted otherwise
    let text = whole + &Ledger::line(&other).unwrap();
    fs::write(ledger_path(runs.path()), text).unwrap();
    let message = refused(&single(runs.path(), &["--seeds", "1"]));
    says(
        &message,
        &[&other.provenance.run_id, "different records", "line 2"],
    );
}

#[test]
fn a_diff_names_the_setting_that_changed_and_what_became_of_the_accuracy() {
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    out(&single(a.path(), &["--seeds", "1"]));
    out(&single(
        b.path(),
        &["--seeds", "1,2", "--set", "finetune.epochs=3"],
    ));
    let [a, b] = [a, b].map(|runs| (ledger_path(runs.path()), runs));
    let output = xtask(&[
        "ledger",
        "diff",
        a.0.to_str().unwrap(),
        b.0.to_str().unwrap(),
    ]);
    says(&refused(&output), &["differ"]);
    let text = String::from_utf8(output.stdout).unwrap();
    says(
        &text,
        &["because of epochs", "→ 3:", "A_last", "only in", "seed 2"],
    );
}

#[test]
fn a_page_of_results_says_where_they_come_from_and_is_the_same_twice() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "1,2"]));
    let name = ledger_path(runs.path());
    let page = |file: &str| {
        let path = runs.path().join(file);
        let output = path.to_str().unwrap();
        out(&xtask(&[
            "report",
            name.to_str().unwrap(),
            "--title",
            "Small",
            "-o",
            output,
        ]));
        fs::read_to_string(path).unwrap()
    };
    let first = page("a.md");
    assert_eq!(first, page("b.md"));
    let code = format!("- code: `{}`", env!("EVERBURN_CODE"));
    let command = "- command: `cargo xtask bench --train-per-class 5";
    says(
        &first,
        &[
            "# Small",
            "| finetune |",
            &code,
            command,
            "| stream |",
            "| weights |",
        ],
    );
    let nowhere = runs.path().join("no/such/folder.md");
    let output = xtask(&[
        "report",
        name.to_str().unwrap(),
        "-o",
        nowhere.to_str().unwrap(),
    ]);
    says(&refused(&output), &["folder.md"]);
}

#[test]
fn what_is_no_ledger_is_named() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().to_str().unwrap();
    says(
        &refused(&xtask(&["ledger", "show", folder])),
        &[folder, "no ledger"],
    );
    says(
        &refused(&xtask(&["ledger", "verify", "/no/such"])),
        &["/no/such"],
    );
    let file = runs.path().join("file");
    fs::write(&file, "").unwrap();
    says(&refused(&single(&file, &["--seeds", "1"])), &["file"]);
}

/// A limit on the size of files stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_ledger_as_it_was() {
    let runs = tempfile::tempdir().unwrap();
    out(&single(runs.path(), &["--seeds", "0..8"]));
    let before = ledger_text(runs.path());
    let line = before.len() / 8;
    let limit = (before.len() + line / 2) / 512;
    let usual = [
        runs.path().to_str().unwrap(),
        "--methods",
        "finetune",
        "--streams",
        "split-2",
        "--seeds",
        "8",
        "--no-cache",
    ];
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .env("EVERBURN_CACHE_DIR", CACHE)
        .args(["-c", &script, env!("CARGO_BIN_EXE_xtask")])
        .args(SMALL)
        .args(usual)
        .output()
        .unwrap();
    says(&refused(&output), &["ledger.jsonl"]);
    assert!(ledger_text(runs.path()) == before);
    // The run itself was finished.
    let output = single(runs.path(), &["--seeds", "8"]);
    says(&String::from_utf8_lossy(&output.stderr), &["already done"]);
    assert_eq!(ledger_text(runs.path()).lines().count(), 9);
}
