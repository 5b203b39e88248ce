use std::collections::{BTreeMap, BTreeSet};

use everburn_core::{Error, Result};
use serde::Serialize;

use crate::{Accompanying, RunRecord, StreamKind, Summary};

mod column;
mod files;
mod markdown;
mod terminal;
mod text;

pub use column::{Column, QUANTITIES, Quantity};

/// Runs summed up over their seeds, one table for each stream of each data set.
///
/// The order of the runs does not matter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The tables, by data set and stream.
    pub tables: Vec<Table>,
    #[serde(skip)]
    runs: Vec<(RunRecord, Accompanying)>,
}

/// The runs on one stream of one data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// The data set.
    pub dataset: String,
    /// The stream.
    pub stream: String,
    /// The kind of stream; online if any of its runs says so.
    pub kind: StreamKind,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; references come last.
    pub rows: Vec<Row>,
}

/// What all runs of a row have in common, beside data set and stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RowKey {
    /// Whether the method is a reference that learns after the stream has ended.
    pub offline: bool,
    /// The method.
    pub method: String,
    /// The backbone.
    pub backbone: String,
    /// What of the backbone is trained.
    pub tuning: String,
    /// The preset of sizes and schedules.
    pub preset: String,
    /// The device: numbers of different devices are not averaged.
    pub device: String,
}

/// One method with one setting, over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What its runs have in common.
    #[serde(flatten)]
    pub key: RowKey,
    /// Their seeds, ascending.
    pub seeds: Vec<u64>,
    /// One summary for each column of the table; `None` where no run has a value.
    pub cells: Vec<Option<Summary>>,
}

impl Report {
    /// A report with the default columns of each kind of stream: on split tasks A_last, A-bar, F
    /// (Chaudhry) and BWT, on online streams A_auc, A_avg, A_last and F_last; then time, bytes
    /// held by the learner and peak memory.
    ///
    /// A run that is given twice counts once.
    ///
    /// # Errors
    /// If two different runs differ in nothing that the tables tell apart and have the same seed:
    /// their spread would not be one over seeds.
    pub fn new(runs: Vec<(RunRecord, Accompanying)>) -> Result<Self> {
        Self::build(runs, None)
    }

    /// A report with chosen columns: ids of metrics or quantities, or keys of metrics with their
    /// period.
    ///
    /// # Errors
    /// As [`new`](Self::new), or if a column is unknown.
    pub fn with_columns(runs: Vec<(RunRecord, Accompanying)>, ids: &[&str]) -> Result<Self> {
        for id in ids {
            Column::of(id)?;
        }
        Self::build(runs, Some(ids))
    }

    fn build(mut runs: Vec<(RunRecord, Accompanying)>, ids: Option<&[&str]>) -> Result<Self> {
        runs.sort_by_key(|(record, _)| place(record));
        runs.dedup_by(|(a, _), (b, _)| a == b);
        let mut streams: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for run in &runs {
            let description = &run.0.run;
            let stream = (&description.dataset, &description.stream);
            streams.entry(stream).or_default().push(run);
        }
        let tables = streams
            .into_iter()
            .map(|((dataset, stream), runs)| Table::new(dataset, stream, &runs, ids))
            .collect::<Result<_>>()?;
        Ok(Self { tables, runs })
    }
}

impl Table {
    fn new(
        dataset: &str,
        stream: &str,
        runs: &[&(RunRecord, Accompanying)],
        ids: Option<&[&str]>,
    ) -> Result<Self> {
        let kinds = runs.iter().map(|(record, _)| record.kind());
        let kind = kinds.max().unwrap_or(StreamKind::Split);
        let mut columns = Vec::new();
        for id in ids.unwrap_or_else(|| column::default_ids(kind)) {
            columns.extend(Column::in_table(id, runs)?);
        }
        let mut groups: BTreeMap<RowKey, Vec<_>> = BTreeMap::new();
        for run in runs {
            groups.entry(RowKey::of(&run.0)).or_default().push(*run);
        }
        let rows = groups
            .into_iter()
            .map(|(key, runs)| Row::new(key, &runs, &columns, kind))
            .collect::<Result<_>>()?;
        Ok(Self {
            dataset: dataset.to_owned(),
            stream: stream.to_owned(),
            kind,
            columns,
            rows,
        })
    }
}

impl Row {
    fn new(
        key: RowKey,
        runs: &[&(RunRecord, Accompanying)],
        columns: &[Column],
        kind: StreamKind,
    ) -> Result<Self> {
        let mut seeds = BTreeSet::new();
        for (record, _) in runs {
            if !seeds.insert(record.run.seed) {
                return Err(Error::input(
                    format!("runs of {} on {}", key.method, record.run.stream),
                    format!("different results with seed {}", record.run.seed),
                    "one run for each seed: leave out what other code or settings made",
                ));
            }
        }
        let cell = |column: &Column| {
            let value = |(record, accompanying): &&(RunRecord, Accompanying)| {
                column.value(record, accompanying, kind)
            };
            let values: Vec<_> = runs.iter().filter_map(value).collect();
            Summary::of(&values)
        };
        Ok(Self {
            cells: columns.iter().map(cell).collect(),
            seeds: seeds.into_iter().collect(),
            key,
        })
    }
}

impl RowKey {
    fn of(record: &RunRecord) -> Self {
        let run = record.run.clone();
        Self {
            offline: run.offline,
            method: run.method,
            backbone: run.backbone,
            tuning: run.tuning,
            preset: run.preset,
            device: run.device,
        }
    }
}

/// The place of a run among others, whatever order they are given in.
fn place(record: &RunRecord) -> impl Ord + use<> {
    let run = &record.run;
    let stream = (run.dataset.clone(), run.stream.clone());
    let id = record.provenance.run_id.clone();
    (stream, RowKey::of(record), run.seed, id)
}
