//! `--profile` says where the time went, and changes nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use everburn::run::read_ledger;

const TUNED: &str = "bench --name profile --methods er --streams split-5 --seeds 0,1 \
    --backbone resnet18:4 --train-per-class 20 --test-per-class 4 --set *.epochs=2 \
    --checkpoint-secs 0";
const FROZEN: &str = "bench --name profile --seeds 0,1 --train-per-class 20 --test-per-class 4";

fn bench(what: &str, runs: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(what.split_whitespace()).args(more);
    command.arg("--runs-dir").arg(runs);
    command.arg("--cache-dir").arg(runs.join("cache"));
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    String::from_utf8(output.stdout).unwrap()
}

/// The profiles of a suite: wall seconds by run, and the sum of each part over all runs.
fn profiles(suite: &Path) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut walls, mut sums) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(suite).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(path.join("profile.json")) else {
            continue;
        };
        let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
        let wall = profile["wall_seconds"].as_f64().unwrap();
        let (mut seconds, mut percent) = (0.0, 0.0);
        for part in profile["parts"].as_array().unwrap() {
            let spent = part["seconds"].as_f64().unwrap();
            seconds += spent;
            percent += part["percent"].as_f64().unwrap();
            *sums
                .entry(part["part"].as_str().unwrap().to_owned())
                .or_insert(0.0) += spent;
        }
        assert!(
            (seconds - wall).abs() < 1e-6 && (percent - 100.0).abs() < 1e-6,
            "{text}"
        );
        assert_eq!(profile["from_step"], 0);
        let id = path.file_name().unwrap().to_string_lossy().into_owned();
        walls.insert(id, wall);
    }
    (walls, sums)
}

#[test]
fn parts_sum_to_the_time_of_the_run_and_results_are_the_same() {
    for (what, runs, parts) in [
        (
            TUNED,
            2,
            &[
                "read",
                "augment",
                "forward",
                "backward",
                "optimiser",
                "evaluation",
                "checkpoint",
            ][..],
        ),
        (
            FROZEN,
            16,
            &["read", "backward", "optimiser", "evaluation", "other"][..],
        ),
    ] {
        let plain = tempfile::tempdir().unwrap();
        bench(what, plain.path(), &["--jobs", "1"]);
        let ledger = |folder: &Path| fs::read(folder.join("profile/ledger.jsonl")).unwrap();
        assert!(profiles(&plain.path().join("profile")).0.is_empty());
        for jobs in ["1", "2"] {
            let folder = tempfile::tempdir().unwrap();
            let text = bench(what, folder.path(), &["--profile", "--jobs", jobs]);
            assert!(text.contains("optimiser") && text.contains(" %"), "{text}");
            assert!(ledger(folder.path()) == ledger(plain.path()));
            let suite = folder.path().join("profile");
            let (walls, sums) = profiles(&suite);
            assert_eq!(walls.len(), runs);
            for part in parts {
                assert!(sums[*part] > 0.0, "{part} is nothing: {sums:?}");
            }
            let (_, timings) = read_ledger(&suite).unwrap();
            for (id, wall) in walls {
                let timing = timings.get(&id).unwrap();
                let timed = timing.wall_seconds.unwrap();
                // Both begin and end at nearly the same places.
                assert!(
                    (wall - timed).abs() < 0.05 * timed + 0.005,
                    "{wall} {timed}"
                );
                assert!(!timing.command.as_ref().unwrap().contains("--profile"));
            }
        }
        let again = bench(what, plain.path(), &["--profile"]);
        assert!(again.contains("no profile: all runs were finished before"));
    }
}
