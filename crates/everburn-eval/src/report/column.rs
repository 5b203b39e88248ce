use everburn_core::{Error, Result};
use serde::Serialize;

use super::{Row, Run};
use crate::{
    Accompanying, Direction, Interval, METRICS, Metric, RunRecord, StreamKind, Summary, Unit,
    base_id, format, metric,
};

/// A number of a run that is no metric of its accuracy.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// The name in files.
    pub id: &'static str,
    /// The name at the head of a column.
    pub label: &'static str,
    /// What it is, in one line.
    pub meaning: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Which way it is better.
    pub direction: Direction,
    /// The number of a run; `None` if it was not measured.
    pub value: fn(&RunRecord, &Accompanying) -> Option<f64>,
}

/// All quantities that a column can show beside the metrics.
pub static QUANTITIES: &[Quantity] = &[
    Quantity {
        id: "time/wall",
        label: "time",
        meaning: "wall clock of the run, mean over seeds",
        unit: Unit::Seconds,
        direction: Direction::Lower,
        value: |_, accompanying| accompanying.wall_seconds,
    },
    Quantity {
        id: "time/train",
        label: "train time",
        meaning: "wall clock spent in learning, mean over seeds",
        unit: Unit::Seconds,
        direction: Direction::Lower,
        value: |_, accompanying| accompanying.train_seconds,
    },
    Quantity {
        id: "time/eval",
        label: "eval time",
        meaning: "wall clock spent in evaluation, mean over seeds",
        unit: Unit::Seconds,
        direction: Direction::Lower,
        value: |_, accompanying| accompanying.eval_seconds,
    },
    Quantity {
        id: "time/images-per-second",
        label: "images/s",
        meaning: "images trained on per second of learning, mean over seeds",
        unit: Unit::ImagesPerSecond,
        direction: Direction::Higher,
        value: |_, accompanying| accompanying.images_per_second,
    },
    Quantity {
        id: "memory/held-peak",
        label: "held",
        meaning: "most bytes held by the learner at any time (parameters, exemplars, statistics, \
                  optimiser), accounted, mean over seeds",
        unit: Unit::Bytes,
        direction: Direction::Lower,
        value: |record, _| Some(record.memory.as_ref()?.peak.total() as f64),
    },
    Quantity {
        id: "memory/held-final",
        label: "held at end",
        meaning: "bytes held by the learner at the end, accounted, mean over seeds",
        unit: Unit::Bytes,
        direction: Direction::Lower,
        value: |record, _| Some(record.memory.as_ref()?.last.total() as f64),
    },
    Quantity {
        id: "memory/peak-rss",
        label: "peak RSS",
        meaning: "largest resident set of the process, mean over seeds",
        unit: Unit::Bytes,
        direction: Direction::Lower,
        value: |_, accompanying| Some(accompanying.peak_rss_bytes? as f64),
    },
];

/// The accuracy for which a table shows an interval over test images.
pub(super) const LAST_ACCURACY: &str = "accuracy/last/sample-weighted";

/// What is left out of the default columns of a table in which no run has it.
pub(super) const WHERE_MEASURED: [&str; 1] = ["prequential/mean"];

/// The metrics by which the methods of a table are compared.
pub(super) fn headline_ids(kind: StreamKind) -> &'static [&'static str] {
    match kind {
        StreamKind::Split => &[LAST_ACCURACY],
        StreamKind::Online => &["anytime/auc", LAST_ACCURACY],
    }
}

/// The columns of a table unless others are chosen.
pub(super) fn default_ids(kind: StreamKind) -> &'static [&'static str] {
    match kind {
        StreamKind::Split => &[
            LAST_ACCURACY,
            "accuracy/incremental/sample-weighted",
            "forgetting/max-before",
            "bwt/final-row",
            "time/wall",
            "memory/held-peak",
            "memory/peak-rss",
        ],
        StreamKind::Online => &[
            "anytime/auc",
            "anytime/avg",
            "prequential/mean",
            LAST_ACCURACY,
            "forgetting/class-wise",
            "time/wall",
            "memory/held-peak",
            "memory/peak-rss",
        ],
    }
}

/// One column of a table: a metric or a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The key of the metric or the id of the quantity.
    pub key: String,
    /// The name at the head.
    pub label: String,
    /// The formula or meaning, in one line.
    pub formula: String,
    /// What it counts.
    pub unit: Unit,
    /// Which way it is better.
    pub direction: Direction,
}

impl Column {
    /// The column of a metric's id or key, or of a quantity's id.
    ///
    /// # Errors
    /// If there is none; names the nearest.
    pub fn of(key: &str) -> Result<Self> {
        if let Some(quantity) = QUANTITIES.iter().find(|quantity| quantity.id == key) {
            return Ok(Self::of_quantity(quantity));
        }
        match metric(key) {
            Ok(metric) => Ok(Self::of_metric(metric, key)),
            Err(_) => {
                let metrics = METRICS.iter().map(|metric| metric.id);
                let known = metrics.chain(QUANTITIES.iter().map(|quantity| quantity.id));
                Err(Error::unknown("column", key, known))
            }
        }
    }

    pub(super) fn of_quantity(quantity: &Quantity) -> Self {
        Self {
            key: quantity.id.to_owned(),
            label: quantity.label.to_owned(),
            formula: quantity.meaning.to_owned(),
            unit: quantity.unit,
            direction: quantity.direction,
        }
    }

    fn of_metric(metric: &Metric, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            label: metric.label_of(key),
            formula: metric.formula.to_owned(),
            unit: metric.unit,
            direction: metric.direction,
        }
    }

    /// The columns of an id in a table with these runs: several, if it was measured with several
    /// periods.
    pub(super) fn in_table(id: &str, runs: &[&Run]) -> Result<Vec<Self>> {
        let keys = runs.iter().flat_map(|(record, _)| record.metrics.keys());
        let mut keys: Vec<_> = keys.filter(|key| base_id(key) == id).collect();
        keys.sort();
        keys.dedup();
        if keys.is_empty() {
            return Ok(vec![Self::of(id)?]);
        }
        keys.into_iter().map(|key| Self::of(key)).collect()
    }

    /// The number of a run. A reference that learns after a stream has ended was not there while it went
    /// on: of its metrics only the last accuracy counts.
    pub(super) fn value(
        &self,
        record: &RunRecord,
        accompanying: &Accompanying,
        kind: StreamKind,
    ) -> Option<f64> {
        if let Some(quantity) = QUANTITIES.iter().find(|quantity| quantity.id == self.key) {
            return (quantity.value)(record, accompanying);
        }
        let history = &record.history;
        let once = history.evaluations.len() == 1 && history.task_classes.len() > 1;
        let only_last = record.run.offline && (kind == StreamKind::Online || once);
        if only_last && !self.key.starts_with("accuracy/last/") {
            return None;
        }
        record.metrics.get(&self.key).copied()
    }

    /// The text of a cell of a row.
    pub(super) fn cell(&self, summary: Option<&Summary>, row: &Row) -> String {
        let Some(summary) = summary else {
            return format::MISSING.to_owned();
        };
        let number: fn(f64) -> String = match self.unit {
            Unit::Fraction => format::percent,
            Unit::AccuracyMebibytes => |value| format::fixed(value, 2),
            Unit::Seconds => return format::seconds(summary.mean),
            Unit::Bytes => return format::bytes(summary.mean),
            Unit::ImagesPerSecond => return format::fixed(summary.mean, 1),
        };
        let mean = number(summary.mean);
        let images = row.images.filter(|_| self.key == LAST_ACCURACY);
        match summary.half_width {
            None => match images {
                None => format!("{mean} (n=1)"),
                Some(Interval { low, high }) => {
                    let end = |fraction: f64| format::fixed(fraction * 100.0, 1);
                    // The space in it does not break, so that narrow tables keep it whole.
                    format!("{mean} [{},\u{a0}{}] (n=1)", end(low), end(high))
                }
            },
            Some(half) if summary.n < row.seeds.len() => {
                format!("{mean} ±{} (n={})", number(half), summary.n)
            }
            Some(half) => format!("{mean} ±{}", number(half)),
        }
    }
}
