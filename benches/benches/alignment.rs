//! What classifier alignment costs: closing a class, and a step on samples of all classes, by width and kind of covariance.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::backend::random;
use everburn::core::{ClassId, Key, Step};
use everburn::nn::{
    Alignment, AlignmentConfig, ClassGaussians, Classifier, Covariance, Head, Shrink,
    cross_entropy, targets,
};
use everburn_benches::device;
use rand::RngExt as _;

/// Features of a class.
const SAMPLES: usize = 40;
/// Samples of a step, as published for SLCA.
const STEP: usize = 256;

fn features(dim: usize, class: u32) -> Vec<f32> {
    let mut rng = Key::from_seed(1).at(class.into()).rng();
    (0..SAMPLES * dim).map(|_| rng.random::<f32>()).collect()
}

fn alignment(c: &mut Criterion) {
    let device = device();
    let mut group = c.benchmark_group("alignment");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    let kinds = [
        ("full", Covariance::Full),
        ("diagonal", Covariance::Diagonal),
        ("rank-16", Covariance::LowRank { rank: 16 }),
    ];
    for (dim, name, covariance) in [128, 768]
        .into_iter()
        .flat_map(|dim| kinds.map(|(name, covariance)| (dim, name, covariance)))
    {
        let own = features(dim, 0);
        let close = |gaussians: &mut ClassGaussians, class: u32, features: &[f32]| {
            gaussians.add(features, &[ClassId(class); SAMPLES]).unwrap();
            gaussians.close().unwrap();
        };
        let fresh = || ClassGaussians::new(dim, covariance, 1e-4).unwrap();
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("close/{name}/{dim}"), |b| {
            b.iter(|| close(&mut fresh(), 0, black_box(&own)));
        });
        for classes in [10, 100] {
            let mut gaussians = fresh();
            for class in 0..classes as u32 {
                close(&mut gaussians, class, &features(dim, class));
            }
            let mut alignment = Alignment::new(AlignmentConfig {
                epochs: 1,
                samples_per_class: STEP,
                rate: 0.01,
                momentum: 0.9,
                weight_decay: 5e-4,
            })
            .unwrap();
            alignment.begin(Key::from_seed(2));
            let key = Key::from_seed(3);
            let mut head = Head {
                weight: burn::module::Param::from_tensor(random::normal(
                    key,
                    [classes, dim],
                    0.02,
                    &device,
                )),
                bias: None,
            };
            let mut index = 0;
            group.throughput(Throughput::Elements(STEP as u64));
            group.bench_function(format!("step/{name}/{dim}/{classes} classes"), |b| {
                b.iter(|| {
                    index = (index + 1) % classes;
                    let step = Step {
                        task: None,
                        stage: 0,
                        epoch: 0,
                        epochs: 1,
                        index,
                        steps: classes,
                    };
                    let (features, labels) = alignment
                        .samples(&gaussians, &step, |_, _| Shrink::NONE, &device)
                        .unwrap();
                    let numbers: Vec<usize> = labels.iter().map(|c| c.0 as usize).collect();
                    let batch = (features, targets(&numbers, &device));
                    let step =
                        alignment.step(&head, Classifier::Linear, batch, &step, cross_entropy);
                    head = step.unwrap().0;
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, alignment);
criterion_main!(benches);
