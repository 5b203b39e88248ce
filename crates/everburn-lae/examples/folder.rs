//! LAE on a folder of class folders of pictures, two classes after two classes:
//! `cargo build --workspace --example folder && target/debug/examples/folder PICTURES`.
#![allow(clippy::print_stdout)]

use everburn_backend::DeviceChoice;
use everburn_core::{Error, Key, Learner, Result, TaskId};
use everburn_data::{Preprocess, Split, load_folder};
use everburn_lae::{Lae, LaeConfig};
use everburn_nn::{Backbone, Frozen, Setting};
use everburn_run::{Checkpoint, Labelled, teach};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| Error::input("arguments", "none", "a folder"))?;
    let data = load_folder(folder.as_ref(), &"resize-32".parse::<Preprocess>()?)?;
    let of = |split: &Split, wanted: &dyn Fn(u32) -> bool| {
        let chosen = (0..split.labels.len()).filter(|i| wanted(split.labels[*i].0 / 2));
        let (chosen, labels): (Vec<_>, Vec<_>) = chosen.map(|i| (i, split.labels[i])).unzip();
        Ok::<_, Error>((split.images.select(&chosen)?, labels))
    };
    let device = DeviceChoice::CPU.open()?; // create: modules in a frozen, pre-trained ViT
    let (frozen, key) = (
        Frozen::new(Backbone::embedded(&device)?, &device),
        Key::from_seed(1),
    );
    let new = || Lae::new(LaeConfig::preset(&Setting::default()), frozen.clone(), key);
    let mut learner = new()?;
    for number in 0..data.num_classes().div_ceil(2) as u32 {
        let (images, labels) = of(&data.train, &|task| task == number)?; // observe a task
        let samples = Labelled {
            images: &images,
            labels: &labels,
        };
        teach(&mut learner, TaskId(number), samples, key.at(number.into()))?;

        let bytes = Checkpoint::of(learner.save()?).to_bytes()?; // save: for a file, without the backbone
        learner = new()?;
        learner.restore(Checkpoint::from_bytes("saved", &bytes)?.learner())?; // load

        let (images, labels) = of(&data.test, &|task| task <= number)?; // predict among all so far
        let predicted = learner.predict(&images)?.predicted();
        let right = predicted
            .iter()
            .zip(&labels)
            .filter(|(a, b)| a == b)
            .count();
        println!("task {number}: {right} of {} pictures right", labels.len());
    }
    Ok(())
}
