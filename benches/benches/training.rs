//! One training step, and what lies around it: the optimiser alone, the footprint, saving.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use everburn::backend::{Grads, Group, Optimiser, Rule, params, random};
use everburn::core::{Key, View};
use everburn::nn::{Backbone, Frozen, Network, Normalise, Tuning};
use everburn::nn::{PetConfig, Preset, Recipe, Setting};
use everburn_benches::{SHAPE, device, embedded, labels, noise};

const CLASSES: u32 = 10;

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    group
}

/// A network under the `cpu` preset that knows ten classes.
fn network(frozen: &Frozen, tuning: Tuning, from_scratch: bool) -> Network {
    let setting = Setting {
        preset: Preset::Cpu,
        tuning,
        from_scratch,
    };
    let mut net = Recipe::preset(&setting)
        .network(frozen.clone(), Key::from_seed(0))
        .unwrap();
    net.see(&labels(CLASSES as usize, CLASSES));
    net
}

/// The same with these modules.
fn tuned(frozen: &Frozen, pet: PetConfig) -> Network {
    let recipe = Recipe::preset(&Setting {
        tuning: Tuning::Pet,
        ..Setting::default()
    });
    let recipe = Recipe {
        pet: Some(pet),
        ..recipe
    };
    let mut net = recipe.network(frozen.clone(), Key::from_seed(0)).unwrap();
    net.see(&labels(CLASSES as usize, CLASSES));
    net
}

fn step(c: &mut Criterion) {
    let device = device();
    let vit = embedded(&device);
    vit.warm(&noise(SHAPE, 32), |_, _| true).unwrap();
    let key = Key::from_seed(1);
    let resnet = Backbone::resnet18(20, 32, Normalise::HALF, key, &device).unwrap();
    let resnet = Frozen::new(resnet, &device);
    let mut group = group(c, "step");
    for (name, frozen, tuning, from_scratch, batch) in [
        ("head, cached/32", &vit, Tuning::Frozen, false, 32),
        ("vit/10", &vit, Tuning::Full, false, 10),
        ("vit/32", &vit, Tuning::Full, false, 32),
        ("resnet18 nf20/10", &resnet, Tuning::Full, true, 10),
        ("resnet18 nf20/10+10", &resnet, Tuning::Full, true, 20),
    ] {
        let (images, labels) = (noise(SHAPE, batch), labels(batch, CLASSES));
        let mut net = network(frozen, tuning, from_scratch);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(name, |b| {
            b.iter(|| net.step(&images, &labels, View::Train, key).unwrap());
        });
    }
    for pet in [
        r#"{"kind": "adapter"}"#,
        r#"{"kind": "lora"}"#,
        r#"{"kind": "prefix"}"#,
        r#"{"kind": "adaptformer"}"#,
    ] {
        let pet: PetConfig = serde_json::from_str(pet).unwrap();
        let batch = 24;
        let (images, labels) = (noise(SHAPE, batch), labels(batch, CLASSES));
        group.throughput(Throughput::Elements(batch as u64));
        let name = format!("vit, {}/{batch}", pet.name());
        let mut net = tuned(&vit, pet);
        group.bench_function(&name, |b| {
            b.iter(|| net.step(&images, &labels, View::Train, key).unwrap());
        });
        group.bench_function(format!("{name}, modules frozen"), |b| {
            b.iter(|| {
                let mut live = net.live_head();
                let loss = live.loss(&images, &labels, View::Train, key).unwrap();
                let tape = live.into_tape();
                net.update(tape, loss).unwrap()
            });
        });
    }
    group.finish();
}

/// Update rules alone, over all parameters of the embedded ViT.
fn optimiser(c: &mut Criterion) {
    let device = device();
    let vit = embedded(&device);
    let module = vit.backbone().encoder().clone();
    let key = Key::from_seed(2);
    let grad = |(at, param): (usize, everburn::backend::ParamInfo)| {
        let len: usize = param.shape.iter().product();
        let grad = random::uniform::<1>(key.at(at as u64), [len], -1e-3, 1e-3, &device);
        (param.path, grad)
    };
    let grads: Grads = params(&module).into_iter().enumerate().map(grad).collect();
    let mut group = group(c, "optimiser");
    for (name, rule) in [
        ("sgd", Rule::sgd(0.0)),
        ("sgd, momentum", Rule::sgd(0.9)),
        ("adam", Rule::adam()),
    ] {
        let mut optimiser = Optimiser::new(rule, vec![Group::all(1e-3, 0.0)]).unwrap();
        // The first step makes the moments.
        optimiser.step(module.clone(), grads.clone()).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| optimiser.step(module.clone(), grads.clone()).unwrap());
        });
    }
    group.finish();
}

/// What the runner asks for at each evaluation and each checkpoint, of a ViT tuned by Adam.
fn state(c: &mut Criterion) {
    let device = device();
    let vit = embedded(&device);
    let mut net = network(&vit, Tuning::Full, false);
    let (images, labels) = (noise(SHAPE, 2), labels(2, CLASSES));
    net.step(&images, &labels, View::Train, Key::from_seed(3))
        .unwrap();
    let mut group = group(c, "state of a tuned vit");
    group.bench_function("footprint", |b| b.iter(|| black_box(net.footprint())));
    group.bench_function("save", |b| b.iter(|| net.save().unwrap()));
    group.finish();
}

criterion_group!(benches, step, optimiser, state);
criterion_main!(benches);
