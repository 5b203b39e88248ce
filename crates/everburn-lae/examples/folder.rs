//! LAE on a folder of class folders of pictures, two classes after two classes:
//! `cargo build --workspace --example folder && target/debug/examples/folder PICTURES`.
#![allow(clippy::print_stdout)]

use everburn_backend::DeviceChoice;
use everburn_core::{Error, Key, Learner, Result, TaskId};
use everburn_data::{Preprocess, load_folder};
use everburn_lae::{Lae, LaeConfig};
use everburn_nn::{Backbone, Frozen, Setting};
use everburn_run::{Checkpoint, Labelled, teach};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| Error::input("arguments", "none", "a folder"))?;
    let data = load_folder(folder.as_ref(), &"resize-32".parse::<Preprocess>()?)?;
    let (train, test) = (&data.train, &data.test);

    let device = DeviceChoice::CPU.open()?; // create: LAE's modules in a frozen, pre-trained ViT
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let (config, key) = (LaeConfig::preset(&Setting::default()), Key::from_seed(1));
    let scratch = tempfile::tempdir().map_err(|error| Error::other("a folder", error))?;
    let mut learner = Lae::new(config.clone(), frozen.clone(), key)?;

    for number in 0..data.num_classes().div_ceil(2) as u32 {
        let mine = |i: &usize| train.labels[*i].0 / 2 == number; // observe: the classes of this task
        let chosen: Vec<usize> = (0..train.labels.len()).filter(mine).collect();
        let labels: Vec<_> = chosen.iter().map(|i| train.labels[*i]).collect();
        let samples = Labelled {
            images: &train.images.select(&chosen)?,
            labels: &labels,
        };
        teach(&mut learner, TaskId(number), samples, key.at(number.into()))?;

        let file = scratch.path().join("lae.checkpoint"); // save, load: without the backbone
        Checkpoint::of(learner.save()?).save(&file)?;
        let mut robot = Lae::new(config.clone(), frozen.clone(), key)?;
        robot.restore(Checkpoint::load(&file)?.learner())?;

        let met = |i: &usize| test.labels[*i].0 / 2 <= number; // predict: among all classes so far
        let chosen: Vec<usize> = (0..test.labels.len()).filter(met).collect();
        let predicted = robot.predict(&test.images.select(&chosen)?)?.predicted();
        let right = chosen
            .iter()
            .zip(&predicted)
            .filter(|(i, class)| test.labels[**i] == **class);
        println!(
            "task {number}: {} of {} pictures right",
            right.count(),
            chosen.len()
        );
    }
    Ok(())
}
