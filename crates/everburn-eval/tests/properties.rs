//! What must hold for every matrix, history and set of seeds.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{ClassId, TaskId};
use everburn_eval::{
    AccuracyMatrix, ClassCount, Evaluation, History, METRICS, Measured, Need, Summary, Unit,
    metrics,
};
use proptest::prelude::*;

prop_compose! {
    /// A complete history of up to six tasks of one class each, future tasks and the untrained
    /// model included.
    fn histories()(sizes in prop::collection::vec(1_u32..50, 1..=6))(
        shares in prop::collection::vec(prop::collection::vec(0.0..=1.0, sizes.len()), sizes.len() + 1),
        sizes in Just(sizes),
    ) -> History {
        let tasks = u32::try_from(sizes.len()).unwrap();
        let ends = std::iter::once(None).chain((0..tasks).map(|task| Some(TaskId(task))));
        let evaluations = (0..).zip(ends).zip(shares).map(|((samples, task_end), shares)| Evaluation {
            samples_seen: samples * 100,
            task_end,
            periodic: false,
            classes: (0..).map(ClassId).zip(&sizes).zip(shares).map(|((class, &total), share)| {
                let share: f64 = share;
                ClassCount { class, correct: (share * f64::from(total)) as u32, total }
            }).collect(),
        }).collect();
        let task_classes = (0..tasks).map(|class| vec![ClassId(class)]).collect();
        History { task_classes, disjoint: true, period: None, evaluations }
    }
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-12,
        (a, b) => a == b,
    }
}

proptest! {
    #[test]
    fn metrics_keep_their_bounds(history in histories()) {
        let mut measured = Measured::of(&history).unwrap();
        let reference = vec![1.0; history.task_classes.len()];
        measured.reference = &reference;
        let several = reference.len() > 1;
        for metric in METRICS {
            let value = metric.compute(&measured);
            let wanted = !metric.needs.contains(&Need::TwoTasks) || several;
            let sweep = metric.unit == Unit::AccuracyMebibytes;
            let periodic = metric.needs.contains(&Need::PeriodicEvaluations);
            let class_wise = metric.id == "forgetting/class-wise";
            let normalised = metric.id == "forgetting/normalised";
            if wanted && !sweep && !periodic && !class_wise && !normalised {
                prop_assert!(value.is_some(), "{} is missing", metric.id);
            }
            // A normalised drop may be below -1: what was 1 % right can become 100 %. One minus
            // forgetting exceeds 1 where forgetting is negative.
            let low = if normalised { f64::NEG_INFINITY } else { -1.0 };
            let high = if metric.id == "learning/stability-forgetting" { 2.0 } else { 1.0 };
            prop_assert!(value.is_none_or(|v| (low..=high).contains(&v)), "{}: {value:?}", metric.id);
            let accuracy = metric.id.starts_with("accuracy/") || metric.id.starts_with("anytime/");
            prop_assert!(!accuracy || value.is_none_or(|v| v >= 0.0), "{}: {value:?}", metric.id);
        }
    }

    #[test]
    fn definitions_agree_where_they_must(history in histories()) {
        let matrix = history.matrix().unwrap();
        let negative = metrics::forgetting_initial(&matrix).map(|f| -f);
        prop_assert!(close(metrics::backward_transfer(&matrix), negative));
        if let Some(before) = metrics::forgetting_max_before(&matrix) {
            let all = metrics::forgetting_max_all(&matrix).unwrap();
            prop_assert!(all >= before.max(0.0));
            let tasks = matrix.tasks() as f64;
            let over_all = metrics::forgetting_all_tasks(&matrix).unwrap();
            let last = TaskId(u32::try_from(matrix.tasks() - 1).unwrap());
            let column = matrix.rows().filter_map(|row| *row.last()?);
            let drop = column.reduce(f64::max).unwrap() - matrix.get(last, last).unwrap();
            prop_assert!(close(Some(over_all), Some((all * (tasks - 1.0) + drop) / tasks)));
        }
        let weighted = metrics::last_accuracy_sample_weighted(&matrix);
        prop_assert!(close(weighted, metrics::last_accuracy(&history)));
    }

    #[test]
    fn equal_test_sizes_weigh_tasks_equally(
        rows in (1_usize..6).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(0.0..=1.0, n), n)),
        size in 1_u64..1000,
    ) {
        let tasks = rows.len();
        let rows = rows.into_iter().map(|row: Vec<f64>| row.into_iter().map(Some).collect()).collect();
        let matrix = AccuracyMatrix::new(rows, vec![size; tasks]).unwrap();
        let pairs = metrics::accuracies_task_mean(&matrix).into_iter()
            .zip(metrics::accuracies_sample_weighted(&matrix));
        for (task_mean, weighted) in pairs {
            prop_assert!(close(task_mean, weighted));
        }
    }

    #[test]
    fn a_perfect_learner_forgets_nothing(sizes in prop::collection::vec(1_u64..100, 2..8)) {
        let rows = (1..=sizes.len()).map(|seen| vec![Some(1.0); seen]).collect();
        let matrix = AccuracyMatrix::new(rows, sizes).unwrap();
        let history = History::default();
        let measured = Measured { history: &history, matrix: Some(matrix), reference: &[], sweep: &[] };
        for metric in METRICS {
            let Some(value) = metric.compute(&measured) else { continue };
            let loss = metric.id.starts_with("forgetting/") || metric.id.starts_with("bwt/");
            let best = if loss && metric.id != "bwt/remembering" { 0.0 } else { 1.0 };
            prop_assert_eq!(value, best, "{}", metric.id);
        }
    }

    #[test]
    fn the_order_of_seeds_changes_no_bit(
        (values, shuffled) in prop::collection::vec(-1.0..1.0_f64, 1..12)
            .prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
    ) {
        let (a, b) = (Summary::of(&values).unwrap(), Summary::of(&shuffled).unwrap());
        prop_assert_eq!(a.mean.to_bits(), b.mean.to_bits());
        prop_assert_eq!(a.std.map(f64::to_bits), b.std.map(f64::to_bits));
        prop_assert_eq!(a.half_width.map(f64::to_bits), b.half_width.map(f64::to_bits));
    }

    #[test]
    fn spread_ignores_shifts_and_follows_scale(
        values in prop::collection::vec(-1.0..1.0_f64, 2..12), shift in -5.0..5.0_f64, scale in 0.1..9.0_f64,
    ) {
        let moved: Vec<_> = values.iter().map(|v| v * scale + shift).collect();
        let (a, b) = (Summary::of(&values).unwrap(), Summary::of(&moved).unwrap());
        prop_assert!((a.half_width.unwrap() * scale - b.half_width.unwrap()).abs() < 1e-6);
        prop_assert!((a.mean * scale + shift - b.mean).abs() < 1e-9);
    }

    #[test]
    fn any_predictions_give_an_accuracy_or_nothing(
        labels in prop::collection::vec((0_u32..6, 0_u32..6), 0..60),
        exposed in prop::collection::vec(0_u32..6, 0..6),
    ) {
        let (labels, predicted): (Vec<_>, Vec<_>) =
            labels.into_iter().map(|(a, b)| (ClassId(a), ClassId(b))).unzip();
        let exposed: Vec<_> = exposed.into_iter().map(ClassId).collect();
        let moment = everburn_eval::Moment::default();
        let evaluation = Evaluation::from_predictions(moment, &exposed, &labels, &predicted).unwrap();
        let counted = labels.iter().filter(|label| exposed.contains(label)).count();
        prop_assert_eq!(evaluation.accuracy().is_some(), counted > 0);
        prop_assert!(evaluation.accuracy().is_none_or(|a| (0.0..=1.0).contains(&a)));
    }
}
