//! Six steps of the official training loop, two tasks of three batches, from the same weights.
//!
//! `official/steps.safetensors` was made with `TrainLearner`, `Buffer` and `ResNet` of weilllllls/OnPro at a92f8ae, run in
//! 64 bits on a CPU with what is random made certain: views are the images themselves, a draw is the whole memory, nothing
//! is mixed, features have one number more than projections. So it says nothing of the draws, which golden case `onpro`
//! has, but all about what is put through the network together, which losses there are when, and how weights and running
//! statistics follow. `official/make.py` makes it.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_backend::DeviceChoice;
use everburn_core::{
    Array, Batch, ClassId, Ctx, Event, ImageShape, Images, Key, Learner, Stage, State, Step,
    TaskId, TaskInfo, Values, View,
};
use everburn_nn::{Augment, Backbone, Frozen, Normalise};
use everburn_onpro::{Adaptive, Feedback, OnPro, OnProConfig};
use everburn_testkit::Golden;

fn size(golden: &Golden, name: &str) -> usize {
    golden.meta("hyper")[name].as_u64().unwrap() as usize
}

/// The official weights under a prefix, as the state that `state` is one of.
fn with_weights(golden: &Golden, prefix: &str, mut state: State) -> State {
    for (name, official, turned) in weights(golden, prefix, &state) {
        let mut values = golden.f32(&official);
        let array = &state.arrays[&name];
        if turned {
            let [inputs, outputs] = array.shape[..].try_into().unwrap();
            values = transposed(&values, outputs, inputs);
        }
        let array = Array::f32(array.shape.clone(), values);
        state.arrays.insert(name, array);
    }
    state
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |place: usize| values[place % rows * columns + place / rows];
    (0..rows * columns).map(at).collect()
}

/// Each array of the network with its official name, and whether that is its transpose.
fn weights(golden: &Golden, prefix: &str, state: &State) -> Vec<(String, String, bool)> {
    let own: Vec<&String> = (state.arrays.keys())
        .filter(|name| name.starts_with("trained."))
        .collect();
    let is_stem = |name: &&&String| name.ends_with(".conv1.weight") && !name.contains("layer");
    let stem = own.iter().find(is_stem).unwrap();
    let backbone = stem.strip_suffix("conv1.weight").unwrap();
    let mut named = Vec::new();
    for official in golden.names() {
        let Some(path) = official.strip_prefix(prefix) else {
            continue;
        };
        if path.ends_with("num_batches_tracked") {
            continue;
        }
        let name = match path.split_once('.') {
            Some(("linear", rest)) => format!("trained.head.{rest}"),
            Some(("simclr", rest)) => format!("trained.projector.{rest}"),
            _ => format!("{backbone}{path}"),
        };
        assert!(own.contains(&&name), "{name}");
        named.push((name, official.clone(), path == "simclr.weight"));
    }
    assert_eq!(named.len(), own.len());
    named
}

#[test]
fn six_steps_are_those_of_the_official_loop() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/official/steps.safetensors"
    );
    let golden = Golden::read(path);
    let (batch, batches) = (size(&golden, "batch"), size(&golden, "batches"));
    let (classes, side) = (size(&golden, "classes"), size(&golden, "side"));
    let shape = ImageShape::new(side, side, 3);
    let pixels = golden
        .f64("pixels")
        .into_iter()
        .map(|pixel| pixel as u8)
        .collect();
    let images = Images::new(shape, pixels).unwrap();
    let labels: Vec<ClassId> = (golden.usize("labels").into_iter())
        .map(|label| ClassId(label as u32))
        .collect();
    let mut config = OnProConfig {
        buffer: 60,
        replay_batch: 60,
        replay_per_class: 60,
        projection: size(&golden, "width"),
        feedback: Feedback::Adaptive(Adaptive {
            base_rate: 1.0,
            mixing: 0.0,
            most: 0.6,
            alpha: 0.4,
        }),
        classes: Some(classes),
        ..OnProConfig::cifar10()
    };
    config.recipe.augment = Augment::default();
    let (key, filters) = (Key::from_seed(1), size(&golden, "filters"));
    // What is under test is what a step is made of, not kernels: one device, on which it is quick.
    let device = DeviceChoice::CPU.open().unwrap();
    let backbone = Backbone::resnet18(filters, side, Normalise::HALF, key, &device).unwrap();
    let mut learner = OnPro::new(config, Frozen::new(backbone, &device), key).unwrap();
    let begin = with_weights(&golden, "begin.", learner.save().unwrap());
    learner.restore(&begin).unwrap();
    let mut losses = Vec::new();
    for task in 0..2_u32 {
        let info = TaskInfo {
            task: TaskId(task),
            classes: vec![ClassId(2 * task), ClassId(2 * task + 1)],
            seen: 2 * (task as usize + 1),
            samples: batch * batches,
            single_pass: true,
        };
        let stage: Stage = learner.stages(Some(&info)).remove(0);
        let cx = Ctx::new(key);
        learner.on(&Event::TaskBegin(info), &cx).unwrap();
        learner.on(&Event::StageBegin(stage), &cx).unwrap();
        for index in 0..batches {
            let first = (task as usize * batches + index) * batch;
            let chosen: Vec<usize> = (first..first + batch).collect();
            let images = images.select(&chosen).unwrap();
            let labels = labels[first..first + batch].to_vec();
            let step = Step {
                task: Some(TaskId(task)),
                stage: 0,
                epoch: 0,
                epochs: 1,
                index,
                steps: batches,
            };
            let batch = Batch::new(images, labels, View::Train).unwrap();
            losses.extend(learner.observe(&batch, &step, &cx).unwrap().loss);
        }
        // Adam's steps are as long where a gradient is little but rounding: after three, some weights differ.
        let logits = golden.f64(&format!("logits.{task}"));
        let largest = logits.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        near(
            learner.predict(&images).unwrap().scores(),
            &logits,
            5e-3 * largest,
        );
    }
    let expected = golden.f64("losses");
    near(&losses, &expected, 1e-4 * expected[0]);
    check_end(&golden, &learner, &begin);
}

fn near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error < tolerance,
            "{number}: {found} {expected}, of {tolerance}"
        );
    }
}

/// Weights and running statistics, by how far they have come from the beginning; prototypes.
fn check_end(golden: &Golden, learner: &OnPro, begin: &State) {
    let state = learner.save().unwrap();
    let values = |state: &State, name: &str| match &state.arrays[name].values {
        Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    };
    let expected = with_weights(golden, "end.", begin.clone());
    let (mut wrong, mut way) = (0.0, 0.0);
    for (name, _, _) in weights(golden, "end.", &state) {
        let [begin, found, expected] = [begin, &state, &expected].map(|state| values(state, &name));
        for ((begin, found), expected) in begin.iter().zip(&found).zip(&expected) {
            // Adam divides by the size of gradients, also of those that are little but rounding.
            let [found, expected] = [found, expected].map(|value| f64::from(value - begin));
            wrong += (found - expected).powi(2);
            way += expected.powi(2);
        }
    }
    assert!(wrong < 1e-4 * way, "{wrong} of {way}");
    near(&values(&state, "prototypes"), &golden.f64("means"), 1e-3);
}
