//! Backbones forwards: pixels in, features out, nothing cached.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::backend::to_vec;
use everburn::core::Key;
use everburn::nn::{Backbone, Frozen, Normalise};
use everburn_benches::{SHAPE, device, embedded, noise};

fn forward(c: &mut Criterion) {
    let device = device();
    let key = Key::from_seed(0);
    let resnet = Backbone::resnet18(20, 32, Normalise::HALF, key, &device).unwrap();
    let backbones = [
        ("vit", embedded(&device)),
        ("resnet18 nf20", Frozen::new(resnet, &device)),
    ];
    let mut group = c.benchmark_group("backbone");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500));
    for (name, frozen) in &backbones {
        for batch in [1, 10, 32, 128] {
            let images = noise(SHAPE, batch);
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(format!("forward/{name}/{batch}"), |b| {
                // Reading the features back waits for an asynchronous device.
                b.iter(|| to_vec(&frozen.features(black_box(&images)).unwrap()).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
