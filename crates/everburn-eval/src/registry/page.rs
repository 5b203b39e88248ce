use super::{EXAMPLES, METRICS, Metric, Need};
use crate::format;

const HEAD: &str = "\
# Metrics

Every metric that everburn computes, under a name that says its formula: the libraries of the field share names and not formulas. This page is
written by `everburn_eval::metrics_page()` from the registry, `crates/everburn-eval/src/registry/list.rs`; a test compares the two, and
`EVERBURN_BLESS=1 cargo test -p everburn-eval --test page` writes it anew.

**Notation.** T tasks, counted from 1; `R[i][j]` the accuracy on the test images of task j after task i; `n_j` the test images of task j; `b_j`
the accuracy of the untrained model on task j; `a[t][c]` the accuracy on class c after task t. Accuracies are fractions. An arrow
points to the better side. A metric has no value, rather than 0, where something that it needs was not measured.

A number that depends on how often a run was tested carries that in its key: `anytime/auc[P=1000]` (every 1000 samples), `anytime/auc[50
evals]`. Numbers with different brackets do not compare.
";

const CONVERTER: &str = include_str!("converter.md");

/// The page `docs/metrics.md`: all metrics with formula, source, needs and worked examples, then
/// which library's number is which of ours.
pub fn metrics_page() -> String {
    let mut page = HEAD.to_owned();
    page += "\n## Worked examples\n\n";
    for example in EXAMPLES {
        page += &format!("- **{}**: {}.\n", example.name, example.meaning);
    }
    page += "\n";
    page += CONVERTER;
    let mut family = "";
    for metric in METRICS {
        let (name, _) = metric.id.split_once('/').unwrap_or((metric.id, ""));
        if name != family {
            family = name;
            page += &format!("\n## {}\n", capitalised(family));
        }
        page += &entry(metric);
    }
    page
}

fn entry(metric: &Metric) -> String {
    let needs: Vec<_> = metric
        .needs
        .iter()
        .map(|need| Need::meaning(*need))
        .collect();
    let examples = metric.examples.iter();
    let values: Vec<_> = examples
        .map(|worked| format!("{} = {}", worked.example.name, value(worked.value)))
        .collect();
    format!(
        "\n### `{}`\n\n**{} {}** = `{}`\n\n- from: {}\n- needs: {}\n- examples: {}\n",
        metric.id,
        metric.label,
        metric.direction.arrow(),
        metric.formula,
        metric.source,
        needs.join("; "),
        values.join(", "),
    )
}

/// Up to six decimals.
fn value(number: f64) -> String {
    let text = format::fixed(number, 6);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn capitalised(word: &str) -> String {
    let word = match word {
        "bwt" => "backward transfer",
        "fwt" => "forward transfer",
        "memory" => "accuracy over memory",
        "learning" => "plasticity, stability, intransigence",
        "worst-case" => "worst case",
        other => other,
    };
    let mut letters = word.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}
