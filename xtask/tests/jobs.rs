//! Runs beside each other end in the same bytes as one after the other, whatever is killed on the way.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Features of the tests, apart from the user's.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/features");

/// ER from scratch: four runs with something to save.
const TUNED: &str = "bench --name jobs --methods er,finetune --streams split-5 --seeds 3,4 \
    --backbone resnet18:4 --train-per-class 30 --test-per-class 4 --checkpoint-secs 0 \
    --set er.buffer=50 --set *.epochs=4 --set *.training.head_rate=0.01 \
    --set *.training.backbone_rate=0.01";

/// Many small runs on features.
const FROZEN: &str = "bench --name jobs --seeds 0..2 --train-per-class 10 --test-per-class 4";

fn bench(what: &str, runs: &Path, jobs: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.env("EVERBURN_CACHE_DIR", CACHE);
    command
        .args(what.split_whitespace())
        .args(["--jobs", jobs, "--runs-dir"])
        .arg(runs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn finish(what: &str, runs: &Path, jobs: &str) -> Vec<u8> {
    let output = bench(what, runs, jobs).output().unwrap();
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    fs::read(runs.join("jobs/ledger.jsonl")).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Not `assert_eq`, which would print the bytes.
#[track_caller]
fn same(found: &[u8], expected: &[u8], after: &str) {
    assert!(!expected.is_empty());
    assert!(found == expected, "another ledger after {after}");
}

/// The processes that another has started.
fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse() else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = after_name.split_whitespace();
        if fields.nth(1) == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found
}

fn runs_still(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

/// Waits until a bench has started its processes and one of their runs has a checkpoint.
#[track_caller]
fn wait_for_checkpoint(bench: &mut Child, runs: &Path) -> Vec<u32> {
    let began = Instant::now();
    loop {
        let folders = fs::read_dir(runs.join("jobs")).into_iter().flatten();
        let saved = folders
            .flatten()
            .any(|f| f.path().join("checkpoint").exists());
        let children = children(bench.id());
        if saved && children.len() == 2 {
            return children;
        }
        assert!(bench.try_wait().unwrap().is_none(), "it ended too early");
        assert!(began.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn the_ledger_is_the_same_however_many_runs_are_made_at_once() {
    for (what, count) in [(FROZEN, 16), (TUNED, 4)] {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let one = finish(what, folders[0].path(), "1");
        assert_eq!(one.iter().filter(|byte| **byte == b'\n').count(), count);
        same(&finish(what, folders[1].path(), "3"), &one, "--jobs 3");
        same(
            &finish(what, folders[2].path(), "auto"),
            &one,
            "--jobs auto",
        );
        let timing = fs::read_to_string(folders[1].path().join("jobs/timing.jsonl")).unwrap();
        assert_eq!(timing.matches("\"jobs\":3").count(), count, "{timing}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn whatever_ends_on_the_way_the_same_command_goes_on() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = finish(TUNED, quiet.path(), "1");

    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path();
    // The bench itself is killed: its processes notice, save and end.
    let mut killed = bench(TUNED, runs, "2").spawn().unwrap();
    let workers = wait_for_checkpoint(&mut killed, runs);
    killed.kill().unwrap(); // SIGKILL
    killed.wait().unwrap();
    let began = Instant::now();
    while workers.iter().any(|pid| runs_still(*pid)) {
        assert!(began.elapsed() < Duration::from_secs(60), "they go on");
        std::thread::sleep(Duration::from_millis(5));
    }

    // One of its processes is killed: an error that names the run.
    let mut child = bench(TUNED, runs, "2").spawn().unwrap();
    let workers = wait_for_checkpoint(&mut child, runs);
    // It may not have loaded its data yet; that is an error too.
    signal("-KILL", workers[0]);
    let output = child.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let error = message.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{message}"));
    for part in ["on split-5, seed ", "SIGKILL", "the same command goes on"] {
        assert!(error.contains(part), "{error}");
    }

    // Ctrl-C.
    let mut child = bench(TUNED, runs, "2").spawn().unwrap();
    let workers = wait_for_checkpoint(&mut child, runs);
    signal("-INT", child.id());
    let output = child.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("the same command goes on"), "{message}");
    assert!(!workers.iter().any(|pid| runs_still(*pid)));

    // With any number of processes, and at once after a kill.
    let mut killed = bench(TUNED, runs, "2").spawn().unwrap();
    wait_for_checkpoint(&mut killed, runs);
    killed.kill().unwrap();
    killed.wait().unwrap();
    same(&finish(TUNED, runs, "3"), &expected, "all that");
    for entry in fs::read_dir(runs.join("jobs")).unwrap() {
        assert!(!entry.unwrap().path().join("checkpoint").exists());
    }
}

#[test]
fn an_error_of_a_run_names_it_and_ends_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let diverging = format!("{TUNED} --set finetune.training.backbone_rate=1e30");
    let output = bench(&diverging, folder.path(), "2").output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let error = message.lines().last().unwrap();
    for part in ["error: finetune on split-5, seed ", "diverged"] {
        assert!(error.contains(part), "{message}");
    }
    let output = bench(TUNED, folder.path(), "none").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("jobs: found none, expected auto"));
}

#[test]
fn partitions_may_have_processes_too() {
    let (one, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = finish(FROZEN, one.path(), "1");
    for part in ["1/2", "2/2"] {
        let what = format!("{FROZEN} --partition {part}");
        let output = bench(&what, parts.path(), "2").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let mut lines = Vec::new();
    for part in ["1-of-2", "2-of-2"] {
        let path = parts.path().join(format!("jobs/ledger-{part}.jsonl"));
        let text = fs::read_to_string(path).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    let mut expected: Vec<_> = std::str::from_utf8(&whole).unwrap().lines().collect();
    lines.sort();
    expected.sort_unstable();
    assert!(lines == expected);
}
