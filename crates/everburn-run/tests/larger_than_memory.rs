//! Data sets and streams larger than the memory. Peaks of memory are measured in a process of their
//! own: this file's tests, run again one by one.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use everburn_core::{
    Batch, ClassId, Ctx, Event, Footprint, ImageKey, ImageShape, ImageSource, Images, Key, Learner,
    Order, Output, Reservoir, ReservoirRule, Result, SeenClasses, Source, Spec, Stage, State, Step,
    StepLog, TaskInfo, View,
};
use everburn_data::{Dataset, Holdout, LoadOptions, Preprocess, load};
use everburn_run::{Labelled, Material, Outcome, Runner, Settings, peak_memory};
use everburn_stream::{EvalPoints, Manifest, ManifestTask, scenario};

/// A replay method without a network: it keeps a memory, and what it predicts depends on every byte
/// that it was shown and has drawn.
struct Replay {
    seen: SeenClasses,
    memory: Reservoir,
    sum: u64,
    offline: bool,
    batch: usize,
}

fn replay(offline: bool) -> Replay {
    Replay {
        seen: SeenClasses::default(),
        memory: Reservoir::new(20, ReservoirRule::Exact),
        sum: 0,
        offline,
        batch: 10,
    }
}

fn mix(sum: u64, images: &Images) -> u64 {
    images.pixels().iter().fold(sum, |sum, pixel| {
        sum.wrapping_mul(6_364_136_223_846_793_005) + u64::from(*pixel)
    })
}

impl Learner for Replay {
    fn spec(&self) -> Spec {
        Spec {
            offline: self.offline,
            ..Spec::new("replay")
        }
    }

    fn stages(&self, _task: Option<&TaskInfo>) -> Vec<Stage> {
        let (source, order) = if self.offline {
            (Source::AllSeen, Order::Shuffled)
        } else {
            (Source::Stream, Order::Stream)
        };
        vec![Stage {
            name: "train".to_owned(),
            source,
            epochs: 1,
            batch: self.batch,
            view: View::Raw,
            order,
            drop_last: false,
        }]
    }

    fn on(&mut self, _event: &Event, _cx: &Ctx) -> Result<()> {
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, _step: &Step, cx: &Ctx) -> Result<StepLog> {
        self.sum = mix(self.sum, &batch.images);
        for label in &batch.labels {
            self.seen.insert(*label);
        }
        if let Some((images, _)) = self.memory.draw(5, cx.key.child("draw"))? {
            self.sum = mix(self.sum, &images);
        }
        let key = cx.key.child("insert");
        self.memory.insert(&batch.images, &batch.labels, key)?;
        Ok(StepLog::default())
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        let classes = self.seen.as_slice();
        let score = |row: usize, class: &ClassId| {
            let own = mix(self.sum, &images.select(&[row])?);
            Ok((own.wrapping_mul(u64::from(class.0) + 7) >> 40) as f32)
        };
        let rows = (0..images.len()).flat_map(|row| classes.iter().map(move |c| score(row, c)));
        Output::new(classes.to_vec(), rows.collect::<Result<_>>()?)
    }

    fn footprint(&self) -> Footprint {
        Footprint::default()
    }

    fn save(&self) -> Result<State> {
        self.memory.save()
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.memory.restore(state)
    }
}

fn run(data: &Dataset, stream: &str, learner: Replay) -> Outcome {
    let labels = &data.train.labels;
    let compiled = scenario(stream).unwrap();
    let manifest = compiled.compile(labels, data.num_classes(), 3).unwrap();
    let material = Material {
        manifest: &manifest,
        train: Labelled {
            images: &data.train.images,
            labels,
        },
        test: Labelled {
            images: &data.test.images,
            labels: &data.test.labels,
        },
    };
    let runner = Runner::new(material, Settings::new(4), Box::new(learner)).unwrap();
    runner.run().unwrap()
}

#[test]
fn where_the_images_lie_changes_no_result() {
    let in_memory = load("digits", None, &Preprocess::default()).unwrap();
    let on_disk = LoadOptions {
        memory_budget: Some(0),
        ..LoadOptions::default()
    };
    let on_disk = load("digits", None, on_disk).unwrap();
    assert!(on_disk.train.images.is_on_disk() && !in_memory.train.images.is_on_disk());
    let parts = |data: &Dataset| {
        let held = data.holdout(Holdout::Fraction(0.2), Key::from_seed(1));
        let small = data.take_per_class(20).unwrap();
        [held.unwrap(), small.take_test_per_class(3).unwrap()]
    };
    for (a, b) in parts(&in_memory).iter().zip(&parts(&on_disk)) {
        assert_eq!(a, b);
        assert_eq!(a.identity().unwrap(), b.identity().unwrap());
        assert!(b.train.images.is_on_disk() && b.test.images.is_on_disk());
        for (stream, offline) in [("split-5", true), ("split-5", false), ("si-blurry", false)] {
            let (a, b) = (
                run(a, stream, replay(offline)),
                run(b, stream, replay(offline)),
            );
            assert_eq!(a.history, b.history, "{stream}");
            assert_eq!(a.confusion, b.confusion, "{stream}");
            assert_eq!(a.memory, b.memory, "{stream}");
        }
    }
}

const MIB: usize = 1 << 20;

/// The folder or the task of a test that runs in a process of its own.
const CHILD: &str = "EVERBURN_LARGER_THAN_MEMORY";

/// Runs a test of this file in a process of its own, with `told` in its environment, and gives the
/// words of the line that it said.
fn alone(test: &str, told: &str) -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, told)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    let said = text.lines().find_map(|line| line.split_once("CHILD "));
    let (_, said) = said.unwrap_or_else(|| panic!("{text}"));
    said.split_whitespace().map(str::to_owned).collect()
}

#[allow(clippy::print_stdout)]
fn say(words: &str) {
    // A line of its own, or behind what the harness has said of the test.
    println!("\nCHILD {words}");
}

/// A file in CIFAR-10's format: labels that go round, and pixels that do not repeat.
fn cifar(path: &Path, records: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut state = 1_u32;
    for record in 0..records {
        let mut bytes = [0_u8; 3073];
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        bytes[0] = (record % 10) as u8;
        file.write_all(&bytes).unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
}

/// What a data set and a run over it come to.
fn summary(data: &Dataset) -> String {
    let some: Vec<usize> = (0..data.train.len()).step_by(997).rev().collect();
    let some = data.train.images.select(&some).unwrap();
    let outcome = run(data, "si-blurry", replay(false));
    let accuracy = outcome.history.last().unwrap().accuracy();
    let sum = mix(0, &some);
    format!("{} {sum} {accuracy:?}", data.identity().unwrap()).replace(' ', ",")
}

/// 64 MiB of pixels, of which 4 may stay in memory: loading, hashing and learning take
/// less than a third.
#[test]
fn a_data_set_larger_than_its_budget_needs_little_memory() {
    let name = "a_data_set_larger_than_its_budget_needs_little_memory";
    let options = LoadOptions {
        memory_budget: Some(4 * MIB as u64),
        ..LoadOptions::default()
    };
    if let Ok(dir) = std::env::var(CHILD) {
        let data = load("cifar10", Some(dir.as_ref()), options).unwrap();
        let summary = summary(&data);
        say(&format!("{summary} {}", peak_memory().unwrap_or_default()));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for batch in 1..=5 {
        let file = format!("data_batch_{batch}.bin");
        cifar(&dir.path().join(file), 64 * MIB / 3072 / 5);
    }
    cifar(&dir.path().join("test_batch.bin"), 200);
    let found = alone(name, dir.path().to_str().unwrap());
    let data = load("cifar10", Some(dir.path()), &Preprocess::default()).unwrap();
    let pixels = data.train.len() * data.shape().bytes();
    assert!(pixels > 63 * MIB && data.train.images.memory_bytes() > pixels as u64);
    assert_eq!(found[0], summary(&data));
    // 0 where the system does not tell.
    let peak: usize = found[1].parse().unwrap();
    assert!(peak < pixels / 3, "{} MiB", peak / MIB);
}

/// As many images as a stream has samples, without storing any.
#[derive(Debug)]
struct Endless(usize);

impl ImageSource for Endless {
    fn shape(&self) -> ImageShape {
        ImageShape::new(1, 1, 1)
    }

    fn keys(&self) -> &[ImageKey] {
        &[]
    }

    fn select(&self, indices: &[usize]) -> Result<Images> {
        Images::new(self.shape(), vec![1; indices.len()])
    }

    fn len(&self) -> usize {
        self.0
    }
}

fn one_pass(samples: u32, tasks: u32) -> (Manifest, Vec<ClassId>) {
    let size = samples / tasks;
    let task = |task: u32| ManifestTask {
        classes: vec![ClassId(task)],
        indices: (task * size..(task + 1) * size).collect(),
    };
    let manifest = Manifest {
        scenario: "one pass".to_owned(),
        num_samples: samples as usize,
        num_classes: tasks as usize,
        online: true,
        tasks: (0..tasks).map(task).collect(),
        ..Manifest::default()
    };
    let labels = (0..samples).map(|sample| ClassId(sample / size)).collect();
    (manifest, labels)
}

/// Four million samples one by one: the list of batches alone would take more than 200 MiB.
#[test]
fn a_plan_of_a_long_stream_holds_no_batches() {
    let name = "a_plan_of_a_long_stream_holds_no_batches";
    if std::env::var(CHILD).is_err() {
        let grown: usize = alone(name, "yes")[0].parse().unwrap();
        assert!(grown < 64 * MIB, "{} MiB", grown / MIB);
        return;
    }
    let samples = 4_000_000;
    let (manifest, labels) = one_pass(samples, 1);
    let before = peak_memory().unwrap_or_default();
    let train = Labelled {
        images: &Endless(labels.len()),
        labels: &labels,
    };
    let test = Labelled {
        images: &Endless(3),
        labels: &labels[..3],
    };
    let material = Material {
        manifest: &manifest,
        train,
        test,
    };
    let learner = Box::new(Replay {
        batch: 1,
        ..replay(false)
    });
    let mut runner = Runner::new(material, Settings::new(0), learner).unwrap();
    assert_eq!(runner.progress().of, u64::from(samples));
    for _ in 0..1000 {
        assert!(runner.advance().unwrap());
    }
    assert!(runner.progress().steps > 900);
    let grown = peak_memory().unwrap_or_default() - before;
    say(&grown.to_string());
}

/// Counts how many images are asked for, and how often.
#[derive(Debug)]
struct Counting {
    images: Endless,
    read: AtomicUsize,
    calls: AtomicUsize,
}

impl ImageSource for Counting {
    fn shape(&self) -> ImageShape {
        self.images.shape()
    }

    fn keys(&self) -> &[ImageKey] {
        &[]
    }

    fn select(&self, indices: &[usize]) -> Result<Images> {
        self.read.fetch_add(indices.len(), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.images.select(indices)
    }

    fn len(&self) -> usize {
        self.images.0
    }
}

fn counting(images: usize) -> Counting {
    Counting {
        images: Endless(images),
        read: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
    }
}

/// However long the stream and however many its tasks: each sample is read once, in one call for each
/// step, and an evaluation reads the test images of the exposed classes and no others.
#[test]
fn images_are_read_once_for_a_step_and_once_for_an_evaluation() {
    for (samples, tasks) in [(1000, 2), (10_000, 2), (10_000, 50)] {
        let (manifest, labels) = one_pass(samples, tasks);
        let train = counting(labels.len());
        let test_labels: Vec<ClassId> = (0..tasks).map(ClassId).collect();
        let test = counting(test_labels.len());
        let material = Material {
            manifest: &manifest,
            train: Labelled {
                images: &train,
                labels: &labels,
            },
            test: Labelled {
                images: &test,
                labels: &test_labels,
            },
        };
        let settings = Settings {
            eval: EvalPoints::Count(10),
            ..Settings::new(0)
        };
        let runner = Runner::new(material, settings, Box::new(replay(false))).unwrap();
        let outcome = runner.run().unwrap();
        assert_eq!(train.read.into_inner(), samples as usize);
        assert_eq!(train.calls.into_inner(), samples as usize / 10);
        let evaluations = &outcome.history.evaluations;
        let exposed: usize = evaluations.iter().map(|e| e.classes.len()).sum();
        assert_eq!(test.read.into_inner(), exposed);
        assert_eq!(test.calls.into_inner(), evaluations.len());
    }
}
