//! How often retrieval finds the adapters of an image's own task, and what hangs on it: ten tasks of CIFAR-100 (40 training
//! and 10 test images a class), the learner of `mos` in `suites/mos-cifar100.toml`, then asked in other ways.
//! `cargo build --workspace --example retrieval && target/debug/examples/retrieval DATA_DIR SEED [none|paper|released]`.
#![allow(clippy::print_stdout)]

use everburn_backend::{DeviceChoice, save_params, to_vec};
use everburn_core::{ClassId, Error, Images, Key, Learner, Output, Result, Values};
use everburn_data::{LoadOptions, load};
use everburn_mos::{Classifiers, Merging, Mos, MosConfig, Retrieval};
use everburn_nn::{Backbone, Frozen, Pet, Preset, Setting, Tuning};
use everburn_run::{Labelled, Material, Runner, Settings};
use everburn_stream::scenario;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, seed, merging) = match &arguments[..] {
        [folder, seed] => (folder, seed, "paper"),
        [folder, seed, merging] => (folder, seed, merging.as_str()),
        _ => {
            let expected = "DATA_DIR SEED [none|paper|released]";
            return Err(Error::input("arguments", arguments.join(" "), expected));
        }
    };
    let alpha = 0.1;
    let merging = match merging {
        "none" => Merging::None,
        "paper" => Merging::Paper { alpha },
        "released" => Merging::Released { alpha },
        other => {
            return Err(Error::unknown(
                "merging",
                other,
                ["none", "paper", "released"],
            ));
        }
    };
    let seed: u64 = (seed.parse()).map_err(|_| Error::input("SEED", seed, "a whole number"))?;
    let data = load("cifar100", Some(folder.as_ref()), LoadOptions::default())?;
    let data = data.take_per_class(40)?.take_test_per_class(10)?;
    let manifest = scenario("split-10")?.compile(&data.train.labels, data.num_classes(), seed)?;
    let device = DeviceChoice::CPU.open()?;
    let mut config = MosConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    config.merging = merging;
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let key = Key::from_seed(seed).child("learner");
    let new = |config| Mos::new(config, frozen.clone(), key);

    let material = Material {
        manifest: &manifest,
        train: labelled(&data.train),
        test: labelled(&data.test),
    };
    let learner = Box::new(new(config.clone())?);
    let mut runner = Runner::new(material, Settings::new(seed), learner)?;
    while runner.advance()? {}
    let state = runner.learner().save()?;
    let with = |change: &dyn Fn(&mut MosConfig)| {
        let mut config = config.clone();
        change(&mut config);
        let mut other = new(config)?;
        other.restore(&state)?;
        Ok::<_, Error>(other)
    };

    let (images, labels) = (data.test.images.to_images()?, &data.test.labels);
    let mos = with(&|_| {})?;
    let tasks = tasks_of(&mos, labels)?;
    let found = mos.retrieve(&images)?;
    let percent = |right: usize| 100.0 * right as f64 / labels.len() as f64;
    let right = |task: &dyn Fn(usize) -> usize| {
        percent((0..tasks.len()).filter(|i| task(*i) == tasks[*i]).count())
    };
    println!(
        "the right task, first guess       {:5.2} %",
        right(&|i| found[i].first())
    );
    println!(
        "the right task, after refinement  {:5.2} %",
        right(&|i| found[i].last())
    );
    for rounds in 1..=4 {
        let asked = found.iter().filter(|one| one.rounds() == rounds).count();
        println!(
            "head asked {rounds} times                {:5.2} %",
            percent(asked)
        );
    }
    let accuracy = |learner: &Mos| -> Result<f64> {
        let predicted = learner.predict(&images)?.predicted();
        let right = predicted.iter().zip(labels).filter(|(a, b)| a == b);
        Ok(percent(right.count()))
    };
    println!(
        "\nMOS                               {:5.2} %",
        accuracy(&mos)?
    );
    let head = |retrieval| {
        move |config: &mut MosConfig| {
            config.classifiers = Classifiers::Head;
            config.retrieval = retrieval;
        }
    };
    for (name, learner) in [
        (
            "prototypes alone",
            with(&|c| c.classifiers = Classifiers::Prototypes)?,
        ),
        (
            "head alone, refined",
            with(&head(Retrieval::Refined { rounds: 4 }))?,
        ),
        (
            "head alone, first guess",
            with(&head(Retrieval::Refined { rounds: 1 }))?,
        ),
        ("head alone, last adapters", with(&head(Retrieval::Latest))?),
    ] {
        println!("{name:<33} {:5.2} %", accuracy(&learner)?);
    }
    let begun = new(config.clone())?;
    println!(
        "\nlast set from the first, over the first from its beginning: {:.3}",
        apart(&mos, &begun)?
    );
    let told = told(&mos, &images, &tasks)?;
    let right = told.iter().zip(labels).filter(|(a, b)| a == b).count();
    println!("head alone, adapters told         {:5.2} %", percent(right));
    Ok(())
}

fn labelled(split: &everburn_data::Split) -> Labelled<'_> {
    Labelled {
        images: &split.images,
        labels: &split.labels,
    }
}

/// ‖A_t − A_0‖ over ‖A_0 − what it began as‖.
fn apart(mos: &Mos, begun: &Mos) -> Result<f64> {
    let numbers = |pet: &Pet| -> Result<Vec<f64>> {
        let state = save_params(pet)?;
        let arrays = state.arrays.keys().map(|name| state.array(name));
        let mut all = Vec::new();
        for array in arrays {
            if let Values::F32(values) = &array?.values {
                all.extend(values.iter().map(|value| f64::from(*value)));
            }
        }
        Ok(all)
    };
    let missing = || Error::unsupported("distance of sets", "there are none");
    let first = numbers(mos.adapters().first().ok_or_else(missing)?)?;
    let last = numbers(mos.adapters().last().ok_or_else(missing)?)?;
    let begun = numbers(begun.network().pet().ok_or_else(missing)?)?;
    let between = |a: &[f64], b: &[f64]| -> f64 {
        let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    Ok(between(&last, &first) / between(&first, &begun))
}

/// The task of each label.
fn tasks_of(mos: &Mos, labels: &[ClassId]) -> Result<Vec<usize>> {
    let (seen, task_of) = (mos.network().seen(), mos.tasks().of());
    let of = |class: &ClassId| {
        let row = seen.index(*class);
        row.map(|row| task_of[row])
            .ok_or_else(|| Error::input("a label", class, "a class that has been seen"))
    };
    labels.iter().map(of).collect()
}

/// What the head says of all classes where the adapters are those of the right task, which nobody knows.
fn told(mos: &Mos, images: &Images, tasks: &[usize]) -> Result<Vec<ClassId>> {
    let net = mos.network();
    let sets: Vec<&Pet> = mos.adapters().iter().collect();
    let pairs: Vec<(usize, usize)> = tasks.iter().copied().enumerate().collect();
    let features = net.features_by(&net.stem(images)?, &sets, &pairs)?;
    let logits = to_vec(&net.logits(features)?)?;
    Ok(Output::new(net.seen().as_slice().to_vec(), logits)?.predicted())
}
