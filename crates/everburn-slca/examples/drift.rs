//! How far the stored statistics have fallen behind the backbone, and what that costs: ten tasks of CIFAR-100 (40 training and 10 test
//! images a class), then the alignment once more, on statistics taken anew from all training images, which a learner
//! does not have.
//! `cargo build --workspace --example drift && target/debug/examples/drift DATA_DIR RATE SEED`, with RATE the backbone's: 0.0001, 0.01.
#![allow(clippy::print_stdout)]

use everburn_backend::{DeviceChoice, to_vec};
use everburn_core::{ClassId, Error, Key, Result, Rng, Step, TaskId};
use everburn_data::{Dataset, LoadOptions, Split, load};
use everburn_nn::{
    Alignment, Backbone, ClassGaussians, Frozen, Head, Preset, Setting, Shrink, Tuning,
    cross_entropy,
};
use everburn_run::{Labelled, teach};
use everburn_slca::{LogitNorm, Slca, SlcaConfig, normalised_by_task};

const TASKS: usize = 10;
const CLASSES: usize = 100;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rate, seed] = &arguments[..] else {
        let expected = "DATA_DIR RATE SEED";
        return Err(Error::input("arguments", arguments.join(" "), expected));
    };
    let wrong = |what: &str, text: &str| Error::input(what, text, "a number");
    let rate: f64 = rate.parse().map_err(|_| wrong("RATE", rate))?;
    let key = Key::from_seed(seed.parse().map_err(|_| wrong("SEED", seed))?);

    let data = load("cifar100", Some(folder.as_ref()), LoadOptions::default())?;
    let data = data.take_per_class(40)?.take_test_per_class(10)?;
    let mut config = SlcaConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Full,
        from_scratch: false,
    });
    config.recipe.training.backbone_rate = rate;
    let order = key.child("classes").permutation(CLASSES);
    let mut task_of = [0; CLASSES];
    for (place, class) in order.iter().enumerate() {
        task_of[*class] = place * TASKS / CLASSES;
    }
    let device = DeviceChoice::CPU.open()?;
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let mut learner = Slca::new(config.clone(), frozen, key)?;
    for number in 0..TASKS {
        let task = of(&data.train, &|class| task_of[class.0 as usize] == number)?;
        let samples = Labelled {
            images: &task.images,
            labels: &task.labels,
        };
        teach(
            &mut learner,
            TaskId(number as u32),
            samples,
            key.at(number as u64),
        )?;
    }

    let unaligned = (learner.unaligned()).ok_or_else(|| Error::input("tasks", 1, "several"))?;
    println!(
        "not aligned:                 {:.1} %",
        percent(&learner, unaligned, &data)?
    );
    let (kept, anew) = (learner.gaussians(), statistics(&learner, &data, &config)?);
    for (name, gaussians) in [
        ("stored statistics", kept),
        ("statistics taken anew", &anew),
    ] {
        let head = aligned(&learner, unaligned.clone(), gaussians, &config)?;
        let name = format!("aligned on {name}:");
        println!("{name:<33} {:.1} %", percent(&learner, &head, &data)?);
    }
    println!(
        "\ntask  cosine of the stored and the true mean  their distance over the class's deviation"
    );
    for task in 0..TASKS {
        let (mut cosines, mut distances, mut count) = (0.0, 0.0, 0.0);
        for (place, class) in kept.seen().as_slice().iter().enumerate() {
            if task_of[class.0 as usize] == task {
                let (cosine, distance) = apart(kept, &anew, place);
                (cosines, distances, count) = (cosines + cosine, distances + distance, count + 1.0);
            }
        }
        println!(
            "{:4}  {:39.2}  {:45.2}",
            task + 1,
            cosines / count,
            distances / count
        );
    }
    Ok(())
}

/// The samples of some classes.
fn of(split: &Split, wanted: &dyn Fn(ClassId) -> bool) -> Result<Split> {
    let chosen = (0..split.len()).filter(|i| wanted(split.labels[*i]));
    split.select(&chosen.collect::<Vec<_>>())
}

/// The percentage of test images for which a head is right.
fn percent(learner: &Slca, head: &Head, data: &Dataset) -> Result<f64> {
    let (net, test) = (learner.network(), &data.test);
    let features = net.features(&test.images.to_images()?)?;
    let logits = to_vec(&head.forward(features, net.classifier()))?;
    let output = everburn_core::Output::new(net.seen().as_slice().to_vec(), logits)?;
    let pairs = output.predicted().into_iter().zip(&test.labels);
    Ok(100.0 * pairs.filter(|(a, b)| a == *b).count() as f64 / test.len() as f64)
}

/// Statistics of all training images, from the backbone as it is now.
fn statistics(learner: &Slca, data: &Dataset, config: &SlcaConfig) -> Result<ClassGaussians> {
    let kept = learner.gaussians();
    let mut anew = ClassGaussians::new(kept.dim(), config.covariance, config.jitter)?;
    for class in kept.seen().as_slice() {
        let own = of(&data.train, &|label| label == *class)?;
        let features = learner.network().features(&own.images.to_images()?)?;
        anew.add(&to_vec(&features)?, &own.labels)?;
        anew.close()?;
    }
    Ok(anew)
}

/// A head, aligned as after the last task.
fn aligned(
    learner: &Slca,
    mut head: Head,
    gaussians: &ClassGaussians,
    config: &SlcaConfig,
) -> Result<Head> {
    let (net, epochs) = (learner.network(), config.alignment.epochs);
    let tasks: Vec<usize> = (0..CLASSES).map(|row| row * TASKS / CLASSES).collect();
    let LogitNorm::PerTask { tau } = config.logit_norm else {
        return Err(Error::input("logit_norm", "none", "the published one"));
    };
    let mut alignment = Alignment::new(config.alignment.clone())?;
    alignment.begin(Key::from_seed(9));
    for index in 0..epochs * CLASSES {
        let step = Step {
            task: None,
            stage: 0,
            epoch: index / CLASSES,
            epochs,
            index,
            steps: epochs * CLASSES,
        };
        let shrink = |class: usize, rng: &mut Rng| -> Shrink {
            config.shrink.of(tasks[class], TASKS - 1, rng)
        };
        let (features, labels) = alignment.samples(gaussians, &step, shrink, net.device())?;
        let batch = (features, net.targets(&labels)?);
        (head, _) = alignment.step(&head, net.classifier(), batch, &step, |logits, targets| {
            cross_entropy(normalised_by_task(logits, &tasks, tau), targets)
        })?;
    }
    Ok(head)
}

/// Cosine of two means of a class, and their distance over the root of its variances' sum.
fn apart(kept: &ClassGaussians, anew: &ClassGaussians, class: usize) -> (f64, f64) {
    let (a, b) = (kept.mean(class), anew.mean(class));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let covariance = kept.covariance(class);
    let variance: f64 = covariance.iter().step_by(kept.dim() + 1).sum();
    let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        (distance / variance).sqrt(),
    )
}
