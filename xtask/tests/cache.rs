//! Features that are kept change no byte of a result, whatever becomes of them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Images of all classes, training and test.
const IMAGES: usize = 10 * (12 + 3);

struct Bench {
    runs: tempfile::TempDir,
    cache: PathBuf,
    more: Vec<&'static str>,
}

/// What a bench left: its ledger, and what it said.
struct Left {
    ledger: Vec<u8>,
    said: String,
}

impl Bench {
    fn new(cache: &Path, more: &[&'static str]) -> Self {
        Self {
            runs: tempfile::tempdir().unwrap(),
            cache: cache.to_owned(),
            more: more.to_vec(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["bench", "--seeds", "0,1", "--methods", "simplecil,er"]);
        command.args(["--train-per-class", "12", "--test-per-class", "3"]);
        command.arg("--runs-dir").arg(self.runs.path());
        command.arg("--cache-dir").arg(&self.cache).args(&self.more);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn left(&self, output: &Output) -> Left {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let folder = self.runs.path().join("digits");
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with(".features"), "{name} is left");
        }
        let ledger = fs::read(folder.join("ledger.jsonl")).unwrap();
        Left { ledger, said }
    }
}

#[track_caller]
fn bench(cache: &Path, more: &[&'static str]) -> Left {
    let bench = Bench::new(cache, more);
    bench.left(&bench.command().output().unwrap())
}

/// How many features were computed, how many were there.
#[track_caller]
fn counts(said: &str) -> (usize, usize) {
    let line = said.lines().find(|line| line.starts_with("features of"));
    let numbers = line.unwrap_or_else(|| panic!("{said}")).split(' ');
    let numbers: Vec<usize> = numbers.filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// The files of a cache.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(segments(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found
}

fn xtask(command: &[&str], cache: &Path) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = program.args(command).arg("--cache-dir").arg(cache).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn results_are_the_same_without_features_with_new_ones_and_with_old_ones() {
    let cache = tempfile::tempdir().unwrap();
    let off = bench(cache.path(), &["--no-cache", "--jobs", "1"]);
    assert_eq!(counts(&off.said), (IMAGES, 0));
    assert!(segments(cache.path()).is_empty());
    let cold = bench(cache.path(), &["--jobs", "1"]);
    assert_eq!(counts(&cold.said), (IMAGES, 0));
    let warm = bench(cache.path(), &["--jobs", "1"]);
    assert_eq!(counts(&warm.said), (0, IMAGES));
    let beside = bench(cache.path(), &["--jobs", "2"]);
    assert_eq!(counts(&beside.said), (0, IMAGES));
    let beside_off = bench(cache.path(), &["--no-cache", "--jobs", "2"]);
    assert_eq!(counts(&beside_off.said), (IMAGES, 0));
    // Half of the images are known: the others are computed, with the same result.
    let other = tempfile::tempdir().unwrap();
    let half = bench(other.path(), &["--jobs", "1", "--holdout", "0.5"]);
    assert!(half.ledger != off.ledger);
    let rest = bench(other.path(), &["--jobs", "1"]);
    let (computed, cached) = counts(&rest.said);
    assert!(computed > 0 && cached > 0 && computed + cached == IMAGES);
    let same = [cold, warm, beside, beside_off, rest];
    assert!(same.iter().all(|left| left.ledger == off.ledger));
}

#[test]
fn what_is_damaged_is_computed_again_with_a_note() {
    let cache = tempfile::tempdir().unwrap();
    let cold = bench(cache.path(), &[]);
    for segment in segments(cache.path()) {
        let mut bytes = fs::read(&segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&segment, bytes).unwrap();
    }
    let mended = bench(cache.path(), &[]);
    assert!(mended.said.contains("note: "), "{}", mended.said);
    assert!(counts(&mended.said).0 > 0, "{}", mended.said);
    assert!(mended.ledger == cold.ledger);
    assert_eq!(counts(&bench(cache.path(), &[]).said), (0, IMAGES));
}

#[test]
fn two_benches_at_once_compute_each_feature_once() {
    let cache = tempfile::tempdir().unwrap();
    let benches = [(); 2].map(|()| Bench::new(cache.path(), &[]));
    let running = benches.each_ref().map(|b| b.command().spawn().unwrap());
    let outputs = running.map(|child| child.wait_with_output().unwrap());
    let [one, two] = [0, 1].map(|number| benches[number].left(&outputs[number]));
    assert!(one.ledger == two.ledger);
    let (one, two) = (counts(&one.said), counts(&two.said));
    assert_eq!((one.0 + two.0, one.1 + two.1), (IMAGES, IMAGES));
}

#[test]
fn a_cache_that_cannot_be_is_only_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let expected = bench(&folder.path().join("cache"), &[]).ledger;
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    for jobs in [["--jobs", "1"], ["--jobs", "2"]] {
        let left = bench(&file.join("cache"), &jobs);
        assert!(left.said.contains("note: "), "{}", left.said);
        assert!(left.ledger == expected);
        let tight = [
            "--cache-limit",
            "0",
            "--cache-memory",
            "0",
            jobs[0],
            jobs[1],
        ];
        let left = bench(&folder.path().join("other"), &tight);
        assert!(left.said.contains("note: "), "{}", left.said);
        assert!(left.ledger == expected);
    }
    let refused = Bench::new(folder.path(), &["--cache-limit", "-1"]);
    assert_eq!(refused.command().output().unwrap().status.code(), Some(2));
}

#[test]
fn random_backbones_keep_their_features_too() {
    let cache = tempfile::tempdir().unwrap();
    let more = ["--backbone", "resnet18:4", "--tuning", "frozen"];
    let cold = bench(cache.path(), &more);
    // One backbone for each seed.
    assert!(xtask(&["cache", "show"], cache.path()).contains("150"));
    let folders = fs::read_dir(cache.path()).unwrap();
    assert_eq!(folders.count(), 2);
    let off = [
        "--backbone",
        "resnet18:4",
        "--tuning",
        "frozen",
        "--no-cache",
    ];
    assert!(bench(cache.path(), &off).ledger == cold.ledger);
}

#[test]
fn the_cache_is_shown_and_cleared() {
    let cache = tempfile::tempdir().unwrap();
    assert!(xtask(&["cache", "show"], cache.path()).contains("no features"));
    bench(cache.path(), &[]);
    let shown = xtask(&["cache", "show"], cache.path());
    for part in [cache.path().to_str().unwrap(), "150", "KiB", " ago"] {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }
    assert!(xtask(&["cache", "clear"], cache.path()).contains("2 segments deleted"));
    assert!(xtask(&["cache", "show"], cache.path()).contains("no features"));
    assert_eq!(counts(&bench(cache.path(), &[]).said), (IMAGES, 0));
}

/// A bench of fine-tuning modules in the last two blocks: the four before them are frozen.
#[track_caller]
fn tuned(cache: &Path, more: &[&'static str]) -> Left {
    let runs = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args([
        "bench",
        "--seeds",
        "0,1",
        "--methods",
        "finetune",
        "--tuning",
        "pet",
    ]);
    command.args(["--set", "finetune.pet={kind=\"adapter\",blocks=[4,5]}"]);
    command.args(["--set", "finetune.epochs=1", "--streams", "split-5"]);
    command.args([
        "--train-per-class",
        "12",
        "--test-per-class",
        "3",
        "--runs-dir",
    ]);
    command
        .arg(runs.path())
        .arg("--cache-dir")
        .arg(cache)
        .args(more);
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let ledger = fs::read(runs.path().join("digits/ledger.jsonl")).unwrap();
    Left { ledger, said }
}

#[test]
fn tokens_before_the_first_module_are_computed_once() {
    let cache = tempfile::tempdir().unwrap();
    let cold = tuned(cache.path(), &["--jobs", "1"]);
    assert_eq!(counts(&cold.said), (IMAGES, 0));
    let warm = tuned(cache.path(), &["--jobs", "1"]);
    assert_eq!(counts(&warm.said), (0, IMAGES));
    let beside = tuned(cache.path(), &["--jobs", "2"]);
    let off = tuned(cache.path(), &["--no-cache", "--jobs", "1"]);
    // No room: each step computes them anew, to the same bits.
    let small = tuned(cache.path(), &["--cache-memory", "1", "--jobs", "1"]);
    assert!(small.said.contains("computed each time"), "{}", small.said);
    for other in [warm, beside, off, small] {
        assert!(other.ledger == cold.ledger, "another ledger");
    }
}
