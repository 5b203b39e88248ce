use everburn_core::{Borders, ClassId, Error, Learner, Order, Result, Source, Stage, TaskId};
use everburn_stream::Manifest;

use crate::Settings;
use crate::epoch::Amount;
use crate::positions::Positions;

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
    /// What `learner` asks for on a stream. Counts the batches without making them.
    ///
    /// # Errors
    /// If the stream cannot give it, with the reason.
    pub fn new(
        learner: &dyn Learner,
        manifest: &Manifest,
        labels: &[ClassId],
        settings: &Settings,
    ) -> Result<Self> {
        let spec = learner.spec();
        if spec.borders == Borders::Needed && !manifest.borders {
            let setting = (spec.without_borders).map(|setting| format!(", or with `{setting}`"));
            return Err(Error::unsupported(
                format!("`{}` on `{}`", spec.method, manifest.scenario),
                format!(
                    "it must be told where tasks begin and end, and this stream does not tell; \
                     run it on the variant `{}+borders`{}",
                    manifest.scenario,
                    setting.unwrap_or_default()
                ),
            ));
        }
        let positions = Positions::new(manifest);
        let mut stages = Vec::new();
        let only = only_segment(manifest, spec.offline, settings);
        let mut infos = manifest.task_infos();
        for segment in segments(manifest, spec.offline) {
            let info = segment.and_then(|_| infos.next());
            if only.is_some() && segment != only {
                continue;
            }
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
                let epoch = Amount::of(manifest, &positions, labels, segment, &stage);
                stages.push(PlannedStage {
                    task: segment,
                    steps: epoch.steps * stage.epochs,
                    samples: epoch.samples * stage.epochs,
                    stage,
                });
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

/// The only task after which a reference learns that is to learn once: the last with samples. `None`
/// where there is none, or each segment is learnt from.
pub(crate) fn only_segment(
    manifest: &Manifest,
    offline: bool,
    settings: &Settings,
) -> Option<TaskId> {
    if !(settings.offline_once && offline && manifest.borders && !manifest.online) {
        return None;
    }
    let with_samples = manifest
        .tasks()
        .filter(|(_, task)| !task.indices.is_empty());
    with_samples.map(|(task, _)| task).last()
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
