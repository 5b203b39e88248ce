use everburn_core::{
    Borders, ClassId, Error, Learner, Order, Result, Source, Stage, TaskId, TaskInfo,
};
use everburn_stream::Manifest;

/// A stage as it will be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// The task that it belongs to; `None` on a stream without borders.
    pub task: Option<TaskId>,
    /// The stage.
    pub stage: Stage,
    /// Steps over all epochs.
    pub steps: usize,
    /// Samples over all epochs.
    pub samples: usize,
}

/// What a learner will be fed, known before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stages in order.
    pub stages: Vec<PlannedStage>,
}

impl Plan {
    /// What `learner` asks for on a stream.
    ///
    /// # Errors
    /// If the stream cannot give it, with the reason.
    pub fn new(learner: &dyn Learner, manifest: &Manifest, labels: &[ClassId]) -> Result<Self> {
        let spec = learner.spec();
        if spec.borders == Borders::Needed && !manifest.borders {
            return Err(Error::unsupported(
                format!("`{}` on `{}`", spec.method, manifest.scenario),
                format!(
                    "it must be told where tasks begin and end, and this stream does not tell; \
                     run it on the variant `{}+borders`",
                    manifest.scenario
                ),
            ));
        }
        let mut stages = Vec::new();
        for segment in segments(manifest, spec.offline) {
            let info = segment.and_then(|task| manifest.task_info(task));
            let asked = learner.stages(info.as_ref());
            let passes = asked
                .iter()
                .filter(|stage| stage.source == Source::Stream)
                .count();
            if passes > 1 {
                return Err(Error::unsupported(
                    format!("`{}` on `{}`", spec.method, manifest.scenario),
                    format!("it asks for {passes} passes over the stream, which passes once"),
                ));
            }
            for stage in asked {
                check(&spec.method, spec.offline, manifest, &stage)?;
                stages.push(planned(manifest, labels, segment, stage));
            }
        }
        Ok(Self { stages })
    }

    /// Steps of all stages.
    pub fn steps(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// Samples of all stages, each counted as often as it is fed.
    pub fn samples(&self) -> usize {
        self.stages.iter().map(|stage| stage.samples).sum()
    }
}

/// The parts of a stream between which a learner is told of a border: its tasks, or one part. A
/// reference that learns after the end of a single pass meets no borders on the way.
pub(crate) fn segments(manifest: &Manifest, offline: bool) -> Vec<Option<TaskId>> {
    if manifest.borders && !(manifest.online && offline) {
        manifest.tasks().map(|(task, _)| Some(task)).collect()
    } else {
        vec![None]
    }
}

fn check(method: &str, offline: bool, manifest: &Manifest, stage: &Stage) -> Result<()> {
    let refuse = |why: String| {
        let what = format!(
            "stage `{}` of `{method}` on `{}`",
            stage.name, manifest.scenario
        );
        Err(Error::unsupported(what, why))
    };
    if stage.epochs == 0 || stage.batch == 0 {
        return refuse("it has no epochs or batches of no samples".to_owned());
    }
    match stage.source {
        Source::Stream if stage.epochs > 1 || stage.order != Order::Stream => refuse(
            "the stream passes once, in its own order; ask for the task's samples".to_owned(),
        ),
        Source::Task if manifest.online => {
            refuse("each sample passes once; a task's samples cannot be had again".to_owned())
        }
        Source::Task if !manifest.borders => {
            refuse("the stream has no task borders, so there is no task to ask for".to_owned())
        }
        Source::AllSeen if !offline => refuse(
            "only a reference that learns offline may see all samples again; keep a memory"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn planned(
    manifest: &Manifest,
    labels: &[ClassId],
    task: Option<TaskId>,
    stage: Stage,
) -> PlannedStage {
    let batches = batches(manifest, labels, task, &stage, |n| (0..n).collect());
    let samples: usize = batches.iter().map(Vec::len).sum();
    PlannedStage {
        task,
        steps: batches.len() * stage.epochs,
        samples: samples * stage.epochs,
        stage,
    }
}

/// The batches of one epoch of a stage, as indices of the data set. `shuffle(n)` gives a permutation
/// of `0..n`.
pub(crate) fn batches(
    manifest: &Manifest,
    labels: &[ClassId],
    task: Option<TaskId>,
    stage: &Stage,
    shuffle: impl Fn(usize) -> Vec<usize>,
) -> Vec<Vec<u32>> {
    let batch = stage.batch.max(1);
    if let Source::Synthetic { steps } = stage.source {
        return vec![Vec::new(); steps];
    }
    if stage.source == Source::Stream && task.is_none() {
        // A batch never mixes two tasks, as in the official trainer.
        let cut = manifest.batches(batch).filter_map(|(task, range)| {
            let indices = &manifest.task(task)?.indices;
            indices.get(range).map(<[u32]>::to_vec)
        });
        return cut.collect();
    }
    let indices: Vec<u32> = manifest
        .tasks()
        .filter(|(other, _)| match (stage.source, task) {
            (Source::AllSeen, Some(task)) => *other <= task,
            (_, Some(task)) => *other == task,
            (_, None) => true,
        })
        .flat_map(|(_, task)| task.indices.iter().copied())
        .collect();
    let chunks = |indices: &[u32]| -> Vec<Vec<u32>> {
        let mut chunks: Vec<Vec<u32>> = indices.chunks(batch).map(<[u32]>::to_vec).collect();
        let incomplete = chunks.last().is_some_and(|last| last.len() < batch);
        if stage.drop_last && incomplete {
            chunks.pop();
        }
        chunks
    };
    match stage.order {
        Order::Stream => chunks(&indices),
        Order::Shuffled => {
            let order = shuffle(indices.len());
            let shuffled: Vec<u32> = order
                .iter()
                .filter_map(|at| indices.get(*at).copied())
                .collect();
            chunks(&shuffled)
        }
        Order::ByClass => by_class(&indices, labels)
            .iter()
            .flat_map(|class| chunks(class))
            .collect(),
    }
}

/// Indices by class, the classes in the order of their first appearance.
fn by_class(indices: &[u32], labels: &[ClassId]) -> Vec<Vec<u32>> {
    let mut seen = everburn_core::SeenClasses::default();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for index in indices {
        let Some(label) = labels.get(*index as usize) else {
            continue;
        };
        let group = seen.insert(*label);
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(*index);
    }
    groups
}

/// The task's description for events; `None` without borders.
pub(crate) fn task_info(manifest: &Manifest, task: Option<TaskId>) -> Option<TaskInfo> {
    task.and_then(|task| manifest.task_info(task))
}
