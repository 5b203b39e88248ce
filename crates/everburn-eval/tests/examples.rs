//! Worked examples, borders and trapped zeros.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use everburn_core::{ClassId, TaskId};
use everburn_eval::{
    AccuracyMatrix, E1, E2, EXAMPLES, Evaluation, GAP, History, METRICS, Measured, Metric, Moment,
    Need, metric, metrics,
};

fn matrix(rows: &[&[f64]], sizes: &[u64]) -> AccuracyMatrix {
    let rows = rows
        .iter()
        .map(|row| row.iter().copied().map(Some).collect());
    AccuracyMatrix::new(rows.collect(), sizes.to_vec()).unwrap()
}

fn e1() -> AccuracyMatrix {
    (E1.history)().matrix().unwrap()
}

/// The value of a metric by its id, for a matrix alone.
fn value(id: &str, matrix: &AccuracyMatrix, reference: &[f64]) -> Option<f64> {
    let history = History::default();
    let measured = Measured {
        history: &history,
        matrix: Some(matrix.clone()),
        reference,
        sweep: &[],
    };
    metric(id).unwrap().compute(&measured)
}

#[test]
fn every_metric_has_a_worked_example_and_gives_its_value() {
    for metric in METRICS {
        assert!(!metric.examples.is_empty(), "{} has none", metric.id);
        for worked in metric.examples {
            let found = worked.example.value(metric);
            let close = found.is_some_and(|found| (found - worked.value).abs() < 1e-6);
            let (id, name) = (metric.id, worked.example.name);
            assert!(close, "{id} on {name}: {found:?}, not {}", worked.value);
        }
    }
}

/// What is not worked out must not be defined: the documentation would lack a number. Metrics of
/// all streams are worked out elsewhere: they take tasks tested before their time for exposed.
#[test]
fn the_field_s_examples_are_worked_out_for_every_metric_of_disjoint_tasks() {
    let disjoint = |metric: &&Metric| metric.needs.contains(&Need::DisjointTasks);
    for metric in METRICS.iter().filter(disjoint) {
        for example in [&E1, &E2] {
            let worked = metric
                .examples
                .iter()
                .any(|w| w.example.name == example.name);
            let found = example.value(metric);
            assert_eq!(found.is_some(), worked, "{} on {}", metric.id, example.name);
        }
    }
}

#[test]
fn examples_are_histories_in_order_with_names_of_their_own() {
    for (index, example) in EXAMPLES.iter().enumerate() {
        (example.history)().check().unwrap();
        let others = EXAMPLES.iter().skip(index + 1);
        assert!(others.into_iter().all(|other| other.name != example.name));
    }
    let matrix = (E2.history)().matrix().unwrap();
    let rows: Vec<Vec<_>> = matrix.rows().map(<[_]>::to_vec).collect();
    let expected = [[0.6, 0.0, 0.0], [0.8, 0.5, 0.0], [0.7, 0.6, 0.4]];
    assert_eq!(rows, expected.map(|row| row.map(Some).to_vec()));
}

#[test]
fn si_blurry_by_hand() {
    let class_accuracies = |values: &[f64]| -> BTreeMap<_, _> {
        (0..).map(ClassId).zip(values.iter().copied()).collect()
    };
    let ends = [
        class_accuracies(&[0.8, 0.0, 0.5]),
        class_accuracies(&[0.6, 0.9, 0.7]),
    ];
    assert!(metrics::forgetting_of_classes(&ends).unwrap().abs() < 1e-12);
    // A class that is no longer listed is forgotten altogether; one that was never right is not.
    let ends = [class_accuracies(&[0.0, 0.5]), class_accuracies(&[0.3])];
    assert_eq!(metrics::forgetting_of_classes(&ends), Some(0.5));
    let mean = metrics::mean_of_accuracies(&[0.5, 0.6, 0.7]).unwrap();
    assert!((mean - 0.6).abs() < 1e-12);
}

#[test]
fn worst_cases_need_tests_inside_every_later_task() {
    let gap = (GAP.history)();
    let values = |history: &History| {
        let metrics = history.metrics().unwrap();
        let ids = ["worst-case/min-acc[5 evals]", "worst-case/wc-acc[5 evals]"];
        ids.map(|id| metrics.get(id).copied())
    };
    assert!(values(&gap).iter().all(Option::is_some));
    for inside in [1, 3] {
        let mut coarse = gap.clone();
        coarse.evaluations.remove(inside);
        assert_eq!(metrics::worst_old_accuracy(&coarse), None);
        assert_eq!(metrics::worst_case_accuracy(&coarse), None);
        // A second look at the end of a task is no look inside the next.
        let mut end = gap.clone();
        end.evaluations[inside].samples_seen = end.evaluations[inside - 1].samples_seen;
        assert_eq!(metrics::worst_old_accuracy(&end), None);
    }
    let mut shared = gap;
    shared.disjoint = false;
    assert_eq!(values(&shared), [None, None]);
}

/// The accuracy right at the end of a task does not count against it.
#[test]
fn the_worst_case_begins_after_the_end_of_a_task() {
    let mut gap = (GAP.history)();
    gap.evaluations[0].classes[0].correct = 0;
    assert!((metrics::worst_old_accuracy(&gap).unwrap() - 0.35).abs() < 1e-12);
}

#[test]
fn one_task_defines_no_forgetting_and_no_transfer() {
    let one = matrix(&[&[0.5]], &[10])
        .with_baseline(vec![Some(0.1)])
        .unwrap();
    let history = History::default();
    let measured = Measured {
        history: &history,
        matrix: Some(one),
        reference: &[0.5],
        sweep: &[],
    };
    for metric in METRICS {
        let found = metric.compute(&measured);
        let defined =
            !metric.needs.contains(&Need::TwoTasks) && metric.needs.contains(&Need::DisjointTasks);
        assert_eq!(found.is_some(), defined, "{}: {found:?}", metric.id);
    }
}

#[test]
fn nothing_measured_gives_nothing() {
    assert!(History::default().metrics().unwrap().is_empty());
    let empty = AccuracyMatrix::new(vec![], vec![]).unwrap();
    let unmeasured = AccuracyMatrix::new(vec![], vec![5, 5]).unwrap();
    for matrix in [empty, unmeasured] {
        for metric in METRICS {
            assert_eq!(value(metric.id, &matrix, &[]), None, "{}", metric.id);
        }
    }
    for values in [&[][..], &[f64::NAN][..]] {
        assert_eq!(metrics::mean_of_accuracies(values), None);
    }
}

#[test]
fn zeros_for_tasks_not_met_change_no_maximum() {
    let ragged: [&[f64]; 3] = [&[0.9], &[0.7, 0.8], &[0.6, 0.75, 0.85]];
    let padded: [&[f64]; 3] = [&[0.9, 0.0, 0.0], &[0.7, 0.8, 0.0], &[0.6, 0.75, 0.85]];
    for id in [
        "forgetting/max-all",
        "forgetting/all-tasks",
        "forgetting/row-max",
    ] {
        let value = |rows: &[&[f64]]| value(id, &matrix(rows, &[1; 3]), &[]).unwrap();
        assert_eq!(value(&ragged), value(&padded), "{id}");
    }
}

#[test]
fn memory_of_the_survey() {
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}");
    let (resnet32, resnet18) = (463_504, 11_176_512);
    let (cifar, imagenet) = (32 * 32 * 3, 224 * 224 * 3);
    close(metrics::model_mebibytes(resnet32, 0, cifar), 1.768_127);
    close(metrics::model_mebibytes(resnet18, 0, imagenet), 42.635_010);
    close(metrics::model_mebibytes(resnet32, 2000, cifar), 7.627_502);
    close(
        metrics::model_mebibytes(10 * resnet32, 2000, cifar),
        23.540_649,
    );
    close(
        metrics::model_mebibytes(resnet18, 2000, imagenet),
        329.744_385,
    );
    assert_eq!(metrics::equal_exemplars(resnet32, cifar), Some(603));
    // The survey rounds 296.995 up, and 603.52 down: whole exemplars are those that fit.
    assert_eq!(metrics::equal_exemplars(resnet18, imagenet), Some(296));
    assert_eq!(metrics::equal_exemplars(1, 0), None);
    assert_eq!(metrics::equal_exemplars(u64::MAX, 1), None);
}

#[test]
fn area_over_memory_by_trapezoids() {
    let area = |points: &[(f64, f64)]| metrics::area_over_memory(points.iter().copied());
    let points = [(16.0, 0.70), (7.6, 0.60), (12.4, 0.65)];
    assert!((area(&points).unwrap() - 5.43).abs() < 1e-12);
    assert!((area(&[(7.6, 1.0), (23.5, 1.0)]).unwrap() - 15.9).abs() < 1e-12);
    assert_eq!(area(&[(7.6, 0.5)]), Some(0.0));
    assert_eq!(area(&[]), None);
    assert_eq!(area(&[(7.6, f64::NAN)]), None);
    let point = |mebibytes, average, last| metrics::MemoryPoint {
        mebibytes,
        average,
        last,
    };
    let sweep = [point(1.0, 0.5, 0.25), point(3.0, 1.0, 0.75)];
    assert_eq!(metrics::auc_average(&sweep), Some(1.5));
    assert_eq!(metrics::auc_last(&sweep), Some(1.0));
}

#[test]
fn harmonic_means_are_total() {
    assert_eq!(metrics::harmonic_mean(0.0, 0.0), Some(0.0));
    assert_eq!(metrics::harmonic_mean(0.5, f64::NAN), None);
    assert_eq!(metrics::harmonic_mean(-0.5, 0.5), None);
    assert_eq!(metrics::intransigence(&e1(), &[0.9]), None);
    assert_eq!(metrics::intransigence(&e1(), &[0.9, f64::NAN, 0.9]), None);
}

#[test]
fn matrices_that_cannot_be_are_refused() {
    let error = |rows: Vec<Vec<Option<f64>>>, sizes: &[u64]| {
        let error = AccuracyMatrix::new(rows, sizes.to_vec()).unwrap_err();
        error.to_string()
    };
    assert!(error(vec![vec![Some(90.0)]], &[1]).contains("R[0][0]: found 90"));
    assert!(error(vec![vec![Some(f64::NAN)]], &[1]).contains("found NaN"));
    assert!(error(vec![vec![None, Some(0.5)]], &[1]).contains("columns of row 0"));
    assert!(error(vec![vec![], vec![]], &[1]).contains("rows"));
    assert!(error(vec![vec![Some(0.5)]], &[0]).contains("test_sizes[0]"));
    assert!(e1().with_baseline(vec![Some(0.1); 4]).is_err());
    assert!(e1().with_baseline(vec![Some(-0.1)]).is_err());
    let text = serde_json::to_string(&e1()).unwrap();
    assert_eq!(serde_json::from_str::<AccuracyMatrix>(&text).unwrap(), e1());
    assert!(serde_json::from_str::<AccuracyMatrix>(&text.replace("0.9", "9.0")).is_err());
}

#[test]
fn matrices_come_from_disjoint_histories_only() {
    let [a, b] = [ClassId(0), ClassId(1)];
    let evaluation = |task, exposed: &[ClassId], labels: &[ClassId]| {
        let moment = Moment {
            samples_seen: 10,
            task_end: Some(TaskId(task)),
            periodic: false,
        };
        Evaluation::from_predictions(moment, exposed, labels, labels).unwrap()
    };
    let mut history = History {
        task_classes: vec![vec![a], vec![b]],
        disjoint: true,
        evaluations: vec![
            evaluation(0, &[a], &[a, b]),
            evaluation(1, &[a, b], &[a, b, b]),
        ],
        ..History::default()
    };
    let matrix = history.matrix().unwrap();
    assert_eq!(matrix.get(TaskId(0), TaskId(1)), None);
    assert_eq!(matrix.get(TaskId(1), TaskId(1)), Some(1.0));
    assert_eq!(
        (matrix.test_size(TaskId(0)), matrix.test_size(TaskId(1))),
        (1, 2)
    );
    history.evaluations[1] = evaluation(1, &[a, b], &[a, a, b]);
    let error = history.matrix().unwrap_err().to_string();
    assert!(
        error.contains("test images of task 0 after 10 samples: found 2"),
        "{error}"
    );
    history.disjoint = false;
    assert!(
        history
            .matrix()
            .unwrap_err()
            .to_string()
            .contains("share classes")
    );
}

#[test]
fn names_are_unique_and_unknown_ones_get_a_hint() {
    for (index, metric) in METRICS.iter().enumerate() {
        for other in &METRICS[index + 1..] {
            assert_ne!(metric.id, other.id);
            assert_ne!(metric.label, other.label);
            assert_ne!(metric.formula, other.formula);
        }
    }
    let error = metric("forgeting/max-before").unwrap_err().to_string();
    assert!(
        error.contains("did you mean `forgetting/max-before`?"),
        "{error}"
    );
}
