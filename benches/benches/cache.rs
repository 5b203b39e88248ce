//! The feature store: hits in memory and on the disk, filling, opening.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::cache::{FeatureStore, Limits};
use everburn::core::{ImageKey, ImageShape};
use everburn_benches::noise;

/// Width of a feature of the embedded backbone.
const DIM: usize = 128;
/// Images of a data set, and of a batch.
const IMAGES: usize = 10_000;
const BATCH: usize = 32;

fn keys() -> Vec<ImageKey> {
    noise(ImageShape::new(2, 2, 3), IMAGES).keys().to_vec()
}

fn open(root: &std::path::Path, memory: u64) -> FeatureStore {
    let limits = Limits {
        memory,
        ..Limits::default()
    };
    FeatureStore::open(root, "0123456789abcdef", DIM, limits).unwrap()
}

fn cache(c: &mut Criterion) {
    let (keys, root) = (keys(), tempfile::tempdir().unwrap());
    let rows: Vec<f32> = (0..IMAGES * DIM).map(|i| i as f32).collect();
    open(root.path(), 1 << 30).put(&keys, &rows).unwrap();
    let mut group = c.benchmark_group("cache");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));

    group.throughput(Throughput::Elements(BATCH as u64));
    let memory = open(root.path(), 1 << 30);
    memory.load(&keys);
    // A budget of no bytes still holds a few rows: these are others.
    let disk = open(root.path(), 0);
    for (name, store) in [("memory", &memory), ("disk", &disk)] {
        let mut batches = keys[IMAGES / 2..].chunks_exact(BATCH).cycle();
        group.bench_function(format!("hit/{name}/{BATCH}"), |b| {
            b.iter(|| store.get(black_box(batches.next().unwrap())).unwrap());
        });
    }

    group.throughput(Throughput::Elements(IMAGES as u64));
    group.bench_function("put/memory", |b| {
        b.iter(|| FeatureStore::in_memory(DIM).put(&keys, &rows).unwrap());
    });
    group.bench_function("put and flush/disk", |b| {
        b.iter(|| {
            let root = tempfile::tempdir().unwrap();
            open(root.path(), 1 << 30).put(&keys, &rows).unwrap();
        });
    });
    group.bench_function("open and load/disk", |b| {
        b.iter(|| open(root.path(), 1 << 30).load(&keys));
    });
    group.finish();
}

criterion_group!(benches, cache);
criterion_main!(benches);
