//! What each part of a step learns from, and how the learner keeps to its settings.
#![allow(clippy::unwrap_used, missing_docs)]

mod toy;

use burn::tensor::{Tensor, TensorData};
use everburn_core::{
    Batch, ClassId, Ctx, Event, ImageShape, Images, Key, Kind, Learner, Reservoir, State, Step,
    TaskId, TaskInfo, Values, View,
};
use everburn_nn::layers::unit_rows;
use everburn_nn::{
    Augment, Backbone, Config, Frozen, Normalise, Preset, Setting, Tuning, cross_entropy, targets,
};
use everburn_onpro::{
    Adaptive, ClassAverage, Feedback, Means, Mix, OnPro, OnProConfig, TaskBorders, copied_labels,
    copies, equilibrium, instance_memory, instance_stream, mix_images, mix_labels,
    mixed_cross_entropy, similarities,
};
use everburn_testkit::drive::{Action, Flow, Task, feed, script, toy_task};
use rand::RngExt as _;
use serde_json::json;
use toy::{adaptive, device, near, number_of};

const SMALL: ImageShape = ImageShape::new(8, 8, 3);

fn frozen() -> Frozen {
    let key = Key::from_seed(1);
    let backbone = Backbone::resnet18(2, 8, Normalise::HALF, key, &device());
    Frozen::new(backbone.unwrap(), &device())
}

/// A memory and batches that hold all of a stream of toy images.
fn config() -> OnProConfig {
    let setting = Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Full,
        from_scratch: true,
    };
    let mut config = OnProConfig {
        buffer: 100,
        replay_batch: 100,
        replay_per_class: 100,
        projection: 16,
        ..OnProConfig::small_preset(&setting)
    };
    config.recipe.online_batch = 4;
    config
}

/// Cross-entropy on what is classified and nothing else.
fn bare() -> OnProConfig {
    OnProConfig {
        equilibrium: false,
        instance: false,
        feedback: Feedback::None,
        ..config()
    }
}

/// The only step of a task.
fn only_step(task: u32) -> Step {
    Step {
        task: Some(TaskId(task)),
        stage: 0,
        epoch: 0,
        epochs: 1,
        index: 0,
        steps: 1,
    }
}

fn learner(config: &OnProConfig) -> OnPro {
    OnPro::new(config.clone(), frozen(), Key::from_seed(7)).unwrap()
}

fn two_tasks() -> [Task; 2] {
    let task = |classes: [u32; 2], seed| toy_task(SMALL, &classes, 4, Key::from_seed(seed));
    [task([2, 26], 1), task([6, 18], 2)]
}

/// The learner after each batch of two tasks, of which `change` may change some.
fn states(config: &OnProConfig, flow: Flow, change: impl Fn(usize, &mut Batch)) -> Vec<State> {
    let mut learner = learner(config);
    let mut states = Vec::new();
    for action in script(&learner, &two_tasks(), flow, Key::from_seed(4)) {
        match action {
            Action::On(event, cx) => learner.on(&event, &cx).unwrap(),
            Action::Observe(mut batch, step, cx) => {
                change(states.len(), &mut batch);
                learner.observe(&batch, &step, &cx).unwrap();
                states.push(learner.save().unwrap());
            }
        }
    }
    states
}

fn head(state: &State) -> Vec<f32> {
    array(state, "trained.head.weight")
}

fn array(state: &State, name: &str) -> Vec<f32> {
    match &state.arrays[name].values {
        Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

/// The batch with other images of the same classes.
fn other_images(batch: &mut Batch) {
    let pixels = batch
        .images
        .pixels()
        .iter()
        .map(|pixel| 255 - pixel)
        .collect();
    batch.images = Images::new(SMALL, pixels).unwrap();
}

/// Whether the first change at a batch shows in the head right after it.
fn stream_is_classified(config: &OnProConfig, flow: Flow) -> Vec<bool> {
    let plain = states(config, flow, |_, _| {});
    let changed = |at: usize| {
        let changed = states(config, flow, |number, batch| {
            if number == at {
                other_images(batch);
            }
        });
        head(&changed[at]) != head(&plain[at])
    };
    (0..plain.len()).map(changed).collect()
}

#[test]
fn after_the_first_task_the_memory_alone_is_classified() {
    // Two tasks of two batches each.
    let found = stream_is_classified(&bare(), Flow::SinglePass);
    assert_eq!(found, [true, true, false, false]);
}

#[test]
fn without_borders_the_memory_is_classified_from_the_second_batch_on() {
    let config = OnProConfig {
        borders: TaskBorders::None,
        ..bare()
    };
    for flow in [Flow::Borderless, Flow::SinglePass] {
        assert_eq!(
            stream_is_classified(&config, flow),
            [true, false, false, false]
        );
    }
}

#[test]
fn feedback_begins_with_the_second_batch_of_the_second_task() {
    let with = |feedback: Feedback, borders: TaskBorders| {
        let config = OnProConfig {
            feedback,
            borders,
            ..config()
        };
        states(&config, Flow::SinglePass, |_, _| {})
    };
    let always = Feedback::Adaptive(adaptive(0.5, 1.0));
    for (borders, first) in [(TaskBorders::Released, 3), (TaskBorders::None, 2)] {
        let (none, adaptive) = (with(Feedback::None, borders), with(always, borders));
        for number in 0..4 {
            let same = head(&none[number]) == head(&adaptive[number]);
            assert_eq!(same, number < first, "{borders:?}, batch {number}");
        }
    }
}

#[test]
fn each_loss_reaches_what_it_should() {
    let projector = |state: &State| array(state, "trained.projector.weight");
    let moved = |config: &OnProConfig| {
        let mut config = config.clone();
        config.recipe.training.weight_decay = 0.0;
        let states = states(&config, Flow::SinglePass, |_, _| {});
        (0..3)
            .map(|number| projector(&states[number]) != projector(&states[number + 1]))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        moved(&bare()),
        [false; 3],
        "cross-entropy knows no projector"
    );
    for (equilibrium, instance) in [(true, false), (false, true)] {
        let config = OnProConfig {
            equilibrium,
            instance,
            ..bare()
        };
        assert_eq!(moved(&config), [true; 3]);
    }
    // The factor of the similarities counts after the first task alone.
    let with = |similarity_factor: f64| {
        let config = OnProConfig {
            similarity_factor,
            ..config()
        };
        states(&config, Flow::SinglePass, |_, _| {})
    };
    let (half, whole) = (with(0.5), with(1.0));
    for number in 0..4 {
        let same = projector(&half[number]) == projector(&whole[number]);
        assert_eq!(same, number < 2, "batch {number}");
    }
}

#[test]
fn the_optimiser_lasts() {
    let states = states(&bare(), Flow::SinglePass, |_, _| {});
    for (number, state) in states.iter().enumerate() {
        let steps: std::collections::BTreeMap<String, u64> =
            state.value("optimiser.steps").unwrap();
        assert_eq!(steps["head.weight"], number as u64 + 1);
    }
}

/// Each step by hand: three passes, of images with their copies, of what is classified, and of the draw. Views are grey, so
/// they are certain; what is drawn comes from the step's key.
#[test]
fn a_step_is_the_sum_of_its_losses() {
    let mut config = config();
    config.recipe.augment = Augment {
        gray: 1.0,
        ..Augment::default()
    };
    config.feedback = Feedback::Adaptive(adaptive(0.5, 1.0));
    config.similarity_factor = 0.5;
    config.projection = 8;
    config.replay_batch = 7;
    let mut learner = learner(&config);
    let actions = script(&learner, &two_tasks(), Flow::SinglePass, Key::from_seed(4));
    let mut batches = 0;
    for action in actions {
        if let Action::Observe(batch, step, cx) = &action {
            let key = cx.key.child("update").at(0);
            let found = by_hand(&learner, &config, batch, batches, key);
            let loss = learner.observe(batch, step, cx).unwrap().loss.unwrap();
            near(f64::from(loss), found, 1e-4 * found.abs());
            batches += 1;
        } else {
            action.apply(&mut learner).unwrap();
        }
    }
    assert_eq!(batches, 4);
}

/// The loss of the next step.
fn by_hand(learner: &OnPro, config: &OnProConfig, batch: &Batch, number: usize, key: Key) -> f64 {
    let state = learner.save().unwrap();
    let mut net = config.recipe.network(frozen(), key).unwrap();
    net = net.with_projector(config.projection, key).unwrap();
    net.restore(&state).unwrap();
    // Classes of the batch may be new to the head.
    net.see(&batch.labels);
    let mut live = net.live();
    let numbers = |labels: &[ClassId]| -> Vec<usize> {
        let number = |label: &ClassId| net.seen().index(*label).unwrap();
        labels.iter().map(number).collect()
    };
    let gray = |images: &Tensor<4>| {
        let weights = TensorData::new(vec![0.299_f32, 0.587, 0.114], [1, 3, 1, 1]);
        let weights = Tensor::<4>::from_data(weights, &device());
        (images.clone() * weights).sum_dim(1).expand(images.dims())
    };
    let rotated = |images: &Tensor<4>| copies(images.clone(), config.copies).unwrap();
    let (first_task, memory) = (number < 2, learner.memory());
    let factor = if first_task {
        1.0
    } else {
        config.similarity_factor
    };
    let stream = (live.pixels(&batch.images).unwrap(), numbers(&batch.labels));

    // The draw, and what is fed back in its place.
    let drawn = memory.draw_slots(config.replay_batch, key.child("draw"));
    let of = |slots: &[usize]| {
        let (images, labels) = memory.select(slots).unwrap();
        (live.pixels(&images).unwrap(), numbers(&labels))
    };
    let seen = (!drawn.is_empty()).then(|| of(&drawn));
    let replayed = (!first_task).then(|| {
        let Feedback::Adaptive(adaptive) = config.feedback else {
            panic!("{:?}", config.feedback)
        };
        let classes: Vec<usize> = state.value("prototype_classes").unwrap();
        let rows = array(&state, "prototypes");
        let means = Means {
            classes: &classes,
            rows: &rows,
        };
        let slots = numbers(memory.labels());
        let plan = match number {
            2 => drawn.iter().copied().map(Mix::plain).collect(),
            _ => adaptive.plan(&drawn, &slots, means, &mut key.child("feedback").rng()),
        };
        let first = of(&plan.iter().map(|mix| mix.first).collect::<Vec<_>>());
        let second = of(&plan.iter().map(|mix| mix.second).collect::<Vec<_>>());
        let shares: Vec<f32> = plan.iter().map(|mix| mix.share).collect();
        assert_eq!(number > 2, shares.iter().any(|share| *share > 0.0));
        (
            mix_images(first.0, second.0, &shares),
            first.1,
            second.1,
            shares,
        )
    });

    // Copies and views of the stream and of what is replayed, in one pass.
    let mut compared = vec![rotated(&stream.0), gray(&rotated(&stream.0))];
    if let Some((images, ..)) = &replayed {
        compared.extend([rotated(images), gray(&rotated(images))]);
    }
    let f = live.features_of(Tensor::cat(compared, 0), key).unwrap();
    let (z, f) = (unit_rows(live.project(f.clone()).unwrap()), unit_rows(f));
    let rows = 2 * config.copies * stream.1.len();
    let part = |of: &Tensor<2>, first: usize, rows: usize| of.clone().narrow(0, first, rows);
    let similar = |first: usize, rows: usize, name: &str| {
        let offset = key
            .child("offset")
            .child(name)
            .rng()
            .random_range(0..16 - 8);
        similarities(part(&z, first, rows), part(&f, first, rows), offset, factor)
    };
    let labels = |labels: &[f32]| copied_labels(labels, net.seen().len(), config.copies);
    let own: Vec<f32> = stream.1.iter().map(|class| *class as f32).collect();
    let tau = config.instance_temperature;
    let mut loss = number_of(instance_stream(
        similar(0, rows, "stream"),
        &labels(&own),
        tau,
    ));
    let balanced = |z: &Tensor<2>, views: [usize; 2], classes: &[usize]| {
        let average = ClassAverage::new(classes, &device());
        let [p, q] = views.map(|view| average.of(part(z, view, classes.len())));
        number_of(equilibrium(p, q, config.prototype_temperature))
    };
    loss += balanced(&z, [0, rows / 2], &stream.1);
    if let Some((images, first, second, shares)) = &replayed {
        let more = 2 * config.copies * first.len();
        let labels = labels(&mix_labels(first, second, shares));
        loss += number_of(instance_memory(similar(rows, more, "memory"), &labels, tau));
        let views = live.features_of(gray(images), key).unwrap();
        let logits = live.logits_of(views).unwrap();
        loss += number_of(mixed_cross_entropy(logits, first, second, shares));
    } else {
        let views = live.features_of(gray(&stream.0), key).unwrap();
        let logits = live.logits_of(views).unwrap();
        loss += number_of(cross_entropy(logits, targets(&stream.1, &device())));
    }
    if let Some((images, classes)) = &seen {
        let both = Tensor::cat(vec![images.clone(), gray(images)], 0);
        let features = live.features_of(both, key).unwrap();
        let z = unit_rows(live.project(features).unwrap());
        loss += balanced(&z, [0, classes.len()], classes);
    }
    loss
}

#[test]
fn the_memory_is_a_reservoir_of_the_stream() {
    let config = OnProConfig {
        buffer: 5,
        ..bare()
    };
    let mut learner = learner(&config);
    let mut alone = Reservoir::new(5, config.reservoir);
    for action in script(&learner, &two_tasks(), Flow::SinglePass, Key::from_seed(4)) {
        action.apply(&mut learner).unwrap();
        if let Action::Observe(batch, _, cx) = action {
            let key = cx.key.child("reservoir");
            alone.insert(&batch.images, &batch.labels, key).unwrap();
            assert_eq!(learner.memory(), &alone);
        }
    }
    assert_eq!(
        learner.footprint().bytes(Kind::Exemplars),
        5 * (SMALL.bytes() as u64 + 8)
    );
}

#[test]
fn a_head_of_all_classes_predicts_among_all() {
    let config = OnProConfig {
        classes: Some(27),
        ..bare()
    };
    let mut all = learner(&config);
    feed(&mut all, &two_tasks(), Flow::SinglePass, Key::from_seed(4));
    let images = &two_tasks()[0].images;
    let output = all.predict(images).unwrap();
    assert_eq!(output.classes(), (0..27).map(ClassId).collect::<Vec<_>>());
    let mut seen = learner(&bare());
    feed(&mut seen, &two_tasks(), Flow::SinglePass, Key::from_seed(4));
    assert_eq!(seen.predict(images).unwrap().classes().len(), 4);

    // A class beyond them is refused before anything learns of it.
    let stranger = toy_task(SMALL, &[27, 3], 2, Key::from_seed(3));
    let before = all.save().unwrap();
    let batch = Batch::new(stranger.images, stranger.labels, View::Train).unwrap();
    let step = only_step(2);
    let cx = Ctx::new(Key::from_seed(5));
    let error = all.observe(&batch, &step, &cx).unwrap_err().to_string();
    assert!(
        error.contains("class 27") && error.contains("`classes`"),
        "{error}"
    );
    let task = TaskInfo {
        task: TaskId(2),
        classes: vec![ClassId(27)],
        seen: 5,
        samples: 2,
        single_pass: true,
    };
    assert!(all.on(&Event::TaskBegin(task), &cx).is_err());
    assert_eq!(all.save().unwrap(), before);
}

#[test]
fn without_borders_it_says_what_it_lacks() {
    let mut learner = learner(&bare());
    assert!(
        learner
            .spec()
            .without_borders
            .unwrap()
            .contains("onpro.borders")
    );
    let actions = script(&learner, &two_tasks(), Flow::Borderless, Key::from_seed(3));
    let mut errors = actions
        .iter()
        .filter_map(|action| action.apply(&mut learner).err());
    let error = errors.next().unwrap().to_string();
    assert!(error.contains("`borders = \"none\"`"), "{error}");
    assert!(learner.memory().is_empty());
}

#[test]
fn a_batch_that_is_refused_leaves_no_trace() {
    let mut learner = learner(&bare());
    feed(
        &mut learner,
        &two_tasks()[..1],
        Flow::SinglePass,
        Key::from_seed(4),
    );
    let before = learner.save().unwrap();
    let images = Images::new(SMALL, vec![7; 2 * SMALL.bytes()]).unwrap();
    let batch = Batch {
        images,
        labels: vec![ClassId(99)],
        view: View::Train,
    };
    let step = only_step(1);
    assert!(
        learner
            .observe(&batch, &step, &Ctx::new(Key::from_seed(5)))
            .is_err()
    );
    assert_eq!(learner.save().unwrap(), before);
}

#[test]
fn a_cap_may_be_as_large_as_one_likes() {
    let config = OnProConfig {
        replay_per_class: usize::MAX,
        ..bare()
    };
    let mut learner = learner(&config);
    feed(
        &mut learner,
        &two_tasks(),
        Flow::SinglePass,
        Key::from_seed(4),
    );
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut OnProConfig), name: &str| {
        let mut config = config();
        change(&mut config);
        let error = OnPro::new(config, frozen(), Key::from_seed(1))
            .err()
            .unwrap();
        assert!(error.to_string().contains(name), "{error}");
    };
    refused(&|c| c.buffer = 0, "buffer");
    refused(&|c| c.replay_batch = 0, "replay_batch");
    refused(&|c| c.replay_per_class = 0, "replay_per_class");
    refused(&|c| c.copies = 8, "copies");
    refused(&|c| c.projection = 0, "projection");
    refused(&|c| c.projection = 17, "at most 16");
    refused(&|c| c.prototype_temperature = 0.0, "prototype_temperature");
    refused(
        &|c| c.instance_temperature = f64::NAN,
        "instance_temperature",
    );
    refused(&|c| c.similarity_factor = -1.0, "similarity_factor");
    refused(&|c| c.classes = Some(0), "classes");
    refused(&|c| c.recipe.tuning = Tuning::Frozen, "recipe.tuning");
    refused(&|c| c.classes = Some((1 << 20) + 1), "classes");
    refused(&|c| c.recipe.augment.gray = 1.5, "gray");
    refused(&|c| c.recipe.augment.brightness = 0.2, "normalised images");
    let feedback = |base_rate, mixing, most, alpha| {
        Feedback::Adaptive(Adaptive {
            base_rate,
            mixing,
            most,
            alpha,
        })
    };
    refused(&|c| c.feedback = feedback(1.1, 0.5, 0.6, 0.4), "base_rate");
    refused(&|c| c.feedback = feedback(0.9, -0.5, 0.6, 0.4), "mixing");
    refused(&|c| c.feedback = feedback(0.9, 0.5, 1.6, 0.4), "most");
    refused(&|c| c.feedback = feedback(0.9, 0.5, 0.6, 0.0), "alpha");
    assert!(config().validate().is_ok());
}

/// The numbers of the official scripts and of `main.py`.
#[test]
fn published_settings_are_the_official_ones() {
    for (config, buffer, base_rate, mixing, factor) in [
        (OnProConfig::cifar10(), 200, 0.75, 0.6, 0.5),
        (OnProConfig::cifar100(), 500, 0.9, 0.2, 1.0),
        (OnProConfig::tiny_imagenet(), 1000, 0.9, 0.2, 1.0),
    ] {
        assert_eq!((config.buffer, config.similarity_factor), (buffer, factor));
        assert_eq!(
            config.feedback,
            Feedback::Adaptive(adaptive(base_rate, mixing))
        );
        assert_eq!((config.replay_batch, config.replay_per_class), (64, 7));
        assert_eq!((config.copies, config.projection), (16, 128));
        assert_eq!(
            (config.prototype_temperature, config.instance_temperature),
            (0.5, 0.07)
        );
        assert_eq!((config.equilibrium, config.instance), (true, true));
        assert_eq!(config.borders, TaskBorders::Released);
        // `TrainLearner.__init__`.
        let augment = serde_json::to_value(config.recipe.augment).unwrap();
        let crop = json!({"kind": "sampled", "min_area": 0.3, "max_area": 1.0, "ratio": 4.0 / 3.0});
        let expected = json!({"crop": crop, "flip": true, "gray": 0.25, "brightness": 0.0});
        assert_eq!(augment, expected);
        let recipe = serde_json::to_value(&config.recipe).unwrap();
        assert_eq!(recipe["training"]["rule"]["rule"], "adam");
        let (rule, training) = (&recipe["training"]["rule"], &recipe["training"]);
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        near(number(&rule["beta1"]), 0.9, 1e-6);
        near(number(&rule["beta2"]), 0.99, 1e-6);
        near(number(&rule["epsilon"]), 1e-8, 1e-12);
        for rate in ["head_rate", "backbone_rate"] {
            near(number(&training[rate]), 5e-4, 1e-12);
        }
        near(number(&training["weight_decay"]), 1e-4, 1e-12);
        assert_eq!(
            (recipe["online_batch"].as_u64(), recipe["epochs"].as_u64()),
            (Some(10), Some(1))
        );
        assert!(config.validate().is_ok());
    }
}
