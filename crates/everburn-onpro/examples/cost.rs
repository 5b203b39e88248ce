//! What each part of a step costs for an image of the stream, and what putting copies and views through the network together
//! saves. Eight filters on two cores: a minute.
//! `cargo build --workspace --example cost && target/debug/examples/cost [FILTERS]`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use burn::tensor::Tensor;
use everburn_backend::{DeviceChoice, use_this_thread};
use everburn_core::{
    Batch, ClassId, Ctx, Error, Event, ImageShape, Images, Key, Learner, Result, Step, TaskId,
    TaskInfo, View,
};
use everburn_nn::{Backbone, Frozen, Network, Normalise, Preset, Setting, Tuning};
use everburn_onpro::{Feedback, OnPro, OnProConfig, copies};

const SHAPE: ImageShape = ImageShape::new(32, 32, 3);
/// Images of the stream in a step.
const BATCH: usize = 10;
/// How often each way is timed, in turn with the others.
const TIMES: usize = 9;

fn main() -> Result<()> {
    use_this_thread();
    let filters = match std::env::args().nth(1) {
        None => 8,
        Some(text) => text
            .parse()
            .map_err(|_| Error::input("FILTERS", text, "a number"))?,
    };
    let device = DeviceChoice::CPU.open()?;
    let key = Key::from_seed(0);
    let backbone = Backbone::resnet18(filters, 32, Normalise::HALF, key, &device)?;
    let frozen = Frozen::new(backbone, &device);
    let small = OnProConfig::small_preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Full,
        from_scratch: true,
    });
    parts(&small, &frozen)?;
    passes(&small, &frozen)
}

/// Learners without one part or more, in the fifth task.
fn parts(small: &OnProConfig, frozen: &Frozen) -> Result<()> {
    let without = |equilibrium: bool, instance: bool, feedback: Feedback| OnProConfig {
        equilibrium,
        instance,
        feedback,
        ..small.clone()
    };
    let variants = [
        ("onpro-small", small.clone()),
        ("without equilibrium", without(false, true, small.feedback)),
        ("without feedback", without(true, true, Feedback::None)),
        ("without both", without(false, true, Feedback::None)),
        (
            "without the instance loss",
            without(true, false, small.feedback),
        ),
        ("replay alone", without(false, false, Feedback::None)),
    ];
    let mut learners = Vec::new();
    for (name, config) in variants {
        let mut learner = OnPro::small(config.clone(), frozen.clone(), Key::from_seed(1))?;
        // A memory of ten classes, enough for whole batches of it.
        for task in 0..5 {
            begin(&mut learner, task)?;
            for index in 0..2 {
                observe(&mut learner, task, index)?;
            }
        }
        learners.push((name, config, learner));
    }
    let mut times = vec![Vec::new(); learners.len()];
    for turn in 0..TIMES {
        for ((_, _, learner), times) in learners.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            observe(learner, 4, 2 + turn)?;
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    println!("                            images in  ms for an image");
    println!("                            a step     of the stream");
    for ((name, config, _), times) in learners.iter().zip(times) {
        let milliseconds = 1e3 * median(times) / BATCH as f64;
        println!("{name:28}{:9}{milliseconds:17.2}", images_in_a_step(config));
    }
    Ok(())
}

/// Images that go through the network in a later step.
fn images_in_a_step(config: &OnProConfig) -> usize {
    let replayed = config.replay_batch;
    let (stream, memory) = match (config.instance, config.equilibrium) {
        (true, _) => (2 * config.copies * BATCH, 2 * config.copies * replayed),
        (false, true) => (2 * BATCH, 0),
        (false, false) => (0, 0),
    };
    let seen = match config.equilibrium || config.feedback != Feedback::None {
        true => 2 * replayed,
        false => 0,
    };
    stream + memory + replayed + seen
}

/// The comparison's forward and backward passes in one, in four (images, their views, replayed ones, theirs), and copy by copy.
fn passes(config: &OnProConfig, frozen: &Frozen) -> Result<()> {
    let key = Key::from_seed(2);
    let mut net = config.recipe.network(frozen.clone(), key)?;
    net.see(&[ClassId(0)]);
    let mut parts = Vec::new();
    for (number, count) in [BATCH, config.replay_batch].into_iter().enumerate() {
        let images = copies(
            net.live().pixels(&noise(count, number as u64)?)?,
            config.copies,
        )?;
        let views = net.live().augment(images.clone(), key);
        parts.extend([images, views]);
    }
    let each: Vec<Tensor<4>> = parts
        .iter()
        .flat_map(|part| part.clone().chunk(config.copies, 0))
        .collect();
    let ways = [
        ("in one pass", vec![Tensor::cat(parts.clone(), 0)]),
        ("in four", parts),
        ("copy by copy", each),
    ];
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..TIMES {
        for ((_, way), times) in ways.iter().zip(&mut times) {
            let begun = Instant::now();
            pass(&mut net, way)?;
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    println!("\ncopies and views            passes     ms for an image");
    for ((name, way), times) in ways.iter().zip(times) {
        let milliseconds = 1e3 * median(times) / BATCH as f64;
        println!("{name:28}{:9}{milliseconds:17.2}", way.len());
    }
    Ok(())
}

/// One step of the network on the logits of all images, pass by pass.
fn pass(net: &mut Network, parts: &[Tensor<4>]) -> Result<()> {
    let mut live = net.live();
    let mut logits = Vec::new();
    for part in parts {
        let features = live.features_of(part.clone(), Key::from_seed(3))?;
        logits.push(live.logits_of(features)?);
    }
    let loss = Tensor::cat(logits, 0).mean();
    let tape = live.into_tape();
    net.update(tape, loss)?;
    Ok(())
}

fn noise(count: usize, seed: u64) -> Result<Images> {
    let pixels = Key::from_seed(seed)
        .child("noise")
        .permutation(count * SHAPE.bytes());
    Images::new(SHAPE, pixels.into_iter().map(|pixel| pixel as u8).collect())
}

fn classes(task: u32) -> Vec<ClassId> {
    vec![ClassId(2 * task), ClassId(2 * task + 1)]
}

fn begin(learner: &mut OnPro, task: u32) -> Result<()> {
    let info = TaskInfo {
        task: TaskId(task),
        classes: classes(task),
        seen: 2 * (task as usize + 1),
        samples: BATCH * (TIMES + 2),
        single_pass: true,
    };
    learner.on(&Event::TaskBegin(info), &Ctx::new(Key::from_seed(4)))
}

fn observe(learner: &mut OnPro, task: u32, index: usize) -> Result<()> {
    let seed = u64::from(task) * 100 + index as u64;
    let labels = classes(task).into_iter().cycle().take(BATCH).collect();
    let batch = Batch::new(noise(BATCH, seed)?, labels, View::Train)?;
    let step = Step {
        task: Some(TaskId(task)),
        stage: 0,
        epoch: 0,
        epochs: 1,
        index,
        steps: TIMES + 2,
    };
    let cx = Ctx::new(Key::from_seed(5).at(seed));
    learner.observe(&batch, &step, &cx).map(drop)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
