//! What `--dry-run` says of memory is what runs then take.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use everburn::run::read_ledger;

/// How far what is said may be from what is taken.
const WITHIN: f64 = 0.2;

const FROZEN: &str = "bench --seeds 0..3 --methods er,simplecil,joint,finetune";
const TUNED: &str = "bench --seeds 0,1 --methods er --streams split-5 --backbone resnet18:8 \
    --train-per-class 20 --test-per-class 5 --set *.epochs=2";

fn xtask(what: &str, runs: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(what.split_whitespace()).args(more);
    command.arg("--runs-dir").arg(runs);
    command.arg("--cache-dir").arg(runs.join("cache"));
    // Each thread keeps pages of its own, and which thread gets which work is chance.
    command.env("RAYON_NUM_THREADS", "1");
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    String::from_utf8(output.stdout).unwrap()
}

/// A number and its unit, as tables write bytes.
fn bytes(number: &str, unit: &str) -> f64 {
    let power = ["B", "KiB", "MiB", "GiB"].iter().position(|u| *u == unit);
    number.parse::<f64>().unwrap() * 1024_f64.powi(power.unwrap() as i32)
}

/// What is said of each run, and of all.
fn said(text: &str) -> (BTreeMap<String, f64>, f64) {
    let mut runs = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [id, _, _, _, _, _, _, _, _, number, unit] = words[..]
            && id.len() == 16
        {
            runs.insert(id.to_owned(), bytes(number, unit));
        }
    }
    let all = text.rsplit("peak memory about ").next().unwrap();
    let words: Vec<&str> = all.split([' ', ',']).collect();
    (runs, bytes(words[0], words[1]))
}

/// What each run took.
fn taken(folder: &Path) -> BTreeMap<String, f64> {
    let (ledger, timings) = read_ledger(folder).unwrap();
    let ids = ledger.records().map(|run| run.provenance.run_id.clone());
    let peak = |id: &str| timings.get(id).unwrap().peak_rss_bytes.unwrap() as f64;
    ids.map(|id| (id.clone(), peak(&id))).collect()
}

/// By how much what is said differs from what is taken.
fn off(said: f64, taken: f64, what: &str) -> f64 {
    let [said_mib, taken_mib] = [said, taken].map(|bytes| bytes / f64::from(1 << 20));
    println!("{what}: said {said_mib:.1} MiB, taken {taken_mib:.1} MiB");
    (said / taken - 1.0).abs()
}

/// The largest difference in a suite.
fn suite(what: &str, more: &[&str], count: usize) -> f64 {
    // Its first bench computes features, its second one finds them.
    let folder = tempfile::tempdir().unwrap();
    let mut most = 0.0_f64;
    for name in ["new", "known"] {
        let named = [&["--name", name][..], more].concat();
        let dry = [&named[..], &["--dry-run"]].concat();
        let (runs, all) = said(&xtask(what, folder.path(), &dry));
        xtask(what, folder.path(), &named);
        let taken = taken(&folder.path().join(name));
        assert_eq!((runs.len(), taken.len()), (count, count));
        for (id, said) in &runs {
            most = most.max(off(*said, taken[id], id));
        }
        if more.contains(&"1") {
            most = most.max(off(all, taken.values().copied().fold(0.0, f64::max), name));
        }
    }
    most
}

/// The allocator keeps freed pages by chance and by the clock: what is said has to be right in one of
/// three attempts, and what is wrong is wrong in all of them.
#[track_caller]
fn is_right(what: &str, more: &[&str], count: usize) {
    let mut attempts = (0..3).map(|_| suite(what, more, count));
    assert!(attempts.any(|off| off <= WITHIN));
}

#[test]
fn runs_on_features_take_the_memory_that_was_said() {
    is_right(FROZEN, &["--jobs", "1"], 24);
    is_right(FROZEN, &["--jobs", "2"], 24);
}

#[test]
fn runs_that_tune_take_the_memory_that_was_said() {
    is_right(TUNED, &["--jobs", "1", "--checkpoint-secs", "0"], 2);
    is_right(TUNED, &["--jobs", "2"], 2);
}
