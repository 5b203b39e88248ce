//! What the alignment of the heads does: digits, two after two, predicted by the heads before and after it.
//! `cargo build --workspace --example alignment && target/debug/examples/alignment`.
#![allow(clippy::print_stdout)]

use everburn_backend::{DeviceChoice, to_vec};
use everburn_core::{ClassId, Images, Key, Learner, Output, Result, TaskId};
use everburn_data::{Preprocess, Split, load_digits};
use everburn_nn::{Backbone, Frozen, Preset, Setting, Tuning};
use everburn_run::{Labelled, teach};
use everburn_slca::{Slca, SlcaConfig};

fn main() -> Result<()> {
    let data = load_digits(&"resize-32".parse::<Preprocess>()?)?;
    let device = DeviceChoice::CPU.open()?;
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let mut config = SlcaConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Full,
        from_scratch: false,
    });
    config.recipe.epochs = 1;
    let key = Key::from_seed(1);
    let mut learner = Slca::new(config, frozen, key)?;
    let of = |split: &Split, wanted: &dyn Fn(u32) -> bool| {
        let chosen = (0..split.len()).filter(|i| wanted(split.labels[*i].0 / 2));
        split.select(&chosen.collect::<Vec<_>>())
    };
    for number in 0..5 {
        let task = of(&data.train, &|task| task == number)?;
        let samples = Labelled {
            images: &task.images,
            labels: &task.labels,
        };
        teach(&mut learner, TaskId(number), samples, key.at(number.into()))?;

        let test = of(&data.test, &|task| task <= number)?;
        let images = test.images.to_images()?;
        let percent = |output: &Output| {
            let pairs = output.predicted().into_iter().zip(&test.labels);
            100.0 * pairs.filter(|(a, b)| a == *b).count() as f64 / test.labels.len() as f64
        };
        let aligned = percent(&learner.predict(&images)?);
        match unaligned(&learner, &images)? {
            Some(output) => println!(
                "task {number}: {:.1} % before, {aligned:.1} % after",
                percent(&output)
            ),
            None => println!("task {number}: {aligned:.1} %, a single task needs no alignment"),
        }
    }
    Ok(())
}

/// What the heads say that the next task will go on from.
fn unaligned(learner: &Slca, images: &Images) -> Result<Option<Output>> {
    let net = learner.network();
    let Some(head) = learner.unaligned() else {
        return Ok(None);
    };
    let logits = head.forward(net.features(images)?, net.classifier());
    let classes: Vec<ClassId> = net.seen().as_slice().to_vec();
    Output::new(classes, to_vec(&logits)?).map(Some)
}
