use std::collections::BTreeMap;

use everburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::lines::{pieces, was_cut};
use crate::Accompanying;

const PREFIX: &str = "{\"run_id\":\"";

/// What accompanies the runs of a [`Ledger`](crate::Ledger): the content of `timing.jsonl`, one line
/// for each run.
///
/// Merged by concatenation too; of several times of one run the latest is kept. Nothing here
/// decides a result, so a line that cannot be read costs a note and no more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timings {
    runs: BTreeMap<String, Accompanying>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    run_id: String,
    timing: Accompanying,
}

impl Timings {
    /// The line of a run, with its newline.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn line(run_id: &str, timing: &Accompanying) -> Result<String> {
        timing.check()?;
        let line = Line {
            run_id: run_id.to_owned(),
            timing: timing.clone(),
        };
        let text = serde_json::to_string(&line);
        Ok(text.map_err(|error| Error::other("writing a timing", error))? + "\n")
    }

    /// Whether a line without its newline is complete.
    pub fn is_whole(line: &str) -> bool {
        parse(line).is_ok()
    }

    /// Takes in the content of a file; `file` is the name to put into notes.
    pub fn read(&mut self, file: &str, bytes: &[u8]) {
        let content = String::from_utf8_lossy(bytes);
        for piece in pieces(file, &content, PREFIX, Self::is_whole) {
            match parse(piece.text) {
                Ok(line) => self.insert(line.run_id, line.timing),
                Err(_) if was_cut(&piece) => {}
                Err(error) => self.notes.push(format!("{}: {error}", piece.place)),
            }
        }
    }

    /// Takes in all of another's.
    pub fn merge(&mut self, other: Self) {
        for (run_id, timing) in other.runs {
            self.insert(run_id, timing);
        }
        self.notes.extend(other.notes);
    }

    fn insert(&mut self, run_id: String, timing: Accompanying) {
        // The text decides between two of one second, so that no order of reading does.
        let age = |timing: &Accompanying| (timing.when.clone(), format!("{timing:?}"));
        match self.runs.get(&run_id) {
            Some(kept) if age(kept) >= age(&timing) => {}
            _ => drop(self.runs.insert(run_id, timing)),
        }
    }

    /// What accompanies a run, if it is known.
    pub fn get(&self, run_id: &str) -> Option<&Accompanying> {
        self.runs.get(run_id)
    }

    /// What could not be read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

fn parse(line: &str) -> Result<Line> {
    let line: Line = serde_json::from_str(line).map_err(|error| Error::other("timing", error))?;
    line.timing.check()?;
    Ok(line)
}
