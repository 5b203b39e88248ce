use everburn_core::{
    Batch, ClassId, Ctx, Error, Event, Key, Learner, Result, SeenClasses, Source, Step, TaskId,
    TaskInfo,
};
use everburn_stream::{Manifest, ManifestTask};

use crate::Labelled;
use crate::epoch::Epoch;

/// Teaches a learner one task, in a program that has no stream: the stages that it asks for, over these samples.
/// Returns the mean loss of the last stage that tells one (on a GPU losses are told every 32 steps). `key` is the task's place in the tree of randomness;
/// another task takes another.
///
/// A [`Runner`](crate::Runner) does more: it tests, counts, saves and resumes.
///
/// # Errors
/// If there are not as many labels as images, the learner asks for samples of other tasks, or a step fails.
pub fn teach(
    learner: &mut dyn Learner,
    task: TaskId,
    samples: Labelled<'_>,
    key: Key,
) -> Result<Option<f32>> {
    let (images, labels) = (samples.images, samples.labels);
    if images.len() != labels.len() {
        let expected = format!("{}, one for each image", images.len());
        return Err(Error::input("labels of a task", labels.len(), expected));
    }
    let classes: Vec<ClassId> = SeenClasses::from(labels.to_vec()).into();
    let manifest = Manifest {
        tasks: vec![ManifestTask {
            classes: classes.clone(),
            indices: (0..labels.len() as u32).collect(),
        }],
        ..Manifest::default()
    };
    let info = TaskInfo {
        task,
        seen: classes.len(),
        classes,
        samples: labels.len(),
        single_pass: false,
    };
    let cx = |name: &str| Ctx::new(key.child(name));
    learner.on(&Event::TaskBegin(info.clone()), &cx("task begin"))?;
    let mut loss = None;
    let stages = learner.stages(Some(&info));
    if let Some(stage) = stages.iter().find(|stage| stage.source == Source::AllSeen) {
        let why = "it would need the samples of earlier tasks, which are not kept";
        return Err(Error::unsupported(format!("stage `{}`", stage.name), why));
    }
    for (number, stage) in stages.into_iter().enumerate() {
        let key = key.at(number as u64);
        let cx = |name: &str| Ctx::new(key.child(name));
        learner.on(&Event::StageBegin(stage.clone()), &cx("stage begin"))?;
        let epoch = |number: usize| {
            let order = key.child("order").at(number as u64);
            Epoch::new(&manifest, labels, Some(TaskId(0)), &stage, |n| {
                order.permutation(n)
            })
        };
        let per_epoch = epoch(0).steps();
        let (mut sum, mut count) = (0.0, 0);
        for number_of_epoch in 0..stage.epochs {
            let epoch = epoch(number_of_epoch);
            for at in 0..per_epoch {
                let chosen: Vec<usize> = epoch.batch(at).iter().map(|i| *i as usize).collect();
                let of = chosen
                    .iter()
                    .filter_map(|i| labels.get(*i).copied())
                    .collect();
                let batch = Batch::new(images.select(&chosen)?, of, stage.view)?;
                let step = Step {
                    task: Some(task),
                    stage: number,
                    epoch: number_of_epoch,
                    epochs: stage.epochs,
                    index: number_of_epoch * per_epoch + at,
                    steps: per_epoch * stage.epochs,
                };
                let cx = Ctx::new(key.child("step").at(step.index as u64));
                if let Some(loss) = learner.observe(&batch, &step, &cx)?.loss {
                    sum += loss;
                    count += 1;
                }
            }
        }
        if count > 0 {
            loss = Some(sum / count as f32);
        }
        learner.on(&Event::StageEnd(stage), &cx("stage end"))?;
    }
    learner.on(&Event::TaskEnd(info), &cx("task end"))?;
    Ok(loss)
}
