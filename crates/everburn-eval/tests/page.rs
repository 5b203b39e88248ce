//! The page of metrics in the documentation says what the registry says.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use everburn_eval::{METRICS, metric, metrics_page};

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("EVERBURN_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, metrics_page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let advice = "write it anew: EVERBURN_BLESS=1 cargo test -p everburn-eval --test page";
    assert!(
        found == metrics_page(),
        "docs/metrics.md is not what the registry says; {advice}"
    );
}

#[test]
fn the_converter_names_metrics_that_exist() {
    let page = metrics_page();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let ids = rows.iter().filter_map(|row| row.split('|').nth(3));
    let ids: Vec<_> = ids
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(ids.len() > 30, "only {}", ids.len());
    for id in ids {
        assert_eq!(metric(id).unwrap().id, id);
    }
    assert!(METRICS.iter().all(|metric| page.contains(metric.formula)));
}
