//! From labels to a manifest, its check and its hash, at sizes beyond today's data sets; and the plan
//! of a run, whose time should not grow with the stream.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::Key;
use everburn::methods::method;
use everburn::nn::Setting;
use everburn::run::Plan;
use everburn::stream::scenario;
use everburn_benches::{device, embedded, labels};

const CLASSES: usize = 1000;

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    for (size, samples) in [("1M", 1_000_000), ("10M", 10_000_000)] {
        let labels = labels(samples, CLASSES as u32);
        group.throughput(Throughput::Elements(samples as u64));
        for name in ["split-10", "si-blurry"] {
            let scenario = scenario(name).unwrap();
            group.bench_function(format!("compile/{name}/{size}"), |b| {
                b.iter(|| scenario.compile(black_box(&labels), CLASSES, 1).unwrap());
            });
        }
    }
    let labels = labels(1_000_000, CLASSES as u32);
    let manifest = scenario("si-blurry").unwrap();
    let manifest = manifest.compile(&labels, CLASSES, 1).unwrap();
    group.throughput(Throughput::Elements(manifest.len() as u64));
    group.bench_function("hash/si-blurry/1M", |b| b.iter(|| manifest.hash()));
    group.bench_function("validate/si-blurry/1M", |b| {
        b.iter(|| manifest.validate(black_box(&labels)).unwrap());
    });
    let finetune = method("finetune").unwrap();
    let settings = finetune.settings(&Setting::default(), &Default::default());
    let frozen = embedded(&device());
    let learner = finetune.build(settings.unwrap(), frozen, Key::from_seed(0));
    let learner = learner.unwrap();
    let settings = everburn::run::Settings::new(0);
    group.throughput(Throughput::Elements(1));
    group.bench_function("plan/finetune/si-blurry/1M", |b| {
        b.iter(|| Plan::new(learner.as_ref(), black_box(&manifest), &labels, &settings).unwrap());
    });
    group.finish();
}

criterion_group!(benches, streams);
criterion_main!(benches);
