//! What SLCA is made of, each part on its own: rates, frozen heads, statistics, alignment, and heads that come back.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::Tensor;
use everburn_backend::{Device, DeviceChoice, Rule, Schedule, save_params, to_vec};
use everburn_core::{
    ClassId, Event, ImageShape, Key, Kind, Learner, Source, State, TaskId, TaskInfo, Values,
};
use everburn_nn::{
    AlignmentConfig, Backbone, Covariance, Frozen, Head, Preset, Setting, Shrink, Tuning,
};
use everburn_slca::{LogitNorm, Loss, Shrinkage, Slca, SlcaConfig};
use everburn_testkit::drive::{Action, Flow, Task, script, toy_task, toy_vit};

const SMALL: ImageShape = ImageShape::new(8, 8, 3);
/// Width of a feature of [`frozen`].
const DIM: usize = 16;

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn frozen() -> Frozen {
    let backbone = toy_vit(SMALL.height, Key::from_seed(1), &cpu()).unwrap();
    Frozen::new(backbone, &cpu())
}

/// Small, and without momentum and decay, so that a step is rate times gradient.
fn config(tuning: Tuning) -> SlcaConfig {
    let setting = Setting {
        preset: Preset::Cpu,
        tuning,
        from_scratch: false,
    };
    let mut config = match tuning {
        Tuning::Pet => SlcaConfig::plus_preset(&setting),
        _ => SlcaConfig::preset(&setting),
    };
    config.recipe.batch = 4;
    config.recipe.online_batch = 4;
    config.recipe.epochs = 2;
    config.recipe.schedule = Schedule::Constant;
    config.recipe.training.rule = Rule::sgd(0.0);
    config.recipe.training.weight_decay = 0.0;
    config.alignment.epochs = 2;
    config.alignment.samples_per_class = 8;
    // Features begin as pre-trained.
    config.new_norm = false;
    config
}

fn learner(config: &SlcaConfig) -> Slca {
    Slca::new(config.clone(), frozen(), Key::from_seed(2)).unwrap()
}

fn tasks() -> Vec<Task> {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    vec![task(&[26, 2], 1), task(&[18, 6], 2), task(&[9, 11], 3)]
}

fn actions(learner: &Slca) -> Vec<Action> {
    script(learner, &tasks(), Flow::Tasks, Key::from_seed(3))
}

/// Calls `look` after each call to a learner, with its parameters before and after.
fn watch(config: &SlcaConfig, mut look: impl FnMut(&Action, &Slca, &State, &State)) {
    let mut learner = learner(config);
    let mut before = State::default();
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
        let after = learner.save().unwrap().below("trained");
        look(&action, &learner, &before, &after);
        before = after;
    }
}

fn values(state: &State, name: &str) -> Vec<f32> {
    match state.arrays.get(name).map(|array| &array.values) {
        Some(Values::F32(values)) => values.clone(),
        _ => Vec::new(),
    }
}

fn stage_of(action: &Action) -> Option<&str> {
    match action {
        Action::On(Event::StageBegin(stage) | Event::StageEnd(stage), _) => Some(&stage.name),
        _ => None,
    }
}

/// Whether all parameters of the backbone are the same.
fn same_backbone(a: &State, b: &State) -> bool {
    let mut names = a.arrays.keys().filter(|name| !name.starts_with("head."));
    names.all(|name| a.arrays[name] == b.arrays[name])
}

#[test]
fn stages_are_the_representation_its_statistics_and_from_the_second_task_on_the_alignment() {
    let learner = learner(&config(Tuning::Full));
    let stages = |task, classes: usize, seen, samples, single_pass| {
        let info = TaskInfo {
            task: TaskId(task),
            classes: (0..classes as u32).map(ClassId).collect(),
            seen,
            samples,
            single_pass,
        };
        let stages = learner.stages(Some(&info)).into_iter();
        stages
            .map(|stage| (stage.name, stage.source, stage.epochs))
            .collect::<Vec<_>>()
    };
    let stage = |name: &str, source, epochs| (name.to_owned(), source, epochs);
    let train = stage("train", Source::Task, 2);
    let statistics = stage("statistics", Source::Task, 1);
    // As many steps in each epoch as classes.
    let align = stage("align", Source::Synthetic { steps: 7 }, 2);
    assert_eq!(
        stages(0, 3, 3, 9, false),
        [train.clone(), statistics.clone()]
    );
    assert_eq!(
        stages(2, 2, 7, 9, false),
        [train.clone(), statistics.clone(), align.clone()]
    );
    let online = stage("train", Source::Stream, 1);
    assert_eq!(stages(2, 2, 7, 9, true), [online, align]);
    // Nothing to align for: all heads are of this task, or there are no samples.
    assert_eq!(stages(2, 7, 7, 9, false).len(), 2);
    assert_eq!(stages(2, 0, 7, 0, false).len(), 2);
    let mut slow = config(Tuning::Full);
    slow.alignment.epochs = 0;
    let learner = self::learner(&slow);
    let info = TaskInfo {
        task: TaskId(1),
        classes: vec![ClassId(1)],
        seen: 2,
        samples: 4,
        single_pass: false,
    };
    let names = learner.stages(Some(&info)).len();
    assert_eq!(names, 1, "without alignment nobody needs statistics");
}

#[test]
fn heads_of_earlier_tasks_stand_still_while_the_representation_learns() {
    let mut config = config(Tuning::Full);
    // Either alone would move rows without a gradient.
    config.recipe.training.rule = Rule::sgd(0.9);
    config.recipe.training.weight_decay = 0.1;
    let (mut stage, mut steps) = (String::new(), 0);
    watch(&config, |action, learner, before, after| {
        stage = stage_of(action).map_or(stage.clone(), str::to_owned);
        let Action::Observe(_, step, _) = action else {
            return;
        };
        let old = 2 * step.task.unwrap().0 as usize;
        if stage != "train" {
            return;
        }
        steps += 1;
        assert!(!same_backbone(before, after));
        for (name, width) in [("head.weight", DIM), ("head.bias", 1)] {
            let (before, after) = (values(before, name), values(after, name));
            assert_eq!(before[..old * width], after[..old * width], "{name}");
            assert_ne!(before[old * width..], after[old * width..], "{name}");
        }
        assert_eq!(learner.network().seen().len(), old + 2);
    });
    assert_eq!(steps, 3 * 2 * 4);
}

#[test]
fn alignment_moves_all_heads_and_nothing_else_and_they_come_back() {
    for tuning in [Tuning::Full, Tuning::Pet] {
        let config = config(tuning);
        let mut stage = String::new();
        let mut snapshot = None;
        let (mut aligned, mut recalled) = (0, 0);
        watch(&config, |action, learner, before, after| {
            let begins = matches!(action, Action::On(Event::StageBegin(_), _));
            stage = stage_of(action).map_or(stage.clone(), str::to_owned);
            let head = |state: &State| (values(state, "head.weight"), values(state, "head.bias"));
            match (&*stage, action) {
                ("statistics", Action::Observe(..)) => assert_eq!(before.arrays, after.arrays),
                ("align", Action::Observe(..)) => {
                    assert!(same_backbone(before, after));
                    let (before, after) = (head(before), head(after));
                    assert!(before.0.iter().zip(&after.0).all(|(a, b)| a != b));
                    assert!(before.1.iter().zip(&after.1).all(|(a, b)| a != b));
                    aligned += 1;
                }
                ("align", Action::On(Event::StageBegin(_), _)) => snapshot = Some(head(after)),
                ("align", Action::On(Event::TaskBegin(_), _)) => {
                    // Until the next task learns, the aligned heads predict; its rows are new.
                    let (old, new) = (head(before), head(after));
                    assert_eq!(old.0[..], new.0[..old.0.len()]);
                    assert!(new.0.len() > old.0.len());
                }
                ("train", _) if begins => {
                    if let Some((weight, bias)) = snapshot.take() {
                        let (rows, now) = (head(before), head(after));
                        assert_eq!(now.0[..weight.len()], weight);
                        assert_eq!(now.1[..bias.len()], bias);
                        assert_ne!(rows.0[..weight.len()], weight);
                        assert_eq!(rows.0[weight.len()..], now.0[weight.len()..]);
                        assert!(learner.unaligned().is_none());
                        recalled += 1;
                    }
                }
                _ => {}
            }
        });
        // Two epochs of as many steps as classes, in the second and in the third task.
        assert_eq!((aligned, recalled), (2 * (4 + 6), 1), "{tuning:?}");
        assert!(snapshot.is_some(), "the last task's alignment stays");
    }
}

/// How far the parameters of each kind move in the first step of a task, from a learner that was saved and restored
/// before it.
fn moved(config: &SlcaConfig, task: u32) -> [f64; 4] {
    let mut learner = learner(config);
    for action in actions(&learner) {
        if let Action::Observe(_, step, _) = &action
            && step.task == Some(TaskId(task))
        {
            let saved = learner.save().unwrap();
            let mut restored = self::learner(config);
            restored.restore(&saved).unwrap();
            action.apply(&mut restored).unwrap();
            let (before, after) = (
                saved.below("trained"),
                restored.save().unwrap().below("trained"),
            );
            let distance = |wanted: &dyn Fn(&str) -> bool| {
                let names = before.arrays.keys().filter(|name| wanted(name));
                let squares = names.flat_map(|name| {
                    let (a, b) = (values(&before, name), values(&after, name));
                    a.into_iter()
                        .zip(b)
                        .map(|(a, b)| f64::from(a - b).powi(2))
                        .collect::<Vec<_>>()
                });
                squares.sum::<f64>().sqrt()
            };
            let is_norm = |name: &str| name.contains("norm");
            return [
                distance(&|name| name.starts_with("head.")),
                distance(&|name| name.starts_with("backbone.") && !is_norm(name)),
                distance(&|name| name.starts_with("backbone.") && is_norm(name)),
                distance(&|name| name.starts_with("pet.")),
            ];
        }
        action.apply(&mut learner).unwrap();
    }
    panic!("no step of task {task}");
}

#[test]
fn each_rate_moves_its_own_parameters_after_save_and_restore() {
    for task in [0, 1] {
        let of = |head, backbone| {
            let mut config = config(Tuning::Full);
            config.recipe.training.head_rate = head;
            config.recipe.training.backbone_rate = backbone;
            moved(&config, task)
        };
        let [head, backbone, norms, _] = of(0.1, 0.0);
        assert!(head > 0.0 && backbone == 0.0 && norms == 0.0);
        let [head, backbone, norms, _] = of(0.0, 0.1);
        assert!(head == 0.0 && backbone > 0.0 && norms > 0.0);
    }
    // A hundredth of the rate is a hundredth of the way, from where both are the same.
    let of = |backbone| {
        let mut config = config(Tuning::Full);
        config.recipe.training.backbone_rate = backbone;
        moved(&config, 0)
    };
    let (fast, slow) = (of(0.1), of(0.001));
    assert_eq!(fast[0], slow[0]);
    for part in [1, 2] {
        assert!((fast[part] / slow[part] / 100.0 - 1.0).abs() < 0.02);
    }
}

#[test]
fn slca_plus_has_a_rate_for_modules_in_the_first_task_and_one_for_later() {
    let of = |first, later, others, task| {
        let mut config = config(Tuning::Pet);
        config.first_pet_rate = first;
        config.recipe.training.pet_rate = later;
        config.recipe.training.backbone_rate = others;
        moved(&config, task)
    };
    let only_modules = |[head, others, norms, modules]: [f64; 4]| {
        assert!(head > 0.0 && others == 0.0 && norms == 0.0);
        modules > 0.0
    };
    assert!(only_modules(of(Some(0.1), None, 0.0, 0)));
    assert!(!only_modules(of(Some(0.1), None, 0.0, 1)));
    assert!(!only_modules(of(Some(0.0), Some(0.1), 0.0, 0)));
    assert!(only_modules(of(Some(0.0), Some(0.1), 0.0, 1)));
    // And without a rate of their own they have the backbone's.
    let [_, others, norms, modules] = of(Some(0.0), None, 0.1, 1);
    assert!(others > 0.0 && norms > 0.0 && modules > 0.0);
    let published = SlcaConfig::plus_cifar100();
    assert_eq!(published.first_pet_rate, Some(0.005));
    assert_eq!(published.recipe.training.backbone_rate, 0.001);
}

#[test]
fn slca_plus_trains_low_rank_changes_norms_biases_and_the_class_token_alone() {
    let config = config(Tuning::Pet);
    let mut learner = learner(&config);
    let images = &tasks()[0].images;
    let features = |learner: &Slca| to_vec(&learner.network().features(images).unwrap()).unwrap();
    let untouched = frozen().features(images).unwrap();
    assert_eq!(features(&learner), to_vec(&untouched).unwrap(), "ΔW = 0");
    let first = learner.save().unwrap();
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
    }
    assert_ne!(features(&learner), to_vec(&untouched).unwrap());
    let last = learner.save().unwrap();
    let names: Vec<&String> = first.arrays.keys().collect();
    let of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    // Two layer norms in each of two blocks and the final one; six more biases in a block-pair each.
    let backbone = of("trained.backbone");
    assert_eq!(of("norm"), 2 * (2 * 2 + 1));
    assert_eq!(of("cls_token"), 1);
    assert_eq!(backbone, 10 + 1 + 2 * 4 + 1);
    assert_eq!(of("trained.pet"), 2 * 2, "A and B of each qkv");
    for name in names.iter().filter(|name| name.starts_with("trained.")) {
        assert_ne!(first.arrays[*name], last.arrays[*name], "{name} learns");
    }
    // A checkpoint and a footprint hold these and not the backbone.
    let whole = frozen().backbone().bytes();
    let trained = learner.footprint().bytes(Kind::Trained);
    assert!(trained < whole / 2, "{trained} of {whole}");
}

#[test]
fn in_prediction_the_input_of_older_heads_is_scaled() {
    let mut config = config(Tuning::Pet);
    // So that the aligned heads are the unaligned ones but for the factor.
    config.alignment.rate = 0.0;
    config.shrink = Shrinkage::Sample { mu: 0.02 };
    let mut learner = learner(&config);
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
    }
    let (net, before) = (learner.network(), learner.unaligned().unwrap());
    let head = net.head().unwrap();
    let numbers = |tensor: Tensor<2>| to_vec(&tensor).unwrap();
    let (now, before_weight) = (numbers(head.weight.val()), numbers(before.weight.val()));
    for (row, factor) in [1.04, 1.04, 1.02, 1.02, 1.0, 1.0].into_iter().enumerate() {
        for k in row * DIM..(row + 1) * DIM {
            assert!((now[k] - factor * before_weight[k]).abs() < 1e-6, "{row}");
        }
    }
    let bias = |head: &Head| to_vec(&head.bias.as_ref().unwrap().val()).unwrap();
    assert_eq!(bias(head), bias(before), "the bias is no input");
}

#[test]
fn samples_of_older_tasks_are_drawn_nearer_to_zero() {
    let mut rng = Key::from_seed(1).rng();
    let mut of = |shrink: Shrinkage, of, current| shrink.of(of, current, &mut rng);
    let mean = Shrinkage::Mean { by: 0.1 };
    assert_eq!(of(mean, 4, 4), Shrink::NONE);
    assert!((of(mean, 0, 4).mean - 0.92).abs() < 1e-12);
    assert_eq!(of(Shrinkage::None, 0, 4), Shrink::NONE);
    let sample = Shrinkage::Sample { mu: 0.02 };
    assert_eq!(of(sample, 4, 4), Shrink::NONE);
    let drawn: Vec<f64> = (0..1000).map(|_| of(sample, 0, 4).sample).collect();
    let (low, high) = (1.0 / (1.0 + 4.0 * 0.03), 1.0 / (1.0 + 4.0 * 0.01));
    assert!(drawn.iter().all(|x| (low..=high).contains(x)));
    let mean = drawn.iter().sum::<f64>() / 1000.0;
    assert!((mean - 1.0 / 1.08).abs() < 0.003, "{mean}");
}

#[test]
fn a_learner_of_one_class_never_aligns_and_answers_with_it() {
    let mut learner = learner(&config(Tuning::Full));
    let one = toy_task(SMALL, &[5], 8, Key::from_seed(1));
    let actions = script(
        &learner,
        std::slice::from_ref(&one),
        Flow::Tasks,
        Key::from_seed(3),
    );
    for action in actions {
        action.apply(&mut learner).unwrap();
    }
    assert!(learner.unaligned().is_none());
    let predicted = learner.predict(&one.images).unwrap().predicted();
    assert!(predicted.iter().all(|class| *class == ClassId(5)));
}

#[test]
fn statistics_are_of_the_backbone_as_the_task_leaves_it_and_stay() {
    let config = config(Tuning::Full);
    let mut learner = learner(&config);
    let all = tasks();
    let mut first = None;
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
        if let Action::On(Event::StageEnd(stage), _) = &action
            && stage.name == "statistics"
        {
            let gaussians = learner.gaussians();
            let task = (gaussians.seen().len() - 2) / 2;
            let features = to_vec(&learner.network().features(&all[task].images).unwrap()).unwrap();
            for place in [2 * task, 2 * task + 1] {
                let class = gaussians.seen().as_slice()[place];
                let rows = features.chunks_exact(DIM).zip(&all[task].labels);
                let own: Vec<&[f32]> = rows
                    .filter(|(_, label)| **label == class)
                    .map(|(row, _)| row)
                    .collect();
                assert_eq!(gaussians.count(place), own.len());
                let mean = |d: usize| own.iter().map(|row| f64::from(row[d])).sum::<f64>() / 8.0;
                let covariance = gaussians.covariance(place);
                for d in 0..DIM {
                    assert!((gaussians.mean(place)[d] - mean(d)).abs() < 1e-5);
                    for e in 0..DIM {
                        let products = own.iter().map(|row| {
                            (f64::from(row[d]) - mean(d)) * (f64::from(row[e]) - mean(e))
                        });
                        let jitter = if d == e { config.jitter } else { 0.0 };
                        let expected = products.sum::<f64>() / 7.0 + jitter;
                        assert!((covariance[d * DIM + e] - expected).abs() < 1e-5);
                    }
                }
            }
            let kept = (gaussians.mean(0).to_vec(), gaussians.covariance(0));
            assert_eq!(first.get_or_insert(kept.clone()), &kept);
        }
    }
    assert_eq!(learner.gaussians().seen(), learner.network().seen());
}

#[test]
fn on_a_single_pass_features_are_taken_in_as_they_pass() {
    for tuning in [Tuning::Full, Tuning::Pet, Tuning::Frozen] {
        let mut learner = learner(&config(tuning));
        let actions = script(&learner, &tasks(), Flow::SinglePass, Key::from_seed(3));
        // Sums of the features right after each batch, as the network has them then.
        let mut sums = std::collections::BTreeMap::<u32, [f64; DIM]>::new();
        for action in actions {
            action.apply(&mut learner).unwrap();
            if let Action::Observe(batch, ..) = &action
                && !batch.images.is_empty()
            {
                let features = to_vec(&learner.network().features(&batch.images).unwrap()).unwrap();
                for (row, label) in features.chunks_exact(DIM).zip(&batch.labels) {
                    let sum = sums.entry(label.0).or_default();
                    sum.iter_mut()
                        .zip(row)
                        .for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
        }
        let gaussians = learner.gaussians();
        assert_eq!(gaussians.seen().len(), 6);
        for (place, class) in gaussians.seen().as_slice().iter().enumerate() {
            assert_eq!(gaussians.count(place), 8);
            let pairs = gaussians.mean(place).iter().zip(sums[&class.0]);
            assert!(
                pairs
                    .into_iter()
                    .all(|(mean, sum)| (mean - sum / 8.0).abs() < 1e-5)
            );
        }
        assert!(learner.unaligned().is_some());
    }
}

#[test]
fn a_batch_with_a_class_of_another_task_is_refused_and_breaks_nothing() {
    for tuning in [Tuning::Full, Tuning::Pet] {
        let mut learner = learner(&config(tuning));
        let mut refused = 0;
        for action in actions(&learner) {
            if let Action::Observe(batch, step, cx) = &action
                && step.stage == 0
            {
                let mut wrong = batch.clone();
                wrong.labels[0] = ClassId(77);
                let before = learner.save().unwrap();
                let error = learner.observe(&wrong, step, cx).unwrap_err();
                assert!(error.to_string().contains("class 77"), "{error}");
                assert_eq!(learner.save().unwrap(), before);
                refused += 1;
            }
            action.apply(&mut learner).unwrap();
        }
        assert!(refused > 0);
        let saved = learner.save().unwrap();
        self::learner(&config(tuning)).restore(&saved).unwrap();
    }
}

#[test]
fn a_learner_in_mid_alignment_goes_back_to_another_run_to_the_bit() {
    let config = config(Tuning::Full);
    // The same place of two runs, in the second step of an alignment.
    let until = |seed: u64| {
        let mut learner = Slca::new(config.clone(), frozen(), Key::from_seed(seed)).unwrap();
        let actions = script(&learner, &tasks(), Flow::Tasks, Key::from_seed(seed));
        let begins = |action: &Action| matches!(action, Action::On(Event::StageBegin(stage), _) if stage.name == "align");
        let place = actions.iter().position(begins).unwrap() + 2;
        for action in &actions[..place] {
            action.apply(&mut learner).unwrap();
        }
        (learner, actions[place..].to_vec())
    };
    let ((mut straight, rest), (mut other, _)) = (until(5), until(6));
    assert_ne!(straight.save().unwrap(), other.save().unwrap());
    other.restore(&straight.save().unwrap()).unwrap();
    for action in rest {
        action.apply(&mut straight).unwrap();
        action.apply(&mut other).unwrap();
    }
    assert_eq!(straight.save().unwrap(), other.save().unwrap());
}

#[test]
fn a_class_that_comes_again_counts_to_its_last_task() {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    let again = [task(&[1, 2], 1), task(&[3, 1], 2), task(&[4], 3)];
    let mut learner = learner(&config(Tuning::Full));
    for action in script(&learner, &again, Flow::Tasks, Key::from_seed(3)) {
        action.apply(&mut learner).unwrap();
    }
    let order = learner.network().seen().as_slice().to_vec();
    let tasks: Vec<usize> = learner.save().unwrap().value("task_of").unwrap();
    for (class, task) in order.iter().zip(tasks) {
        let expected = match class.0 {
            2 => 0,
            4 => 2,
            _ => 1,
        };
        assert_eq!(task, expected, "class {class}");
    }
    let gaussians = learner.gaussians();
    let counts = |class| gaussians.count(gaussians.seen().index(ClassId(class)).unwrap());
    assert_eq!([1, 2, 3, 4].map(counts), [16, 8, 8, 8]);
}

#[test]
fn a_new_final_norm_begins_at_one_and_zero() {
    let mut config = config(Tuning::Full);
    config.new_norm = true;
    let net_of = |config: &SlcaConfig| learner(config).save().unwrap().below("trained");
    let new = net_of(&config);
    let name = |part: &str| {
        let mut names = new.arrays.keys();
        let found = names.find(|name| name.ends_with(&format!(".norm.{part}")));
        found.unwrap().clone()
    };
    assert_eq!(values(&new, &name("weight")), [1.0; DIM]);
    assert_eq!(values(&new, &name("bias")), [0.0; DIM]);
    // Its ε is 1e-5, after a step and in a restored learner, too: of tokens, which the pre-trained norm normalises, the
    // new one makes the same with another ε.
    let images = &tasks()[0].images;
    let mut learner = self::learner(&config);
    let features = |learner: &Slca| to_vec(&learner.network().features(images).unwrap()).unwrap();
    let variance = |row: &[f32]| {
        let n = row.len() as f32;
        let mean = row.iter().sum::<f32>() / n;
        row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n
    };
    // v/(v + ε) is the variance of what comes out; with ε = 1e-6 and 1e-5 it gives the same v.
    let old = to_vec(&frozen().features(images).unwrap()).unwrap();
    let check = |learner: &Slca| {
        for (old, new) in old
            .chunks_exact(DIM)
            .zip(features(learner).chunks_exact(DIM))
        {
            let (a, b) = (f64::from(variance(old)), f64::from(variance(new)));
            let v = 1e-6 * a / (1.0 - a);
            assert!((b - v / (v + 1e-5)).abs() < 2e-3, "{a} and {b}");
        }
    };
    check(&learner);
    let mut still = config.clone();
    (
        still.recipe.training.backbone_rate,
        still.recipe.training.weight_decay,
    ) = (0.0, 0.0);
    let mut after = self::learner(&still);
    for action in &actions(&after)[..3] {
        action.apply(&mut after).unwrap();
    }
    check(&after);
    let mut restored = self::learner(&still);
    restored.restore(&after.save().unwrap()).unwrap();
    check(&restored);
    // And a learner with the other norm refuses the state.
    let mut with_old = still.clone();
    with_old.new_norm = false;
    let error = self::learner(&with_old).restore(&after.save().unwrap());
    assert!(error.unwrap_err().to_string().contains("norm_epsilon"));
    learner.restore(&after.save().unwrap()).unwrap();

    config.recipe.tuning = Tuning::Frozen;
    let error = Slca::new(config, frozen(), Key::from_seed(1))
        .err()
        .unwrap();
    assert!(error.to_string().contains("new_norm"), "{error}");
}

#[test]
fn it_learns_and_alignment_makes_tasks_comparable() {
    let device = cpu();
    let shape = ImageShape::new(32, 32, 3);
    let task = |classes: &[u32], number| toy_task(shape, classes, 6, Key::from_seed(number));
    let tasks = [task(&[26, 2], 1), task(&[18, 6], 2), task(&[9, 11], 3)];
    let right = |alignment| {
        let mut config = config(Tuning::Full);
        config.recipe.epochs = 3;
        config.recipe.training.rule = Rule::sgd(0.9);
        config.alignment.epochs = alignment;
        config.alignment.samples_per_class = 64;
        let frozen = Frozen::new(Backbone::embedded(&device).unwrap(), &device);
        let mut learner = Slca::new(config, frozen, Key::from_seed(2)).unwrap();
        for action in script(&learner, &tasks, Flow::Tasks, Key::from_seed(3)) {
            action.apply(&mut learner).unwrap();
        }
        tasks
            .iter()
            .map(|task| task.accuracy(&learner))
            .sum::<f64>()
            / 3.0
    };
    let (without, with) = (right(0), right(5));
    assert!(with > 0.9 && with > without, "{without} and {with}");
}

#[test]
fn memory_grows_by_a_gaussian_and_a_row_for_each_class() {
    let config = config(Tuning::Full);
    let mut learner = learner(&config);
    let mut held = Vec::new();
    for action in actions(&learner) {
        action.apply(&mut learner).unwrap();
        if let Action::On(Event::TaskEnd(_), _) = action {
            held.push(learner.footprint());
        }
    }
    let statistics = |classes: usize| classes * (2 * DIM * (DIM + 1) + 8 * DIM + 16);
    for (task, footprint) in held.iter().enumerate() {
        let classes = 2 * (task + 1);
        let of = |name: &str| {
            let found = footprint.memory.iter().find(|memory| memory.name == name);
            found.map_or(0, |memory| memory.bytes as usize)
        };
        assert_eq!(
            footprint.bytes(Kind::Statistics),
            statistics(classes) as u64
        );
        let head = 4 * classes * (DIM + 1);
        assert_eq!(of("head"), head);
        let before = if task == 0 { 0 } else { head };
        assert_eq!(of("head before alignment"), before);
    }
    assert_eq!(
        save_params(learner.network().head().unwrap())
            .unwrap()
            .array_bytes(),
        4 * 6 * (DIM as u64 + 1)
    );
}

#[test]
fn without_borders_it_says_what_it_lacks() {
    let mut learner = learner(&config(Tuning::Full));
    let actions = script(&learner, &tasks(), Flow::Borderless, Key::from_seed(3));
    let mut errors = actions
        .iter()
        .filter_map(|action| action.apply(&mut learner).err());
    let error = errors.next().unwrap();
    assert!(error.to_string().contains("borders"), "{error}");
}

#[test]
fn settings_out_of_their_domain_are_refused() {
    let refused = |tuning, change: &dyn Fn(&mut SlcaConfig)| {
        let mut config = config(tuning);
        change(&mut config);
        let error = Slca::new(config, frozen(), Key::from_seed(1)).err();
        error.unwrap().to_string()
    };
    let full = |change: &dyn Fn(&mut SlcaConfig)| refused(Tuning::Full, change);
    assert!(full(&|c| c.jitter = -1.0).contains("slca.jitter"));
    assert!(full(&|c| c.covariance = Covariance::LowRank { rank: 0 }).contains("rank"));
    assert!(full(&|c| c.covariance = Covariance::LowRank { rank: DIM + 1 }).contains("width 16"));
    assert!(full(&|c| c.shrink = Shrinkage::Mean { by: 1.5 }).contains("slca.shrink.by"));
    assert!(full(&|c| c.shrink = Shrinkage::Sample { mu: 0.001 }).contains("slca.shrink.mu"));
    assert!(full(&|c| c.logit_norm = LogitNorm::PerTask { tau: 0.0 }).contains("tau"));
    assert!(full(&|c| c.loss = Loss::Symmetric { a: -1.0, b: 0.0 }).contains("slca.loss.a"));
    assert!(full(&|c| c.loss = Loss::Symmetric { a: 0.0, b: 0.0 }).contains("slca.loss"));
    assert!(full(&|c| c.first_pet_rate = Some(0.1)).contains("slca.first_pet_rate"));
    assert!(full(&|c| c.alignment.samples_per_class = 0).contains("alignment.samples_per_class"));
    assert!(full(&|c| c.alignment.rate = f64::NAN).contains("alignment.rate"));
    assert!(full(&|c| c.alignment.momentum = 1.0).contains("momentum"));
    assert!(full(&|c| c.recipe.epochs = 0).contains("epochs"));
    let parts = vec![everburn_nn::BackbonePart::Norms];
    assert!(full(&|c| c.recipe.unfrozen = parts.clone()).contains("recipe.unfrozen"));
    let pet = |change: &dyn Fn(&mut SlcaConfig)| refused(Tuning::Pet, change);
    assert!(pet(&|c| c.first_pet_rate = Some(-1.0)).contains("slca.first_pet_rate"));
    assert!(pet(&|c| c.recipe.training.pet_rate = Some(-1.0)).contains("pet_rate"));
    assert!(pet(&|c| c.recipe.pet = None).contains("recipe.pet"));
}

#[test]
fn published_values_are_those_of_the_official_files() {
    let published = [
        // exps/slca/slca_cifar.json, slca_imgnetr.json, exps/slcapp/slcapp_cifar_lora.json, slcapp_imgnetr_lora.json;
        // `transforms` of utils/data.py: brightness.
        (SlcaConfig::cifar100(), 20, Some(18), 5e-4, 63.0 / 255.0),
        (SlcaConfig::imagenet_r(), 50, Some(40), 5e-4, 0.0),
        (SlcaConfig::plus_cifar100(), 20, None, 5e-4, 63.0 / 255.0),
        (SlcaConfig::plus_imagenet_r(), 50, None, 0.0, 0.0),
    ];
    for (config, epochs, milestone, decay, brightness) in published {
        let recipe = &config.recipe;
        assert_eq!((recipe.epochs, recipe.batch), (epochs, 128));
        assert_eq!(recipe.training.rule, Rule::sgd(0.9));
        assert_eq!(recipe.training.head_rate, 0.01);
        assert_eq!(recipe.training.weight_decay, decay);
        assert_eq!(recipe.augment.brightness, brightness);
        let crop = everburn_nn::augment::Crop::Resized {
            min_area: 0.08,
            max_area: 1.0,
            ratio: 4.0 / 3.0,
        };
        assert_eq!((recipe.augment.crop, recipe.augment.flip), (crop, true));
        let alignment = AlignmentConfig {
            epochs: 5,
            samples_per_class: 256,
            rate: 0.01,
            momentum: 0.9,
            weight_decay: decay,
        };
        assert_eq!(config.alignment, alignment);
        assert_eq!(config.logit_norm, LogitNorm::PerTask { tau: 0.1 });
        assert!(config.new_norm && config.covariance == Covariance::Full);
        assert_eq!(config.jitter, 1e-4);
        match milestone {
            Some(milestone) => {
                let milestones = vec![milestone];
                let gamma = 0.1;
                assert_eq!(recipe.schedule, Schedule::MultiStep { milestones, gamma });
                assert_eq!(recipe.training.backbone_rate, 0.0001);
                assert_eq!(config.shrink, Shrinkage::Mean { by: 0.1 });
                assert_eq!(
                    (config.loss, recipe.tuning),
                    (Loss::CrossEntropy, Tuning::Full)
                );
            }
            None => {
                let Schedule::Cosine { min } = recipe.schedule else {
                    panic!("{:?}", recipe.schedule)
                };
                assert!((min - 1e-4).abs() < 1e-12);
                assert!((recipe.training.backbone_rate - 0.001).abs() < 1e-12);
                assert_eq!(config.first_pet_rate, Some(0.005));
                assert_eq!(config.shrink, Shrinkage::Sample { mu: 0.02 });
                let [a, b] = if epochs == 20 { [1.0, 0.1] } else { [0.5, 0.5] };
                assert_eq!(config.loss, Loss::Symmetric { a, b });
                let pet = serde_json::to_value(&recipe.pet).unwrap();
                let expected = serde_json::json!({"kind": "lora", "rank": 4, "scale": 0.8, "blocks": "all",
                    "targets": ["qkv"], "init": "singular"});
                assert_eq!(pet, expected);
            }
        }
    }
}

#[test]
fn settings_are_read_from_toml_with_the_published_values_where_they_say_nothing() {
    for published in [
        SlcaConfig::cifar100(),
        SlcaConfig::imagenet_r(),
        SlcaConfig::plus_cifar100(),
        SlcaConfig::plus_imagenet_r(),
    ] {
        let text = toml::to_string(&published).unwrap();
        assert_eq!(toml::from_str::<SlcaConfig>(&text).unwrap(), published);
    }
    let published = SlcaConfig::cifar100();
    let mut table: toml::Table = toml::from_str(&toml::to_string(&published).unwrap()).unwrap();
    for key in ["loss", "covariance", "jitter", "logit_norm"] {
        table.remove(key).unwrap();
    }
    assert_eq!(table.clone().try_into::<SlcaConfig>().unwrap(), published);
    table.insert("tau".to_owned(), 0.1.into());
    let error = table.clone().try_into::<SlcaConfig>().unwrap_err();
    assert!(error.to_string().contains("tau"), "{error}");
    table.remove("tau").unwrap();
    for (key, wrong) in [
        ("shrink", r#"{kind = "mean", by = 0.1, mu = 0.5}"#),
        ("covariance", r#"{kind = "full", rank = 4}"#),
        ("loss", r#"{kind = "cross-entropy", a = 1.0}"#),
    ] {
        let mut table = table.clone();
        let wrong: toml::Table = toml::from_str(&format!("v = {wrong}")).unwrap();
        table.insert(key.to_owned(), wrong["v"].clone());
        assert!(table.try_into::<SlcaConfig>().is_err(), "{key}");
    }
}
