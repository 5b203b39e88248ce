//! Reports as people and programs read them.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::TaskId;
use everburn_eval::{Accompanying, Prequential, Report, RunRecord, StreamKind};
use serde_json::json;

mod common;

fn runs() -> Vec<(RunRecord, Accompanying)> {
    vec![
        common::online("er", 2, 5, false),
        common::online("er", 1, 4, false),
        common::online("joint", 1, 9, true),
        common::online("joint", 2, 8, true),
        common::split("slca", 1, 30),
        common::split("slca", 2, 32),
        common::split("slca", 3, 31),
        common::split("simplecil", 1, 20),
    ]
}

#[test]
fn terminal() {
    let report = Report::new(runs()).unwrap();
    let text = report.terminal(100);
    assert!(text.lines().all(|line| line.chars().count() <= 100));
    insta::assert_snapshot!(text, @r#"
    cifar100 / si-blurry
    backbone vit-tiny · tuning adapter · device cpu · seeds 1, 2 · cpu preset: sized for two cores
    method  A_auc[P=1000]         A_avg        A_last        F_last   time     held   peak RSS
    ───────────────────────────────────────────────────────────────────────────────────────────
    er       14.06 ±19.85  22.50 ±31.77  22.50 ±31.77  11.25 ±15.88  2.2 s  5.5 MiB  300.0 MiB
    joint               –             –  42.50 ±31.77             –  4.2 s  5.5 MiB  300.0 MiB

    paired differences         A_last
    ──────────────────────────────────────────────
    joint − er          +20.00 ±63.53  (n=2) n.s.

    cifar100 / split-2
    backbone vit-tiny · tuning adapter · device cpu · cpu preset: sized for two cores
    method     seeds           A_last        A-bar    F (Chaudhry)     BWT    time      held   peak RSS
    ────────────────────────────────────────────────────────────────────────────────────────────────────
    simplecil  1                50.00  75.00 (n=1)     50.00 (n=1)  -50.00  2m 00s  87.5 MiB  300.0 MiB
                         [38.8, 61.3]                                (n=1)
                                (n=1)
    slca       1–3        77.50 ±6.21  88.75 ±3.11     22.50 ±6.21  -22.50  2m 11s  87.5 MiB  300.0 MiB
                                                                     ±6.21

    A_auc[P=1000] ↑: mean accuracy over exposed classes of the periodic evaluations
    A_avg ↑: mean accuracy over exposed classes of the T ends of tasks
    A_last ↑: correct / test images of all exposed classes, after the last task
    F_last ↓: mean over classes c with max_{t<T} a[t][c] > 0 of max_{t<T} a[t][c] - a[T][c]
    time ↓: wall clock of the run, mean over seeds
    held ↓: most bytes held by the learner at any time (parameters, exemplars, statistics, optimiser),
      accounted, mean over seeds
    peak RSS ↓: largest resident set of the process, mean over seeds
    A-bar ↑: (1/T) Σ_i (Σ_{j≤i} n_j R[i][j] / Σ_{j≤i} n_j)
    F (Chaudhry) ↓: (1/(T-1)) Σ_{j<T} (max_{j≤l<T} R[l][j] - R[T][j])
    BWT ↑: (1/(T-1)) Σ_{j<T} (R[T][j] - R[j][j])
    R[i][j]: accuracy on task j after task i of T
    n_j: test images of task j
    a[t][c]: accuracy on class c after task t of T
    […]: 95 % interval of the accuracy of this one trained learner over other test images of the same
      classes (bootstrap); it says nothing of other seeds
    ±: half the width of the 95 % t-interval of the mean over seeds
    (n=…): so many seeds have a value; one seed gives no interval over seeds
    –: not defined or not measured
    no unit: percent; percentage points where the metric is a difference
    paired differences: mean of a − b over the seeds in which both learned the same stream, and half the
      width of its 95 % t-interval. Each interval stands for itself: of 20 comparisons of equal methods
      one stands out by chance. Seeds differ in the order of the stream and in initial weights, not in
      data set or test images
    n.s.: the interval holds 0: these seeds do not tell the two apart
    "#);
}

#[test]
fn narrow_terminals_break_cells() {
    let report = Report::new(runs()).unwrap();
    let text = report.terminal(80);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    // Whatever the width, there is no panic.
    for width in [0, 1, 10, u16::MAX] {
        assert!(report.terminal(width).contains("percent"));
    }
}

#[test]
fn markdown() {
    let report = Report::new(runs()).unwrap();
    insta::assert_snapshot!(report.markdown(), @r#"
    ### cifar100 / si-blurry

    backbone vit-tiny · tuning adapter · device cpu · seeds 1, 2 · cpu preset: sized for two cores

    | method | A_auc\[P=1000\] | A_avg | A_last | F_last | time | held | peak RSS |
    |:--|--:|--:|--:|--:|--:|--:|--:|
    | er | 14.06 ±19.85 | 22.50 ±31.77 | 22.50 ±31.77 | 11.25 ±15.88 | 2.2 s | 5.5 MiB | 300.0 MiB |
    | joint | – | – | 42.50 ±31.77 | – | 4.2 s | 5.5 MiB | 300.0 MiB |

    | paired differences | A_last |  |
    |:--|--:|:--|
    | joint − er | +20.00 ±63.53 | (n=2) n.s. |

    ### cifar100 / split-2

    backbone vit-tiny · tuning adapter · device cpu · cpu preset: sized for two cores

    | method | seeds | A_last | A-bar | F (Chaudhry) | BWT | time | held | peak RSS |
    |:--|:--|--:|--:|--:|--:|--:|--:|--:|
    | simplecil | 1 | 50.00 \[38.8, 61.3\] (n=1) | 75.00 (n=1) | 50.00 (n=1) | -50.00 (n=1) | 2m 00s | 87.5 MiB | 300.0 MiB |
    | slca | 1–3 | 77.50 ±6.21 | 88.75 ±3.11 | 22.50 ±6.21 | -22.50 ±6.21 | 2m 11s | 87.5 MiB | 300.0 MiB |

    - **A_auc\[P=1000\] ↑**: `mean accuracy over exposed classes of the periodic evaluations`
    - **A_avg ↑**: `mean accuracy over exposed classes of the T ends of tasks`
    - **A_last ↑**: `correct / test images of all exposed classes, after the last task`
    - **F_last ↓**: `mean over classes c with max_{t<T} a[t][c] > 0 of max_{t<T} a[t][c] - a[T][c]`
    - **time ↓**: wall clock of the run, mean over seeds
    - **held ↓**: most bytes held by the learner at any time (parameters, exemplars, statistics, optimiser), accounted, mean over seeds
    - **peak RSS ↓**: largest resident set of the process, mean over seeds
    - **A-bar ↑**: `(1/T) Σ_i (Σ_{j≤i} n_j R[i][j] / Σ_{j≤i} n_j)`
    - **F (Chaudhry) ↓**: `(1/(T-1)) Σ_{j<T} (max_{j≤l<T} R[l][j] - R[T][j])`
    - **BWT ↑**: `(1/(T-1)) Σ_{j<T} (R[T][j] - R[j][j])`
    - **R\[i\]\[j\]**: accuracy on task j after task i of T
    - **n_j**: test images of task j
    - **a\[t\]\[c\]**: accuracy on class c after task t of T
    - **\[…\]**: 95 % interval of the accuracy of this one trained learner over other test images of the same classes (bootstrap); it says nothing of other seeds
    - **±**: half the width of the 95 % t-interval of the mean over seeds
    - **(n=…)**: so many seeds have a value; one seed gives no interval over seeds
    - **–**: not defined or not measured
    - **no unit**: percent; percentage points where the metric is a difference
    - **paired differences**: mean of a − b over the seeds in which both learned the same stream, and half the width of its 95 % t-interval. Each interval stands for itself: of 20 comparisons of equal methods one stands out by chance. Seeds differ in the order of the stream and in initial weights, not in data set or test images
    - **n.s.**: the interval holds 0: these seeds do not tell the two apart
    "#);
}

#[test]
fn csv_of_runs() {
    let mut report = Report::new(vec![common::online("joint", 1, 9, true)]).unwrap();
    insta::assert_snapshot!(report.csv_runs().unwrap(), @r#"
    dataset,stream,method,settings,backbone,tuning,preset,device,seed,run_id,metric,label,unit,value
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,accuracy/last/class-mean,A_last (class mean),fraction,0.45
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,accuracy/last/sample-weighted,A_last,fraction,0.45
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,time/wall,time,s,4.5
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,time/images-per-second,images/s,images/s,60
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/held-peak,held,bytes,5767168
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/held-final,held at end,bytes,5242880
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/peak-rss,peak RSS,bytes,314572800
    "#);
    report = Report::new(runs()).unwrap();
    let text = report.csv_runs().unwrap();
    let mut lines = text.lines();
    let columns = lines.next().unwrap().split(',').count();
    assert!(lines.all(|line| line.split(',').count() == columns));
    assert_eq!(
        text.matches(",slca,").count(),
        text.matches(",simplecil,").count() * 3
    );
}

#[test]
fn csv_of_summaries() {
    let report = Report::new(runs()).unwrap();
    let text = report.csv_summary().unwrap();
    let wanted = |line: &&str| line.starts_with("dataset") || line.contains("accuracy/last/sample");
    let lines: Vec<_> = text.lines().filter(wanted).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    dataset,stream,method,settings,backbone,tuning,preset,device,metric,label,unit,n,mean,std,half_width_95
    cifar100,si-blurry,er,,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,2,0.225,0.03535533905932737,0.31765511840436716
    cifar100,si-blurry,joint,,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,2,0.42500000000000004,0.03535533905932737,0.31765511840436716
    cifar100,split-2,simplecil,,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,1,0.5,,
    cifar100,split-2,slca,,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,3,0.775,0.025000000000000022,0.06210344279375838
    "#);
}

#[test]
fn references_show_their_last_accuracy_alone() {
    let report = Report::new(runs()).unwrap();
    let table = &report.tables[0];
    assert_eq!(table.kind, StreamKind::Online);
    let row = table
        .rows
        .iter()
        .find(|row| row.key.method == "joint")
        .unwrap();
    for (column, cell) in table.columns.iter().zip(&row.cells) {
        let metric = !column.key.starts_with("time/") && !column.key.starts_with("memory/");
        let last = column.key == "accuracy/last/sample-weighted";
        assert_eq!(cell.is_some(), last || !metric, "{}", column.key);
    }
    let text = report.csv_runs().unwrap();
    let joint: Vec<_> = text
        .lines()
        .filter(|line| line.contains(",joint,"))
        .collect();
    assert!(joint.iter().any(|line| line.contains(",A_last,")));
    assert!(!joint.iter().any(|line| line.contains("anytime/")));
}

#[test]
fn columns_can_be_chosen() {
    let ids = ["forgetting/initial", "memory/held-final"];
    let report = Report::with_columns(runs(), &ids).unwrap();
    let keys: Vec<_> = report.tables[1]
        .columns
        .iter()
        .map(|c| c.key.as_str())
        .collect();
    assert_eq!(keys, ids);
    let error = Report::with_columns(runs(), &["forgetting/inital"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("did you mean `forgetting/initial`?"),
        "{error}"
    );
}

#[test]
fn numbers_of_different_periods_stand_apart() {
    let mut other = common::online("mvp", 1, 4, false).0;
    other.history.period = None;
    let other = RunRecord::new(other.run, other.provenance, other.history, None).unwrap();
    let mut runs = runs();
    runs.push((other, Accompanying::default()));
    let report = Report::new(runs).unwrap();
    let labels: Vec<_> = report.tables[0]
        .columns
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    assert_eq!(labels[..2], ["A_auc[2 evals]", "A_auc[P=1000]"]);
    assert!(report.terminal(100).contains("seeds"));
}

#[test]
fn the_order_of_runs_does_not_matter_and_copies_count_once() {
    let report = Report::new(runs()).unwrap();
    let mut mixed = runs();
    mixed.reverse();
    mixed.extend(runs());
    let other = Report::new(mixed).unwrap();
    assert_eq!(report, other);
    assert_eq!(report.json().unwrap(), other.json().unwrap());
}

#[test]
fn one_seed_cannot_have_two_results() {
    let mut runs = runs();
    let (mut record, accompanying) = common::split("slca", 1, 29);
    record.provenance.run_id = "other".into();
    runs.push((record, accompanying));
    let error = Report::new(runs).unwrap_err().to_string();
    assert!(error.contains("runs of slca on split-2"), "{error}");
    assert!(error.contains("seed 1"), "{error}");
}

#[test]
fn devices_and_presets_stand_apart() {
    let mut runs = runs();
    let (mut record, accompanying) = common::split("slca", 1, 29);
    record.run.device = "wgpu".into();
    record.run.preset = "paper|<b>".into();
    runs.push((record, accompanying));
    let report = Report::new(runs).unwrap();
    assert_eq!(report.tables[1].rows.len(), 3);
    let text = report.terminal(120);
    assert!(text.contains("cpu preset: sized for two cores"));
    assert!(text.contains("paper|<b>"));
    assert!(report.markdown().contains(r"paper\|\<b>"));
}

#[test]
fn no_runs_no_tables() {
    let report = Report::new(vec![]).unwrap();
    assert_eq!(
        (report.terminal(100), report.markdown()),
        (String::new(), String::new())
    );
    assert_eq!(report.csv_runs().unwrap().lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert_eq!(json["tables"], serde_json::json!([]));
}

#[test]
fn json_holds_every_number() {
    let report = Report::new(runs()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    let row = &json["tables"][1]["rows"][1];
    assert_eq!(
        (&row["method"], &row["seeds"]),
        (&"slca".into(), &serde_json::json!([1, 2, 3]))
    );
    assert!((row["cells"][0]["mean"].as_f64().unwrap() - 0.775).abs() < 1e-12);
    assert_eq!(row["cells"][0]["n"], 3);
}

/// Runs whose settings differ: `(seed, settings)` in the manner of a method's own.
fn with_settings(
    method: &str,
    runs: &[(u64, serde_json::Value)],
) -> Vec<(RunRecord, Accompanying)> {
    let run = |(seed, settings): &(u64, serde_json::Value)| {
        let kept = 20 + usize::try_from(*seed).unwrap();
        let (mut record, accompanying) = common::split(method, *seed, kept);
        record.provenance.run_id += &settings.to_string();
        (record.with_settings(settings.clone()), accompanying)
    };
    runs.iter().map(run).collect()
}

fn methods(report: &Report) -> Vec<String> {
    let text = report.markdown();
    let rows = text.lines().take_while(|line| !line.contains("paired"));
    let cells = rows.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.skip(1).map(str::to_owned).collect()
}

#[test]
fn settings_that_differ_make_rows_and_name_them() {
    let settings = |buffer: u32, rate: f64| {
        let recipe = json!({ "rate": rate, "name": "sgd" });
        json!({ "buffer": buffer, "recipe": recipe, "weight": [1, 2] })
    };
    let mut runs = with_settings(
        "er",
        &[
            (1, settings(1000, 0.1)),
            (1, settings(200, 0.1)),
            (2, settings(200, 0.1)),
            (1, settings(200, 0.03)),
        ],
    );
    // Of one setting only, so it needs no name.
    runs.extend(with_settings("finetune", &[(1, json!({ "rate": 1 }))]));
    let report = Report::new(runs.clone()).unwrap();
    let expected = [
        "er (buffer=200, recipe.rate=0.1)",
        "er (buffer=1000, recipe.rate=0.1)",
        "er (buffer=200, recipe.rate=0.03)",
        "finetune",
    ];
    assert_eq!(methods(&report), expected);
    assert_eq!(report.tables[0].rows[0].seeds, [1, 2]);
    let csv = report.csv_runs().unwrap();
    assert!(csv.contains(",er,\"buffer=200, recipe.rate=0.03\",vit-tiny,"));
    // A setting in which all rows agree is not named, and one that is missing is a dash.
    let runs = [(1, json!({ "a": 1, "b": 2 })), (1, json!({ "b": 2 }))];
    let report = Report::new(with_settings("er", &runs)).unwrap();
    assert_eq!(methods(&report), ["er (a=1)", "er (a=–)"]);
}

/// Presets differ in many settings and have a column of their own.
#[test]
fn settings_of_rows_that_differ_otherwise_are_not_named() {
    let mut runs = with_settings(
        "er",
        &[(1, json!({ "epochs": 1 })), (2, json!({ "epochs": 9 }))],
    );
    runs[1].0.run.preset = "paper".into();
    let report = Report::new(runs).unwrap();
    assert_eq!(methods(&report), ["er", "er"]);
}

#[test]
fn runs_without_recorded_settings_stand_apart_from_those_with() {
    let runs = [(1, json!(null)), (1, json!({ "buffer": 200 }))];
    let report = Report::new(with_settings("er", &runs)).unwrap();
    assert_eq!(methods(&report), ["er", "er (settings not recorded)"]);
}

#[test]
fn equal_settings_with_two_results_are_refused() {
    let mut runs = with_settings("er", &[(1, json!({ "b": 2 })), (1, json!({ "b": 2 }))]);
    runs[1].0.provenance.code = "0.2.0".into();
    let error = Report::new(runs).unwrap_err().to_string();
    assert!(
        error.contains("found different results with seed 1 and the same settings"),
        "{error}"
    );
}

#[test]
fn joint_runs_give_intransigence_where_everything_else_is_equal() {
    let key = "learning/intransigence";
    let joint = || {
        let (mut record, accompanying) = common::split("joint", 1, 36);
        record.run.offline = true;
        (record, accompanying)
    };
    // R[1][1] = 1 for both, R[2][2] = 0.75 and 0.9.
    let value = |reference: Vec<(RunRecord, Accompanying)>| {
        let mut runs = vec![common::split("slca", 1, 30)];
        runs.extend(reference);
        let report = Report::with_columns(runs, &[key]).unwrap();
        let row = report.tables[0]
            .rows
            .iter()
            .find(|row| row.key.method == "slca");
        assert_eq!(
            report.csv_runs().unwrap().matches(key).count(),
            usize::from(row.unwrap().cells[0].is_some())
        );
        row.unwrap().cells[0].map(|summary| summary.mean)
    };
    assert!((value(vec![joint()]).unwrap() - 0.075).abs() < 1e-12);
    assert_eq!(value(vec![]), None);
    let changes: [fn(&mut RunRecord); 6] = [
        |record| record.run.seed = 2,
        |record| record.provenance.manifest_hash = "bb".into(),
        |record| record.run.backbone = "resnet-18".into(),
        |record| record.run.offline = false,
        |record| record.run.preset = "paper".into(),
        |record| record.history.evaluations.truncate(1),
    ];
    for change in changes {
        let mut other = joint();
        change(&mut other.0);
        assert_eq!(value(vec![other]), None);
    }
    // Two references: nobody said which.
    let mut other = joint();
    other.0.settings = json!({ "epochs": 2 });
    other.0.provenance.run_id = "another".into();
    assert_eq!(value(vec![joint(), other]), None);
    // A variant stands in where there is no plain one, and alone.
    let variant = |label: &str| {
        let mut other = joint();
        other.0.run.method = format!("joint/{label}");
        other.0.provenance.run_id = label.into();
        other
    };
    let found = value(vec![variant("long")]).unwrap();
    assert!((found - 0.075).abs() < 1e-12);
    assert_eq!(value(vec![variant("long"), variant("short")]), None);
    let mut worse = variant("long");
    worse.0.history.evaluations.truncate(1);
    assert!(value(vec![joint(), worse.clone()]).is_some());
    let mut plain = joint();
    plain.0.history.evaluations.truncate(1);
    assert_eq!(value(vec![plain, variant("long")]), None);
}

#[test]
fn a_reference_that_learned_once_shows_its_last_accuracy_alone() {
    let (mut joint, accompanying) = common::split("joint", 1, 36);
    joint.run.offline = true;
    joint.history.evaluations.remove(0);
    let keys = [
        "accuracy/last/sample-weighted",
        "accuracy/incremental/sample-weighted",
        "bwt/final-row",
        "learning/intransigence",
    ];
    let runs = vec![(joint, accompanying), common::split("slca", 1, 30)];
    let report = Report::with_columns(runs, &keys).unwrap();
    let cells = |row: usize| -> Vec<bool> {
        let cells = report.tables[0].rows[row].cells.iter();
        cells.map(Option::is_some).collect()
    };
    assert_eq!(report.tables[0].rows[1].key.method, "joint");
    assert_eq!(cells(0), [true, true, true, false]);
    assert_eq!(cells(1), [true, false, false, false]);
}

#[test]
fn variants_stand_beside_their_method_and_are_compared_as_rows() {
    let run = |method: &str, seed: u64, right: usize| {
        let (mut record, accompanying) = common::split(method, seed, right);
        record.provenance.run_id = format!("{method} {seed}");
        record.settings = json!({ "right": right });
        (record, accompanying)
    };
    let of = |method, right| [1, 2].map(|seed| run(method, seed, right));
    let runs = [of("er-ace", 30), of("er/small", 31), of("er", 32)].concat();
    let report = Report::new(runs).unwrap();
    let table = &report.tables[0];
    let names: Vec<&str> = table
        .rows
        .iter()
        .map(|row| row.key.method.as_str())
        .collect();
    assert_eq!(names, ["er", "er/small", "er-ace"]);
    // Told apart by their name: no list of settings beside it.
    assert!(table.rows.iter().all(|row| row.key.settings.is_empty()));
    let text = report.terminal(100);
    assert!(text.contains("er − er/small"), "{text}");
    assert!(report.csv_runs().unwrap().contains("er/small"));
}

/// Online streams show answers before learning where somebody asked for them, and no dashes where
/// nobody did.
#[test]
fn prequential_accuracy_has_a_column_only_where_measured() {
    let columns = |runs| {
        let report = Report::new(runs).unwrap();
        let labels = report.tables[0].columns.iter().map(|c| c.label.clone());
        labels.take(4).collect::<Vec<_>>()
    };
    let plain = common::online("er", 1, 4, false);
    let expected = ["A_auc[P=1000]", "A_avg", "A_last", "F_last"];
    assert_eq!(columns(vec![plain.clone()]), expected);
    let mut history = plain.0.history.clone();
    let mut prequential = Prequential::new(2);
    prequential.record(TaskId(1), 1, 2).unwrap();
    history.prequential = Some(prequential);
    let (run, provenance) = (plain.0.run, plain.0.provenance);
    let asked = RunRecord::new(run, provenance, history, None).unwrap();
    let expected = ["A_auc[P=1000]", "A_avg", "prequential", "A_last"];
    assert_eq!(columns(vec![(asked, plain.1)]), expected);
}

#[test]
fn many_rows_are_compared_with_the_best_that_is_no_reference() {
    let mut runs = Vec::new();
    for seed in 1..=3 {
        let vary = usize::try_from(seed).unwrap();
        // Streams of the same seed are the same, others differ.
        let mut add = |method: &str, kept: usize, offline: bool| {
            let (mut record, accompanying) = common::split(method, seed, kept);
            record.run.offline = offline;
            record.provenance.manifest_hash = format!("stream {seed}");
            runs.push((record, accompanying));
        };
        add("joint", 36 + vary, true);
        add("er", 30 + vary, false);
        add("mir", 30 + vary * vary % 3, false);
        add("derpp", 28 + vary, false);
        add("agem", 10 + vary, false);
        add("finetune", 5 + vary, false);
    }
    let few = Report::new(runs.clone()).unwrap();
    let pairs = |report: &Report| report.tables[0].differences[0].pairs.len();
    assert_eq!((few.tables[0].differences.len(), pairs(&few)), (1, 15));
    let (mut record, accompanying) = common::split("lwf", 1, 20);
    record.provenance.manifest_hash = "another".into();
    runs.push((record, accompanying));
    let many = Report::new(runs).unwrap();
    assert_eq!(pairs(&many), 6);
    let text = many.terminal(100);
    let lines = text.lines().skip_while(|line| !line.starts_with("paired"));
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    paired differences       A_last
    ──────────────────────────────────────────────────────────────────────────────
    er − joint               -15.00  (n=3) the same in every seed
    er − mir            +3.33 ±9.49  (n=3) n.s.
    er − derpp                +5.00  (n=3) the same in every seed
    er − lwf                      –  no stream in common; 1 seed on other streams
    er − agem                +50.00  (n=3) the same in every seed
    er − finetune            +62.50  (n=3) the same in every seed
    "#);
    insta::assert_snapshot!(many.csv_paired().unwrap(), @r#"
    dataset,stream,metric,label,a,b,n,mean,std,half_width_95,verdict,other_streams
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,joint,3,-0.15,0,,constant,0
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,mir,3,0.033333333333333326,0.038188130791298645,0.09486457583991906,not-significant,0
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,derpp,3,0.05000000000000001,0,,constant,0
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,lwf,0,,,,no-pairs,1
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,agem,3,0.5,0,,constant,0
    cifar100,split-2,accuracy/last/sample-weighted,A_last,er,finetune,3,0.625,0,,constant,0
    "#);
    let json: serde_json::Value = serde_json::from_str(&many.json().unwrap()).unwrap();
    let pair = &json["tables"][0]["differences"][0]["pairs"][0];
    assert_eq!((&pair["a"], &pair["b"]), (&"er".into(), &"joint".into()));
    assert_eq!(
        (&pair["verdict"], &pair["differences"]["n"]),
        (&"constant".into(), &3.into())
    );
}

#[test]
fn rows_of_one_seed_get_no_differences_but_an_interval_over_images() {
    let report = Report::new(vec![
        common::split("slca", 1, 30),
        common::split("simplecil", 1, 20),
    ]);
    let report = report.unwrap();
    let text = report.terminal(120).replace('\u{a0}', " ");
    assert!(!text.contains("paired differences"), "{text}");
    assert!(text.contains("75.00 [65.0, 83.8] (n=1)"), "{text}");
    // Programs get them all the same.
    assert!(
        report
            .csv_paired()
            .unwrap()
            .contains(",slca,simplecil,1,0.25,,,one-seed,0")
    );
    assert_eq!(
        report,
        Report::new(vec![
            common::split("simplecil", 1, 20),
            common::split("slca", 1, 30),
        ])
        .unwrap()
    );
}

#[test]
fn csv_of_classes() {
    let report = Report::new(vec![common::split("slca", 1, 30)]).unwrap();
    insta::assert_snapshot!(report.csv_classes().unwrap(), @r#"
    dataset,stream,method,settings,backbone,tuning,preset,device,seed,run_id,class,correct,total,accuracy
    cifar100,split-2,slca,,vit-tiny,adapter,cpu,cpu,1,slca-1,0,30,40,0.75
    cifar100,split-2,slca,,vit-tiny,adapter,cpu,cpu,1,slca-1,1,30,40,0.75
    "#);
}

/// Under one name and stream, but on other images: numbers of the two must not be averaged or paired.
#[test]
fn other_images_under_the_same_name_are_another_table() {
    let run = |method: &str, seed: u64, data: &str| {
        let (mut record, accompanying) = common::split(method, seed, 30);
        record.provenance.dataset_hash = data.repeat(8);
        (record, accompanying)
    };
    let runs = vec![run("er", 1, "ab"), run("er", 2, "cd"), run("mir", 2, "cd")];
    let report = Report::new(runs).unwrap();
    let rows: Vec<usize> = report.tables.iter().map(|table| table.rows.len()).collect();
    assert_eq!(rows, [1, 2]);
    let text = report.terminal(100);
    for name in ["(data abababab)", "(data cdcdcdcd)"] {
        assert!(text.contains(name), "{text}");
    }
    let alone = Report::new(vec![run("er", 1, "ab")]).unwrap();
    assert!(!alone.terminal(100).contains("(data"));
}
