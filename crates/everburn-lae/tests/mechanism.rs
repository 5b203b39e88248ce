//! What LAE is made of, each part on its own: accumulation, ensemble, freezing, calibration.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_backend::{Device, DeviceChoice, Rule, random, save_params, to_vec};
use everburn_core::{ImageShape, Key, Learner, State, Step};
use everburn_lae::{AlphaPer, Experts, Lae, LaeConfig};
use everburn_nn::{Backbone, Frozen, Pet, Preset, Setting, Tuning};
use everburn_testkit::drive::{Action, Flow, Task, script, toy_task, toy_vit};
use serde_json::{Value, json};

const SMALL: ImageShape = ImageShape::new(8, 8, 3);

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn frozen() -> Frozen {
    let backbone = toy_vit(SMALL.height, Key::from_seed(1), &cpu()).unwrap();
    Frozen::new(backbone, &cpu())
}

fn config(pet: Value) -> LaeConfig {
    let mut config = LaeConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    config.recipe.pet = Some(serde_json::from_value(pet).unwrap());
    config.recipe.batch = 4;
    config.recipe.online_batch = 4;
    config.recipe.epochs = 3;
    config.recipe.training.head_rate = 0.01;
    config.recipe.training.backbone_rate = 0.01;
    config.freeze_epochs = 1;
    config.alpha = 0.9;
    config.alpha_per = AlphaPer::Step;
    config
}

fn adapter() -> Value {
    json!({"kind": "adapter", "blocks": 2})
}

fn learner(config: LaeConfig) -> Lae {
    Lae::new(config, frozen(), Key::from_seed(2)).unwrap()
}

fn tasks() -> Vec<Task> {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    vec![task(&[26, 2], 1), task(&[18, 6], 2), task(&[9, 11], 3)]
}

fn actions(learner: &Lae) -> Vec<Action> {
    script(learner, &tasks(), Flow::Tasks, Key::from_seed(3))
}

fn state(pet: &Pet) -> State {
    save_params(pet).unwrap()
}

/// Calls `look` after each step from the second task on, with the modules before and after it.
fn watch(config: LaeConfig, flow: Flow, mut look: impl FnMut([&State; 2], [&State; 2], &Step)) {
    let mut learner = learner(config);
    let states = |learner: &Lae| {
        let online = state(learner.network().pet().unwrap());
        (online, learner.offline().map(state))
    };
    let mut steps = 0;
    for action in script(&learner, &tasks(), flow, Key::from_seed(3)) {
        let before = states(&learner);
        action.apply(&mut learner).unwrap();
        let (Action::Observe(_, step, _), (on, Some(off))) = (&action, &before) else {
            continue;
        };
        let after = states(&learner);
        look([on, off], [&after.0, &after.1.unwrap()], step);
        steps += 1;
    }
    assert!(steps > 6);
}

#[test]
fn with_momentum_one_the_offline_module_never_moves() {
    let config = LaeConfig {
        alpha: 1.0,
        ..config(adapter())
    };
    let mut moved = false;
    watch(config, Flow::Tasks, |[_, off], [on, after], _| {
        assert_eq!(off, after);
        moved |= on != after;
    });
    assert!(moved, "the online one does");
}

#[test]
fn with_momentum_zero_it_is_the_online_one() {
    for pet in [adapter(), json!({"kind": "prefix", "blocks": 2})] {
        let config = LaeConfig {
            alpha: 0.0,
            ..config(pet)
        };
        watch(config, Flow::Tasks, |_, [on, off], _| assert_eq!(on, off));
    }
}

#[test]
fn it_follows_by_momentum_the_scales_too_and_while_the_online_one_is_frozen() {
    let (alpha, mut epochs) = (0.9_f32, [0; 3]);
    watch(
        config(adapter()),
        Flow::Tasks,
        |[on, off], [now, after], step| {
            epochs[step.epoch] += 1;
            if step.epoch < 1 {
                assert_eq!(on, now, "the online module is frozen");
            }
            assert!(off.arrays.keys().any(|path| path.ends_with("scaler.scale")));
            for path in off.arrays.keys() {
                let values = |state: &State| state.f32_values(path);
                for ((off, now), after) in values(off).iter().zip(values(now)).zip(values(after)) {
                    assert!(
                        (alpha * off + (1.0 - alpha) * now - after).abs() < 1e-6,
                        "{path}"
                    );
                }
            }
        },
    );
    assert!(epochs.iter().all(|steps| *steps > 0), "{epochs:?}");
}

#[test]
fn on_a_single_pass_the_module_is_frozen_for_the_same_part_of_the_steps() {
    let (mut frozen, mut steps) = (0, 0);
    let config = LaeConfig {
        // 1 of 3 epochs.
        freeze_epochs: 1,
        ..config(adapter())
    };
    watch(config, Flow::SinglePass, |[on, _], [now, _], step| {
        let is_frozen = step.index * 3 < step.steps;
        assert_eq!(
            on == now,
            is_frozen,
            "step {} of {}",
            step.index,
            step.steps
        );
        frozen += usize::from(is_frozen);
        steps += 1;
    });
    assert!(0 < frozen && frozen < steps, "{frozen} of {steps}");
}

#[test]
fn the_momentum_of_a_task_is_spread_over_its_steps_and_updates() {
    for (flow, updates) in [(Flow::Tasks, 1), (Flow::SinglePass, 3)] {
        let mut config = LaeConfig {
            alpha: 0.5,
            alpha_per: AlphaPer::Task,
            freeze_epochs: 0,
            ..config(adapter())
        };
        config.recipe.online_updates = 3;
        // With a rate of 0 the online module stands still from where the second task finds it: what is left of a
        // difference to it is α. The offline one is set off by hand.
        let mut learner = learner(config);
        let mut kept = Vec::new();
        for action in script(&learner, &tasks(), flow, Key::from_seed(3)) {
            if let (Action::Observe(_, step, _), Some(_)) = (&action, learner.offline()) {
                if step.index == 0 {
                    let mut state = learner.save().unwrap();
                    for (path, array) in &mut state.arrays {
                        if path.starts_with("offline") {
                            let everburn_core::Values::F32(values) = &mut array.values else {
                                panic!("{path}")
                            };
                            values.fill(1000.0);
                        }
                    }
                    learner.restore(&state).unwrap();
                }
                action.apply(&mut learner).unwrap();
                if step.index + 1 == step.steps {
                    let path = "blocks.0.adapter.bottleneck.down.bias";
                    kept.push(state(learner.offline().unwrap()).f32_values(path)[0] / 1000.0);
                }
                continue;
            }
            action.apply(&mut learner).unwrap();
        }
        assert_eq!(kept.len(), 2, "{updates} updates");
        assert!(
            kept.iter().all(|kept| (kept - 0.5).abs() < 2e-3),
            "{kept:?}"
        );
    }
}

trait Values {
    fn f32_values(&self, path: &str) -> Vec<f32>;
}

impl Values for State {
    fn f32_values(&self, path: &str) -> Vec<f32> {
        let everburn_core::Values::F32(values) = &self.arrays[path].values else {
            panic!("{path}")
        };
        values.clone()
    }
}

#[test]
fn momentum_of_a_task_is_that_of_all_its_steps() {
    let mut config = config(adapter());
    (config.alpha, config.alpha_per) = (0.7, AlphaPer::Task);
    for steps in [1, 10, 1040] {
        let kept = config.alpha_of_step(steps).powi(steps as i32);
        assert!((kept - 0.7).abs() < 1e-9);
    }
    // The cpu preset's is the published one of a CIFAR-100 task.
    let cpu = LaeConfig::preset(&Setting::default());
    let published = LaeConfig::cifar100().alpha_of_step(1).powi(1040);
    assert!((cpu.alpha_of_step(41).powi(41) - published).abs() < 1e-9);
    assert!((published - 0.901).abs() < 5e-4);
}

fn taught(config: LaeConfig) -> Lae {
    let mut learner = learner(config);
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
    }
    learner
}

#[test]
fn with_equal_experts_the_ensemble_is_either_of_them() {
    let images = &tasks()[1].images;
    let scores = |experts, alpha| {
        let config = LaeConfig {
            experts,
            alpha,
            ..config(adapter())
        };
        taught(config).predict(images).unwrap()
    };
    let [both, online, offline] =
        [Experts::Both, Experts::Online, Experts::Offline].map(|experts| scores(experts, 0.0));
    assert_eq!(both, online);
    assert_eq!(both, offline);
    // And with unlike experts it is neither, but the larger, class by class; the class is one of theirs.
    let [both, online, offline] =
        [Experts::Both, Experts::Online, Experts::Offline].map(|experts| scores(experts, 0.99));
    assert_ne!(online, offline);
    let larger: Vec<f32> = online
        .scores()
        .iter()
        .zip(offline.scores())
        .map(|(a, b)| a.max(*b))
        .collect();
    assert_eq!(both.scores(), larger);
    for ((both, a), b) in both
        .predicted()
        .iter()
        .zip(online.predicted())
        .zip(offline.predicted())
    {
        assert!(*both == a || *both == b);
    }
}

#[test]
fn it_learns_a_task() {
    let mut config = config(adapter());
    config.recipe.epochs = 12;
    let mut learner = learner(config);
    let task = toy_task(SMALL, &[26, 2], 16, Key::from_seed(1));
    let actions = script(
        &learner,
        std::slice::from_ref(&task),
        Flow::Tasks,
        Key::from_seed(3),
    );
    for action in actions {
        action.apply(&mut learner).unwrap();
    }
    let accuracy = task.accuracy(&learner);
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn memory_does_not_grow_with_the_tasks() {
    let mut learner = learner(config(adapter()));
    let mut held = Vec::new();
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
        if let Action::On(everburn_core::Event::TaskEnd(_), _) = action {
            let footprint = learner.footprint();
            let of = |name: &str| {
                let found = footprint.memory.iter().find(|memory| memory.name == name);
                found.map_or(0, |memory| memory.bytes)
            };
            held.push((
                of("modules"),
                of("offline module"),
                footprint.macs_per_image,
            ));
        }
    }
    let modules = 4 * 2 * (2 * 16 * 5 + 5 + 16 + 1);
    assert_eq!(held[0].0, modules);
    assert_eq!(held[0].1, 0);
    for later in &held[1..] {
        assert_eq!((later.0, later.1), (modules, modules));
        assert!(later.2 > held[0].2, "two experts cost more than one");
    }
    // The head alone grows: one more row of 16 for each of the two classes and experts.
    assert_eq!(held[2].2 - held[1].2, 2 * 2 * 16);
}

#[test]
fn without_borders_it_says_what_it_lacks() {
    let mut learner = learner(config(adapter()));
    let actions = script(&learner, &tasks(), Flow::Borderless, Key::from_seed(3));
    let error = actions
        .iter()
        .find_map(|action| action.apply(&mut learner).err())
        .unwrap();
    assert!(error.to_string().contains("borders"), "{error}");
}

#[test]
fn settings_out_of_their_domain_are_refused() {
    let refused = |change: &dyn Fn(&mut LaeConfig)| {
        let mut config = config(adapter());
        change(&mut config);
        Lae::new(config, frozen(), Key::from_seed(1))
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused(&|c| c.alpha = 1.1).contains("lae.alpha: found 1.1, expected from 0 to 1"));
    assert!(refused(&|c| c.alpha = f64::NAN).contains("lae.alpha"));
    assert!(refused(&|c| c.recipe.pet = None).contains("recipe.pet"));
    assert!(refused(&|c| c.recipe.tuning = Tuning::Full).contains("tuning"));
    let parts = vec![everburn_nn::BackbonePart::Norms];
    assert!(refused(&|c| c.recipe.unfrozen = parts.clone()).contains("lae.recipe.unfrozen"));
    assert!(refused(&|c| c.recipe.epochs = 0).contains("epochs"));
    assert!(refused(&|c| c.freeze_epochs = 3).contains("fewer than the 3 epochs"));
    assert!(refused(&|c| c.freeze_epochs = usize::MAX).contains("lae.freeze_epochs"));
}

/// By how much `steps` steps of the modules alone change the features, relative to them: what the paper calls
/// adaptation speed. The head does not move.
fn speed(pet: Value, rule: Rule, rate: f64, steps: usize) -> f64 {
    let device = cpu();
    let backbone = Backbone::embedded(&device).unwrap();
    let mut config = config(pet);
    config.recipe.training.rule = rule;
    config.recipe.training.head_rate = 0.0;
    config.recipe.training.backbone_rate = rate;
    config.recipe.epochs = steps;
    config.freeze_epochs = 0;
    config.recipe.batch = 24;
    let mut learner = Lae::new(config, Frozen::new(backbone, &device), Key::from_seed(2)).unwrap();
    let shape = ImageShape::new(32, 32, 3);
    let task = toy_task(shape, &[26, 2, 18, 6], 6, Key::from_seed(1));
    let features = |learner: &Lae| -> Vec<f32> {
        to_vec(&learner.network().features(&task.images).unwrap()).unwrap()
    };
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|x| f64::from(x * x)).sum::<f64>().sqrt()
    };
    let before = features(&learner);
    let tasks = std::slice::from_ref(&task);
    let (mut made, mut headed) = (0, false);
    for action in script(&learner, tasks, Flow::Tasks, Key::from_seed(3)) {
        if matches!(action, Action::Observe(..)) && !headed {
            // A head that says something: the official one begins at almost nothing.
            headed = true;
            let mut state = learner.save().unwrap();
            let array = state.arrays.get_mut("trained.head.weight").unwrap();
            let count: usize = array.shape.iter().product();
            let drawn = random::normal::<1>(Key::from_seed(4), [count], 0.1, &device);
            array.values = everburn_core::Values::F32(to_vec(&drawn).unwrap());
            learner.restore(&state).unwrap();
        }
        made += usize::from(matches!(action, Action::Observe(..)));
        action.apply(&mut learner).unwrap();
    }
    assert_eq!(made, steps);
    let after = features(&learner);
    let moved = norm(&mut before.iter().zip(&after).map(|(a, b)| a - b));
    moved / norm(&mut before.into_iter())
}

#[test]
fn calibration_makes_first_updates_comparable() {
    let uncompensated = || json!({"kind": "prefix", "compensate": false, "scale": 1.0});
    let one = |pet| speed(pet, Rule::sgd(0.0), 1.0, 1);
    let calibrated = ["adapter", "lora", "prefix"].map(|kind| one(json!({ "kind": kind })));
    let plain = one(uncompensated());
    let told = format!("{calibrated:?}, uncompensated {plain:e}");
    // Found: 0.26, 0.052, 0.025 and 0.0005. Without compensation a prefix moves features by two orders of magnitude
    // less than the others; with it, within one of them.
    let [fastest, slowest] =
        [f64::max, f64::min].map(|f| calibrated.into_iter().reduce(f).unwrap());
    assert!(slowest * 15.0 > fastest, "{told}");
    assert!(plain * 20.0 < slowest && plain * 200.0 < fastest, "{told}");

    // Adam makes steps of one size whatever the gradient, so less is left to calibrate. Found after ten of them at the
    // published rate: 0.33, 0.32, 0.12 and 0.024.
    let adam = |pet| speed(pet, Rule::adam(), 0.0028125, 10);
    let calibrated = ["adapter", "lora", "prefix"].map(|kind| adam(json!({ "kind": kind })));
    let plain = adam(uncompensated());
    let told = format!("{calibrated:?}, uncompensated {plain:e}");
    let [fastest, slowest] =
        [f64::max, f64::min].map(|f| calibrated.into_iter().reduce(f).unwrap());
    assert!(slowest * 4.0 > fastest, "{told}");
    assert!(plain * 3.0 < slowest && plain * 8.0 < fastest, "{told}");
}

#[test]
fn settings_are_read_from_toml_with_the_published_values_where_they_say_nothing() {
    let published = LaeConfig::cifar100();
    let text = toml::to_string(&published).unwrap();
    assert_eq!(toml::from_str::<LaeConfig>(&text).unwrap(), published);
    let without = |line: &str| {
        !["alpha", "experts", "bottleneck", "blocks", "place", "scale"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let short: Vec<&str> = text.lines().filter(|line| without(line)).collect();
    assert!(short.len() + 5 < text.lines().count());
    assert_eq!(
        toml::from_str::<LaeConfig>(&short.join("\n")).unwrap(),
        published
    );
    let typo = text.replace("freeze_epochs", "frozen_epochs");
    let error = toml::from_str::<LaeConfig>(&typo).unwrap_err().to_string();
    assert!(error.contains("frozen_epochs"), "{error}");
}
