//! What fine-tuning and joint training are.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_backend::{Clipping, DeviceChoice, Rule, Schedule};
use everburn_baselines::{FineTune, Joint};
use everburn_core::{
    Batch, ClassId, Ctx, Event, ImageShape, Key, Learner, Result, Source, State, Step, TaskId,
    TaskInfo, View,
};
use everburn_nn::augment::Crop;
use everburn_nn::{Augment, Backbone, Config, Frozen, Normalise, Recipe, Training, Tuning};
use everburn_testkit::drive::{Flow, Task, feed, script, toy_task};
use everburn_testkit::test_devices;

const SMALL: ImageShape = ImageShape::new(8, 8, 3);

fn resnet(seed: u64, normalise: Normalise) -> Frozen {
    let device = DeviceChoice::CPU.open().unwrap();
    let key = Key::from_seed(seed);
    Frozen::new(
        Backbone::resnet18(4, 8, normalise, key, &device).unwrap(),
        &device,
    )
}

fn small() -> Frozen {
    resnet(1, Normalise::HALF)
}

fn recipe(tuning: Tuning, rule: Rule, rate: f64) -> Recipe {
    Recipe {
        tuning,
        pet: None,
        unfrozen: Vec::new(),
        training: Training {
            rule,
            head_rate: rate,
            backbone_rate: rate,
            pet_rate: None,
            weight_decay: 1e-4,
            clipping: Some(Clipping { max_norm: 10.0 }),
        },
        schedule: Schedule::Cosine { min: 0.0 },
        augment: Augment::default(),
        epochs: 2,
        batch: 8,
        online_batch: 5,
        online_updates: 2,
    }
}

fn two_tasks(per_class: usize) -> [Task; 2] {
    let task = |classes: [u32; 2], seed| toy_task(SMALL, &classes, per_class, Key::from_seed(seed));
    [task([2, 26], 1), task([6, 18], 2)]
}

type Build = Box<dyn Fn() -> Box<dyn Learner>>;

fn both(recipe: &Recipe, frozen: &Frozen) -> [Build; 2] {
    let key = Key::from_seed(7);
    let (r, f) = (recipe.clone(), frozen.clone());
    let finetune: Build =
        Box::new(move || Box::new(FineTune::new(r.clone(), f.clone(), key).unwrap()));
    let (r, f) = (recipe.clone(), frozen.clone());
    let joint: Build = Box::new(move || Box::new(Joint::new(r.clone(), f.clone(), key).unwrap()));
    [finetune, joint]
}

#[test]
fn finetune_forgets_and_joint_does_not() {
    let device = DeviceChoice::CPU.open().unwrap();
    let backbone = Backbone::embedded(&device).unwrap();
    let shape = backbone.input();
    let frozen = Frozen::new(backbone, &device);
    let task = |classes: [u32; 2], seed| toy_task(shape, &classes, 12, Key::from_seed(seed));
    let (train, test) = ([task([2, 26], 1), task([6, 18], 2)], task([2, 26], 3));
    for part in train.iter().chain([&test]) {
        frozen.warm(&part.images, |_, _| true).unwrap();
    }
    let recipe = Recipe {
        epochs: 30,
        ..recipe(Tuning::Frozen, Rule::adam(), 0.02)
    };
    let [old_finetune, old_joint] = both(&recipe, &frozen).map(|build| {
        let mut learner = build();
        feed(
            learner.as_mut(),
            &train[..1],
            Flow::Tasks,
            Key::from_seed(4),
        );
        assert_eq!(test.accuracy(learner.as_ref()), 1.0);
        let mut learner = build();
        feed(learner.as_mut(), &train, Flow::Tasks, Key::from_seed(4));
        assert!(train[1].accuracy(learner.as_ref()) > 0.9);
        test.accuracy(learner.as_ref())
    });
    assert!(
        old_joint > 0.9 && old_finetune < 0.6,
        "{old_joint} {old_finetune}"
    );
}

#[test]
fn a_network_tuned_whole_forgets_and_joint_does_not() {
    let train = two_tasks(20);
    let recipe = Recipe {
        epochs: 12,
        ..recipe(Tuning::Full, Rule::adam(), 0.01)
    };
    let [finetune, joint] = both(&recipe, &small()).map(|build| {
        let mut learner = build();
        feed(learner.as_mut(), &train, Flow::Tasks, Key::from_seed(4));
        train.each_ref().map(|task| task.accuracy(learner.as_ref()))
    });
    assert!(finetune[0] < 0.3 && finetune[1] > 0.9, "{finetune:?}");
    assert!(joint[0] > 0.9 && joint[1] > 0.9, "{joint:?}");
}

#[test]
fn a_new_class_in_mid_stream_grows_the_head_and_leaves_the_old_rows() {
    let recipe = recipe(Tuning::Frozen, Rule::adam(), 0.02);
    for build in both(&recipe, &small()) {
        let mut learner = build();
        let [old, _] = two_tasks(4);
        feed(
            learner.as_mut(),
            &[old],
            Flow::Borderless,
            Key::from_seed(4),
        );
        let head = |learner: &dyn Learner| {
            let state = learner.save().unwrap();
            let (shape, weight) = state.f32::<2>("trained.head.weight").unwrap();
            (shape, weight.to_vec())
        };
        let (shape, before) = head(learner.as_ref());
        assert_eq!(shape[0], 2);
        // The border of a task that brings a class grows the head without a step.
        let info = TaskInfo {
            task: TaskId(1),
            classes: vec![ClassId(9)],
            seen: 3,
            samples: 1,
            single_pass: true,
        };
        learner
            .on(&Event::TaskBegin(info), &Ctx::new(Key::from_seed(5)))
            .unwrap();
        let (shape, after) = head(learner.as_ref());
        assert_eq!(shape[0], 3);
        assert_eq!(after[..before.len()], before);
        assert_eq!(after.len(), 3 * shape[1]);
    }
}

#[test]
fn a_batch_with_a_new_class_is_learnt_like_any_other() {
    let recipe = recipe(Tuning::Full, Rule::sgd(0.9), 0.01);
    for build in both(&recipe, &small()) {
        let mut learner = build();
        let tasks = two_tasks(6);
        feed(
            learner.as_mut(),
            &tasks,
            Flow::Borderless,
            Key::from_seed(4),
        );
        let classes = learner
            .predict(&tasks[1].images)
            .unwrap()
            .classes()
            .to_vec();
        let mut sorted = classes.clone();
        sorted.sort();
        assert_eq!(sorted, [2, 6, 18, 26].map(ClassId));
    }
}

#[test]
fn joint_starts_anew_from_the_events_key() {
    let recipe = recipe(Tuning::Full, Rule::adam(), 0.01);
    let tasks = two_tasks(6);
    let after_begin = |past: u64, now: u64| -> State {
        let mut learner = Joint::new(recipe.clone(), small(), Key::from_seed(7)).unwrap();
        feed(&mut learner, &tasks[..1], Flow::Tasks, Key::from_seed(past));
        let stage = learner.stages(None)[0].clone();
        assert_eq!(stage.source, Source::AllSeen);
        learner
            .on(&Event::StageBegin(stage), &Ctx::new(Key::from_seed(now)))
            .unwrap();
        learner.save().unwrap()
    };
    let state = after_begin(1, 3);
    // Neither the weights nor the moments keep anything of the past, …
    assert_eq!(state.f32::<2>("trained.head.weight").unwrap().0[0], 2);
    assert!(
        !state
            .arrays
            .keys()
            .any(|name| name.starts_with("optimiser"))
    );
    let untouched = FineTune::new(recipe.clone(), small(), Key::from_seed(7)).unwrap();
    for (name, array) in untouched.save().unwrap().arrays {
        assert_eq!(state.arrays[&name], array, "{name}");
    }
    let (other_past, other_key) = (after_begin(2, 3), after_begin(1, 4));
    let head = |state: &State| state.f32::<2>("trained.head.weight").unwrap().1.to_vec();
    // … and what is drawn comes from the event.
    let order = |state: &State| state.value::<Vec<ClassId>>("seen").unwrap();
    assert_eq!(order(&state), order(&other_past));
    assert_eq!(state.difference(&other_past), None);
    assert_ne!(head(&state), head(&other_key));
}

#[test]
fn batch_statistics_are_trained_saved_and_used() {
    let recipe = recipe(Tuning::Full, Rule::sgd(0.0), 0.0);
    let mut learner = FineTune::new(recipe, small(), Key::from_seed(7)).unwrap();
    let before = learner.save().unwrap();
    feed(
        &mut learner,
        &two_tasks(6)[..1],
        Flow::Tasks,
        Key::from_seed(4),
    );
    let after = learner.save().unwrap();
    for (name, array) in &before.arrays {
        // With a rate of 0 the running statistics are all that moves.
        let moves = name.contains("running_");
        assert_eq!(after.arrays[name] != *array, moves, "{name}");
    }
}

#[test]
fn every_device_trains_predicts_and_saves() {
    for (choice, device) in test_devices() {
        let backbone = Backbone::resnet18(4, 8, Normalise::HALF, Key::from_seed(1), &device);
        let frozen = Frozen::new(backbone.unwrap(), &device);
        let recipe = recipe(Tuning::Full, Rule::adam(), 0.01);
        let mut learner = FineTune::new(recipe.clone(), frozen, Key::from_seed(7)).unwrap();
        let tasks = two_tasks(4);
        feed(
            &mut learner,
            &tasks[..1],
            Flow::SinglePass,
            Key::from_seed(4),
        );
        // What one device has saved another restores.
        let mut moved = FineTune::new(recipe, small(), Key::from_seed(7)).unwrap();
        moved.restore(&learner.save().unwrap()).unwrap();
        let [a, b] = [&learner, &moved].map(|l| l.predict(&tasks[0].images).unwrap());
        for (a, b) in a.scores().iter().zip(b.scores()) {
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{choice}: {a} {b}");
        }
    }
}

#[test]
fn the_state_of_another_learner_is_refused() {
    for (tuning, other) in [
        (Tuning::Frozen, Tuning::Full),
        (Tuning::Full, Tuning::Frozen),
    ] {
        let adam = |tuning| recipe(tuning, Rule::adam(), 0.01);
        let foreign = [
            both(&adam(other), &small()),
            both(&adam(tuning), &resnet(2, Normalise::HALF)),
            both(&adam(tuning), &resnet(1, Normalise::NONE)),
        ];
        for (index, build) in both(&adam(tuning), &small()).iter().enumerate() {
            for foreign in &foreign {
                let mut foreign = foreign[index]();
                feed(
                    foreign.as_mut(),
                    &two_tasks(4),
                    Flow::Tasks,
                    Key::from_seed(4),
                );
                assert!(build().restore(&foreign.save().unwrap()).is_err());
            }
        }
    }
}

#[test]
fn a_diverging_loss_is_an_error() {
    let recipe = Recipe {
        training: Training {
            rule: Rule::sgd(0.0),
            head_rate: 1e38,
            backbone_rate: 1e38,
            pet_rate: None,
            weight_decay: 0.0,
            clipping: None,
        },
        ..recipe(Tuning::Full, Rule::adam(), 0.0)
    };
    let mut learner = FineTune::new(recipe, small(), Key::from_seed(7)).unwrap();
    let actions = script(&learner, &two_tasks(6), Flow::Tasks, Key::from_seed(4));
    let failed: Result<()> = actions
        .iter()
        .try_for_each(|action| action.apply(&mut learner));
    let text = failed.unwrap_err().to_string();
    assert!(
        text.contains("finetune") && text.contains("diverged"),
        "{text}"
    );
}

#[test]
fn a_label_of_any_size_is_a_class() {
    let [task, _] = two_tasks(2);
    let mut learner = FineTune::new(
        recipe(Tuning::Frozen, Rule::adam(), 0.01),
        small(),
        Key::from_seed(7),
    )
    .unwrap();
    let labels = vec![ClassId(u32::MAX), ClassId(0), ClassId(u32::MAX), ClassId(5)];
    let batch = Batch::new(task.images.clone(), labels, View::Train).unwrap();
    let step = Step {
        task: None,
        stage: 0,
        epoch: 0,
        epochs: 1,
        index: 0,
        steps: 1,
    };
    learner
        .observe(&batch, &step, &Ctx::new(Key::from_seed(1)))
        .unwrap();
    let output = learner.predict(&task.images).unwrap();
    assert_eq!(output.classes(), [u32::MAX, 0, 5].map(ClassId));
}

fn bad_recipes() -> Vec<(&'static str, Recipe)> {
    let good = recipe(Tuning::Full, Rule::adam(), 0.01);
    let change = |field, change: &dyn Fn(&mut Recipe)| {
        let mut recipe = good.clone();
        change(&mut recipe);
        (field, recipe)
    };
    let schedule =
        |field, schedule: Schedule| change(field, &move |r| r.schedule = schedule.clone());
    let crop = |field, crop| change(field, &move |r: &mut Recipe| r.augment.crop = crop);
    let adam = |field, text: &str| {
        let rule: Rule = serde_json::from_str(text).unwrap();
        change(field, &move |r: &mut Recipe| r.training.rule = rule)
    };
    let resized = |min_area, max_area, ratio| Crop::Resized {
        min_area,
        max_area,
        ratio,
    };
    vec![
        change("recipe.epochs", &|r| r.epochs = 0),
        change("recipe.batch", &|r| r.batch = 0),
        change("recipe.online_batch", &|r| r.online_batch = 0),
        change("recipe.online_updates", &|r| r.online_updates = 0),
        change("training.head_rate", &|r| r.training.head_rate = -0.1),
        change("training.head_rate", &|r| r.training.head_rate = f64::NAN),
        change("training.backbone_rate", &|r| {
            r.training.backbone_rate = f64::INFINITY
        }),
        change("training.weight_decay", &|r| r.training.weight_decay = -1.0),
        change("training.clipping.max_norm", &|r| {
            r.training.clipping = Some(Clipping { max_norm: 0.0 })
        }),
        change("optimiser.momentum", &|r| r.training.rule = Rule::sgd(1.0)),
        adam("optimiser.beta1", r#"{"rule": "adam", "beta1": 1.0}"#),
        adam("optimiser.beta2", r#"{"rule": "adam-w", "beta2": -0.1}"#),
        adam("optimiser.epsilon", r#"{"rule": "adam", "epsilon": -1e-8}"#),
        change("augment.brightness", &|r| r.augment.brightness = 1.5),
        crop(
            "augment.crop.padding",
            Crop::Padded {
                padding: usize::MAX,
            },
        ),
        crop("augment.crop.min_area", resized(0.0, 1.0, 1.3)),
        crop("augment.crop.max_area", resized(0.1, 1.1, 1.3)),
        crop("augment.crop.ratio", resized(0.1, 1.0, 0.9)),
        schedule("schedule.min", Schedule::Cosine { min: -1.0 }),
        schedule(
            "schedule.gamma",
            Schedule::MultiStep {
                milestones: vec![1],
                gamma: f64::NAN,
            },
        ),
        schedule(
            "schedule.start_factor",
            Schedule::WarmUp {
                steps: 1,
                start_factor: -0.5,
            },
        ),
        schedule("schedule.scale_min", Schedule::LaeCosine { scale_min: 1.5 }),
    ]
}

#[test]
fn settings_out_of_their_domain_are_refused_by_name() {
    for (field, recipe) in bad_recipes() {
        let key = Key::from_seed(7);
        let errors = [
            FineTune::new(recipe.clone(), small(), key).err(),
            Joint::new(recipe.clone(), small(), key).err(),
        ];
        for error in errors {
            let text = error
                .unwrap_or_else(|| panic!("{field}: accepted"))
                .to_string();
            assert!(
                text.starts_with(&format!("{field}: found")),
                "{field}: {text}"
            );
        }
    }
}

#[test]
fn settings_go_through_files_and_unknown_ones_are_refused() {
    let mut recipes = vec![
        Recipe::online_from_scratch(),
        Recipe::si_blurry(),
        recipe(Tuning::Full, Rule::sgd(0.9), 0.1),
    ];
    recipes[1].augment = Augment::pilot();
    recipes[2].schedule = Schedule::MultiStep {
        milestones: vec![3, 7],
        gamma: 0.1,
    };
    for recipe in recipes {
        recipe.validate().unwrap();
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<Recipe>(&text).unwrap(), recipe, "{text}");
        let json = serde_json::to_value(&recipe).unwrap();
        assert_eq!(
            serde_json::from_value::<Recipe>(json.clone()).unwrap(),
            recipe,
            "{json}"
        );
        for table in [
            "",
            "/training",
            "/training/rule",
            "/augment",
            "/augment/crop",
        ] {
            let mut more = json.clone();
            let object = more.pointer_mut(table).unwrap().as_object_mut().unwrap();
            object.insert("learning_rat".to_owned(), 1.into());
            let refused = serde_json::from_value::<Recipe>(more);
            assert!(refused.is_err(), "{table} of {json}");
        }
    }
}
