//! Golden case `reservoir`, and the mechanism of replay.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use everburn_backend::{DeviceChoice, Rule, Schedule};
use everburn_core::{
    Batch, ClassId, Ctx, ImageShape, Key, Kind, Learner, ReservoirRule, State, Step, View,
    batched_slots, exact_slot,
};
use everburn_er::{Combine, Er, ErConfig};
use everburn_nn::{
    Augment, Backbone, Config, Frozen, Normalise, Recipe, Trainee, Training, Tuning,
};
use everburn_testkit::drive::{Action, Flow, Task, feed, script, toy_task};
use everburn_testkit::{golden_path, test_devices};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let path = golden_path(env!("CARGO_MANIFEST_DIR"), "reservoir.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = all["cases"].as_array().unwrap().iter();
    let cases: Vec<Value> = cases.filter(|case| case["kind"] == kind).cloned().collect();
    assert!(!cases.is_empty());
    cases
}

fn integers(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_i64().unwrap())
        .collect()
}

#[test]
fn exact_slots_follow_the_draws() {
    for case in cases("exact") {
        let capacity = case["memory_size"].as_u64().unwrap() as usize;
        let items = case["num_items"].as_u64().unwrap();
        let mut draws = case["draws_upper_exclusive_and_value"]
            .as_array()
            .unwrap()
            .iter();
        let mut memory = vec![-1; capacity];
        let mut slots = Vec::new();
        for item in 0..items {
            let slot = exact_slot(item, capacity, |upper| {
                let draw = integers(draws.next().unwrap());
                assert_eq!(draw[0] as u64, upper);
                draw[1] as u64
            });
            slots.push(slot.map_or(-1, |slot| slot as i64));
            if let Some(slot) = slot {
                memory[slot] = item as i64;
            }
        }
        assert!(draws.next().is_none());
        assert_eq!(slots, integers(&case["slots"]));
        assert_eq!(memory, integers(&case["final_item_in_slot"]));
    }
}

#[test]
fn batched_slots_follow_the_draws() {
    for case in cases("batched") {
        let size = |name: &str| case[name].as_u64().unwrap() as usize;
        let (capacity, batch) = (size("memory_size"), size("batch_size"));
        let mut draws = case["draws_upper_and_uniform_values"]
            .as_array()
            .unwrap()
            .iter();
        let mut memory = vec![-1; capacity];
        for (number, expected) in case["memory_after_each_batch"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let seen = number * batch;
            // A batch that the memory takes in whole draws nothing.
            let (upper, mut values) = if seen + batch > capacity {
                let draw = draws.next().unwrap();
                (
                    draw[0].as_f64().unwrap(),
                    draw[1].as_array().unwrap().iter(),
                )
            } else {
                (0.0, [].iter())
            };
            let slots = batched_slots(seen as u64, capacity, batch, |found| {
                assert_eq!(found, upper);
                values.next().unwrap().as_f64().unwrap()
            });
            assert!(values.next().is_none());
            for (item, slot) in slots.into_iter().enumerate() {
                if let Some(slot) = slot {
                    memory[slot] = (seen + item) as i64;
                }
            }
            assert_eq!(memory, integers(expected), "batch {number}");
        }
        assert!(draws.next().is_none());
    }
}

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
            weight_decay: 0.0,
            clipping: None,
        },
        schedule: Schedule::Constant,
        augment: Augment::default(),
        epochs: 3,
        batch: 8,
        online_batch: 5,
        online_updates: 2,
    }
}

fn config(combine: Combine, recipe: Recipe) -> ErConfig {
    ErConfig {
        buffer: 10,
        replay_batch: 8,
        combine,
        reservoir: ReservoirRule::Exact,
        recipe,
    }
}

fn er(config: &ErConfig, frozen: &Frozen) -> Er {
    Er::new(config.clone(), frozen.clone(), Key::from_seed(7)).unwrap()
}

fn two_tasks(per_class: usize) -> [Task; 2] {
    let task = |classes: [u32; 2], seed| toy_task(SMALL, &classes, per_class, Key::from_seed(seed));
    [task([2, 26], 1), task([6, 18], 2)]
}

/// Fine-tuning with the recipe of a replay learner: what is left when the memory is taken away.
fn finetune(recipe: &Recipe, actions: &[Action]) -> Trainee {
    let mut trainee = Trainee::new(recipe.clone(), small(), Key::from_seed(7)).unwrap();
    for action in actions {
        match action {
            Action::On(event, _) => trainee.on(event),
            Action::Observe(batch, step, cx) => {
                let learnt = trainee.observe("finetune", batch, step, cx, |net, key| {
                    net.step(
                        &batch.images,
                        &batch.labels,
                        batch.view,
                        key.child("stream"),
                    )
                });
                learnt.unwrap();
            }
        }
    }
    trainee
}

fn weights(state: &State) -> Vec<f32> {
    let names = ["trained.head.weight", "trained.head.bias"];
    let arrays = names.map(|name| match &state.arrays[name].values {
        everburn_core::Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    });
    arrays.concat()
}

fn first_step() -> Step {
    Step {
        task: None,
        stage: 0,
        epoch: 0,
        epochs: 1,
        index: 0,
        steps: 2,
    }
}

#[test]
fn separate_losses_have_twice_the_gradient_of_the_concatenated() {
    for (choice, device) in test_devices() {
        let backbone = Backbone::resnet18(4, 8, Normalise::HALF, Key::from_seed(1), &device);
        let frozen = Frozen::new(backbone.unwrap(), &device);
        let [task, _] = two_tasks(8);
        let recipe = Recipe {
            online_updates: 1,
            ..recipe(Tuning::Frozen, Rule::sgd(0.0), 0.5)
        };
        let [separate, concatenated] = [Combine::Separate, Combine::Concatenated].map(|combine| {
            // Room for the whole first batch, so that both draw the same images, as many as the batch.
            let mut learner = er(&config(combine, recipe.clone()), &frozen);
            let mut states = Vec::new();
            for (index, range) in [0..8_usize, 8..16].into_iter().enumerate() {
                let chosen: Vec<usize> = range.collect();
                let images = task.images.select(&chosen).unwrap();
                let labels = chosen.iter().map(|i| task.labels[*i]).collect();
                let batch = Batch::new(images, labels, View::Train).unwrap();
                let cx = Ctx::new(Key::from_seed(3).at(index as u64));
                learner.observe(&batch, &first_step(), &cx).unwrap();
                states.push(weights(&learner.save().unwrap()));
            }
            states
        });
        assert_eq!(
            separate[0], concatenated[0],
            "{choice}: nothing is replayed yet"
        );
        let step = |states: &[Vec<f32>]| -> Vec<f32> {
            states[1]
                .iter()
                .zip(&states[0])
                .map(|(b, a)| b - a)
                .collect()
        };
        let (twice, once) = (step(&separate), step(&concatenated));
        let largest = twice.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(largest > 1e-3);
        for (twice, once) in twice.iter().zip(&once) {
            assert!(
                (twice - 2.0 * once).abs() < 1e-5 * largest.max(1.0),
                "{choice}: {twice} {once}"
            );
        }
    }
}

#[test]
fn replay_starts_with_the_second_batch() {
    for combine in [Combine::Separate, Combine::Concatenated] {
        let recipe = recipe(Tuning::Full, Rule::sgd(0.9), 0.05);
        let mut learner = er(&config(combine, recipe.clone()), &small());
        let actions = script(&learner, &two_tasks(8), Flow::Borderless, Key::from_seed(4));
        let mut batches = 0;
        for (index, action) in actions.iter().enumerate() {
            action.apply(&mut learner).unwrap();
            if let Action::Observe(batch, ..) = action {
                let plain = finetune(&recipe, &actions[..=index]).save().unwrap();
                let same = weights(&learner.save().unwrap()) == weights(&plain);
                assert_eq!(same, batches == 0, "{combine:?}, batch {batches}");
                batches += 1;
                assert_eq!(
                    learner.memory().len(),
                    (batches * batch.labels.len()).min(10)
                );
            }
            if batches == 3 {
                break;
            }
        }
    }
}

#[test]
fn the_memory_keeps_to_its_budget() {
    for reservoir in [ReservoirRule::Exact, ReservoirRule::Batched] {
        for flow in [Flow::Tasks, Flow::SinglePass, Flow::Borderless] {
            let config = ErConfig {
                reservoir,
                ..config(
                    Combine::Concatenated,
                    recipe(Tuning::Frozen, Rule::sgd(0.0), 0.1),
                )
            };
            let mut learner = er(&config, &small());
            let budget = (10 * (SMALL.bytes() + 8)) as u64;
            for action in script(&learner, &two_tasks(9), flow, Key::from_seed(4)) {
                action.apply(&mut learner).unwrap();
                assert!(learner.memory().len() <= 10);
                assert!(learner.footprint().bytes(Kind::Exemplars) <= budget);
            }
            assert_eq!(learner.memory().len(), 10);
            assert_eq!(learner.footprint().bytes(Kind::Exemplars), budget);
            assert_eq!(
                learner.memory().seen(),
                36,
                "{flow:?}: several epochs count once"
            );
        }
    }
}

#[test]
fn a_sample_enters_once_over_several_epochs() {
    let config = ErConfig {
        buffer: 100,
        ..config(
            Combine::Separate,
            recipe(Tuning::Frozen, Rule::sgd(0.0), 0.1),
        )
    };
    let tasks = two_tasks(9);
    let mut learner = er(&config, &small());
    feed(&mut learner, &tasks, Flow::Tasks, Key::from_seed(4));
    assert_eq!(learner.memory().len(), 36);
    let state = learner.save().unwrap();
    let pixels = state.u8("memory.images").unwrap().1.to_vec();
    let stored: BTreeSet<&[u8]> = pixels.chunks_exact(SMALL.bytes()).collect();
    let given = tasks
        .iter()
        .flat_map(|task| task.images.pixels().chunks_exact(SMALL.bytes()));
    assert_eq!(stored, given.collect());
}

#[test]
fn what_is_stored_is_what_came_in() {
    // The memory keeps the raw image, not an augmented one.
    let recipe = Recipe {
        augment: Augment::pad_crop_flip(),
        ..recipe(Tuning::Full, Rule::sgd(0.0), 0.01)
    };
    let mut learner = er(&config(Combine::Separate, recipe), &small());
    let [task, _] = two_tasks(5);
    feed(
        &mut learner,
        std::slice::from_ref(&task),
        Flow::SinglePass,
        Key::from_seed(4),
    );
    let state = learner.save().unwrap();
    let given: Vec<&[u8]> = task.images.pixels().chunks_exact(SMALL.bytes()).collect();
    let pixels = state.u8("memory.images").unwrap().1;
    let labels = state.i64("memory.labels").unwrap();
    for (image, label) in pixels.chunks_exact(SMALL.bytes()).zip(labels) {
        let index = given.iter().position(|given| *given == image).unwrap();
        assert_eq!(i64::from(task.labels[index].0), *label);
    }
}

#[test]
fn replay_remembers_what_fine_tuning_forgets() {
    let tasks = two_tasks(20);
    let recipe = Recipe {
        epochs: 12,
        ..recipe(Tuning::Full, Rule::adam(), 0.01)
    };
    for combine in [Combine::Separate, Combine::Concatenated] {
        let mut learner = er(&config(combine, recipe.clone()), &small());
        let actions = script(&learner, &tasks, Flow::Tasks, Key::from_seed(4));
        actions
            .iter()
            .for_each(|action| action.apply(&mut learner).unwrap());
        let [old, new] = tasks.each_ref().map(|task| task.accuracy(&learner));
        let plain = finetune(&recipe, &actions)
            .net
            .predict(&tasks[0].images)
            .unwrap()
            .predicted();
        let kept = plain
            .iter()
            .zip(&tasks[0].labels)
            .filter(|(a, b)| a == b)
            .count();
        let forgotten = kept as f64 / plain.len() as f64;
        assert!(
            old > 0.8 && new > 0.8 && forgotten < 0.3,
            "{combine:?}: {old} {new} {forgotten}"
        );
    }
}

#[test]
fn the_state_of_another_learner_is_refused() {
    let make = |tuning| config(Combine::Separate, recipe(tuning, Rule::adam(), 0.01));
    for (tuning, other) in [
        (Tuning::Frozen, Tuning::Full),
        (Tuning::Full, Tuning::Frozen),
    ] {
        let mut larger = make(tuning);
        larger.buffer = 11;
        for mut foreign in [
            er(&make(other), &small()),
            er(&make(tuning), &resnet(2, Normalise::HALF)),
            er(&make(tuning), &resnet(1, Normalise::NONE)),
            er(&larger, &small()),
        ] {
            feed(&mut foreign, &two_tasks(4), Flow::Tasks, Key::from_seed(4));
            let mut learner = er(&make(tuning), &small());
            assert!(learner.restore(&foreign.save().unwrap()).is_err());
        }
    }
}

#[test]
fn settings_out_of_their_domain_are_refused_by_name() {
    let good = config(Combine::Separate, recipe(Tuning::Full, Rule::adam(), 0.01));
    let change = |field, change: &dyn Fn(&mut ErConfig)| {
        let mut config = good.clone();
        change(&mut config);
        (field, config)
    };
    for (field, config) in [
        change("er.buffer", &|c| c.buffer = 0),
        change("er.replay_batch", &|c| c.replay_batch = 0),
        change("recipe.epochs", &|c| c.recipe.epochs = 0),
        change("recipe.online_updates", &|c| c.recipe.online_updates = 0),
        change("training.head_rate", &|c| {
            c.recipe.training.head_rate = f64::NAN
        }),
        change("schedule.min", &|c| {
            c.recipe.schedule = Schedule::Cosine { min: -1.0 }
        }),
    ] {
        let error = Er::new(config, small(), Key::from_seed(7))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with(&format!("{field}: found")),
            "{field}: {error}"
        );
    }
    ErConfig::published().validate().unwrap();
    // A memory far larger than the stream reserves nothing.
    let vast = ErConfig {
        buffer: usize::MAX,
        replay_batch: usize::MAX,
        ..good
    };
    let mut learner = er(&vast, &small());
    feed(
        &mut learner,
        &two_tasks(4),
        Flow::SinglePass,
        Key::from_seed(4),
    );
    assert_eq!(learner.memory().len(), 16);
}

#[test]
fn settings_go_through_files_and_unknown_ones_are_refused() {
    let mut batched = config(
        Combine::Concatenated,
        recipe(Tuning::Frozen, Rule::sgd(0.9), 0.1),
    );
    batched.reservoir = ReservoirRule::Batched;
    for config in [ErConfig::published(), batched] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ErConfig>(&text).unwrap(), config, "{text}");
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(
            serde_json::from_value::<ErConfig>(json.clone()).unwrap(),
            config
        );
        for table in [
            "",
            "/recipe",
            "/recipe/training",
            "/recipe/training/rule",
            "/recipe/augment",
        ] {
            let mut more = json.clone();
            let object = more.pointer_mut(table).unwrap().as_object_mut().unwrap();
            object.insert("bufer".to_owned(), 1.into());
            assert!(serde_json::from_value::<ErConfig>(more).is_err(), "{table}");
        }
    }
}

#[test]
fn a_label_of_any_size_is_a_class() {
    let [task, _] = two_tasks(2);
    let config = config(
        Combine::Separate,
        recipe(Tuning::Frozen, Rule::adam(), 0.01),
    );
    let mut learner = er(&config, &small());
    let labels = vec![ClassId(u32::MAX), ClassId(0), ClassId(u32::MAX), ClassId(5)];
    let batch = Batch::new(task.images.clone(), labels, View::Train).unwrap();
    for _ in 0..2 {
        learner
            .observe(&batch, &first_step(), &Ctx::new(Key::from_seed(1)))
            .unwrap();
    }
    let mut restored = er(&config, &small());
    restored.restore(&learner.save().unwrap()).unwrap();
    assert_eq!(
        restored.predict(&task.images).unwrap().classes(),
        [u32::MAX, 0, 5].map(ClassId)
    );
}
