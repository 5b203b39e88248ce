//! Golden case `simplecil`, and the analytic checks of class means.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_backend::{DeviceChoice, to_vec};
use everburn_core::{ClassId, Ctx, Event, Images, Key, Learner, Output, Source, TaskId, TaskInfo};
use everburn_nn::{Backbone, Frozen, Normalise};
use everburn_nn::{ClassMeans, Similarity};
use everburn_simplecil::{SimpleCil, SimpleCilConfig};
use everburn_testkit::drive::{Flow, Task, feed, toy_task};
use everburn_testkit::{Golden, golden, test_devices};

const BOTH: [Similarity; 2] = [Similarity::Cosine, Similarity::Euclidean];

/// Samples of the golden case: features and class of each.
fn samples(golden: &Golden) -> Vec<(Vec<f32>, ClassId)> {
    let labels = golden.usize("train.labels");
    let features = golden.f32("train.features");
    let rows = features
        .chunks_exact(golden.size("dim"))
        .map(<[f32]>::to_vec);
    rows.zip(labels.into_iter().map(|label| ClassId(label as u32)))
        .collect()
}

fn add(means: &mut ClassMeans, samples: &[(Vec<f32>, ClassId)]) {
    let features: Vec<f32> = samples
        .iter()
        .flat_map(|(f, _)| f.iter().copied())
        .collect();
    let labels: Vec<ClassId> = samples.iter().map(|(_, label)| *label).collect();
    means.add(&features, &labels).unwrap();
}

/// `[rows, columns]` with the columns of the classes 0, 1, 2, …
fn by_class(scores: &[f32], means: &ClassMeans) -> Vec<f32> {
    let classes = means.seen().len();
    let columns: Vec<usize> = (0..classes as u32)
        .map(|c| means.seen().index(ClassId(c)).unwrap())
        .collect();
    let rows = scores.chunks_exact(classes);
    rows.flat_map(|row| columns.iter().map(|c| row[*c]))
        .collect()
}

/// The mean of each class, the classes in order.
fn rows(means: &ClassMeans, dim: usize) -> Vec<Vec<f64>> {
    let all = means.means();
    let row = |c: u32| means.seen().index(ClassId(c)).unwrap() * dim;
    (0..means.seen().len() as u32)
        .map(|c| all[row(c)..row(c) + dim].to_vec())
        .collect()
}

fn predicted(means: &ClassMeans, scores: Vec<f32>) -> Vec<usize> {
    let output = Output::new(means.seen().as_slice().to_vec(), scores).unwrap();
    output
        .predicted()
        .into_iter()
        .map(|class| class.0 as usize)
        .collect()
}

#[test]
fn prototypes_scores_and_predictions_after_each_task() {
    let golden = golden!("simplecil");
    let (dim, samples) = (golden.size("dim"), samples(&golden));
    let test = golden.f32("test.features");
    let mut means = ClassMeans::new(dim);
    let mut first = 0;
    let sizes = golden.meta("hyper")["task_sizes"].clone();
    for (task, size) in sizes.as_array().unwrap().iter().enumerate() {
        let classes = first..first + size.as_u64().unwrap() as u32;
        first = classes.end;
        let old = rows(&means, dim);
        let new: Vec<_> = samples
            .iter()
            .filter(|(_, c)| classes.contains(&c.0))
            .cloned()
            .collect();
        add(&mut means, &new);
        // Stability: earlier rows are the same to the bit.
        assert_eq!(rows(&means, dim)[..old.len()], old);
        let prototypes: Vec<f32> = rows(&means, dim)
            .concat()
            .iter()
            .map(|x| *x as f32)
            .collect();
        golden.check(&format!("out.prototypes.{task}"), &prototypes, 0.0);
        let scores = means.scores(&test, Similarity::Cosine).unwrap();
        golden.check(
            &format!("out.cosine.{task}"),
            &by_class(&scores, &means),
            0.0,
        );
        assert!(scores.iter().all(|score| (-1.0..=1.0).contains(score)));
        assert_eq!(
            predicted(&means, scores),
            golden.usize(&format!("out.pred.{task}"))
        );
    }
    let scores = means.scores(&test, Similarity::Euclidean).unwrap();
    let distances: Vec<f32> = by_class(&scores, &means)
        .iter()
        .map(|score| -score)
        .collect();
    golden.check("out.nmc.distance", &distances, 0.0);
    assert_eq!(predicted(&means, scores), golden.usize("out.nmc.pred"));
}

#[test]
fn prototypes_do_not_depend_on_order_or_batches() {
    let golden = golden!("simplecil");
    let (dim, samples) = (golden.size("dim"), samples(&golden));
    let mut whole = ClassMeans::new(dim);
    add(&mut whole, &samples);
    let expected = rows(&whole, dim);
    for (seed, batch) in [(1, 1), (2, 3), (3, 16), (4, samples.len())] {
        let order = Key::from_seed(seed).permutation(samples.len());
        let mixed: Vec<_> = order.iter().map(|index| samples[*index].clone()).collect();
        let mut means = ClassMeans::new(dim);
        mixed.chunks(batch).for_each(|part| add(&mut means, part));
        for (a, b) in rows(&means, dim).concat().iter().zip(expected.concat()) {
            assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} {b}");
        }
    }
}

#[test]
fn the_streaming_mean_is_the_batch_mean() {
    // n ← n + 1; p ← p + (f − p)/n.
    let golden = golden!("simplecil");
    let (dim, samples) = (golden.size("dim"), samples(&golden));
    let mut whole = ClassMeans::new(dim);
    add(&mut whole, &samples);
    let classes = whole.seen().len();
    let (mut n, mut p) = (vec![0.0; classes], vec![vec![0.0; dim]; classes]);
    for index in Key::from_seed(9).permutation(samples.len()) {
        let (feature, class) = &samples[index];
        let class = class.0 as usize;
        n[class] += 1.0;
        for (p, f) in p[class].iter_mut().zip(feature) {
            *p += (f64::from(*f) - *p) / n[class];
        }
    }
    for (a, b) in rows(&whole, dim).concat().iter().zip(p.concat()) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn cosine_ignores_lengths() {
    let golden = golden!("simplecil");
    let (dim, samples, test) = (
        golden.size("dim"),
        samples(&golden),
        golden.f32("test.features"),
    );
    let scale = |class: ClassId| [0.01, 1.0, 40.0][class.0 as usize % 3];
    let (mut plain, mut scaled) = (ClassMeans::new(dim), ClassMeans::new(dim));
    add(&mut plain, &samples);
    let longer = |(f, c): &(Vec<f32>, ClassId)| (f.iter().map(|x| x * scale(*c)).collect(), *c);
    add(&mut scaled, &samples.iter().map(longer).collect::<Vec<_>>());
    let doubled: Vec<f32> = test.iter().map(|x| x * 2.5).collect();
    let expected = plain.scores(&test, Similarity::Cosine).unwrap();
    let found = scaled.scores(&doubled, Similarity::Cosine).unwrap();
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn cosine_and_distance_agree_on_unit_vectors_and_distance_is_a_linear_rule() {
    let golden = golden!("simplecil");
    let (dim, test) = (golden.size("dim"), golden.f32("test.features"));
    let unit = |v: &[f32]| {
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter().map(|x| x / norm).collect::<Vec<f32>>()
    };
    // One sample of unit length for each class: then p is of unit length, too.
    let mut means = ClassMeans::new(dim);
    for (class, (feature, _)) in samples(&golden).iter().take(6).enumerate() {
        means.add(&unit(feature), &[ClassId(class as u32)]).unwrap();
    }
    let units: Vec<f32> = test.chunks_exact(dim).flat_map(unit).collect();
    let [cosine, distance] = BOTH.map(|similarity| means.scores(&units, similarity).unwrap());
    for (c, d) in cosine.iter().zip(&distance) {
        // ‖f − p‖² = 2 − 2 cos.
        assert!((d * d - (2.0 - 2.0 * c)).abs() < 1e-6, "{c} {d}");
    }
    assert_eq!(predicted(&means, cosine), predicted(&means, distance));

    // arg min ‖f − p‖ = arg max (f·p − ‖p‖²/2).
    let mut means = ClassMeans::new(dim);
    add(&mut means, &samples(&golden));
    let all = means.means();
    let score = |f: &[f32], p: &[f64]| {
        let fp: f64 = p.iter().zip(f).map(|(p, f)| p * f64::from(*f)).sum();
        (fp - p.iter().map(|p| p * p).sum::<f64>() / 2.0) as f32
    };
    let mut linear = Vec::new();
    for feature in test.chunks_exact(dim) {
        linear.extend(all.chunks_exact(dim).map(|mean| score(feature, mean)));
    }
    let linear = predicted(&means, linear);
    assert_eq!(
        linear,
        predicted(&means, means.scores(&test, Similarity::Euclidean).unwrap())
    );
}

#[test]
fn the_toy_example_of_the_two_similarities() {
    let mut means = ClassMeans::new(2);
    means
        .add(&[3.0, 0.0, 0.0, 0.1], &[ClassId(0), ClassId(1)])
        .unwrap();
    let class = |similarity| predicted(&means, means.scores(&[0.2, 0.1], similarity).unwrap());
    assert_eq!(class(Similarity::Cosine), [0]);
    assert_eq!(class(Similarity::Euclidean), [1]);
}

#[test]
fn nothing_makes_a_nan() {
    let mut means = ClassMeans::new(2);
    means.add(&[], &[]).unwrap();
    assert!(means.means().is_empty() && means.seen().is_empty());
    means
        .add(&[0.0, 0.0, 3.0, 4.0], &[ClassId(0), ClassId(1)])
        .unwrap();
    for similarity in BOTH {
        let scores = means.scores(&[0.0, 0.0, 1.0, 1.0], similarity).unwrap();
        assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    }
    // A feature or a mean of length 0 has the cosine 0.
    assert_eq!(
        means.scores(&[0.0, 0.0], Similarity::Cosine).unwrap(),
        [0.0, 0.0]
    );
    assert!(means.add(&[1.0], &[ClassId(0)]).is_err());
    assert!(means.add(&[1.0, 2.0], &[]).is_err());
    assert!(means.scores(&[1.0, 2.0, 3.0], Similarity::Cosine).is_err());
}

type Build = Box<dyn Fn() -> Box<dyn Learner>>;

fn resnet(seed: u64, normalise: Normalise) -> Frozen {
    let device = DeviceChoice::CPU.open().unwrap();
    let key = Key::from_seed(seed);
    Frozen::new(
        Backbone::resnet18(4, 8, normalise, key, &device).unwrap(),
        &device,
    )
}

fn vit() -> Frozen {
    let device = DeviceChoice::CPU.open().unwrap();
    Frozen::new(Backbone::embedded(&device).unwrap(), &device)
}

fn build(similarity: Similarity, batch: usize, frozen: &Frozen) -> Build {
    let config = SimpleCilConfig {
        similarity,
        batch,
        online_batch: batch,
    };
    let frozen = frozen.clone();
    Box::new(move || Box::new(SimpleCil::new(config.clone(), frozen.clone()).unwrap()))
}

fn tasks(frozen: &Frozen, per_class: usize) -> [Task; 2] {
    let shape = frozen.backbone().input();
    let task = |classes: [u32; 2], seed| toy_task(shape, &classes, per_class, Key::from_seed(seed));
    [task([2, 26], 1), task([6, 18], 2)]
}

#[test]
fn every_device_has_the_means_of_its_features_and_all_orders_and_flows_the_same() {
    for (choice, device) in test_devices() {
        let backbone = Backbone::resnet18(4, 8, Normalise::HALF, Key::from_seed(1), &device);
        let frozen = Frozen::new(backbone.unwrap(), &device);
        let [one, two] = tasks(&frozen, 5);
        let dim = frozen.backbone().dim();
        let mut expected = [0.0; 4].map(|_: f64| vec![0.0; dim]);
        let classes = [2, 26, 6, 18].map(ClassId);
        for task in [&one, &two] {
            let features = to_vec(&frozen.features(&task.images).unwrap()).unwrap();
            for (feature, label) in features.chunks_exact(dim).zip(&task.labels) {
                let row = classes.iter().position(|class| class == label).unwrap();
                expected[row]
                    .iter_mut()
                    .zip(feature)
                    .for_each(|(e, f)| *e += f64::from(*f) / 5.0);
            }
        }
        let forth = [one.clone(), two.clone()];
        let back = [two, one];
        let ways = [
            (&forth, Flow::Tasks, 4),
            (&back, Flow::Borderless, 20),
            (&back, Flow::SinglePass, 3),
        ];
        for (tasks, flow, batch) in ways {
            let config = SimpleCilConfig {
                batch,
                online_batch: batch,
                ..SimpleCilConfig::default()
            };
            let mut learner = SimpleCil::new(config, frozen.clone()).unwrap();
            feed(&mut learner, tasks, flow, Key::from_seed(3));
            let means = learner.means().means();
            for (class, expected) in classes.iter().zip(&expected) {
                let row = learner.means().seen().index(*class).unwrap() * dim;
                let largest = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
                for (a, b) in means[row..row + dim].iter().zip(expected) {
                    assert!((a - b).abs() < 1e-5 * largest, "{choice} {flow:?}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_forgotten() {
    for similarity in BOTH {
        let frozen = vit();
        let tasks = tasks(&frozen, 4);
        let mut learner = build(similarity, 16, &frozen)();
        feed(
            learner.as_mut(),
            &tasks[..1],
            Flow::Tasks,
            Key::from_seed(1),
        );
        let before = learner.predict(&tasks[0].images).unwrap();
        feed(
            learner.as_mut(),
            &tasks[1..],
            Flow::Tasks,
            Key::from_seed(2),
        );
        let after = learner.predict(&tasks[0].images).unwrap();
        // The scores of the old classes are the same to the bit.
        assert_eq!(after.classes()[..2], *before.classes());
        for (before, after) in before.rows().zip(after.rows()) {
            assert_eq!(after[..2], *before);
        }
        for task in &tasks {
            assert_eq!(task.accuracy(learner.as_ref()), 1.0, "{similarity:?}");
        }
    }
}

#[test]
fn a_class_that_a_task_announces_without_samples_has_no_row() {
    let frozen = resnet(1, Normalise::HALF);
    let [task, _] = tasks(&frozen, 3);
    let mut learner = build(Similarity::Cosine, 4, &frozen)();
    let info = TaskInfo {
        task: TaskId(0),
        classes: vec![ClassId(2), ClassId(26), ClassId(99)],
        seen: 3,
        samples: task.labels.len(),
        single_pass: false,
    };
    let cx = Ctx::new(Key::from_seed(1));
    learner.on(&Event::TaskBegin(info), &cx).unwrap();
    feed(
        learner.as_mut(),
        std::slice::from_ref(&task),
        Flow::Tasks,
        Key::from_seed(1),
    );
    let output = learner.predict(&task.images).unwrap();
    assert!(!output.classes().contains(&ClassId(99)));
    assert!(output.scores().iter().all(|score| score.is_finite()));
}

#[test]
fn the_stage_fits_the_stream() {
    let learner = SimpleCil::new(SimpleCilConfig::default(), resnet(1, Normalise::HALF)).unwrap();
    let info = |single_pass| TaskInfo {
        task: TaskId(0),
        classes: vec![],
        seen: 0,
        samples: 0,
        single_pass,
    };
    let stage = |task: Option<&TaskInfo>| {
        (
            learner.stages(task)[0].source,
            learner.stages(task)[0].batch,
        )
    };
    assert_eq!(stage(None), (Source::Stream, 64));
    assert_eq!(stage(Some(&info(true))), (Source::Stream, 64));
    assert_eq!(stage(Some(&info(false))), (Source::Task, 128));
}

#[test]
fn the_state_of_another_learner_is_refused() {
    let frozen = resnet(1, Normalise::HALF);
    let tasks = tasks(&frozen, 3);
    let trained = |frozen: &Frozen| {
        let mut learner = build(Similarity::Cosine, 4, frozen)();
        feed(learner.as_mut(), &tasks, Flow::Tasks, Key::from_seed(4));
        learner.save().unwrap()
    };
    // A class without a sample has no mean.
    let mut nobody = trained(&frozen);
    nobody.put("counts", everburn_core::Array::i64([4], vec![3, 3, 0, 3]));
    let others = [resnet(2, Normalise::HALF), resnet(1, Normalise::NONE)];
    for foreign in others.iter().map(trained).chain([nobody]) {
        assert!(
            build(Similarity::Cosine, 4, &frozen)()
                .restore(&foreign)
                .is_err()
        );
    }
}

#[test]
fn settings_are_checked_and_go_through_files() {
    for (field, batch, online_batch) in [("batch", 0, 1), ("online_batch", 1, 0)] {
        let config = SimpleCilConfig {
            batch,
            online_batch,
            ..SimpleCilConfig::default()
        };
        let error = SimpleCil::new(config, resnet(1, Normalise::HALF))
            .err()
            .unwrap()
            .to_string();
        let expected = "found 0, expected a whole number of at least 1";
        assert_eq!(error, format!("simplecil.{field}: {expected}"));
    }
    for similarity in BOTH {
        let config = SimpleCilConfig {
            similarity,
            batch: 7,
            online_batch: 3,
        };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(
            toml::from_str::<SimpleCilConfig>(&text).unwrap(),
            config,
            "{text}"
        );
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<SimpleCilConfig>(&text).unwrap(),
            config,
            "{text}"
        );
    }
    assert_eq!(
        toml::from_str::<SimpleCilConfig>("").unwrap(),
        SimpleCilConfig::default()
    );
    assert!(toml::from_str::<SimpleCilConfig>("similarty = 'cosine'").is_err());
    assert!(toml::from_str::<SimpleCilConfig>("similarity = 'cosin'").is_err());
    let none = Images::empty(resnet(1, Normalise::HALF).backbone().input());
    assert!(
        build(Similarity::Cosine, 1, &resnet(1, Normalise::HALF))()
            .predict(&none)
            .is_err()
    );
}
