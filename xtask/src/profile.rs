//! `bench --profile`: where the time of runs goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use everburn::core::profile::{Part, Profile};
use everburn::run::{RunFolder, write_atomically};
use serde::{Deserialize, Serialize};

use crate::job::Job;

/// The file in a run's folder.
const FILE: &str = "profile.json";

/// Where the time of a run went, in its last session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Profiled {
    run: Job,
    /// The step that the session began with; 0 if it made the whole run.
    from_step: u64,
    wall_seconds: f64,
    /// By part, in the order of tables.
    parts: Vec<Spent>,
}

/// The time of a part.
#[derive(Debug, Serialize, Deserialize)]
struct Spent {
    part: String,
    seconds: f64,
    percent: f64,
}

impl Profiled {
    pub fn new(job: &Job, from_step: u64, profile: &Profile) -> Self {
        let wall = profile.wall().as_secs_f64();
        let parts = profile.parts().map(|(part, time)| Spent {
            part: part.name().to_owned(),
            seconds: time.as_secs_f64(),
            percent: percent(time.as_secs_f64(), wall),
        });
        Self {
            run: job.clone(),
            from_step,
            wall_seconds: wall,
            parts: parts.collect(),
        }
    }

    pub fn write(&self, folder: &RunFolder) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(write_atomically(
            &folder.path().join(FILE),
            text.as_bytes(),
        )?)
    }
}

fn percent(part: f64, of: f64) -> f64 {
    match of > 0.0 {
        true => 100.0 * part / of,
        false => 0.0,
    }
}

/// A table of the runs with these ids that have a profile: percent of the time by method and stream.
pub fn table(suite: &Path, ids: &BTreeSet<String>) -> anyhow::Result<String> {
    let mut kinds: BTreeMap<(String, String), (usize, Vec<f64>)> = BTreeMap::new();
    for id in ids {
        let path = suite.join(id).join(FILE);
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // it was finished before
        };
        let profiled: Profiled =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let Job { method, stream, .. } = profiled.run;
        let (runs, sums) = kinds.entry((method, stream)).or_default();
        *runs += 1;
        sums.resize(Part::ALL.len(), 0.0);
        for (sum, spent) in sums.iter_mut().zip(&profiled.parts) {
            *sum += spent.seconds;
        }
    }
    if kinds.is_empty() {
        let text =
            "no profile: all runs were finished before; another --runs-dir makes them again\n\n";
        return Ok(text.to_owned());
    }
    let names = kinds.keys().map(|(method, _)| method.chars().count());
    let width = names.max().unwrap_or(0).max(10);
    let mut text = format!(
        "{:<width$}  {:<14}  {:>4}  {:>9}",
        "method", "stream", "runs", "seconds"
    );
    for part in Part::ALL {
        text += &format!("  {:>10}", part.name());
    }
    for ((method, stream), (runs, sums)) in kinds {
        let wall: f64 = sums.iter().sum();
        text += &format!("\n{method:<width$}  {stream:<14}  {runs:>4}  {wall:>9.3}");
        for sum in sums {
            text += &format!("  {:>8.1} %", percent(sum, wall));
        }
    }
    Ok(text + "\n\n")
}
