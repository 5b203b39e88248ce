//! What each task costs as they become many: 20 tasks of 5 classes, 40 images each, on the embedded ViT.
//! `cargo build --workspace --example growth && target/debug/examples/growth [full|diagonal|RANK]`.
#![allow(clippy::print_stdout)]

use everburn_backend::DeviceChoice;
use everburn_core::{ClassId, Error, ImageShape, Images, Key, Kind, Result};
use everburn_nn::{Backbone, Covariance, Frozen, Preset, Setting, Tuning};
use everburn_run::{Labelled, Material, Runner, Settings};
use everburn_slca::{Slca, SlcaConfig};
use everburn_stream::{Manifest, ManifestTask};
use rand::RngExt as _;

const TASKS: usize = 20;
const CLASSES: usize = 5;
const IMAGES: usize = 40;

fn main() -> Result<()> {
    let device = DeviceChoice::CPU.open()?;
    let mut config = SlcaConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Full,
        from_scratch: false,
    });
    config.covariance = match std::env::args().nth(1).as_deref() {
        None | Some("full") => Covariance::Full,
        Some("diagonal") => Covariance::Diagonal,
        Some(rank) => match rank.parse() {
            Ok(rank) => Covariance::LowRank { rank },
            Err(_) => {
                return Err(Error::input("argument", rank, "full, diagonal or a rank"));
            }
        },
    };
    // What the images show does not matter for what they cost.
    let count = TASKS * CLASSES * IMAGES;
    let mut rng = Key::from_seed(1).rng();
    let pixels = (0..count * 32 * 32 * 3).map(|_| rng.random()).collect();
    let images = Images::new(ImageShape::new(32, 32, 3), pixels)?;
    let labels: Vec<ClassId> = (0..count).map(|i| ClassId((i / IMAGES) as u32)).collect();
    let task = |task: usize| ManifestTask {
        classes: (0..CLASSES)
            .map(|class| ClassId((task * CLASSES + class) as u32))
            .collect(),
        indices: (0..CLASSES * IMAGES)
            .map(|i| (task * CLASSES * IMAGES + i) as u32)
            .collect(),
    };
    let manifest = Manifest {
        scenario: "growth".to_owned(),
        num_samples: count,
        num_classes: TASKS * CLASSES,
        borders: true,
        tasks: (0..TASKS).map(task).collect(),
        ..Manifest::default()
    };
    let all = Labelled {
        images: &images,
        labels: &labels,
    };
    let first = images.select(&[0])?;
    let test = Labelled {
        images: &first,
        labels: &labels[..1],
    };
    let material = Material {
        manifest: &manifest,
        train: all,
        test,
    };
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let learner = Slca::new(config, frozen, Key::from_seed(2))?;
    let mut runner = Runner::new(material, Settings::new(1), Box::new(learner))?;
    let stages = runner.plan().stages.clone();
    println!("task  train s  statistics s  align s  class statistics KiB  heads KiB");
    let (mut stage, mut left, mut spent) = (0, stages[0].steps as u64, [0.0; 3]);
    let mut task = 0;
    loop {
        let (steps, [trained, tested]) = (runner.progress().steps, runner.times());
        if !runner.advance()? {
            return Ok(());
        }
        let name = &stages[stage].stage.name;
        let column = ["train", "statistics", "align"]
            .iter()
            .position(|n| n == name);
        spent[column.unwrap_or(0)] += (runner.times()[0] - trained).as_secs_f64();
        left -= runner.progress().steps - steps;
        if left == 0 && stage + 1 < stages.len() {
            stage += 1;
            left = stages[stage].steps as u64;
        }
        // A task has ended when it has been tested.
        if runner.times()[1] == tested {
            continue;
        }
        task += 1;
        let footprint = runner.learner().footprint();
        let heads: u64 = (footprint.memory.iter())
            .filter(|memory| memory.name.contains("head"))
            .map(|memory| memory.bytes)
            .sum();
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        println!(
            "{:4}  {:7.2}  {:12.2}  {:7.2}  {:20.0}  {:9.0}",
            task,
            spent[0],
            spent[1],
            spent[2],
            kib(footprint.bytes(Kind::Statistics)),
            kib(heads)
        );
        spent = [0.0; 3];
    }
}
