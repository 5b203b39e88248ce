use std::collections::BTreeSet;

use everburn_core::{Error, Result};
use serde_json::json;

use super::{Column, QUANTITIES, Report, Row, Run, Table, chosen};
use crate::{RunRecord, Summary, format};

/// What tells rows apart, as the first columns of the CSV files.
const KEYS: [&str; 8] = [
    "dataset", "stream", "method", "settings", "backbone", "tuning", "preset", "device",
];

impl Report {
    /// Every metric and quantity of every run in tidy CSV, one row each; fractions, seconds and
    /// bytes, nothing rounded.
    ///
    /// # Errors
    /// If a metric of a record is not registered.
    pub fn csv_runs(&self) -> Result<String> {
        let values = ["seed", "run_id", "metric", "label", "unit", "value"];
        let mut lines = vec![head(&values)];
        for table in &self.tables {
            let columns = self.all_columns(table)?;
            for row in &table.rows {
                for (record, accompanying) in chosen(&self.runs, &row.runs) {
                    for column in &columns {
                        let value = column.value(record, accompanying, table.kind);
                        let Some(value) = value else { continue };
                        let mut line = run_keys(table, row, record);
                        line.extend([column.key.clone(), column.label.clone()]);
                        line.extend([column.unit.name().to_owned(), value.to_string()]);
                        lines.push(line);
                    }
                }
            }
        }
        format::csv(lines)
    }

    /// The accuracy on each class after the whole stream, of every run, in tidy CSV; the accuracy
    /// is empty for a class without test images.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn csv_classes(&self) -> Result<String> {
        let values = ["seed", "run_id", "class", "correct", "total", "accuracy"];
        let mut lines = vec![head(&values)];
        for table in &self.tables {
            for row in &table.rows {
                for (record, _) in chosen(&self.runs, &row.runs) {
                    let last = record.history.last();
                    for count in last.into_iter().flat_map(|last| &last.classes) {
                        let numbers = [count.class.0, count.correct, count.total];
                        let mut line = run_keys(table, row, record);
                        line.extend(numbers.map(|number| number.to_string()));
                        line.push(text(count.accuracy()));
                        lines.push(line);
                    }
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
        let mut lines = vec![head(&values)];
        for table in &self.tables {
            let columns = self.all_columns(table)?;
            for row in &table.rows {
                let runs = chosen(&self.runs, &row.runs);
                for column in &columns {
                    let value = |run: &&Run| column.value(&run.0, &run.1, table.kind);
                    let numbers: Vec<_> = runs.iter().filter_map(value).collect();
                    let Some(summary) = Summary::of(&numbers) else {
                        continue;
                    };
                    let mut line = row_keys(table, row);
                    line.extend([column.key.clone(), column.label.clone()]);
                    line.push(column.unit.name().to_owned());
                    line.extend(numbers_of(Some(&summary)));
                    lines.push(line);
                }
            }
        }
        format::csv(lines)
    }

    /// All paired differences in tidy CSV, as fractions; numbers that the verdict leaves undefined
    /// are empty.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn csv_paired(&self) -> Result<String> {
        let mut lines = vec![
            [
                "dataset",
                "stream",
                "metric",
                "label",
                "a",
                "b",
                "n",
                "mean",
                "std",
                "half_width_95",
                "verdict",
                "other_streams",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for table in &self.tables {
            for differences in &table.differences {
                let column = &differences.column;
                for pair in &differences.pairs {
                    let names = [&table.dataset, &table.stream, &column.key, &column.label];
                    let mut line: Vec<_> = names.into_iter().cloned().collect();
                    line.extend([pair.a.clone(), pair.b.clone()]);
                    line.extend(numbers_of(pair.paired.differences.as_ref()));
                    line.push(pair.paired.verdict.name().to_owned());
                    line.push(pair.paired.other_streams.to_string());
                    lines.push(line);
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

    /// All quantities, and all metrics that any run of a table has.
    fn all_columns(&self, table: &Table) -> Result<Vec<Column>> {
        let runs = table
            .rows
            .iter()
            .flat_map(|row| chosen(&self.runs, &row.runs));
        let keys = runs.flat_map(|(record, _)| record.metrics.keys());
        let keys: BTreeSet<_> = keys.collect();
        let metrics = keys.into_iter().map(|key| Column::of(key));
        let quantities = QUANTITIES.iter().map(|q| Ok(Column::of_quantity(q)));
        metrics.chain(quantities).collect()
    }
}

fn head(values: &[&str]) -> Vec<String> {
    let names = KEYS.iter().chain(values);
    names.map(ToString::to_string).collect()
}

fn row_keys(table: &Table, row: &Row) -> Vec<String> {
    let stream = [table.dataset.clone(), table.stream.clone()];
    let fields = row.key.fields().map(str::to_owned);
    stream.into_iter().chain(fields).collect()
}

fn run_keys(table: &Table, row: &Row, record: &RunRecord) -> Vec<String> {
    let mut line = row_keys(table, row);
    line.push(record.run.seed.to_string());
    line.push(record.provenance.run_id.clone());
    line
}

/// Number of values, mean, standard deviation and half width.
fn numbers_of(summary: Option<&Summary>) -> [String; 4] {
    [
        summary.map_or(0, |s| s.n).to_string(),
        text(summary.map(|s| s.mean)),
        text(summary.and_then(|s| s.std)),
        text(summary.and_then(|s| s.half_width)),
    ]
}

fn text(number: Option<f64>) -> String {
    number.map(|n| n.to_string()).unwrap_or_default()
}
