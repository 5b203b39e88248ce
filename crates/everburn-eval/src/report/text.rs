use std::collections::BTreeSet;

use super::differences::{IN_EVERY_SEED, NOT_SIGNIFICANT, OTHER_STREAMS, Pair};
use super::{Report, Row, RowKey, Table};
use crate::{Unit, format};

/// A column that says what a row is.
pub(super) struct Head {
    pub(super) label: &'static str,
    pub(super) value: fn(&Row) -> String,
}

/// What a row may be told apart by, beside its method.
const HEADS: [Head; 5] = [
    Head {
        label: "preset",
        value: |row| row.key.preset.clone(),
    },
    Head {
        label: "backbone",
        value: |row| row.key.backbone.clone(),
    },
    Head {
        label: "tuning",
        value: |row| row.key.tuning.clone(),
    },
    Head {
        label: "device",
        value: |row| row.key.device.clone(),
    },
    Head {
        label: "seeds",
        value: |row| seeds(&row.seeds),
    },
];

const METHOD: Head = Head {
    label: "method",
    value: |row| row.key.name(),
};

/// The preset whose sizes need a word of warning beside published numbers.
const CPU_PRESET: &str = "cpu preset: sized for two cores";

impl Table {
    /// Data set and stream.
    pub(super) fn name(&self) -> String {
        let name = format!("{} / {}", self.dataset, self.stream);
        if self.ambiguous {
            let data: String = self.data.chars().take(8).collect();
            return format!("{name} (data {data})");
        }
        name
    }

    /// What all rows have in common: preset, backbone, tuning, device, seeds.
    pub(super) fn caption(&self) -> String {
        let mut parts = Vec::new();
        for head in HEADS {
            let Some(value) = self.common(&head) else {
                continue;
            };
            if head.label != "preset" || value != "cpu" {
                let label = match head.label {
                    "seeds" if value.parse::<u64>().is_ok() => "seed",
                    label => label,
                };
                parts.push(format!("{label} {value}"));
            }
        }
        if self.rows.iter().any(|row| row.key.preset == "cpu") {
            parts.push(CPU_PRESET.to_owned());
        }
        parts.join(" · ")
    }

    /// The method, and whatever else differs between rows.
    pub(super) fn heads(&self) -> Vec<Head> {
        let differs = |head: &Head| self.common(head).is_none();
        [METHOD]
            .into_iter()
            .chain(HEADS.into_iter().filter(differs))
            .collect()
    }

    fn common(&self, head: &Head) -> Option<String> {
        let first = (head.value)(self.rows.first()?);
        let same = self.rows.iter().all(|row| (head.value)(row) == first);
        same.then_some(first)
    }

    /// The texts of a row's cells.
    pub(super) fn texts<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = String> + 'a {
        let cells = row.cells.iter().map(Option::as_ref);
        let columns = self.columns.iter().zip(cells);
        columns.map(|(column, cell)| column.cell(cell, row))
    }

    /// A row in one name: its method, and whatever else differs between rows but their seeds.
    pub(super) fn row_name(&self, row: &Row) -> String {
        let heads = self.heads();
        let names = heads.iter().filter(|head| head.label != "seeds");
        let names: Vec<_> = names.map(|head| (head.value)(row)).collect();
        names.join(" · ")
    }
}

/// A line of the legend.
pub(super) struct Entry {
    pub(super) term: String,
    pub(super) text: String,
    /// Whether the text is a formula and not a sentence.
    pub(super) formula: bool,
}

impl Report {
    /// One line for each shown column, then what the signs in the cells mean.
    pub(super) fn legend(&self) -> Vec<Entry> {
        let mut seen = BTreeSet::new();
        let columns = self.tables.iter().flat_map(|table| &table.columns);
        let columns: Vec<_> = columns.filter(|column| seen.insert(&column.key)).collect();
        let mut entries: Vec<_> = columns
            .iter()
            .map(|column| Entry {
                term: format!("{} {}", column.label, column.direction.arrow()),
                text: column.formula.clone(),
                formula: matches!(column.unit, Unit::Fraction | Unit::AccuracyMebibytes),
            })
            .collect();
        let mut say = |term: &str, text: &str| {
            entries.push(Entry {
                term: term.to_owned(),
                text: text.to_owned(),
                formula: false,
            });
        };
        let any = |sign: &str| columns.iter().any(|column| column.formula.contains(sign));
        if any("R[") {
            say("R[i][j]", "accuracy on task j after task i of T");
        }
        if any("n_j") {
            say("n_j", "test images of task j");
        }
        if any("a[t][c]") {
            say("a[t][c]", "accuracy on class c after task t of T");
        }
        let texts: Vec<String> = (self.tables.iter())
            .flat_map(|table| table.rows.iter().flat_map(|row| table.texts(row)))
            .collect();
        let shown = |sign: &str| texts.iter().any(|text| text.contains(sign));
        if shown("[") {
            say(
                "[…]",
                "95 % interval of the accuracy of this one trained learner over other test images \
                 of the same classes (bootstrap); it says nothing of other seeds",
            );
        }
        if shown("±") {
            say(
                "±",
                "half the width of the 95 % t-interval of the mean over seeds",
            );
        }
        if shown("±0.00") {
            say(
                "±0.00",
                "the same in every seed, as of a learner that draws nothing: no spread, and no \
                 interval for what other seeds would give",
            );
        }
        if shown("(n=") {
            say(
                "(n=…)",
                "so many seeds have a value; one seed gives no interval over seeds",
            );
        }
        if shown(format::MISSING) {
            say(format::MISSING, "not defined or not measured");
        }
        if columns.iter().any(|column| column.unit == Unit::Fraction) {
            say(
                "no unit",
                "percent; percentage points where the metric is a difference",
            );
        }
        entries.extend(self.legend_of_differences());
        entries
    }

    fn legend_of_differences(&self) -> Vec<Entry> {
        let shown = self.tables.iter().flat_map(Table::shown_differences);
        let notes: Vec<_> = (shown.flat_map(|differences| &differences.pairs))
            .map(Pair::note)
            .collect();
        if notes.is_empty() {
            return Vec::new();
        }
        let mut entries = vec![Entry {
            term: "paired differences".to_owned(),
            text: "mean of a − b over the seeds in which both learned the same stream, and half \
                       the width of its 95 % t-interval. Each interval stands for itself: of 20 \
                       comparisons of equal methods one stands out by chance. Seeds differ in the \
                       order of the stream and in initial weights, not in data set or test images"
                .to_owned(),
            formula: false,
        }];
        for (sign, text) in PAIR_NOTES {
            if notes.iter().any(|note| note.contains(sign)) {
                entries.push(Entry {
                    term: sign.to_owned(),
                    text: text.to_owned(),
                    formula: false,
                });
            }
        }
        entries
    }
}

/// What the notes beside paired differences mean.
const PAIR_NOTES: [(&str, &str); 3] = [
    (
        NOT_SIGNIFICANT,
        "the interval holds 0: these seeds do not tell the two apart",
    ),
    (
        IN_EVERY_SEED,
        "the differences have no spread, so no interval can be given",
    ),
    (
        OTHER_STREAMS,
        "seeds whose streams differ between the two (another manifest) are no pair",
    ),
];

/// Ascending seeds as a list in which neighbours are drawn together: `1–3, 7`.
fn seeds(seeds: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &seed in seeds {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(seed) => *last = seed,
            _ => ranges.push((seed, seed)),
        }
    }
    let text = |(first, last): (u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    };
    let ranges: Vec<_> = ranges.into_iter().map(text).collect();
    ranges.join(", ")
}

impl RowKey {
    /// The method with the settings that tell it apart: `er (buffer=200)`.
    pub(super) fn name(&self) -> String {
        if self.settings.is_empty() {
            self.method.clone()
        } else {
            format!("{} ({})", self.method, self.settings)
        }
    }

    /// The fields as they stand in files.
    pub(super) fn fields(&self) -> [&str; 6] {
        [
            &self.method,
            &self.settings,
            &self.backbone,
            &self.tuning,
            &self.preset,
            &self.device,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::seeds;

    #[test]
    fn neighbouring_seeds_are_drawn_together() {
        assert_eq!(seeds(&[1, 2, 3, 7, 9, 10]), "1–3, 7, 9, 10");
        assert_eq!(seeds(&[u64::MAX]), u64::MAX.to_string());
        assert_eq!(seeds(&[]), "");
    }
}
