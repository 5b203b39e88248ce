//! What an observed batch and a prediction cost as classes grow: learners that have met 10, 100 and 1000
//! classes, on cached features. The laws are in docs/performance.md.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::{Batch, Borders, ClassId, Ctx, Event, ImageShape, Images, Key, Source, Step};
use everburn::methods::METHODS;
use everburn::nn::vit::VitConfig;
use everburn::nn::{Backbone, Frozen, Normalise, Preset, Setting, Tuning};
use everburn_benches::{device, labels, noise};

const BATCH: usize = 10;

/// A backbone whose features are in its store, so that nothing is measured but the learner.
fn frozen(images: &Images) -> Frozen {
    let device = device();
    let config = VitConfig {
        image: 4,
        patch: 4,
        dim: 128,
        depth: 1,
        heads: 4,
        hidden: 128,
    };
    let backbone = Backbone::vit(config, Normalise::HALF, Key::from_seed(0), &device).unwrap();
    let frozen = Frozen::new(backbone, &device);
    frozen.warm(images, |_, _| true).unwrap();
    frozen
}

fn growth(c: &mut Criterion) {
    let images = noise(ImageShape::new(4, 4, 3), 1000);
    let mut group = c.benchmark_group("growth");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    group.throughput(Throughput::Elements(BATCH as u64));
    let setting = Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Frozen,
        from_scratch: false,
    };
    // Others tune the backbone, so that its cost would hide theirs.
    for method in METHODS.iter().filter(|method| method.only.is_none()) {
        for classes in [10, 100, 1000] {
            let settings = method.settings(&setting, &Default::default()).unwrap();
            let mut learner = method
                .build(settings, frozen(&images), Key::from_seed(1))
                .unwrap();
            // The classes come as one stream here.
            if learner.spec().borders == Borders::Needed {
                continue;
            }
            let stage = learner.stages(None).swap_remove(0);
            if stage.source == Source::Stream {
                learner
                    .on(
                        &Event::StageBegin(stage.clone()),
                        &Ctx::new(Key::from_seed(2)),
                    )
                    .unwrap();
            }
            let batch = |first: usize, classes: usize| {
                let indices: Vec<usize> = (first..first + BATCH).collect();
                let labels: Vec<ClassId> =
                    labels(1000, classes as u32)[first..first + BATCH].to_vec();
                Batch::new(images.select(&indices).unwrap(), labels, stage.view).unwrap()
            };
            let step = |index: usize| Step {
                task: None,
                stage: 0,
                epoch: 0,
                epochs: 1,
                index,
                steps: 100_000,
            };
            let key = Key::from_seed(3);
            for (index, first) in (0..1000).step_by(BATCH).enumerate() {
                let cx = Ctx::new(key.at(index as u64));
                learner
                    .observe(&batch(first, classes), &step(index), &cx)
                    .unwrap();
            }
            let (again, mut index) = (batch(0, classes), 100);
            group.bench_function(format!("observe/{}/{classes} classes", method.name), |b| {
                b.iter(|| {
                    let cx = Ctx::new(key.at(index as u64));
                    index += 1;
                    learner.observe(&again, &step(index), &cx).unwrap()
                });
            });
            group.bench_function(format!("predict/{}/{classes} classes", method.name), |b| {
                b.iter(|| learner.predict(black_box(&again.images)).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, growth);
criterion_main!(benches);
