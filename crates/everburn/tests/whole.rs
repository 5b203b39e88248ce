//! The whole way, from images to accuracies, on every device that is present.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use everburn::backend::{DeviceChoice, Rule, save_params, to_vec};
use everburn::core::{Batch, ClassId, Ctx, Key, Step, Values, View};
use everburn::data::{Dataset, Preprocess, load};
use everburn::methods::{METHODS, method};
use everburn::nn::{Augment, Backbone, Frozen, Network, Preset, Setting, Training, Tuning};
use everburn::nn::{ClassMeans, Similarity};
use everburn::run::{Labelled, Material, Outcome, Runner, Settings};
use everburn::stream::scenario;
use everburn_testkit::test_devices;

/// By how much devices may differ, as a fraction of the largest value: features and logits by
/// rounding alone; a training step also by the form of GELU's gradient, which is exact on `cpu` and
/// a tanh approximation elsewhere (1.3e-3 measured on golden gradients).
const FORWARD: f32 = 1e-4;
const STEP: f32 = 5e-3;

fn digits(train: usize, test: usize) -> Dataset {
    let digits = load("digits", None, &"resize-32".parse::<Preprocess>().unwrap()).unwrap();
    digits
        .take_per_class(train)
        .unwrap()
        .take_test_per_class(test)
        .unwrap()
}

const FROZEN: Setting = Setting {
    preset: Preset::Cpu,
    tuning: Tuning::Frozen,
    from_scratch: false,
};

fn run(name: &str, stream: &str, data: &Dataset, frozen: &Frozen, seed: u64) -> Outcome {
    let manifest = scenario(stream).unwrap();
    let manifest = manifest
        .compile(&data.train.labels, data.num_classes(), seed)
        .unwrap();
    let method = method(name).unwrap();
    let settings = method.settings(&FROZEN, &Default::default()).unwrap();
    let learner = method
        .build(settings, frozen.clone(), Key::from_seed(seed))
        .unwrap();
    let train = Labelled {
        images: &data.train.images,
        labels: &data.train.labels,
    };
    let test = Labelled {
        images: &data.test.images,
        labels: &data.test.labels,
    };
    let material = Material {
        manifest: &manifest,
        train,
        test,
    };
    Runner::new(material, Settings::new(seed), learner)
        .unwrap()
        .run()
        .unwrap()
}

fn last(outcome: &Outcome) -> f64 {
    outcome.history.last().unwrap().accuracy().unwrap()
}

fn frozen(device: &everburn::backend::Device) -> Frozen {
    Frozen::new(Backbone::embedded(device).unwrap(), device)
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f32], fraction: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= fraction * largest,
            "{what}: {a}, expected {b} (largest {largest})"
        );
    }
}

/// The trained parameters after one step of SGD on six digits, backbone and head.
fn one_step(device: &everburn::backend::Device) -> Vec<f32> {
    let training = Training {
        rule: Rule::sgd(0.0),
        head_rate: 0.1,
        backbone_rate: 0.1,
        pet_rate: None,
        weight_decay: 0.0,
        clipping: None,
    };
    let (frozen, key) = (frozen(device), Key::from_seed(3));
    let before = save_params(frozen.backbone().encoder()).unwrap();
    let mut net = Network::new(
        frozen,
        Tuning::Full,
        &training,
        Augment::default(),
        key,
        device,
    )
    .unwrap();
    let data = digits(1, 1);
    let images = data.train.images.select(&[0, 1, 2, 3, 4, 5]).unwrap();
    net.see(&data.train.labels[..6]);
    net.step(&images, &data.train.labels[..6], View::Test, key)
        .unwrap();
    // The movement, not the parameters, which hardly move.
    let state = net.save().unwrap().below("trained.backbone");
    let mut moved = Vec::new();
    for (path, array) in &before.arrays {
        let (Values::F32(old), Values::F32(new)) =
            (&array.values, &state.array(path).unwrap().values)
        else {
            panic!("{path}");
        };
        moved.extend(old.iter().zip(new).map(|(old, new)| new - old));
    }
    moved
}

#[test]
fn devices_agree_on_features_on_a_step_and_on_simplecil() {
    let data = digits(6, 4);
    let cpu = DeviceChoice::CPU.open().unwrap();
    let some = data
        .train
        .images
        .select(&(0..8).collect::<Vec<_>>())
        .unwrap();
    let features = |device: &everburn::backend::Device| {
        to_vec(&frozen(device).features(&some).unwrap()).unwrap()
    };
    let (expected, step) = (features(&cpu), one_step(&cpu));
    let accuracy = last(&run("simplecil", "split-5", &data, &frozen(&cpu), 0));
    for (choice, device) in test_devices() {
        if choice == DeviceChoice::CPU {
            continue;
        }
        close(
            &format!("features on {choice}"),
            &features(&device),
            &expected,
            FORWARD,
        );
        close(
            &format!("a step on {choice}"),
            &one_step(&device),
            &step,
            STEP,
        );
        let found = last(&run("simplecil", "split-5", &data, &frozen(&device), 0));
        assert!(
            (found - accuracy).abs() < 0.001,
            "{choice}: {found}, cpu: {accuracy}"
        );
    }
}

#[test]
fn simplecil_is_the_nearest_class_mean_in_one_go() {
    let data = digits(40, 20);
    let frozen = frozen(&DeviceChoice::CPU.open().unwrap());
    frozen.warm(&data.train.images, |_, _| true).unwrap();
    frozen.warm(&data.test.images, |_, _| true).unwrap();
    let mut means = ClassMeans::new(frozen.backbone().dim());
    let rows = |split: &everburn::data::Split| {
        let images = split.images.to_images().unwrap();
        to_vec(&frozen.features(&images).unwrap()).unwrap()
    };
    means.add(&rows(&data.train), &data.train.labels).unwrap();
    let scores = means.scores(&rows(&data.test), Similarity::Cosine).unwrap();
    let classes = means.seen().as_slice();
    let best = |row: &[f32]| -> ClassId {
        let best = row
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .unwrap()
            .0;
        classes[best]
    };
    let right = scores
        .chunks(10)
        .zip(&data.test.labels)
        .filter(|(row, label)| best(row) == **label);
    let expected = right.count() as f64 / data.test.len() as f64;
    for (stream, seed) in [
        ("split-5", 0),
        ("split-2", 1),
        ("split-b4-inc3", 2),
        ("si-blurry", 3),
    ] {
        let found = last(&run("simplecil", stream, &data, &frozen, seed));
        assert_eq!(found, expected, "{stream}");
    }
}

/// The same parameters trained for the same number of samples: what separates the three is what they
/// may see again.
#[test]
fn joint_beats_replay_and_replay_beats_fine_tuning() {
    let data = digits(60, 30);
    let frozen = frozen(&DeviceChoice::CPU.open().unwrap());
    frozen.warm(&data.train.images, |_, _| true).unwrap();
    frozen.warm(&data.test.images, |_, _| true).unwrap();
    for seed in [0, 1] {
        let of = |name: &str| last(&run(name, "split-5", &data, &frozen, seed));
        let (joint, er, finetune) = (of("joint"), of("er"), of("finetune"));
        assert!(joint > er && er > finetune + 0.1, "{joint} {er} {finetune}");
    }
}

#[test]
fn every_method_is_called_what_its_learner_says_and_its_presets_are_valid() {
    let frozen = frozen(&DeviceChoice::CPU.open().unwrap());
    for method in METHODS {
        for preset in [Preset::Cpu, Preset::Paper] {
            for tuning in [Tuning::Frozen, Tuning::Full] {
                for from_scratch in [false, true] {
                    let setting = Setting {
                        preset,
                        tuning,
                        from_scratch,
                    };
                    let settings = method.settings(&setting, &Default::default()).unwrap();
                    let learner = method
                        .build(settings, frozen.clone(), Key::from_seed(0))
                        .unwrap();
                    assert_eq!(learner.spec().method, method.name);
                }
            }
        }
    }
}

#[test]
fn no_two_methods_have_one_name() {
    let names: BTreeSet<&str> = METHODS.iter().map(|method| method.name).collect();
    assert_eq!(names.len(), METHODS.len());
}

/// Where every batch holds every class, nothing is hidden: ER-ACE is ER with separate losses. Where one
/// does not, it is not.
#[test]
fn er_ace_is_er_where_every_batch_holds_every_class() {
    let frozen = frozen(&DeviceChoice::CPU.open().unwrap());
    let data = digits(4, 1);
    let learn = |name: &str, changes: &[(&str, serde_json::Value)], classes: [&[u32]; 3]| {
        let method = method(name).unwrap();
        let changes = changes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        let settings = method.settings(&FROZEN, &changes).unwrap();
        let mut learner = method
            .build(settings, frozen.clone(), Key::from_seed(7))
            .unwrap();
        for (index, classes) in (0..).zip(classes) {
            let chosen: Vec<usize> = (0..data.train.len())
                .filter(|i| classes.contains(&data.train.labels[*i].0))
                .collect();
            let labels = chosen.iter().map(|i| data.train.labels[*i]).collect();
            let images = data.train.images.select(&chosen).unwrap();
            let batch = Batch::new(images, labels, View::Train).unwrap();
            let (task, stage, epoch, epochs, steps) = (None, 0, 0, 1, 3);
            let step = Step {
                task,
                stage,
                epoch,
                epochs,
                index,
                steps,
            };
            let cx = Ctx::new(Key::from_seed(8).at(index as u64));
            learner.observe(&batch, &step, &cx).unwrap();
        }
        learner.save().unwrap()
    };
    let separate = [("combine", "separate".into())];
    let all: [&[u32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];
    let (er, ace) = (learn("er", &separate, all), learn("er-ace", &[], all));
    assert_eq!(er.difference(&ace), None);
    let apart: [&[u32]; 3] = [&[0, 1], &[2, 3], &[0, 1]];
    let (er, ace) = (learn("er", &separate, apart), learn("er-ace", &[], apart));
    assert!(er.difference(&ace).is_some());
}

#[test]
fn settings_change_by_path_and_wrong_ones_are_named() {
    let er = method("er").unwrap();
    let change = |key: &str, value: serde_json::Value| {
        er.settings(&FROZEN, &[(key.to_owned(), value)].into_iter().collect())
    };
    let settings = change("recipe.training.head_rate", 0.25.into()).unwrap();
    assert_eq!(settings["recipe"]["training"]["head_rate"], 0.25);
    let message = change("recipe.training.hed_rate", 1.into())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`hed_rate`") && message.contains("`head_rate`"),
        "{message}"
    );
    assert!(change("buffer.size", 1.into()).is_err());
}
