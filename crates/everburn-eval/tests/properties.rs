//! What must hold for every matrix, history and set of seeds.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{ClassId, TaskId};
use everburn_eval::{
    AccuracyMatrix, ClassCount, ConfusionMatrix, Evaluation, History, METRICS, Measured, Moment,
    Need, Prequential, Summary, Unit, metrics,
};
use proptest::prelude::*;

prop_compose! {
    /// A complete history of up to six tasks of one class each: the untrained model, then each task
    /// tested inside and at its end, always on all tasks; and answers before learning.
    fn histories()(sizes in prop::collection::vec(1_u32..50, 1..=6))(
        shares in prop::collection::vec(
            prop::collection::vec(0.0..=1.0_f64, sizes.len()), 2 * sizes.len() + 1,
        ),
        sizes in Just(sizes),
    ) -> History {
        let tasks = u32::try_from(sizes.len()).unwrap();
        let evaluation = |index: u32, shares: &[f64]| Evaluation {
            samples_seen: u64::from(index) * 50,
            task_end: (index > 0 && index.is_multiple_of(2)).then(|| TaskId(index / 2 - 1)),
            periodic: index % 2 == 1,
            classes: (0..).map(ClassId).zip(&sizes).zip(shares).map(|((class, &total), share)| {
                ClassCount { class, correct: (share * f64::from(total)) as u32, total }
            }).collect(),
        };
        let mut prequential = Prequential::new(sizes.len());
        for (task, &size) in (0..).map(TaskId).zip(&sizes) {
            prequential.record(task, u64::from(size / 2), size.into()).unwrap();
        }
        History {
            task_classes: (0..tasks).map(|class| vec![ClassId(class)]).collect(),
            disjoint: true,
            period: None,
            evaluations: (0..).zip(&shares).map(|(index, shares)| evaluation(index, shares)).collect(),
            prequential: Some(prequential),
        }
    }
}

prop_compose! {
    /// Test images as label and prediction; of eight classes, labels are the first six.
    fn images()(images in prop::collection::vec((0_u32..6, 0_u32..8), 0..60))
        -> Vec<(ClassId, ClassId)>
    {
        images.into_iter().map(|(label, predicted)| (ClassId(label), ClassId(predicted))).collect()
    }
}

prop_compose! {
    fn exposed()(classes in prop::collection::vec(0_u32..6, 0..6)) -> Vec<ClassId> {
        classes.into_iter().map(ClassId).collect()
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
            let class_wise = metric.id == "forgetting/class-wise";
            let normalised = metric.id == "forgetting/normalised";
            if wanted && !sweep && !class_wise && !normalised {
                prop_assert!(value.is_some(), "{} is missing", metric.id);
            }
            // A normalised drop may be below -1: what was 1 % right can become 100 %. One minus
            // forgetting exceeds 1 where forgetting is negative.
            let low = if normalised { f64::NEG_INFINITY } else { -1.0 };
            let high = if metric.id == "learning/stability-forgetting" { 2.0 } else { 1.0 };
            prop_assert!(value.is_none_or(|v| (low..=high).contains(&v)), "{}: {value:?}", metric.id);
            let accuracies = ["accuracy/", "anytime/", "prequential/", "worst-case/"];
            let accuracy = accuracies.iter().any(|family| metric.id.starts_with(family));
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
    fn worst_cases_are_no_better_than_the_end(history in histories()) {
        let Some(worst) = metrics::worst_old_accuracy(&history) else {
            prop_assert_eq!(history.task_classes.len(), 1);
            return Ok(());
        };
        let matrix = history.matrix().unwrap();
        prop_assert!(worst <= metrics::stability(&matrix).unwrap() + 1e-12);
        let last = metrics::last_accuracy_task_mean(&matrix).unwrap();
        prop_assert!(metrics::worst_case_accuracy(&history).unwrap() <= last + 1e-12);
    }

    #[test]
    fn other_names_for_the_classes_change_no_metric(
        (history, names) in histories().prop_flat_map(|history| {
            let names: Vec<u32> = (0..6).map(|name| 7 * name + 3).collect();
            (Just(history), Just(names).prop_shuffle())
        }),
    ) {
        let rename = |class: ClassId| ClassId(names[class.0 as usize]);
        let mut renamed = history.clone();
        for classes in &mut renamed.task_classes {
            classes.iter_mut().for_each(|class| *class = rename(*class));
        }
        for evaluation in &mut renamed.evaluations {
            evaluation.classes.iter_mut().for_each(|count| count.class = rename(count.class));
            evaluation.classes.sort_by_key(|count| count.class);
        }
        let (before, after) = (history.metrics().unwrap(), renamed.metrics().unwrap());
        prop_assert!(before.keys().eq(after.keys()));
        for (key, value) in &before {
            prop_assert!(close(Some(*value), after.get(key).copied()), "{}", key);
        }
        let (before, after) = (history.class_accuracies_last(), renamed.class_accuracies_last());
        prop_assert_eq!(before.len(), history.task_classes.len());
        for (class, accuracy) in before {
            prop_assert_eq!(accuracy, after[&rename(class)]);
        }
    }

    #[test]
    fn the_end_by_task_is_the_last_row(history in histories()) {
        let matrix = history.matrix().unwrap();
        prop_assert_eq!(history.task_accuracies_last(), matrix.rows().last().unwrap());
    }

    #[test]
    fn confusions_count_every_image_once(images in images(), exposed in exposed()) {
        let (labels, predicted): (Vec<_>, Vec<_>) = images.into_iter().unzip();
        let matrix = ConfusionMatrix::from_predictions(&exposed, &labels, &predicted).unwrap();
        let evaluation =
            Evaluation::from_predictions(Moment::default(), &exposed, &labels, &predicted).unwrap();
        prop_assert_eq!(matrix.accuracy(), evaluation.accuracy());
        let recalls = matrix.recalls();
        for count in &evaluation.classes {
            let row = matrix.entries().filter(|entry| entry.label == count.class);
            prop_assert_eq!(row.map(|entry| entry.count).sum::<u64>(), u64::from(count.total));
            prop_assert_eq!(recalls.get(&count.class).copied(), count.accuracy());
        }
        let mut shares = recalls.into_values().chain(matrix.precisions().into_values());
        prop_assert!(shares.all(|share| (0.0..=1.0).contains(&share)));
        // Classes 6 and 7 are predicted, but belong to no task.
        let tasks: Vec<Vec<_>> = [0..2, 2..6].map(|task| task.map(ClassId).collect()).into();
        let by_task = matrix.by_task(&tasks).unwrap();
        let sum: u64 = by_task.counts.iter().flatten().sum();
        prop_assert_eq!(sum + by_task.outside, matrix.total());
        prop_assert_eq!(ConfusionMatrix::from_csv("c", &matrix.to_csv().unwrap()).unwrap(), matrix);
    }

    #[test]
    fn the_order_of_images_is_nothing_and_parts_add_up(
        (images, shuffled) in images().prop_flat_map(|i| (Just(i.clone()), Just(i).prop_shuffle())),
        exposed in exposed(), cut in 0.0..1.0_f64,
    ) {
        let count = |images: &[(ClassId, ClassId)]| {
            let (labels, predicted): (Vec<_>, Vec<_>) = images.iter().copied().unzip();
            ConfusionMatrix::from_predictions(&exposed, &labels, &predicted).unwrap()
        };
        let (first, second) = images.split_at((images.len() as f64 * cut) as usize);
        let mut merged = count(first);
        merged.merge(&count(second));
        prop_assert_eq!(&merged, &count(&images));
        prop_assert_eq!(merged, count(&shuffled));
        let evaluate = |images: &[(ClassId, ClassId)]| {
            let (labels, predicted): (Vec<_>, Vec<_>) = images.iter().copied().unzip();
            Evaluation::from_predictions(Moment::default(), &exposed, &labels, &predicted).unwrap()
        };
        prop_assert_eq!(evaluate(&images), evaluate(&shuffled));
    }

    #[test]
    fn other_names_for_the_classes_permute_the_confusions(images in images(), shift in 1_u32..8) {
        let rename = |class: &ClassId| ClassId((class.0 + shift) % 8);
        let count = |images: &[(ClassId, ClassId)]| {
            let (labels, predicted): (Vec<_>, Vec<_>) = images.iter().copied().unzip();
            ConfusionMatrix::from_predictions(&labels, &labels, &predicted).unwrap()
        };
        let renamed: Vec<_> = images.iter().map(|(l, p)| (rename(l), rename(p))).collect();
        let (before, after) = (count(&images), count(&renamed));
        prop_assert_eq!(before.entries().count(), after.entries().count());
        for entry in before.entries() {
            let count = after.count(rename(&entry.label), rename(&entry.predicted));
            prop_assert_eq!(entry.count, count);
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
        let moment = Moment::default();
        let evaluation = Evaluation::from_predictions(moment, &exposed, &labels, &predicted).unwrap();
        let counted = labels.iter().filter(|label| exposed.contains(label)).count();
        prop_assert_eq!(evaluation.accuracy().is_some(), counted > 0);
        prop_assert!(evaluation.accuracy().is_none_or(|a| (0.0..=1.0).contains(&a)));
    }
}
