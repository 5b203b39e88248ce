use std::collections::{BTreeMap, BTreeSet};

use everburn_core::{Error, Key, Result};
use serde::Serialize;

use crate::{
    Accompanying, Interval, RESAMPLES, RunRecord, StreamKind, Summary, base_id, bootstrap_accuracy,
};

mod column;
mod differences;
mod files;
mod markdown;
mod reference;
mod settings;
mod terminal;
mod text;

pub use column::{Column, QUANTITIES, Quantity};
pub use differences::{Differences, Pair};

type Run = (RunRecord, Accompanying);

/// Runs summed up over their seeds, one table for each stream of each data set.
///
/// The order of the runs does not matter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The tables, by data set and stream.
    pub tables: Vec<Table>,
    #[serde(skip)]
    runs: Vec<Run>,
}

/// The runs on one stream of one data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// The data set.
    pub dataset: String,
    /// The hash of its images and labels: runs on others under the same name are another table.
    pub data: String,
    /// Whether there is another table of the same data set and stream.
    #[serde(skip)]
    ambiguous: bool,
    /// The stream.
    pub stream: String,
    /// The kind of stream; online if any of its runs says so.
    pub kind: StreamKind,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; references come last.
    pub rows: Vec<Row>,
    /// The rows compared with each other, one list for each headline metric.
    pub differences: Vec<Differences>,
}

/// What all runs of a row have in common, beside data set and stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RowKey {
    /// Whether the method is a reference that learns after the stream has ended.
    pub offline: bool,
    /// The method.
    pub method: String,
    /// Those of its settings in which rows of this method differ, as `buffer=200, recipe.epochs=1`;
    /// empty where they differ in none.
    pub settings: String,
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
    /// Of a row with a single run, the interval of its last accuracy over test images.
    pub images: Option<Interval>,
    /// Where its runs stand in the report.
    #[serde(skip)]
    runs: Vec<usize>,
}

impl Report {
    /// A report with the default columns of each kind of stream: on split tasks A_last, A-bar, F
    /// (Chaudhry) and BWT, on online streams A_auc, A_avg, prequential accuracy where measured,
    /// A_last and F_last; then time, bytes held by the learner and peak memory.
    ///
    /// A run that is given twice counts once. Runs on other images under the same name are another
    /// table. Runs of a method with different settings are
    /// different rows. A run on disjoint tasks whose joint reference (method `joint`) is among the
    /// runs gets its intransigence.
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

    fn build(mut runs: Vec<Run>, ids: Option<&[&str]>) -> Result<Self> {
        runs.sort_by_key(|(record, _)| place(record));
        runs.dedup_by(|(a, _), (b, _)| a == b);
        for (record, _) in &mut runs {
            // By today's formulas, also those that are newer than the record.
            record.metrics.extend(record.history.metrics()?);
        }
        reference::add_intransigence(&mut runs);
        let mut streams: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, (record, _)) in runs.iter().enumerate() {
            let data = &record.provenance.dataset_hash;
            let stream = (&record.run.dataset, &record.run.stream, data);
            streams.entry(stream).or_default().push(index);
        }
        let mut tables = streams
            .into_values()
            .map(|members| Table::new(&runs, &members, ids))
            .collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = tables.iter().map(Table::name).collect();
        for (table, name) in tables.iter_mut().zip(&names) {
            table.ambiguous = names.iter().filter(|other| *other == name).count() > 1;
        }
        Ok(Self { tables, runs })
    }
}

impl Table {
    /// The table of those runs that are `members`, all on one stream.
    fn new(all: &[Run], members: &[usize], ids: Option<&[&str]>) -> Result<Self> {
        let runs = chosen(all, members);
        let kinds = runs.iter().map(|(record, _)| record.kind());
        let kind = kinds.max().unwrap_or(StreamKind::Split);
        let first = runs
            .first()
            .map(|(record, _)| (record.run.clone(), &record.provenance));
        let (description, provenance) = first.unzip();
        let description = description.unwrap_or_default();
        let columns = columns(&runs, kind, ids)?;
        let mut rows = settings::groups(all, members)
            .into_iter()
            .map(|(key, members)| Row::new(key, all, members, &columns, kind))
            .collect::<Result<Vec<_>>>()?;
        // By length first, or a buffer of 1000 would come before one of 200.
        rows.sort_by_cached_key(|row| {
            let RowKey {
                offline,
                method,
                settings,
                ..
            } = row.key.clone();
            // Variants (`er/small`) beside their method, before one whose name only begins like it.
            let name: Vec<String> = method.split('/').map(str::to_owned).collect();
            (offline, name, settings.chars().count(), row.key.clone())
        });
        let mut table = Self {
            dataset: description.dataset,
            data: provenance
                .map(|p| p.dataset_hash.clone())
                .unwrap_or_default(),
            ambiguous: false,
            stream: description.stream,
            kind,
            columns,
            rows,
            differences: Vec::new(),
        };
        for id in column::headline_ids(kind) {
            for column in Column::in_table(id, &runs)? {
                table
                    .differences
                    .extend(Differences::of(&table, column, all));
            }
        }
        Ok(table)
    }
}

/// The columns with these ids, or else those of the kind of stream as far as they were measured.
fn columns(runs: &[&Run], kind: StreamKind, ids: Option<&[&str]>) -> Result<Vec<Column>> {
    let measured = |id: &str| {
        let mut keys = runs.iter().flat_map(|(record, _)| record.metrics.keys());
        keys.any(|key| base_id(key) == id)
    };
    let defaults = column::default_ids(kind).iter().copied();
    let defaults = defaults.filter(|id| !column::WHERE_MEASURED.contains(id) || measured(id));
    let ids = ids.map_or_else(|| defaults.collect(), <[&str]>::to_vec);
    let mut columns = Vec::new();
    for id in ids {
        columns.extend(Column::in_table(id, runs)?);
    }
    Ok(columns)
}

fn chosen<'a>(all: &'a [Run], members: &[usize]) -> Vec<&'a Run> {
    members.iter().filter_map(|&index| all.get(index)).collect()
}

impl Row {
    fn new(
        key: RowKey,
        all: &[Run],
        members: Vec<usize>,
        columns: &[Column],
        kind: StreamKind,
    ) -> Result<Self> {
        let runs = chosen(all, &members);
        let mut seeds = BTreeSet::new();
        for (record, _) in &runs {
            if !seeds.insert(record.run.seed) {
                return Err(Error::input(
                    format!("runs of {} on {}", key.name(), record.run.stream),
                    format!(
                        "different results with seed {} and the same settings",
                        record.run.seed
                    ),
                    "one run for each seed: leave out what other code or data made",
                ));
            }
        }
        let cell = |column: &Column| {
            let value = |run: &&Run| column.value(&run.0, &run.1, kind);
            let values: Vec<_> = runs.iter().filter_map(value).collect();
            Summary::of(&values)
        };
        Ok(Self {
            cells: columns.iter().map(cell).collect(),
            seeds: seeds.into_iter().collect(),
            images: over_images(&runs),
            key,
            runs: members,
        })
    }
}

/// The interval of a single run's last accuracy over test images. The key is made of the run alone,
/// so that a run always shows the same interval.
fn over_images(runs: &[&Run]) -> Option<Interval> {
    let [(record, _)] = runs else { return None };
    let key = Key::from_seed(record.run.seed).child("bootstrap over test images");
    bootstrap_accuracy(record.history.last()?, RESAMPLES, key)
}

impl RowKey {
    fn of(record: &RunRecord) -> Self {
        let run = record.run.clone();
        Self {
            offline: run.offline,
            method: run.method,
            settings: String::new(),
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
    let settings = record.settings.to_string();
    (stream, RowKey::of(record), run.seed, id, settings)
}
