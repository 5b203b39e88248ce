//! The runner with learners small enough to see through.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{
    Array, Batch, Borders, ClassId, Ctx, Event, Footprint, ImageShape, Images, Kind, Learner,
    Order, Output, Result, SeenClasses, Source, Spec, Stage, State, Step, StepLog, TaskId,
    TaskInfo, View,
};
use everburn_run::{Checkpoint, Labelled, Material, Runner, Settings};
use everburn_stream::{EvalPoints, Manifest, scenario};
use rand::Rng as _;

/// Sums up everything that it is told, order and keys included, so that any difference shows.
#[derive(Clone, Default)]
struct Recorder {
    seen: SeenClasses,
    sum: u64,
    events: u64,
    batches: Vec<usize>,
    source: Option<Source>,
    epochs: usize,
    order: Option<Order>,
    borders: bool,
    offline: bool,
}

impl Recorder {
    fn mix(&mut self, value: u64) {
        self.sum = self
            .sum
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(value);
    }
}

impl Learner for Recorder {
    fn spec(&self) -> Spec {
        Spec {
            borders: if self.borders {
                Borders::Needed
            } else {
                Borders::NotNeeded
            },
            without_borders: self.borders.then(|| "recorder.borders = false".to_owned()),
            offline: self.offline,
            ..Spec::new("recorder")
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let online = task.is_none_or(|task| task.single_pass);
        let source = self
            .source
            .unwrap_or(if online { Source::Stream } else { Source::Task });
        let stage = |name: &str, source, epochs, order| Stage {
            name: name.to_owned(),
            source,
            epochs,
            batch: 3,
            view: View::Test,
            order,
            drop_last: false,
        };
        let epochs = if source == Source::Stream {
            1
        } else {
            self.epochs.max(1)
        };
        let order = if source == Source::Stream {
            Order::Stream
        } else {
            Order::Shuffled
        };
        let mut stages = vec![stage("train", source, epochs, self.order.unwrap_or(order))];
        if !online {
            stages.push(stage("statistics", Source::Task, 1, Order::ByClass));
            stages.push(stage(
                "align",
                Source::Synthetic { steps: 2 },
                3,
                Order::Stream,
            ));
        }
        stages
    }

    fn on(&mut self, _event: &Event, cx: &Ctx) -> Result<()> {
        self.events += 1;
        self.mix(cx.key.rng().next_u64());
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        self.mix(cx.key.rng().next_u64());
        self.mix(step.index as u64 + 1000 * step.epoch as u64);
        for (pixel, label) in batch.images.pixels().iter().zip(&batch.labels) {
            self.seen.insert(*label);
            self.mix(u64::from(*pixel));
        }
        self.batches.push(batch.labels.len());
        Ok(StepLog { loss: Some(1.0) })
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        // Depends on all that was observed.
        let classes = self.seen.as_slice().to_vec();
        let score = |pixel: &u8, class: &ClassId| {
            (self.sum ^ u64::from(*pixel).wrapping_mul(u64::from(class.0) + 7) >> 3) as u32 as f32
        };
        let rows = images.pixels().iter();
        let scores = rows
            .flat_map(|p| classes.iter().map(move |c| score(p, c)))
            .collect();
        Output::new(classes.clone(), scores)
    }

    fn footprint(&self) -> Footprint {
        let mut footprint = Footprint::default();
        footprint.add(Kind::Statistics, "batches", 8 * self.batches.len() as u64);
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = State::default();
        state.put_value("seen", &self.seen)?;
        state.put_value("sum", self.sum)?;
        state.put_value("events", self.events)?;
        let batches: Vec<i64> = self.batches.iter().map(|b| *b as i64).collect();
        state.put("batches", Array::i64([batches.len()], batches));
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.seen = state.value("seen")?;
        self.sum = state.value("sum")?;
        self.events = state.value("events")?;
        self.batches = state.i64("batches")?.iter().map(|b| *b as usize).collect();
        Ok(())
    }
}

struct World {
    images: Images,
    labels: Vec<ClassId>,
    manifest: Manifest,
}

fn world(stream: &str) -> World {
    let n = 120_u8;
    let images = Images::new(ImageShape::new(1, 1, 1), (0..n).collect()).unwrap();
    let labels: Vec<ClassId> = (0..n).map(|i| ClassId(u32::from(i) % 10)).collect();
    let manifest = scenario(stream).unwrap().compile(&labels, 10, 2).unwrap();
    World {
        images,
        labels,
        manifest,
    }
}

impl World {
    fn material(&self) -> Material<'_> {
        let split = Labelled {
            images: &self.images,
            labels: &self.labels,
        };
        Material {
            manifest: &self.manifest,
            train: split,
            test: split,
        }
    }

    fn runner(&self, learner: Recorder) -> Result<Runner<'_>> {
        Runner::new(self.material(), Settings::new(4), Box::new(learner))
    }
}

#[test]
fn stopping_between_any_two_steps_changes_nothing() {
    for stream in ["split-3", "si-blurry", "si-blurry+borders"] {
        let world = world(stream);
        let straight = world
            .runner(Recorder {
                epochs: 2,
                ..Recorder::default()
            })
            .unwrap();
        let expected = straight.run().unwrap();
        let mut runner = world
            .runner(Recorder {
                epochs: 2,
                ..Recorder::default()
            })
            .unwrap();
        let mut stops = 0;
        loop {
            // Through bytes, as a killed process would.
            let bytes = runner.checkpoint().unwrap().to_bytes().unwrap();
            let checkpoint = Checkpoint::from_bytes("memory", &bytes).unwrap();
            let fresh = Box::new(Recorder {
                epochs: 2,
                ..Recorder::default()
            });
            let settings = Settings::new(4);
            let progress = runner.progress();
            runner = Runner::resume(world.material(), settings, fresh, &checkpoint).unwrap();
            assert_eq!(runner.progress(), progress, "{stream}");
            stops += 1;
            if !runner.advance().unwrap() {
                break;
            }
        }
        let found = runner.outcome().unwrap();
        assert!(stops > 40, "{stream}: {stops}");
        assert_eq!(found.history, expected.history, "{stream}");
        assert_eq!(found.memory, expected.memory, "{stream}");
    }
}

#[test]
fn every_stage_is_fed_as_planned() {
    let world = world("split-4");
    let mut runner = world
        .runner(Recorder {
            epochs: 2,
            ..Recorder::default()
        })
        .unwrap();
    let plan = runner.plan().clone();
    while runner.advance().unwrap() {}
    assert_eq!(runner.progress().steps, plan.steps() as u64);
    let state = runner.learner().save().unwrap();
    let fed: i64 = state.i64("batches").unwrap().iter().sum();
    assert_eq!(fed, plan.samples() as i64);
    // Every sample twice in training, once for the statistics.
    assert_eq!(plan.samples(), 3 * 120);
    // Begin and end of four tasks and of three stages in each.
    assert_eq!(state.value::<u64>("events").unwrap(), 4 * (2 + 3 * 2));
}

#[test]
fn by_class_never_mixes_two_classes() {
    struct Watch(Recorder);
    let world = world("split-2");
    let stage = Stage {
        name: "s".to_owned(),
        source: Source::Task,
        epochs: 1,
        batch: 5,
        view: View::Test,
        order: Order::ByClass,
        drop_last: false,
    };
    impl Learner for Watch {
        fn spec(&self) -> Spec {
            self.0.spec()
        }
        fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
            self.0
                .stages(task)
                .into_iter()
                .filter(|s| s.order == Order::ByClass)
                .collect()
        }
        fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
            self.0.on(event, cx)
        }
        fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
            assert!(batch.labels.windows(2).all(|pair| pair[0] == pair[1]));
            self.0.observe(batch, step, cx)
        }
        fn predict(&self, images: &Images) -> Result<Output> {
            self.0.predict(images)
        }
        fn footprint(&self) -> Footprint {
            self.0.footprint()
        }
        fn save(&self) -> Result<State> {
            self.0.save()
        }
        fn restore(&mut self, state: &State) -> Result<()> {
            self.0.restore(state)
        }
    }
    assert_eq!(stage.order, Order::ByClass);
    let learner = Box::new(Watch(Recorder::default()));
    Runner::new(world.material(), Settings::new(0), learner)
        .unwrap()
        .run()
        .unwrap();
}

#[test]
fn what_a_stream_cannot_give_is_refused_before_it_starts() {
    let refused = |stream: &str, learner: Recorder| {
        world(stream)
            .runner(learner)
            .err()
            .map(|error| error.to_string())
    };
    let of = |source| Recorder {
        source: Some(source),
        ..Recorder::default()
    };
    let message = refused("si-blurry", of(Source::Task)).unwrap();
    assert!(
        message.contains("si-blurry") && message.contains("once"),
        "{message}"
    );
    assert!(
        refused("split-2", of(Source::AllSeen))
            .unwrap()
            .contains("offline")
    );
    let needs = Recorder {
        borders: true,
        ..Recorder::default()
    };
    let message = refused("si-blurry", needs.clone()).unwrap();
    assert!(
        message.contains("`si-blurry+borders`, or with `recorder.borders = false`"),
        "{message}"
    );
    assert_eq!(refused("si-blurry+borders", needs), None);
    let offline = Recorder {
        offline: true,
        source: Some(Source::AllSeen),
        ..Recorder::default()
    };
    assert_eq!(refused("si-blurry", offline), None);
    let shuffled = Recorder {
        order: Some(Order::Shuffled),
        ..of(Source::Stream)
    };
    assert!(
        refused("si-blurry", shuffled)
            .unwrap()
            .contains("own order")
    );
}

#[test]
fn a_split_gives_an_accuracy_matrix_and_a_blurry_stream_its_points() {
    let world_split = world("split-5");
    let outcome = world_split
        .runner(Recorder::default())
        .unwrap()
        .run()
        .unwrap();
    assert_eq!(outcome.history.evaluations.len(), 5);
    assert!(outcome.history.matrix().is_ok());

    let blurry = world("si-blurry");
    let settings = Settings {
        eval: EvalPoints::Count(10),
        ..Settings::new(1)
    };
    let runner = Runner::new(blurry.material(), settings, Box::new(Recorder::default())).unwrap();
    let history = runner.run().unwrap().history;
    let periodic: Vec<u64> = history.periodic().map(|e| e.samples_seen).collect();
    assert_eq!(periodic.len(), 10);
    assert_eq!(periodic.last(), Some(&(blurry.manifest.len() as u64)));
    let with_samples = blurry
        .manifest
        .tasks
        .iter()
        .filter(|t| !t.indices.is_empty())
        .count();
    assert_eq!(history.task_ends().unwrap().len(), with_samples);
    // Only exposed classes are tested.
    let first = &history.evaluations[0];
    assert!(first.classes.len() < 10);
}

#[test]
fn an_offline_reference_is_judged_at_the_end_alone() {
    let world = world("si-blurry");
    let offline = Recorder {
        offline: true,
        source: Some(Source::AllSeen),
        ..Recorder::default()
    };
    let history = world.runner(offline).unwrap().run().unwrap().history;
    assert_eq!(history.evaluations.len(), 1);
    assert!(history.last().is_some());
}

#[test]
fn a_damaged_checkpoint_is_refused_with_the_reason() {
    let world = world("split-2");
    let mut runner = world.runner(Recorder::default()).unwrap();
    for _ in 0..5 {
        runner.advance().unwrap();
    }
    let bytes = runner.checkpoint().unwrap().to_bytes().unwrap();
    assert!(Checkpoint::from_bytes("c", &bytes).is_ok());
    for at in [0, 9, 45, bytes.len() - 1] {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        let message = Checkpoint::from_bytes("c", &wrong).unwrap_err().to_string();
        assert!(message.starts_with("c: found "), "{message}");
    }
    for len in [0, 7, 30, bytes.len() / 2] {
        assert!(Checkpoint::from_bytes("c", &bytes[..len]).is_err());
    }
    // A checkpoint of another run.
    let checkpoint = Checkpoint::from_bytes("c", &bytes).unwrap();
    let mut state = checkpoint.learner().clone();
    state.values.remove("sum");
    assert!(Recorder::default().restore(&state).is_err());
}

#[test]
fn images_and_labels_must_agree() {
    let world = world("split-2");
    let mut material = world.material();
    material.test.labels = &world.labels[1..];
    assert!(Runner::new(material, Settings::new(0), Box::new(Recorder::default())).is_err());
    let mut material = world.material();
    material.train.labels = &world.labels[1..];
    assert!(Runner::new(material, Settings::new(0), Box::new(Recorder::default())).is_err());
}

/// A reference that may see all samples again.
fn reference() -> Recorder {
    Recorder {
        offline: true,
        source: Some(Source::AllSeen),
        ..Recorder::default()
    }
}

fn once(seed: u64) -> Settings {
    Settings {
        offline_once: true,
        ..Settings::new(seed)
    }
}

#[test]
fn an_offline_reference_may_learn_once_from_all_samples_of_a_split() {
    let world = world("split-5");
    let start = |settings, learner: Recorder| {
        Runner::new(world.material(), settings, Box::new(learner)).unwrap()
    };
    let again = start(Settings::new(4), reference());
    let mut runner = start(once(4), reference());
    // After each of five tasks 24 samples more: three times as many in all.
    let all_seen = |runner: &Runner<'_>| -> usize {
        let stages = runner.plan().stages.iter();
        let trained = stages.filter(|planned| planned.stage.source == Source::AllSeen);
        trained.map(|planned| planned.samples).sum()
    };
    assert_eq!((all_seen(&again), all_seen(&runner)), (360, 120));
    while runner.advance().unwrap() {}
    let progress = runner.progress();
    assert_eq!(progress.steps, progress.of);
    let outcome = runner.outcome().unwrap();
    let history = &outcome.history;
    assert_eq!(history.evaluations.len(), 1);
    let last = history.last().unwrap();
    assert_eq!(last.moment().task_end, Some(TaskId(4)));
    assert_eq!(last.moment().samples_seen, 120);
    assert_eq!(last.classes.len(), 10);
    let matrix = history.matrix().unwrap();
    assert_eq!(matrix.get(TaskId(3), TaskId(3)), None);
    assert!(matrix.get(TaskId(4), TaskId(0)).is_some());
    // It hears of every border, and has all classes.
    let learner = runner.into_learner();
    assert_eq!(learner.save().unwrap().value::<u64>("events").unwrap(), 16);
    // What it holds at the end is everything.
    assert!(outcome.memory.last.total() >= 120);
}

#[test]
fn learning_once_survives_a_kill_and_concerns_references_alone() {
    let world = world("split-3");
    let start = |settings, learner: Recorder| {
        Runner::new(world.material(), settings, Box::new(learner)).unwrap()
    };
    let expected = start(once(4), reference()).run().unwrap();
    let mut runner = start(once(4), reference());
    loop {
        let checkpoint = runner.checkpoint().unwrap();
        let resume = |settings| {
            let learner = Box::new(reference());
            Runner::resume(world.material(), settings, learner, &checkpoint)
        };
        assert!(resume(Settings::new(4)).is_err());
        runner = resume(once(4)).unwrap();
        if !runner.advance().unwrap() {
            break;
        }
    }
    let outcome = runner.outcome().unwrap();
    assert_eq!(outcome.history, expected.history);
    assert_eq!(outcome.memory.peak, expected.memory.peak);

    let usual = |settings| start(settings, Recorder::default()).run().unwrap().history;
    assert_eq!(usual(once(4)), usual(Settings::new(4)));
    // Nor does it show in what was recorded before there was such a setting.
    let text = serde_json::to_string(&Settings::new(4)).unwrap();
    assert!(!text.contains("once"), "{text}");
    assert_eq!(
        serde_json::from_str::<Settings>(&text).unwrap(),
        Settings::new(4)
    );
}
