//! What holds for every stream.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use everburn_core::ClassId;
use everburn_stream::{ClassOrder, Manifest, Scenario, SiBlurry, SiBlurryMode, SplitTasks, show};
use proptest::prelude::*;

/// Labels of 2 to 24 classes in any order; each class has a sample.
fn labels() -> impl Strategy<Value = (Vec<ClassId>, usize)> {
    (2..24_u32).prop_flat_map(|classes| {
        let more = prop::collection::vec(0..classes, 0..200);
        let all = more.prop_map(move |more| (0..classes).chain(more).map(ClassId).collect());
        let shuffled = all.prop_flat_map(|labels: Vec<ClassId>| Just(labels).prop_shuffle());
        (shuffled, Just(classes as usize))
    })
}

fn si_blurry() -> impl Strategy<Value = SiBlurry> {
    let mode = prop_oneof![Just(SiBlurryMode::Stochastic), Just(SiBlurryMode::Static)];
    (1..7_usize, 0..=100_u32, 0..=100_u32, mode, any::<bool>()).prop_map(
        |(tasks, disjoint_percent, blurry_percent, mode, borders)| SiBlurry {
            tasks,
            disjoint_percent,
            blurry_percent,
            mode,
            borders,
        },
    )
}

fn order() -> impl Strategy<Value = ClassOrder> {
    prop_oneof![
        Just(ClassOrder::Natural),
        Just(ClassOrder::Numpy),
        Just(ClassOrder::MammothMap),
        Just(ClassOrder::Python),
        Just(ClassOrder::Torch),
    ]
}

/// Any manifest at all, most of them of no data set.
fn manifest() -> impl Strategy<Value = Manifest> {
    let classes = || prop::collection::vec(any::<u32>().prop_map(ClassId), 0..5);
    let indices = prop::collection::vec(any::<u32>(), 0..9);
    let task = (classes(), indices)
        .prop_map(|(classes, indices)| everburn_stream::ManifestTask { classes, indices });
    let settings = prop::collection::btree_map(".*", ".*", 0..3);
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>());
    let rest = (
        classes(),
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(task, 0..5),
    );
    (".*", settings, numbers, rest).prop_map(|(scenario, settings, numbers, rest)| Manifest {
        scenario,
        settings,
        seed: numbers.0,
        num_samples: numbers.1 as usize,
        num_classes: numbers.2 as usize,
        class_order: rest.0,
        online: rest.1,
        borders: rest.2,
        tasks: rest.3,
    })
}

fn sorted_indices(manifest: &Manifest) -> Vec<u32> {
    let mut indices: Vec<u32> = manifest.indices().collect();
    indices.sort_unstable();
    indices
}

proptest! {
    #[test]
    fn a_split_is_a_partition(
        (labels, classes) in labels(),
        tasks in 1..24_usize,
        seed in any::<u32>(),
        order in order(),
    ) {
        let scenario = SplitTasks::even(tasks).unwrap().with_order(order).unwrap();
        let compiled = scenario.compile(&labels, classes, u64::from(seed));
        if tasks > classes {
            prop_assert!(compiled.is_err());
            return Ok(());
        }
        let manifest = compiled.unwrap();
        manifest.validate(&labels).unwrap();
        prop_assert_eq!(manifest.tasks.len(), tasks);
        let all: Vec<u32> = (0..labels.len() as u32).collect();
        prop_assert_eq!(sorted_indices(&manifest), all);
        let sizes: Vec<usize> = manifest.tasks.iter().map(|task| task.classes.len()).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), classes);
        prop_assert!(sizes.iter().all(|size| *size == classes / tasks || *size == classes / tasks + 1));
        prop_assert!(manifest.tasks.iter().all(|task| task.indices.is_sorted()));
    }

    #[test]
    fn increments_cover_the_classes(
        (labels, classes) in labels(),
        base in 0..24_usize,
        increment in 1..24_usize,
    ) {
        let scenario = SplitTasks::base_increment(base, increment).unwrap();
        let first = if base == 0 { increment } else { base };
        let compiled = scenario.compile(&labels, classes, 7);
        if first > classes {
            prop_assert!(compiled.is_err());
            return Ok(());
        }
        let manifest = compiled.unwrap();
        manifest.validate(&labels).unwrap();
        let sizes: Vec<usize> = manifest.tasks.iter().map(|task| task.classes.len()).collect();
        prop_assert_eq!(sizes[0], first);
        prop_assert_eq!(sizes.iter().sum::<usize>(), classes);
        let (last, before) = sizes[1..].split_last().unwrap_or((&1, &[]));
        prop_assert!(before.iter().all(|size| *size == increment));
        prop_assert!((1..=increment).contains(last));
    }

    #[test]
    fn si_blurry_keeps_its_invariants(
        (labels, classes) in labels(),
        scenario in si_blurry(),
        seed in any::<u32>(),
    ) {
        let drawn = scenario.draw(&labels, classes, u64::from(seed));
        if scenario.tasks > classes {
            prop_assert!(drawn.is_err());
            return Ok(());
        }
        let parts = drawn.unwrap();
        let manifest = scenario.compile(&labels, classes, u64::from(seed)).unwrap();
        manifest.validate(&labels).unwrap();

        // 1. Every sample of a kept class exactly once; static mode may drop some of the pool.
        let dropped: BTreeSet<_> = parts.dropped_classes().iter().collect();
        prop_assert!(dropped.len() < scenario.tasks);
        let kept = (0..labels.len() as u32).filter(|i| !dropped.contains(&labels[*i as usize]));
        let kept: Vec<u32> = kept.collect();
        let lost: usize = parts.moved.iter().sum::<usize>() - parts.received.iter().sum::<usize>();
        match scenario.mode {
            SiBlurryMode::Stochastic => prop_assert_eq!(sorted_indices(&manifest), kept),
            SiBlurryMode::Static => {
                prop_assert_eq!(manifest.len() + lost, kept.len());
                prop_assert!(lost < scenario.tasks);
            }
        }

        // 2. Disjoint classes in one task only. 3. No more strangers than the pool held.
        let mut owner = BTreeMap::new();
        for lists in [parts.disjoint_classes(), parts.blurry_classes()] {
            for (task, classes) in lists.into_iter().enumerate() {
                owner.extend(classes.iter().map(|class| (*class, task)));
            }
        }
        let disjoint: BTreeSet<_> = parts.disjoint_classes().concat().into_iter().collect();
        let mut strangers = 0;
        for (task, indices) in parts.indices.iter().enumerate() {
            for index in indices {
                let class = labels[*index as usize];
                if owner[&class] != task {
                    prop_assert!(!disjoint.contains(&class));
                    strangers += 1;
                }
            }
        }
        let pool: usize = parts.moved.iter().sum();
        let blurry = labels.iter().filter(|c| owner.contains_key(c) && !disjoint.contains(c));
        let movable = blurry.count() * scenario.blurry_percent as usize / 100;
        prop_assert!(strangers <= pool && pool <= movable);

        // 4. A task's size is what it owns, less what it gave, and what it received.
        for (task, indices) in parts.indices.iter().enumerate() {
            let owned = labels.iter().filter(|class| owner.get(class) == Some(&task)).count();
            prop_assert_eq!(indices.len(), owned - parts.moved[task] + parts.received[task]);
        }

        // 5. Without moved samples, or without blurry classes, there are no strangers.
        if scenario.blurry_percent == 0 || parts.blurry_num == 0 {
            prop_assert_eq!(strangers, 0);
            prop_assert_eq!(pool, 0);
        }
        if scenario.disjoint_percent == 100 && classes.is_multiple_of(scenario.tasks) {
            prop_assert_eq!(parts.disjoint_num, classes);
            prop_assert!(parts.blurry_slice.is_empty());
        }

        // 6. The same seed gives the same stream.
        let again = scenario.compile(&labels, classes, u64::from(seed)).unwrap();
        prop_assert_eq!(again.hash(), manifest.hash());
    }

    #[test]
    fn evaluations_number_as_the_card_says(
        batches in 1..40_u64,
        per_period in 1..6_u64,
        batch in 1..50_u64,
    ) {
        // 7. With whole periods, and batches no longer than one: total / period − 1.
        let period = batch * per_period;
        let total = period * batches;
        let mut schedule = everburn_stream::EvalPoints::Period(period).schedule(total).unwrap();
        let seen = (1..=total / batch).map(|b| b * batch);
        let count = seen.filter(|samples| schedule.due(*samples)).count() as u64;
        prop_assert_eq!(count, batches - 1);
    }

    #[test]
    fn batches_cover_each_task_in_order(manifest in manifest(), batch in 0..12_usize) {
        let mut covered = vec![Vec::new(); manifest.tasks.len()];
        for (task, range) in manifest.batches(batch) {
            prop_assert!(!range.is_empty() && range.len() <= batch.max(1));
            let indices = &manifest.task(task).unwrap().indices[range];
            covered[task.0 as usize].extend_from_slice(indices);
        }
        let tasks: Vec<_> = manifest.tasks.iter().map(|task| task.indices.clone()).collect();
        prop_assert_eq!(covered, tasks);
    }

    #[test]
    fn files_bring_manifests_back(manifest in manifest()) {
        let mut file = Vec::new();
        manifest.write_jsonl(&mut file).unwrap();
        let lines = file.iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(lines, manifest.tasks.len() + 1);
        prop_assert_eq!(Manifest::read_jsonl(&file[..]).unwrap(), manifest);
    }

    #[test]
    fn a_cut_file_is_refused(manifest in manifest(), cut in any::<prop::sample::Index>()) {
        let mut file = Vec::new();
        manifest.write_jsonl(&mut file).unwrap();
        // Without its very last newline a file still says all it has to say.
        file.truncate(cut.index(file.len() - 2) + 1);
        let error = Manifest::read_jsonl(&file[..]).unwrap_err().to_string();
        prop_assert!(error.starts_with("manifest, "), "{}", error);
    }

    #[test]
    fn an_edited_file_is_refused_or_says_the_same(
        manifest in manifest(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut file = Vec::new();
        manifest.write_jsonl(&mut file).unwrap();
        let place = place.index(file.len());
        file[place] = byte;
        // Another blank for a blank says the same; anything else must be noticed.
        if let Ok(read) = Manifest::read_jsonl(&file[..]) {
            prop_assert_eq!(read, manifest);
        }
    }

    #[test]
    fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::read_jsonl(&bytes[..]).is_err());
    }

    #[test]
    fn different_manifests_have_different_hashes(a in manifest(), b in manifest()) {
        prop_assert_eq!(a == b, a.hash() == b.hash());
    }

    #[test]
    fn drawings_never_fail(
        manifest in manifest(),
        labels in prop::collection::vec(any::<u32>().prop_map(ClassId), 0..5),
        width in 0..200_usize,
        height in 0..60_usize,
    ) {
        // The number of classes would only cost memory here.
        let manifest = Manifest { num_classes: manifest.num_classes % 100, ..manifest };
        prop_assert!(show::terminal(&manifest, &labels, width, height).ends_with('\n'));
        prop_assert!(show::svg(&manifest, &labels).ends_with("</svg>"));
        let _ = manifest.validate(&labels);
        let _ = manifest.exposure(&labels);
    }
}
