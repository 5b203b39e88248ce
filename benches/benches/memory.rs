//! The replay memory: insertion under both rules, drawing, saving; and the keys of images.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::{Images, Key, Reservoir, ReservoirRule};
use everburn_benches::{SHAPE, labels, noise};

const CAPACITY: usize = 1000;
const SHOWN: usize = 2000;
const BATCH: usize = 10;

fn filled(rule: ReservoirRule, batches: &[Images]) -> Reservoir {
    let labels = labels(BATCH, 10);
    let mut memory = Reservoir::new(CAPACITY, rule);
    for (images, at) in batches.iter().zip(0..) {
        let key = Key::from_seed(0).at(at);
        memory.insert(images, &labels, key).unwrap();
    }
    memory
}

fn reservoir(c: &mut Criterion) {
    let images = noise(SHAPE, SHOWN);
    let indices: Vec<usize> = (0..SHOWN).collect();
    let batches: Vec<Images> = indices
        .chunks(BATCH)
        .map(|batch| images.select(batch).unwrap())
        .collect();
    let mut group = c.benchmark_group("memory");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    // From empty: half of the images fill it, the others compete.
    group.throughput(Throughput::Elements(SHOWN as u64));
    for (name, rule) in [
        ("exact", ReservoirRule::Exact),
        ("batched", ReservoirRule::Batched),
    ] {
        group.bench_function(format!("insert/{name}/{SHOWN} into {CAPACITY}"), |b| {
            b.iter(|| filled(rule, black_box(&batches)));
        });
    }
    let memory = filled(ReservoirRule::Exact, &batches);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("draw/{BATCH} of {CAPACITY}"), |b| {
        b.iter(|| memory.draw(BATCH, Key::from_seed(1)).unwrap());
    });
    group.throughput(Throughput::Elements(CAPACITY as u64));
    group.bench_function(format!("save/{CAPACITY}"), |b| {
        b.iter(|| memory.save().unwrap())
    });
    group.throughput(Throughput::Elements(SHOWN as u64));
    group.bench_function(format!("keys/{SHOWN}"), |b| {
        b.iter(|| Images::new(SHAPE, black_box(images.pixels()).to_vec()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, reservoir);
criterion_main!(benches);
