//! `observe` and `predict` of every method on digits, as the main job calls them: a frozen backbone
//! whose features are cached, batches of a stream without task borders, or for methods that need them of one task with
//! all classes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::{
    Batch, Borders, ClassId, Ctx, Event, Key, Learner, SeenClasses, Stage, Step, TaskId, TaskInfo,
};
use everburn::data::{Dataset, Split};
use everburn::methods::METHODS;
use everburn::nn::{Frozen, Preset, Setting, Tuning};
use everburn_benches::{device, digits, embedded};

/// Images observed before anything is measured: all classes are known and ER's memory is full.
const OBSERVED: usize = 600;
/// Images of a prediction, as in the runner.
const PREDICTED: usize = 256;

fn batch(split: &Split, first: usize, stage: &Stage) -> Batch {
    let indices: Vec<usize> = (first..first + stage.batch).collect();
    let Split { images, labels } = split.select(&indices).unwrap();
    Batch::new(images.to_images().unwrap(), labels, stage.view).unwrap()
}

fn step(index: usize, task: Option<TaskId>) -> Step {
    Step {
        task,
        stage: 0,
        epoch: 0,
        epochs: 1,
        index,
        steps: 1000,
    }
}

/// The learner at the beginning of its stage, the stage, and the task, where it must be told of one.
fn begun(
    name: &str,
    frozen: &Frozen,
    classes: &[ClassId],
) -> (Box<dyn Learner>, Stage, Option<TaskId>) {
    let method = everburn::methods::method(name).unwrap();
    let setting = Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Frozen,
        from_scratch: false,
    };
    let settings = method.settings(&setting, &Default::default()).unwrap();
    let mut learner = method
        .build(settings, frozen.clone(), Key::from_seed(0))
        .unwrap();
    let cx = Ctx::new(Key::from_seed(1));
    let info = (learner.spec().borders == Borders::Needed).then(|| TaskInfo {
        task: TaskId(0),
        classes: classes.to_vec(),
        seen: classes.len(),
        samples: OBSERVED,
        single_pass: true,
    });
    if let Some(info) = &info {
        learner.on(&Event::TaskBegin(info.clone()), &cx).unwrap();
    }
    let stage = learner.stages(info.as_ref()).remove(0);
    learner.on(&Event::StageBegin(stage.clone()), &cx).unwrap();
    (learner, stage, info.map(|info| info.task))
}

fn learners(c: &mut Criterion) {
    let device = device();
    let Dataset { train, test, .. } = digits();
    let frozen = embedded(&device);
    let observed = train
        .select(&(0..OBSERVED + 64).collect::<Vec<_>>())
        .unwrap();
    let predicted = test
        .select(&(0..PREDICTED).collect::<Vec<_>>())
        .unwrap()
        .images
        .to_images()
        .unwrap();
    frozen.warm(&observed.images, |_, _| true).unwrap();
    frozen.warm(&predicted, |_, _| true).unwrap();
    let classes = SeenClasses::from(train.labels.clone());
    let mut group = c.benchmark_group("learner");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    // OnPro's published size would take minutes; its small one stands for it.
    for method in METHODS.iter().filter(|method| method.name != "onpro") {
        let name = method.name;
        let (mut learner, stage, task) = begun(name, &frozen, classes.as_slice());
        let key = Key::from_seed(2);
        let mut index = 0;
        for first in (0..OBSERVED).step_by(stage.batch) {
            let cx = Ctx::new(key.at(index as u64));
            let batch = batch(&observed, first, &stage);
            learner.observe(&batch, &step(index, task), &cx).unwrap();
            index += 1;
        }
        group.throughput(Throughput::Elements(PREDICTED as u64));
        group.bench_function(format!("predict/{name}/{PREDICTED}"), |b| {
            b.iter(|| learner.predict(black_box(&predicted)).unwrap());
        });
        let batch = batch(&observed, 0, &stage);
        group.throughput(Throughput::Elements(stage.batch as u64));
        group.bench_function(format!("observe/{name}/{}", stage.batch), |b| {
            b.iter(|| {
                let cx = Ctx::new(key.at(index as u64));
                index += 1;
                learner.observe(&batch, &step(index, task), &cx).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, learners);
criterion_main!(benches);
