use std::collections::{BTreeMap, BTreeSet};

use everburn_core::{Error, Result};
use serde_json::json;

use super::{Column, QUANTITIES, Report, RowKey};
use crate::{Accompanying, RunRecord, StreamKind, Summary, format};

type Run = (RunRecord, Accompanying);

/// What tells runs apart, as the first columns of both CSV files.
const KEYS: [&str; 7] = [
    "dataset", "stream", "method", "backbone", "tuning", "preset", "device",
];

impl Report {
    /// Every metric and quantity of every run in tidy CSV, one row each; fractions, seconds and
    /// bytes, nothing rounded.
    ///
    /// # Errors
    /// If a metric of a record is not registered.
    pub fn csv_runs(&self) -> Result<String> {
        let values = ["seed", "run_id", "metric", "label", "unit", "value"];
        let mut lines = vec![
            KEYS.iter()
                .chain(&values)
                .map(ToString::to_string)
                .collect(),
        ];
        for (kind, runs) in self.streams() {
            let columns = all_columns(&runs)?;
            for (record, accompanying) in runs {
                for column in &columns {
                    let Some(value) = column.value(record, accompanying, kind) else {
                        continue;
                    };
                    let mut line = keys(record);
                    line.push(record.run.seed.to_string());
                    line.push(record.provenance.run_id.clone());
                    line.extend([column.key.clone(), column.label.clone()]);
                    line.extend([column.unit.name().to_owned(), value.to_string()]);
                    lines.push(line);
                }
            }
        }
        format::csv(lines)
    }

    /// Every metric and quantity summed up over seeds in tidy CSV: number of values, mean, sample
    /// standard deviation and half the width of the 95 % t-interval, the last two empty for one
    /// value.
    ///
    /// # Errors
    /// If a metric of a record is not registered.
    pub fn csv_summary(&self) -> Result<String> {
        let values = [
            "metric",
            "label",
            "unit",
            "n",
            "mean",
            "std",
            "half_width_95",
        ];
        let mut lines = vec![
            KEYS.iter()
                .chain(&values)
                .map(ToString::to_string)
                .collect(),
        ];
        for (kind, runs) in self.streams() {
            let columns = all_columns(&runs)?;
            let mut groups: BTreeMap<RowKey, Vec<&Run>> = BTreeMap::new();
            for run in runs {
                groups.entry(RowKey::of(&run.0)).or_default().push(run);
            }
            for runs in groups.values() {
                for column in &columns {
                    let value =
                        |(record, accompanying): &&Run| column.value(record, accompanying, kind);
                    let numbers: Vec<_> = runs.iter().filter_map(value).collect();
                    let first = runs.first().map(|(record, _)| record);
                    if let (Some(record), Some(summary)) = (first, Summary::of(&numbers)) {
                        lines.push(summary_line(record, column, &summary));
                    }
                }
            }
        }
        format::csv(lines)
    }

    /// The tables with their columns, formulas and summaries in JSON; fractions, seconds and bytes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json(&self) -> Result<String> {
        let legend: Vec<_> = (self.legend().into_iter())
            .map(|entry| json!({ "term": entry.term, "meaning": entry.text }))
            .collect();
        let report = json!({ "tables": self.tables, "legend": legend });
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Error::other("writing a report", error))?;
        Ok(text + "\n")
    }

    /// The runs of each table, with the kind of its stream.
    fn streams(&self) -> impl Iterator<Item = (StreamKind, Vec<&Run>)> {
        self.tables.iter().map(|table| {
            let here = |(record, _): &&Run| {
                record.run.dataset == table.dataset && record.run.stream == table.stream
            };
            (table.kind, self.runs.iter().filter(here).collect())
        })
    }
}

/// All quantities, and all metrics that any of the runs has.
fn all_columns(runs: &[&Run]) -> Result<Vec<Column>> {
    let keys = runs.iter().flat_map(|(record, _)| record.metrics.keys());
    let keys: BTreeSet<_> = keys.collect();
    let metrics = keys.into_iter().map(|key| Column::of(key));
    let quantities = QUANTITIES.iter().map(|q| Ok(Column::of_quantity(q)));
    metrics.chain(quantities).collect()
}

fn keys(record: &RunRecord) -> Vec<String> {
    let stream = [record.run.dataset.clone(), record.run.stream.clone()];
    let key = RowKey::of(record);
    let fields = key.fields().map(str::to_owned);
    stream.into_iter().chain(fields).collect()
}

fn summary_line(record: &RunRecord, column: &Column, summary: &Summary) -> Vec<String> {
    let text = |number: Option<f64>| number.map(|n| n.to_string()).unwrap_or_default();
    let mut line = keys(record);
    line.extend([column.key.clone(), column.label.clone()]);
    line.extend([column.unit.name().to_owned(), summary.n.to_string()]);
    line.push(summary.mean.to_string());
    line.extend([text(summary.std), text(summary.half_width)]);
    line
}
