//! Ledgers: what a crash, a merge and an edit do to them.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_eval::{Accompanying, Ledger, RunRecord, Timings};
use proptest::prelude::*;
use serde_json::json;

mod common;

fn record(method: &str, seed: u64, kept: usize) -> RunRecord {
    with(
        common::split(method, seed, kept).0,
        json!({ "er": { "buffer": 200, "rate": 0.1 } }),
    )
}

fn with(record: RunRecord, settings: serde_json::Value) -> RunRecord {
    let mut record = record.with_settings(settings);
    record.provenance = record.provenance.identified(&record.run, &record.settings);
    record
}

fn line(record: &RunRecord) -> String {
    Ledger::line(record).unwrap()
}

fn read(text: &str) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.read("a.jsonl", text.as_bytes());
    ledger
}

#[track_caller]
fn problems(text: &str) -> Vec<String> {
    read(text)
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn runs_come_back() {
    let (a, b) = (record("er", 1, 30), record("er", 2, 20));
    let mut ledger = read(&(line(&a) + &line(&b)));
    ledger.check().unwrap();
    assert_eq!(ledger.len(), 2);
    assert_eq!(ledger.get(&a.provenance.run_id).unwrap(), Some(&a));
    assert_eq!(ledger.get("other").unwrap(), None);
    assert_eq!(read(&ledger.to_text()), ledger);
    let c = record("er", 3, 20);
    ledger.add(c.clone()).unwrap();
    assert_eq!(ledger, read(&(line(&c) + &line(&b) + &line(&a))));
}

#[test]
fn a_record_whose_id_does_not_follow_is_not_written() {
    let (record, _) = common::split("er", 1, 30);
    let message = Ledger::line(&record).unwrap_err().to_string();
    assert!(
        message.contains("provenance.config_hash: found c0"),
        "{message}"
    );
}

#[test]
fn everything_that_decides_a_run_is_in_its_id() {
    let base = record("er", 1, 30);
    let mut ids = vec![base.provenance.run_id.clone()];
    let mut change = |change: &dyn Fn(&mut RunRecord)| {
        let mut changed = base.clone();
        change(&mut changed);
        let settings = changed.settings.clone();
        ids.push(with(changed, settings).provenance.run_id);
    };
    change(&|r| r.run.seed = 2);
    change(&|r| r.run.device = "wgpu".into());
    change(&|r| r.run.method = "slca".into());
    change(&|r| r.settings["er"]["buffer"] = 201.into());
    change(&|r| r.provenance.code = "other".into());
    change(&|r| r.provenance.manifest_hash = "other".into());
    change(&|r| r.provenance.dataset_hash = "other".into());
    change(&|r| r.provenance.weights_hash = Some("other".into()));
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), count), (9, 9));
    // What came out does not decide it.
    assert_eq!(record("er", 1, 20).provenance, base.provenance);
}

#[test]
fn the_order_of_settings_is_no_setting() {
    let (a, b) = (
        json!({ "a": 1, "b": { "c": 2, "d": 3 } }),
        json!({ "b": { "d": 3, "c": 2 }, "a": 1 }),
    );
    let one = with(record("er", 1, 30), a);
    assert_eq!(line(&one), line(&with(one.clone(), b)));
}

#[test]
fn an_incomplete_line_at_the_end_is_passed_over() {
    let (a, b) = (line(&record("er", 1, 30)), line(&record("er", 2, 30)));
    for cut in 1..b.len() - 1 {
        let ledger = read(&format!("{a}{}", &b[..cut]));
        ledger.check().unwrap();
        assert_eq!((ledger.len(), ledger.notes().len()), (1, 1), "cut at {cut}");
    }
    // Only the newline is missing.
    assert_eq!(read(&format!("{a}{}", b.trim_end())).len(), 2);
    assert_eq!(read(&format!("{a}{}\0\0\0", &b[..40])).len(), 1);
}

#[test]
fn a_record_glued_to_an_incomplete_line_is_found() {
    let (a, b) = (line(&record("er", 1, 30)), line(&record("er", 2, 30)));
    for cut in 1..b.len() - 1 {
        let ledger = read(&format!("{}{}{a}", &b[..cut], &b[..cut]));
        ledger.check().unwrap();
        assert_eq!(ledger.len(), 1, "cut at {cut}");
        assert!(ledger.notes()[0].starts_with("a.jsonl, line 1: "));
    }
    assert_eq!(read(&format!("{}{a}", b.trim_end())).len(), 2);
}

#[test]
fn a_setting_that_looks_like_a_line_is_none() {
    let odd = with(
        record("er", 1, 30),
        json!({ "x": { "check": "00\",\"record\":{}" } }),
    );
    let text = line(&odd);
    assert!(text[1..].contains("{\"check\":\""), "{text}");
    let ledger = read(&text);
    ledger.check().unwrap();
    assert_eq!((ledger.len(), ledger.notes().len()), (1, 0));
}

/// A changed record under a check that was made for it, as somebody would who means to deceive.
fn resealed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "`{from}` is not in {text}");
    let changed = text.replacen(from, to, 1);
    let record = changed.split_once("\"record\":").unwrap().1;
    let record = record.trim_end().strip_suffix('}').unwrap();
    let check = blake3::hash(record.as_bytes()).to_hex();
    format!("{{\"check\":\"{check}\",\"record\":{record}}}\n")
}

#[test]
fn what_was_edited_is_named() {
    let text = line(&record("er", 1, 30));
    let metric = "\"bwt/final-row\":-0.25";
    let found = problems(&text.replacen(metric, "\"bwt/final-row\":0.25", 1));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("a.jsonl, line 1: check: found "),
        "{found:?}"
    );
    assert!(found[1].contains("metrics.bwt/final-row: found 0.25, expected -0.25"));

    let edited = |from: &str, to: &str| problems(&resealed(&text, from, to)).join("\n");
    // Metrics that do not follow from the history: an edit, or a formula that has changed since.
    for (from, to, what) in [
        (metric, "\"bwt/final-row\":0.25", "metrics.bwt/final-row"),
        ("\"correct\":30", "\"correct\":31", "metrics."),
    ] {
        let ledger = read(&resealed(&text, from, to));
        ledger.check().unwrap();
        let (own, others) = ledger.other_formulas("0.1.0");
        assert!(
            others == 0 && own.len() == 1 && own[0].to_string().contains(what),
            "{own:?}"
        );
        let (own, others) = ledger.other_formulas("0.2.0");
        assert!(own.is_empty() && others == 1);
    }
    assert!(edited("\"correct\":30", "\"correct\":41").contains("correct: found 41"));
    assert!(edited("\"buffer\":200", "\"buffer\":300").contains("provenance.config_hash"));
    assert!(edited("\"seed\":1", "\"seed\":2").contains("provenance.config_hash"));
    assert!(edited("\"code\":\"0.1.0\"", "\"code\":\"0.1.1\"").contains("provenance.run_id"));
    assert!(edited("\"manifest_hash\":\"aa\"", "\"manifest_hash\":\"ab\"").contains("run_id"));
    assert!(problems("{\"some\":\"json\"}\n")[0].contains("found other JSON"));
    assert!(problems("rubbish\n")[0].contains("a.jsonl, line 1: the line: found "));
    // An edited line does not pass for one that a crash cut, even without its newline.
    let open = resealed(&text, "\"seed\":1", "\"seed\":2");
    assert_eq!(problems(open.trim_end()).len(), 1);
}

#[test]
fn the_same_run_with_two_results_is_a_conflict() {
    let (a, b) = (record("er", 1, 30), record("er", 1, 20));
    let ledger = read(&(line(&a) + &line(&b)));
    assert_eq!((ledger.len(), ledger.records().count()), (1, 2));
    let message = ledger.check().unwrap_err().to_string();
    for part in [
        &a.provenance.run_id,
        "a.jsonl, line 1",
        "a.jsonl, line 2",
        "correct 20 → 30",
    ] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(ledger.get(&a.provenance.run_id).is_err());
}

#[test]
fn a_diff_names_what_changed() {
    let (a, b, c) = (
        record("er", 1, 30),
        record("er", 2, 30),
        record("er", 3, 30),
    );
    let mut larger = a.clone();
    larger.settings["er"]["buffer"] = 300.into();
    let settings = larger.settings.clone();
    let larger = with(larger, settings);
    let left = read(&(line(&a) + &line(&b)));
    let right = read(&(line(&larger) + &line(&b) + &line(&c)));
    let diff = left.diff(&right);
    assert_eq!(
        (diff.equal, diff.only_left.len(), diff.only_right),
        (1, 0, vec![&c])
    );
    assert_eq!(diff.changed, [(&a, &larger)]);
    let changes: Vec<String> = a.changes(&larger).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["er.buffer 200 → 300"]);
    assert!(left.diff(&left).is_empty() && !left.diff(&right).is_empty());

    let other = read(&(line(&record("er", 1, 20)) + &line(&b)));
    assert_eq!(left.diff(&other).different.len(), 1);
}

#[test]
fn runs_that_one_report_cannot_hold_are_versions() {
    let smaller = json!({ "er": { "buffer": 100, "rate": 0.1 } });
    let mut records = vec![
        record("er", 1, 30),
        record("er", 2, 30),
        with(record("er", 1, 20), smaller),
    ];
    for change in [
        (|r| r.provenance.dataset_hash = "d2".into()) as fn(&mut RunRecord),
        |r| r.provenance.code = "0.2.0".into(),
    ] {
        let mut other = record("er", 1, 10);
        change(&mut other);
        let settings = other.settings.clone();
        records.push(with(other, settings));
    }
    let ledger = read(&records.iter().map(line).collect::<String>());
    let versions = ledger.versions();
    let found: Vec<_> = (versions.iter())
        .map(|v| (v.code, v.records.len(), v.changes.len()))
        .collect();
    assert_eq!(found, [("0.1.0", 3, 0), ("0.1.0", 1, 1), ("0.2.0", 1, 0)]);
    let change = &versions[1].changes[0];
    assert_eq!(change.path, "data set");
    for version in versions {
        let runs = version.records.iter();
        let runs = runs.map(|r| ((*r).clone(), Accompanying::default()));
        everburn_eval::Report::new(runs.collect()).unwrap();
    }
}

#[test]
fn times_are_kept_beside_and_the_latest_counts() {
    let timing = |seconds: f64, when: &str| Accompanying {
        wall_seconds: Some(seconds),
        when: Some(when.to_owned()),
        ..Accompanying::default()
    };
    let old = Timings::line("a", &timing(1.0, "unix 1700000000")).unwrap();
    let new = Timings::line("a", &timing(2.0, "unix 1800000000")).unwrap();
    for text in [
        format!("{old}{new}"),
        format!("{new}{old}"),
        format!("{}{new}{old}", &old[..30]),
    ] {
        let mut timings = Timings::default();
        timings.read("timing.jsonl", text.as_bytes());
        assert_eq!(timings.get("a").unwrap().wall_seconds, Some(2.0));
        assert!(timings.notes().is_empty());
    }
    let mut timings = Timings::default();
    timings.read("timing.jsonl", b"rubbish\n");
    assert!(timings.notes()[0].starts_with("timing.jsonl, line 1: "));
}

proptest! {
    #[test]
    fn concatenation_in_any_order_and_with_repeats_gives_the_same_ledger(
        order in prop::collection::vec(0_usize..6, 0..20),
        cuts in prop::collection::vec(prop::option::of(1_usize..4000), 20),
        shuffled in Just((0_usize..6).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let lines: Vec<String> = (0..6).map(|seed| line(&record("er", seed, 30))).collect();
        let whole = read(&lines.concat());
        // Files with repeats, whose last lines may be torn, and then one with all.
        let mut text = String::new();
        for (index, cut) in order.iter().zip(&cuts) {
            let line = &lines[*index];
            text += &line[..cut.unwrap_or(line.len()).min(line.len())];
        }
        for index in shuffled {
            text += &lines[index];
        }
        let ledger = read(&text);
        ledger.check().unwrap();
        prop_assert_eq!(&ledger, &whole);
        prop_assert_eq!(ledger.to_text(), whole.to_text());
        let mut merged = read(&text[..text.len() / 2]);
        merged.merge(whole.clone());
        prop_assert_eq!(merged.to_text(), whole.to_text());
    }
}

/// In whatever order their ids stand, runs are compared with those that differ least.
#[test]
fn a_diff_pairs_the_nearest() {
    let of = |code: &str, buffer: u32| {
        let mut record = record("er", 1, 30);
        record.provenance.code = code.to_owned();
        with(record, json!({ "er": { "buffer": buffer, "rate": 0.1 } }))
    };
    for others in [100..140, 300..340] {
        for other in others {
            let left = read(&line(&of("old", 200)));
            let right = read(&(line(&of("new", 200)) + &line(&of("new", other))));
            let diff = left.diff(&right);
            let changed: Vec<String> = (diff.changed.iter())
                .flat_map(|(a, b)| a.changes(b))
                .map(|change| change.to_string())
                .collect();
            assert_eq!(changed, ["code old → new"], "{other}");
            assert_eq!(diff.only_right.len(), 1);
        }
    }
}
