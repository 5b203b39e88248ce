use std::collections::BTreeMap;

use everburn_core::{Error, Result};
use serde_json::Value;

use crate::RunRecord;

mod diff;
mod lines;
mod timings;
mod versions;

pub use diff::{Change, LedgerDiff};
pub use timings::Timings;
pub use versions::Version;

use lines::{pieces, was_cut};

/// How every line begins. A reader finds the next record by it where a torn line swallowed the end
/// of its own.
const PREFIX: &str = "{\"check\":\"";
const MIDDLE: &str = "\",\"record\":";

/// Finished runs, one for each id: the content of `ledger.jsonl`.
///
/// A line is `{"check":"<BLAKE3 of the record's JSON>","record":{…}}`. Lines are only ever appended,
/// and what accompanies a run is kept elsewhere ([`Timings`]), so ledgers of several machines are
/// merged by concatenation: the order of lines does not matter, and one that is there twice counts
/// once. Reading never fails: what is wrong with a text is kept for [`check`](Self::check).
///
/// ```
/// use everburn_eval::Ledger;
/// let mut ledger = Ledger::default();
/// ledger.read("ledger.jsonl", b"{\"check\":\"00\",\"record\":{}}\n");
/// let problem = ledger.check().unwrap_err().to_string();
/// assert!(problem.starts_with("ledger.jsonl, line 1: "), "{problem}");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// More than one entry is a conflict; ascending by text.
    runs: BTreeMap<String, Vec<Entry>>,
    damage: Vec<Damage>,
    /// Records whose metrics are not those that today's formulas give.
    other_formulas: Vec<Damage>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    text: String,
    record: RunRecord,
    /// Where it was read first.
    place: String,
}

#[derive(Clone, Debug)]
struct Damage {
    place: String,
    what: String,
    /// The code that made the record, as far as that could be read.
    code: String,
}

/// Two ledgers are equal if they hold the same records, wherever these were read.
impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.lines().eq(other.lines())
    }
}

impl Ledger {
    /// The line of a record, with its newline.
    ///
    /// # Errors
    /// As [`RunRecord::to_json`], or if the record's id does not follow from it.
    pub fn line(record: &RunRecord) -> Result<String> {
        Ok(sealed(&text(record)?))
    }

    /// Whether a line, without its newline, holds a complete and unchanged record.
    pub fn is_whole(line: &str) -> bool {
        unsealed(line).is_some_and(|(check, text)| check == hash(text))
    }

    /// Takes in the content of a ledger's file; `file` is the name to put into errors.
    ///
    /// An incomplete line, as a crash leaves it, is passed over with a note, also where the next record
    /// was appended to it; anything else that is wrong is a problem. See [`check`](Self::check).
    pub fn read(&mut self, file: &str, bytes: &[u8]) {
        let content = String::from_utf8_lossy(bytes);
        for piece in pieces(file, &content, PREFIX, Self::is_whole) {
            let mut problems = Vec::new();
            let read = read_line(piece.text, &mut problems);
            let metrics = read.as_ref().and_then(|(_, record)| {
                let error = record.check_metrics().err()?;
                Some((error.to_string(), record.provenance.code.clone()))
            });
            match metrics {
                Some((what, code)) if problems.is_empty() => {
                    let place = piece.place.clone();
                    self.other_formulas.push(Damage { place, what, code });
                }
                Some((what, _)) => problems.push(what),
                None => {}
            }
            match read {
                Some((text, record)) if problems.is_empty() => {
                    self.insert(text, record, piece.place);
                }
                _ if was_cut(&piece) => self.notes.push(format!(
                    "{}: an incomplete record, as a crash leaves it, is passed over",
                    piece.place
                )),
                _ => self.damage.extend(problems.into_iter().map(|what| Damage {
                    place: piece.place.clone(),
                    what,
                    code: String::new(),
                })),
            }
        }
    }

    /// Adds a run.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn add(&mut self, record: RunRecord) -> Result<()> {
        self.insert(text(&record)?, record, "this run".to_owned());
        Ok(())
    }

    /// Takes in all of another ledger, its problems and notes included.
    pub fn merge(&mut self, other: Self) {
        for entry in other.runs.into_values().flatten() {
            self.insert(entry.text, entry.record, entry.place);
        }
        self.damage.extend(other.damage);
        self.other_formulas.extend(other.other_formulas);
        self.notes.extend(other.notes);
    }

    fn insert(&mut self, text: String, record: RunRecord, place: String) {
        let id = record.provenance.run_id.clone();
        let entries = self.runs.entry(id).or_default();
        if let Err(index) = entries.binary_search_by(|entry| entry.text.cmp(&text)) {
            let entry = Entry {
                text,
                record,
                place,
            };
            entries.insert(index, entry);
        }
    }

    /// The runs, by id; those in conflict more than once.
    pub fn records(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs.values().flatten().map(|entry| &entry.record)
    }

    /// How many runs it holds.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether it holds no run.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The run with an id.
    ///
    /// # Errors
    /// If there are different records of it.
    pub fn get(&self, run_id: &str) -> Result<Option<&RunRecord>> {
        match self.runs.get(run_id).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([entry]) => Ok(Some(&entry.record)),
            Some([one, other, ..]) => Err(conflict(run_id, one, other)),
        }
    }

    /// Whether every line could be read and holds what was written, every id follows from its record,
    /// and no run has two different records.
    ///
    /// # Errors
    /// The first of [`problems`](Self::problems).
    pub fn check(&self) -> Result<()> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All that is wrong with what was read.
    pub fn problems(&self) -> Vec<Error> {
        let damage = self.damage.iter().map(|d| Error::other(&*d.place, &d.what));
        let conflicts = self
            .runs
            .iter()
            .filter_map(|(id, entries)| match &entries[..] {
                [one, other, ..] => Some(conflict(id, one, other)),
                _ => None,
            });
        damage.chain(conflicts).collect()
    }

    /// Records whose metrics do not follow from their history by this program's formulas. For a record
    /// that `code`, this program's, is said to have made, that is a problem; of other code it tells that
    /// a formula has changed since: the second number counts those. Tables compute metrics anew.
    pub fn other_formulas(&self, code: &str) -> (Vec<Error>, usize) {
        let (own, others): (Vec<_>, Vec<_>) = self
            .other_formulas
            .iter()
            .partition(|found| found.code == code);
        let problems = own.iter().map(|d| Error::other(&*d.place, &d.what));
        (problems.collect(), others.len())
    }

    /// What was passed over without harm.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The ledger's lines, ordered by run: the same bytes for the same runs.
    pub fn to_text(&self) -> String {
        self.lines().map(sealed).collect()
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.runs.values().flatten().map(|entry| &*entry.text)
    }
}

fn conflict(id: &str, one: &Entry, other: &Entry) -> Error {
    let differs = match one.record.differences(&other.record).first() {
        Some(change) => format!("; the first difference is {change}"),
        None => String::new(),
    };
    let (one, other) = (&one.place, &other.place);
    Error::input(
        format!("run {id}"),
        format!("different records ({one}; {other}{differs})"),
        "one, since the id stands for all that decides a result: remove the wrong line",
    )
}

fn text(record: &RunRecord) -> Result<String> {
    record.check()?;
    record.check_identity()?;
    serde_json::to_string(record).map_err(|error| Error::other("writing a run record", error))
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn sealed(text: &str) -> String {
    format!("{PREFIX}{}{MIDDLE}{text}}}\n", hash(text))
}

/// The check and the record's text.
fn unsealed(line: &str) -> Option<(&str, &str)> {
    let (check, rest) = line.strip_prefix(PREFIX)?.split_once(MIDDLE)?;
    Some((check, rest.strip_suffix('}')?))
}

/// The record of a line, and what is wrong with it.
fn read_line(line: &str, problems: &mut Vec<String>) -> Option<(String, RunRecord)> {
    let Some((check, text)) = unsealed(line) else {
        let expected = format!("{PREFIX}…{MIDDLE}{{…}}}}");
        let found = serde_json::from_str::<Value>(line);
        let found = found.map_or_else(|error| error.to_string(), |_| "other JSON".to_owned());
        problems.push(Error::input("the line", found, expected).to_string());
        return None;
    };
    let expected = hash(text);
    if check != expected {
        let expected = format!("{expected}, the hash of the record as it stands there");
        problems.push(Error::input("check", check, expected).to_string());
    }
    let record: RunRecord = match serde_json::from_str(text) {
        Ok(record) => record,
        Err(error) => {
            problems.push(error.to_string());
            return None;
        }
    };
    let wrong = record.check().and_then(|()| record.check_identity());
    problems.extend(wrong.err().map(|error| error.to_string()));
    Some((text.to_owned(), record))
}
