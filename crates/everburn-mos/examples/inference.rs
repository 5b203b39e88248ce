//! What a prediction costs as tasks become many, beside t + 1 whole forward passes: 20 tasks of CIFAR-100 (40 training and 10
//! test images a class), on the embedded ViT.
//! `cargo build --workspace --example inference && target/debug/examples/inference DATA_DIR`.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::time::Instant;

use everburn_backend::{DeviceChoice, to_vec};
use everburn_core::{ClassId, Error, Images, Key, Learner, Result};
use everburn_data::{LoadOptions, load};
use everburn_mos::{Mos, MosConfig, Retrieved, refine};
use everburn_nn::{Backbone, Frozen, Preset, Setting, Similarity, Tuning, targets};
use everburn_run::{Labelled, Material, Runner, Settings};
use everburn_stream::scenario;

/// Images of a batch, and how often each way is timed.
const BATCH: usize = 50;
const TIMES: usize = 5;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| Error::input("arguments", "none", "DATA_DIR"))?;
    let data = load("cifar100", Some(folder.as_ref()), LoadOptions::default())?;
    let data = data.take_per_class(40)?.take_test_per_class(10)?;
    let manifest = scenario("split-20")?.compile(&data.train.labels, data.num_classes(), 0)?;
    let device = DeviceChoice::CPU.open()?;
    let config = MosConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    let frozen = Frozen::new(Backbone::embedded(&device)?, &device);
    let new = || Mos::new(config.clone(), frozen.clone(), Key::from_seed(0));
    let material = Material {
        manifest: &manifest,
        train: labelled(&data.train),
        test: labelled(&data.test),
    };
    let mut runner = Runner::new(material, Settings::new(0), Box::new(new()?))?;
    println!("      sets for      ms for an image             KiB of");
    println!("task  an image  MOS  a pass each  ratio  adapters  prototypes  Gaussians");
    let mut task = 0;
    loop {
        let tested = runner.times()[1];
        if !runner.advance()? {
            return Ok(());
        }
        // A task has ended when it has been tested.
        if runner.times()[1] == tested {
            continue;
        }
        task += 1;
        if task > 2 && task % 5 != 0 {
            continue;
        }
        let mut mos = new()?;
        mos.restore(&runner.learner().save()?)?;
        let images = some_images(&mos, &data.test)?;
        let (mut shared, mut naive) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let begun = Instant::now();
            mos.predict(&images)?;
            shared.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let found = a_pass_for_each_set(&mos, &images)?;
            naive.push(begun.elapsed().as_secs_f64());
            if found != mos.retrieve(&images)? {
                return Err(Error::other("comparison", "the two find other adapters"));
            }
        }
        let [shared, naive] = [shared, naive].map(|times| median(times) / BATCH as f64);
        // Each set once for an image, and the first for all.
        let sets = |found: &Retrieved| found.path().chain([0]).collect::<BTreeSet<_>>().len();
        let sets: usize = mos.retrieve(&images)?.iter().map(sets).sum();
        let footprint = mos.footprint();
        let kib = |wanted: &[&str]| {
            let memory = footprint.memory.iter();
            let wanted = memory.filter(|memory| wanted.contains(&&*memory.name));
            wanted.map(|memory| memory.bytes).sum::<u64>() as f64 / 1024.0
        };
        println!(
            "{:4}  {:8.2}  {:.1}  {:11.1}  {:5.1}  {:8.0}  {:10.0}  {:9.0}",
            task,
            sets as f64 / BATCH as f64,
            1e3 * shared,
            1e3 * naive,
            naive / shared,
            kib(&["modules", "adapters of tasks learnt", "mean of adapters"]),
            kib(&["prototypes"]),
            kib(&["class means", "class covariances"]),
        );
    }
}

fn labelled(split: &everburn_data::Split) -> Labelled<'_> {
    Labelled {
        images: &split.images,
        labels: &split.labels,
    }
}

/// Test images of classes that a learner knows.
fn some_images(mos: &Mos, test: &everburn_data::Split) -> Result<Images> {
    let is_known = |class: &ClassId| mos.network().seen().index(*class).is_some();
    let known: Vec<usize> = (0..test.len())
        .filter(|i| is_known(&test.labels[*i]))
        .collect();
    let order = Key::from_seed(1).permutation(known.len());
    let chosen: Vec<usize> = order.iter().take(BATCH).map(|i| known[*i]).collect();
    test.images.to_images()?.select(&chosen)
}

/// As the official code does it: all images through the whole network with each set, then retrieval.
fn a_pass_for_each_set(mos: &Mos, images: &Images) -> Result<Vec<Retrieved>> {
    let (net, task_of, prototypes) = (mos.network(), mos.tasks().of(), mos.prototypes());
    let (backbone, device) = (net.backbone(), net.device());
    let vit = backbone.as_vit()?;
    let (mut cosines, mut all) = (Vec::new(), Vec::new());
    for (task, pet) in mos.adapters().iter().enumerate() {
        let pixels = backbone.normalise(backbone.load(images, device)?);
        let tokens = vit.embed_with(pixels, Some(pet));
        let features = vit.finish(tokens, 0, Some(pet), None);
        if task == 0 {
            cosines = prototypes.scores(&to_vec(&features)?, Similarity::Cosine)?;
        }
        all.push(net.logits(features)?);
    }
    let classes = task_of.len();
    let seen = net.seen();
    let nearest = cosines.chunks_exact(classes).map(|row| {
        let columns = 0..row.len();
        let best = columns.reduce(|best, at| if row[at] > row[best] { at } else { best });
        let class = prototypes.seen().as_slice()[best.unwrap_or(0)];
        seen.index(class).map_or(0, |row| task_of[row])
    });
    let first: Vec<usize> = nearest.collect();
    let (found, _) = refine(&first, 4, task_of, |pairs| {
        let mut values = Vec::with_capacity(pairs.len() * classes);
        for (image, task) in pairs {
            let row = all[*task].clone().select(0, targets(&[*image], device));
            values.extend(to_vec(&row)?);
        }
        Ok(values)
    })?;
    Ok(found)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
