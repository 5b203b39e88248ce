//! A small learner, its three tasks, and what the tests ask of it.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

use everburn_backend::{Device, DeviceChoice, Schedule, save_params, to_vec};
use everburn_core::{ClassId, ImageShape, Images, Key, Learner, State, TaskId, TaskInfo, Values};
use everburn_mos::{Mos, MosConfig};
use everburn_nn::pet::{Blocks, LoraConfig};
use everburn_nn::{Frozen, Pet, PetConfig, Preset, Setting, Tuning};
use everburn_testkit::drive::{Action, Flow, Task, feed, script, toy_task, toy_vit};

pub(crate) const SMALL: ImageShape = ImageShape::new(8, 8, 3);
/// Blocks of [`frozen`].
pub(crate) const DEPTH: usize = 2;

pub(crate) fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

pub(crate) fn frozen() -> Frozen {
    let backbone = toy_vit(SMALL.height, Key::from_seed(1), &cpu()).unwrap();
    Frozen::new(backbone, &cpu())
}

/// Small and fast, so that a few steps move adapters.
pub(crate) fn config() -> MosConfig {
    let mut config = MosConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    config.recipe.batch = 4;
    config.recipe.online_batch = 4;
    config.recipe.epochs = 2;
    config.recipe.schedule = Schedule::Constant;
    config.recipe.training.backbone_rate = 1.0;
    config.recipe.training.head_rate = 0.1;
    config.alignment.epochs = 2;
    config.alignment.samples_per_class = 8;
    config
}

pub(crate) fn learner(config: &MosConfig) -> Mos {
    Mos::new(config.clone(), frozen(), Key::from_seed(2)).unwrap()
}

pub(crate) fn tasks() -> Vec<Task> {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    vec![task(&[26, 2], 1), task(&[18, 6], 2), task(&[9, 11], 3)]
}

pub(crate) fn actions(learner: &Mos, tasks: &[Task]) -> Vec<Action> {
    script(learner, tasks, Flow::Tasks, Key::from_seed(3))
}

pub(crate) fn lora() -> PetConfig {
    PetConfig::Lora(LoraConfig {
        blocks: Blocks::All,
        ..LoraConfig::default()
    })
}

/// A learner that has been taught so many tasks.
pub(crate) fn taught(config: &MosConfig, count: usize) -> Mos {
    let mut learner = learner(config);
    feed(
        &mut learner,
        &tasks()[..count],
        Flow::Tasks,
        Key::from_seed(3),
    );
    learner
}

/// The state before the first step of a task, and that step.
pub(crate) fn before_step(config: &MosConfig, task: u32) -> (State, Action) {
    let mut learner = learner(config);
    for action in actions(&learner, &tasks()) {
        if let Action::Observe(_, step, _) = &action
            && step.task == Some(TaskId(task))
        {
            return (learner.save().unwrap(), action);
        }
        action.apply(&mut learner).unwrap();
    }
    panic!("no step of task {task}");
}

/// The same state under other settings.
pub(crate) fn with(learner: &Mos, config: &MosConfig) -> Mos {
    let mut other = self::learner(config);
    other.restore(&learner.save().unwrap()).unwrap();
    other
}

pub(crate) fn all_images() -> Images {
    let mut images = tasks()[0].images.clone();
    for task in &tasks()[1..] {
        images.extend(&task.images).unwrap();
    }
    images
}

/// All parameters of a set, one after another.
pub(crate) fn values(pet: &Pet) -> Vec<f32> {
    let state = save_params(pet).unwrap();
    let arrays = state.arrays.values();
    arrays
        .flat_map(|array| match &array.values {
            Values::F32(values) => values.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub(crate) fn scores(learner: &Mos, images: &Images) -> Vec<f32> {
    learner.predict(images).unwrap().scores().to_vec()
}

pub(crate) fn near(found: &[f32], expected: &[f32], by: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= by, "{found} and {expected}");
    }
}

/// Features of images under a set, by the plain forward pass.
pub(crate) fn features(learner: &Mos, images: &Images, pet: &Pet) -> Vec<f32> {
    let net = learner.network();
    let backbone = net.backbone();
    let vit = backbone.as_vit().unwrap();
    let pixels = backbone.normalise(backbone.load(images, &cpu()).unwrap());
    let tokens = vit.embed_with(pixels, Some(pet));
    to_vec(&vit.finish(tokens, 0, Some(pet), None)).unwrap()
}

pub(crate) fn values_of_head(state: &State) -> Vec<f32> {
    match &state.below("trained.head").arrays["weight"].values {
        Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

/// The third of [`tasks`], as a stream announces it.
pub(crate) fn third() -> TaskInfo {
    TaskInfo {
        task: TaskId(2),
        classes: vec![ClassId(9), ClassId(11)],
        seen: 6,
        samples: 16,
        single_pass: false,
    }
}
