//! A bench that is killed again and again ends in the same bytes as one that is left alone.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use everburn::core::Key;

/// Features of the tests, apart from the user's.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/features");

/// ER from scratch: images in a memory, moments of an optimiser, statistics of batch norm.
fn bench(runs: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.env("EVERBURN_CACHE_DIR", CACHE);
    command.args([
        "bench",
        "--name",
        "kill",
        "--methods",
        "er",
        "--streams",
        "split-5,si-blurry",
    ]);
    command.args([
        "--backbone",
        "resnet18:4",
        "--seeds",
        "3",
        "--train-per-class",
        "50",
    ]);
    command.args([
        "--test-per-class",
        "4",
        // In one process; tests/jobs.rs kills several.
        "--jobs",
        "1",
        "--checkpoint-secs",
        "0",
        "--set",
        "er.buffer=50",
    ]);
    command.args(["--set", "*.epochs=8", "--set", "*.online_updates=3"]);
    command.args(["--set", "*.training.rule={rule=\"sgd\", momentum=0.9}"]);
    command.args([
        "--set",
        "*.training.head_rate=0.01",
        "--set",
        "*.training.backbone_rate=0.01",
    ]);
    command
        .arg("--runs-dir")
        .arg(runs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn results(runs: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(runs.join("kill")).unwrap() {
        let path = entry.unwrap().path().join("result.json");
        if path.exists() {
            let bytes = std::fs::read(&path).unwrap();
            found.push((path.strip_prefix(runs).unwrap().to_owned(), bytes));
        }
    }
    found.sort();
    found
}

/// Starts a bench again and again, and kills it at random moments up to `reach` after its start, until it ends by
/// itself. Returns how often it was killed.
fn kill_until_it_ends(runs: &Path, reach: Duration) -> u64 {
    let mut kills = 0;
    let key = Key::from_seed(std::process::id().into());
    loop {
        let mut child = bench(runs).spawn().unwrap();
        let part = key.at(kills).permutation(1000)[0] as u32;
        // The first kills come early, so that start-up is hit too; later ones leave time for progress.
        let least = Duration::from_millis(if kills < 4 { 5 } else { 250 });
        std::thread::sleep(least + reach * part / 1000);
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            return kills;
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 500, "it makes no progress");
    }
}

#[test]
fn twenty_kills_change_no_byte() {
    let quiet = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let output = bench(quiet.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expected = results(quiet.path());
    assert_eq!(expected.len(), 2);

    // Over a twentieth of the time that an undisturbed bench takes, start-up included; over less where the machine had
    // other work meanwhile, so that this was too long for twenty kills.
    let mut reach = began.elapsed() / 20;
    for _ in 0..4 {
        let killed = tempfile::tempdir().unwrap();
        let kills = kill_until_it_ends(killed.path(), reach);
        let found = results(killed.path());
        assert_eq!(found.len(), expected.len());
        for ((path, found), (other, wanted)) in found.iter().zip(&expected) {
            assert_eq!(path, other);
            // Not `assert_eq`, which would print the bytes.
            assert!(
                found == wanted,
                "{} differs after {kills} kills",
                path.display()
            );
        }
        if kills >= 20 {
            println!("{kills} kills, results equal to the byte");
            return;
        }
        reach /= 3;
    }
    panic!("never killed twenty times before it ended");
}
