//! Every value of `metrics.json` for which this crate has a formula.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use everburn_core::{ClassId, TaskId};
use everburn_eval::{
    AccuracyMatrix, ClassCount, Evaluation, History, Moment, Summary, metric, metrics,
};
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

fn golden() -> Value {
    let folder = std::env::var_os("EVERBURN_GOLDEN_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    );
    let text = std::fs::read_to_string(folder.join("metrics.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    list(value).iter().map(|v| v.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<u32> {
    let number = |v: &Value| u32::try_from(v.as_u64().unwrap()).unwrap();
    list(value).iter().map(number).collect()
}

fn cases(golden: &Value) -> &[Value] {
    let cases = list(&golden["cases"]);
    assert!(!cases.is_empty());
    cases
}

/// Compares with a golden number; null stands for undefined.
fn agrees(case: &Value, what: &str, found: Option<f64>, golden: &Value) {
    let (name, expected) = (&case["name"], golden.as_f64());
    assert!(
        !golden.is_null() || found.is_none(),
        "{name} {what}: {found:?} for null"
    );
    let Some(expected) = expected else { return };
    let found = found.unwrap_or_else(|| panic!("{name} {what}: nothing for {expected}"));
    assert!(
        (found - expected).abs() <= TOLERANCE,
        "{name} {what}: {found}, not {expected}"
    );
}

/// The history of a case: one class for each task, all of them tested after every task and before
/// the first.
fn history(case: &Value) -> History {
    let sizes = counts(&case["test_sizes"]);
    let classes = (0..).map(ClassId);
    let evaluation = |samples_seen: u64, task_end, correct: &Value| Evaluation {
        samples_seen,
        task_end,
        periodic: false,
        classes: (classes.clone().zip(counts(correct)).zip(&sizes))
            .map(|((class, correct), &total)| ClassCount {
                class,
                correct,
                total,
            })
            .collect(),
    };
    let mut evaluations = vec![evaluation(0, None, &case["baseline_correct"])];
    for (task, correct) in (0_u32..).zip(list(&case["correct"])) {
        let samples = 100 * u64::from(task + 1);
        evaluations.push(evaluation(samples, Some(TaskId(task)), correct));
    }
    History {
        task_classes: classes.clone().take(sizes.len()).map(|c| vec![c]).collect(),
        disjoint: true,
        evaluations,
        ..History::default()
    }
}

fn matrix(case: &Value) -> AccuracyMatrix {
    let matrix = history(case).matrix().unwrap();
    for (row, expected) in matrix.rows().zip(list(&case["R"])) {
        for (found, expected) in row.iter().zip(floats(expected)) {
            assert!((found.unwrap() - expected).abs() <= TOLERANCE);
        }
    }
    for (task, expected) in (0..).zip(floats(&case["baseline"])) {
        assert!((matrix.baseline(TaskId(task)).unwrap() - expected).abs() <= TOLERANCE);
    }
    matrix
}

type Formula = fn(&AccuracyMatrix) -> Option<f64>;

/// Formulas by the path of their value in a case. Where a library answers 0 for a single task, we
/// answer nothing; those are compared for two tasks and more.
const VALUES: &[(&str, &str, Formula)] = &[
    (
        "plain",
        "average_incremental_task_mean",
        metrics::incremental_accuracy_task_mean,
    ),
    (
        "plain",
        "average_incremental_sample_weighted",
        metrics::incremental_accuracy_sample_weighted,
    ),
    ("plain", "learning_accuracy", metrics::plasticity),
    ("plain", "stability", metrics::stability),
    ("mammoth", "backward_transfer", metrics::backward_transfer),
    ("mammoth", "forward_transfer", metrics::forward_transfer),
    ("mammoth", "forgetting", metrics::forgetting_max_all),
    (
        "mammoth",
        "forgetting_full_rows",
        metrics::forgetting_max_all,
    ),
    ("continuum", "accuracy_A", metrics::lower_triangle_accuracy),
    (
        "continuum",
        "backward_transfer",
        metrics::backward_transfer_all_pairs,
    ),
    (
        "continuum",
        "positive_backward_transfer",
        metrics::backward_transfer_positive,
    ),
    ("continuum", "remembering", metrics::remembering),
    (
        "continuum",
        "forward_transfer",
        metrics::forward_transfer_no_baseline,
    ),
    ("continuum", "forgetting", metrics::forgetting_max_before),
    (
        "continuum",
        "average_incremental_accuracy_seen",
        metrics::incremental_accuracy_sample_weighted,
    ),
    (
        "continuum",
        "accuracy_all_last",
        metrics::last_accuracy_sample_weighted,
    ),
    ("raptormai", "avg_end_acc", metrics::last_accuracy_task_mean),
    ("raptormai", "avg_end_fgt", metrics::forgetting_all_tasks),
    (
        "raptormai",
        "avg_acc",
        metrics::incremental_accuracy_task_mean,
    ),
    ("raptormai", "bwt_plus", metrics::backward_transfer_positive),
    ("raptormai", "fwt", metrics::forward_transfer_upper_triangle),
    (
        "raptormai",
        "single_run_avg_end_fgt",
        metrics::forgetting_row_max,
    ),
    ("coda", "value", metrics::forgetting_one_step),
];

/// Values that libraries give in percent.
const PERCENTS: &[(&str, &str, Formula)] = &[
    (
        "pilot_pycil",
        "forgetting_percent",
        metrics::forgetting_max_all,
    ),
    (
        "pilot_pycil",
        "forgetting_percent_pycil",
        metrics::forgetting_max_all,
    ),
    (
        "l2p_port",
        "average_accuracy",
        metrics::last_accuracy_task_mean,
    ),
    ("l2p_port", "forgetting", metrics::forgetting_max_all),
    ("l2p_port", "backward", metrics::backward_transfer),
];

const DEFINED_FOR_ONE_TASK: [&str; 6] = [
    "average_incremental_task_mean",
    "average_incremental_sample_weighted",
    "learning_accuracy",
    "accuracy_A",
    "average_incremental_accuracy_seen",
    "accuracy_all_last",
];

#[test]
fn values_of_the_libraries() {
    let golden = golden();
    let mut compared = 0;
    for case in cases(&golden) {
        let matrix = matrix(case);
        let scaled = (VALUES.iter().map(|v| (v, 1.0))).chain(PERCENTS.iter().map(|v| (v, 100.0)));
        for (&(library, key, formula), scale) in scaled {
            let found = formula(&matrix).map(|v| v * scale);
            let end = ["avg_end_acc", "avg_acc", "average_accuracy"].contains(&key);
            if matrix.tasks() < 2 && !end && !DEFINED_FOR_ONE_TASK.contains(&key) {
                assert_eq!(found, None, "{library} {key} of one task");
                continue;
            }
            let Some(expected) = case[library].get(key) else {
                continue;
            };
            agrees(case, &format!("{library} {key}"), found, expected);
            compared += 1;
        }
    }
    assert!(
        compared > cases(&golden).len() * 20,
        "only {compared} values"
    );
}

#[test]
fn values_after_every_task() {
    let golden = golden();
    for case in cases(&golden) {
        let matrix = matrix(case);
        let sizes: Vec<u64> = counts(&case["test_sizes"])
            .into_iter()
            .map(u64::from)
            .collect();
        let mut totals = Vec::new();
        for (stage, number) in (0..matrix.tasks()).zip(1..) {
            let until = matrix.until(number);
            let at = |block: &str, key: &str| case[block][key][stage].clone();
            let task_mean = metrics::last_accuracy_task_mean(&until);
            agrees(
                case,
                "task mean",
                task_mean,
                &at("plain", "task_mean_per_stage"),
            );
            let weighted = metrics::last_accuracy_sample_weighted(&until);
            agrees(
                case,
                "weighted",
                weighted,
                &at("plain", "sample_weighted_per_stage"),
            );
            agrees(
                case,
                "seen",
                weighted,
                &at("continuum", "accuracy_seen_per_stage"),
            );
            let images = sizes.iter().take(number).sum();
            let total = weighted.map(|a| rounded_percent(a, images));
            totals.extend(total);
            agrees(case, "total", total, &at("pilot_pycil", "total_per_stage"));
            let avalanche = &case["avalanche"]["after_each"][stage];
            if matrix.tasks() > 1 {
                // Avalanche tests the next task, too.
                let forward = metrics::forward_transfer(&matrix.until(number + 1));
                let expected = &avalanche["stream_forward_transfer"];
                agrees(case, "avalanche FWT", forward, expected);
            }
            if number == 1 {
                continue;
            }
            let initial = metrics::forgetting_initial(&until);
            agrees(
                case,
                "avalanche F",
                initial,
                &avalanche["stream_forgetting"],
            );
            let transfer = metrics::backward_transfer(&until);
            agrees(case, "avalanche BWT", transfer, &avalanche["stream_bwt"]);
            let before = metrics::forgetting_max_before(&until);
            agrees(
                case,
                "ovor",
                before,
                &case["ovor"]["forgetting_after_task"][stage - 1],
            );
            let forgetting = metrics::forgetting_libcontinual(&until);
            agrees(
                case,
                "lib F",
                forgetting,
                &at("libcontinual", "forgetting_after_task"),
            );
            let backward = metrics::backward_transfer_libcontinual(&until);
            agrees(
                case,
                "lib BWT",
                backward,
                &at("libcontinual", "bwt_after_task"),
            );
        }
        let average = metrics::mean_of_accuracies(&totals);
        agrees(
            case,
            "average",
            average,
            &case["pilot_pycil"]["average_accuracy"],
        );
    }
}

/// Avalanche also gives forgetting and forward transfer of single tasks ("experiences").
#[test]
fn values_of_single_tasks() {
    let golden = golden();
    let mut compared = 0;
    for case in cases(&golden) {
        let matrix = matrix(case);
        let at = |i, j| matrix.get(TaskId(i), TaskId(j));
        for after in list(&case["avalanche"]["after_each"]) {
            let now = u32::try_from(after["after_task"].as_u64().unwrap()).unwrap();
            let tasks = |key: &str| {
                let values = after[key].as_object().unwrap().clone();
                values
                    .into_iter()
                    .map(|(task, value)| (task.parse::<u32>().unwrap(), value))
            };
            for (task, expected) in tasks("experience_forgetting") {
                let found = at(task, task)
                    .zip(at(now, task))
                    .map(|(then, now)| then - now);
                agrees(case, "experience forgetting", found, &expected);
                compared += 1;
            }
            for (task, expected) in tasks("experience_forward_transfer") {
                let before = at(task - 1, task).zip(matrix.baseline(TaskId(task)));
                let found = before.map(|(before, untrained)| before - untrained);
                agrees(case, "experience forward transfer", found, &expected);
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "only {compared} values");
}

/// The percentage of so many images, rounded to two decimals as PyCIL and PILOT do it before they
/// average.
fn rounded_percent(fraction: f64, images: u64) -> f64 {
    let correct = (fraction * images as f64).round();
    (correct * 100.0 / images as f64 * 100.0).round_ties_even() / 100.0
}

#[test]
fn mean_and_interval_over_runs() {
    let golden = golden();
    let runs = &golden["multi_run"];
    let matrices: Vec<_> = (list(&runs["R_runs"]).iter())
        .map(|rows| {
            let rows: Vec<Vec<_>> = list(rows)
                .iter()
                .map(|row| floats(row).into_iter().map(Some).collect())
                .collect();
            let sizes = vec![1; rows.len()];
            AccuracyMatrix::new(rows, sizes).unwrap()
        })
        .collect();
    for &(library, key, formula) in VALUES
        .iter()
        .filter(|(library, ..)| *library == "raptormai")
    {
        let Some(expected) = runs.get(key) else {
            continue;
        };
        let values: Vec<_> = matrices.iter().filter_map(formula).collect();
        let summary = Summary::of(&values).unwrap();
        assert_eq!(summary.n, matrices.len());
        agrees(
            runs,
            &format!("{library} {key}"),
            Some(summary.mean),
            &expected[0],
        );
        agrees(
            runs,
            &format!("{library} {key} ±"),
            summary.half_width,
            &expected[1],
        );
    }
}

#[test]
fn accuracy_of_groups_of_classes() {
    let golden = golden();
    let case = &golden["grouped_accuracy"];
    let ids = |value: &Value| counts(value).into_iter().map(ClassId).collect::<Vec<_>>();
    let (labels, predicted) = (ids(&case["y_true"]), ids(&case["y_pred"]));
    let all = Evaluation::from_predictions(Moment::default(), &labels, &labels, &predicted);
    let all = all.unwrap();
    let old = u32::try_from(case["nb_old"].as_u64().unwrap()).unwrap();
    for library in ["pilot", "pycil"] {
        for (group, expected) in case[library].as_object().unwrap() {
            let (first, last) = match group.as_str() {
                "total" => (0, u32::MAX),
                "old" => (0, old),
                "new" => (old, u32::MAX),
                range => {
                    let (first, last) = range.split_once('-').unwrap();
                    (first.parse().unwrap(), last.parse::<u32>().unwrap() + 1)
                }
            };
            let inside = |class: &ClassId| (first..last).contains(&class.0);
            let classes: Vec<_> = labels.iter().copied().filter(inside).collect();
            let rounded = |accuracy| rounded_percent(accuracy, classes.len() as u64);
            let found = all.accuracy_over(&classes).map_or(0.0, rounded);
            agrees(case, &format!("{library} {group}"), Some(found), expected);
        }
    }
}

/// A Si-Blurry case: ends of tasks by class counts, periodic accuracies in thousand-millionths.
fn si_blurry(case: &Value) -> History {
    let mut evaluations = Vec::new();
    for (samples_seen, accuracy) in (1000..)
        .step_by(1000)
        .zip(floats(&case["periodic_accuracy"]))
    {
        let correct = (accuracy * 1e9).round() as u32;
        evaluations.push(Evaluation {
            samples_seen,
            periodic: true,
            classes: vec![ClassCount {
                class: ClassId(0),
                correct,
                total: 1_000_000_000,
            }],
            ..Evaluation::default()
        });
    }
    let samples_seen = 1000 * (evaluations.len() as u64 + 1);
    let ends = list(&case["correct_and_count_after_task"]);
    for (task, end) in (0..).zip(ends) {
        let counts = counts(&end[0]).into_iter().zip(counts(&end[1]));
        let exposed = (0..)
            .map(ClassId)
            .zip(counts)
            .filter(|(_, (_, total))| *total > 0);
        evaluations.push(Evaluation {
            samples_seen,
            task_end: Some(TaskId(task)),
            periodic: false,
            classes: exposed
                .map(|(class, (correct, total))| ClassCount {
                    class,
                    correct,
                    total,
                })
                .collect(),
        });
    }
    History {
        // The tasks of a blurred stream share classes; here all of them.
        task_classes: vec![vec![ClassId(0)]; ends.len()],
        disjoint: false,
        evaluations,
        ..History::default()
    }
}

#[test]
fn anytime_metrics_of_si_blurry() {
    let golden = golden();
    let cases = list(&golden["si_blurry"]);
    assert!(!cases.is_empty());
    for case in cases {
        let history = si_blurry(case);
        let ends = history.task_ends().unwrap();
        for (end, expected) in ends
            .into_iter()
            .zip(list(&case["class_accuracy_after_task"]))
        {
            let found = metrics::class_accuracies(end);
            for (class, expected) in (0..).map(ClassId).zip(floats(expected)) {
                let found = found.get(&class).copied().unwrap_or(0.0);
                assert!((found - expected).abs() <= TOLERANCE);
            }
        }
        for (task, expected) in (0..).map(TaskId).zip(list(&case["task_accuracy"])) {
            let found = history.task_end(task).and_then(Evaluation::accuracy);
            agrees(case, "task accuracy", found, expected);
        }
        let listed = metrics::mean_of_accuracies(&floats(&case["periodic_accuracy"]));
        agrees(case, "A_auc of the list", listed, &case["A_auc"]);
        let values = history.metrics().unwrap();
        let auc = metric("anytime/auc").unwrap().key(&history);
        let value = |key: &str| values.get(key).copied();
        agrees(case, "A_auc", value(&auc), &case["A_auc"]);
        agrees(case, "A_avg", value("anytime/avg"), &case["A_avg"]);
        agrees(
            case,
            "A_last",
            value("accuracy/last/sample-weighted"),
            &case["A_last"],
        );
        agrees(
            case,
            "F_last",
            value("forgetting/class-wise"),
            &case["F_last"],
        );
    }
}
