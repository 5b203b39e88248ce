//! Reports as people and programs read them.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_eval::{Accompanying, Report, RunRecord, StreamKind};

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

    cifar100 / split-2
    backbone vit-tiny · tuning adapter · device cpu · cpu preset: sized for two cores
    method     seeds       A_last        A-bar  F (Chaudhry)           BWT    time      held   peak RSS
    ────────────────────────────────────────────────────────────────────────────────────────────────────
    simplecil  1      50.00 (n=1)  75.00 (n=1)   50.00 (n=1)  -50.00 (n=1)  2m 00s  87.5 MiB  300.0 MiB
    slca       1–3    77.50 ±6.21  88.75 ±3.11   22.50 ±6.21  -22.50 ±6.21  2m 11s  87.5 MiB  300.0 MiB

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
    ±: half the width of the 95 % t-interval of the mean over seeds
    (n=…): so many seeds have a value; one seed gives no interval
    –: not defined or not measured
    no unit: percent; percentage points where the metric is a difference
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

    ### cifar100 / split-2

    backbone vit-tiny · tuning adapter · device cpu · cpu preset: sized for two cores

    | method | seeds | A_last | A-bar | F (Chaudhry) | BWT | time | held | peak RSS |
    |:--|:--|--:|--:|--:|--:|--:|--:|--:|
    | simplecil | 1 | 50.00 (n=1) | 75.00 (n=1) | 50.00 (n=1) | -50.00 (n=1) | 2m 00s | 87.5 MiB | 300.0 MiB |
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
    - **±**: half the width of the 95 % t-interval of the mean over seeds
    - **(n=…)**: so many seeds have a value; one seed gives no interval
    - **–**: not defined or not measured
    - **no unit**: percent; percentage points where the metric is a difference
    "#);
}

#[test]
fn csv_of_runs() {
    let mut report = Report::new(vec![common::online("joint", 1, 9, true)]).unwrap();
    insta::assert_snapshot!(report.csv_runs().unwrap(), @r#"
    dataset,stream,method,backbone,tuning,preset,device,seed,run_id,metric,label,unit,value
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,accuracy/last/sample-weighted,A_last,fraction,0.45
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,time/wall,time,s,4.5
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,time/images-per-second,images/s,images/s,60
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/held-peak,held,bytes,5767168
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/held-final,held at end,bytes,5242880
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,1,joint-1,memory/peak-rss,peak RSS,bytes,314572800
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
    dataset,stream,method,backbone,tuning,preset,device,metric,label,unit,n,mean,std,half_width_95
    cifar100,si-blurry,er,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,2,0.225,0.03535533905932737,0.31765511840436716
    cifar100,si-blurry,joint,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,2,0.42500000000000004,0.03535533905932737,0.31765511840436716
    cifar100,split-2,simplecil,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,1,0.5,,
    cifar100,split-2,slca,vit-tiny,adapter,cpu,cpu,accuracy/last/sample-weighted,A_last,fraction,3,0.775,0.025000000000000022,0.06210344279375838
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
