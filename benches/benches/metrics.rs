//! Metrics over a run of 100 tasks of 10 classes, and the counting of one evaluation.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::{ClassId, TaskId};
use everburn::eval::{ClassCount, Evaluation, History, Moment, metrics};
use everburn_benches::labels;

const TASKS: u32 = 100;
const PER_TASK: u32 = 10;

/// An evaluation at the end of each task, over all classes so far; accuracies vary.
fn history() -> History {
    let count = |after: u32, class: u32| ClassCount {
        class: ClassId(class),
        correct: (after * 7 + class * 13) % 101,
        total: 100,
    };
    let evaluation = |task: u32| Evaluation {
        samples_seen: u64::from(task + 1) * 5000,
        task_end: Some(TaskId(task)),
        periodic: false,
        classes: (0..(task + 1) * PER_TASK)
            .map(|class| count(task, class))
            .collect(),
    };
    let classes = |task: u32| {
        (task * PER_TASK..(task + 1) * PER_TASK)
            .map(ClassId)
            .collect()
    };
    History {
        task_classes: (0..TASKS).map(classes).collect(),
        disjoint: true,
        period: None,
        prequential: None,
        evaluations: (0..TASKS).map(evaluation).collect(),
    }
}

fn of_a_run(c: &mut Criterion) {
    let history = history();
    let matrix = history.matrix().unwrap();
    assert!(history.metrics().unwrap().len() > 20);
    let mut group = c.benchmark_group("metrics");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group.bench_function("matrix/100 tasks", |b| {
        b.iter(|| black_box(&history).matrix().unwrap());
    });
    group.bench_function("all/100 tasks", |b| {
        b.iter(|| black_box(&history).metrics().unwrap());
    });
    group.bench_function("forgetting max-before/100 tasks", |b| {
        b.iter(|| metrics::forgetting_max_before(black_box(&matrix)));
    });
    let exposed = labels(1000, 1000);
    let truth = labels(10_000, 1000);
    let predicted: Vec<ClassId> = truth.iter().rev().copied().collect();
    group.throughput(Throughput::Elements(truth.len() as u64));
    group.bench_function("evaluation/10000 images, 1000 classes", |b| {
        b.iter(|| {
            let moment = Moment::default();
            Evaluation::from_predictions(moment, &exposed, &truth, black_box(&predicted)).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, of_a_run);
criterion_main!(benches);
