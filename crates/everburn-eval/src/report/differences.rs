use serde::Serialize;

use super::{Column, Row, Run, Table, chosen};
use crate::{Paired, StreamValue, Summary, Verdict, format};

/// Up to so many rows are compared each with each; more of them with the best row only.
const EACH_WITH_EACH: usize = 6;

/// The note where the interval holds 0.
pub(super) const NOT_SIGNIFICANT: &str = "n.s.";
/// The note where the differences have no spread.
pub(super) const IN_EVERY_SEED: &str = "in every seed";
/// The note where seeds are left out.
pub(super) const OTHER_STREAMS: &str = "on other streams";

/// The rows of a table compared in one metric, seed by seed on the same streams.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Differences {
    /// The metric.
    pub column: Column,
    /// The pairs: better first by the means, up to six rows each with each, of more rows the best
    /// (offline references aside) with all others.
    pub pairs: Vec<Pair>,
}

/// Two rows compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The row that is subtracted from.
    pub a: String,
    /// The row that is subtracted.
    pub b: String,
    /// Their differences.
    #[serde(flatten)]
    pub paired: Paired,
}

/// A row with the numbers that it is compared by.
struct Competitor {
    name: String,
    offline: bool,
    mean: f64,
    values: Vec<StreamValue>,
}

impl Differences {
    /// The differences in one column; `None` for fewer than two rows with values.
    pub(super) fn of(table: &Table, column: Column, all: &[Run]) -> Option<Self> {
        let rows = table.rows.iter();
        let mut rows: Vec<_> = rows
            .filter_map(|row| Competitor::of(table, row, &column, all))
            .collect();
        rows.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        let pairs = if rows.len() <= EACH_WITH_EACH {
            let pairs = rows.iter().enumerate();
            let pairs = pairs.flat_map(|(i, a)| rows.iter().skip(i + 1).map(move |b| (a, b)));
            pairs.map(|(a, b)| Pair::of(a, b)).collect()
        } else {
            with_the_best(&rows)
        };
        (rows.len() > 1).then_some(Self { column, pairs })
    }
}

fn with_the_best(rows: &[Competitor]) -> Vec<Pair> {
    let best = rows.iter().position(|row| !row.offline).unwrap_or(0);
    let others = rows.iter().enumerate().filter(|(index, _)| *index != best);
    let best = rows.get(best);
    let pair = |(_, other)| Some(Pair::of(best?, other));
    others.filter_map(pair).collect()
}

impl Competitor {
    fn of(table: &Table, row: &Row, column: &Column, all: &[Run]) -> Option<Self> {
        let value = |(record, accompanying): &Run| {
            Some(StreamValue {
                seed: record.run.seed,
                manifest_hash: record.provenance.manifest_hash.clone(),
                value: column.value(record, accompanying, table.kind)?,
            })
        };
        let runs = chosen(all, &row.runs);
        let values: Vec<_> = runs.into_iter().filter_map(value).collect();
        let numbers: Vec<_> = values.iter().map(|run| run.value).collect();
        Some(Self {
            name: table.row_name(row),
            offline: row.key.offline,
            mean: Summary::of(&numbers)?.mean,
            values,
        })
    }
}

impl Pair {
    fn of(a: &Competitor, b: &Competitor) -> Self {
        Self {
            a: a.name.clone(),
            b: b.name.clone(),
            paired: Paired::of(&a.values, &b.values),
        }
    }

    /// `er − finetune`.
    pub(super) fn name(&self) -> String {
        format!("{} − {}", self.a, self.b)
    }

    /// `+44.96 ±5.10`, in percentage points.
    pub(super) fn difference(&self) -> String {
        let Some(summary) = &self.paired.differences else {
            return format::MISSING.to_owned();
        };
        let mean = format::points(summary.mean);
        match summary.half_width {
            Some(half) => format!("{mean} ±{}", format::percent(half)),
            None => mean,
        }
    }

    /// How many seeds, and what is to be said beside the number.
    pub(super) fn note(&self) -> String {
        let n = self.paired.differences.map_or(0, |summary| summary.n);
        let mut note = match self.paired.verdict {
            Verdict::Differs | Verdict::OneSeed => format!("(n={n})"),
            Verdict::NotSignificant => format!("(n={n}) {NOT_SIGNIFICANT}"),
            Verdict::Constant => format!("(n={n}) the same {IN_EVERY_SEED}"),
            Verdict::NoPairs => "no stream in common".to_owned(),
        };
        match self.paired.other_streams {
            0 => {}
            1 => note += &format!("; 1 seed {OTHER_STREAMS}"),
            seeds => note += &format!("; {seeds} seeds {OTHER_STREAMS}"),
        }
        note
    }
}

impl Table {
    /// The differences that people are shown: those with an interval or its lack somewhere. With one
    /// seed each, the table itself says all.
    pub(super) fn shown_differences(&self) -> impl Iterator<Item = &Differences> {
        let several = |pair: &Pair| pair.paired.differences.is_some_and(|s| s.n > 1);
        let shown = move |d: &&Differences| d.pairs.iter().any(several);
        self.differences.iter().filter(shown)
    }
}
