//! A minimal driver that feeds a learner tasks of toy images call by call, for tests that look in between.

use everburn_conformance::lab::toy_images;
pub use everburn_conformance::lab::{Flow, toy_vit};
use everburn_core::{
    Batch, ClassId, Ctx, Event, ImageShape, Images, Key, Learner, Order, SeenClasses, Source,
    Stage, Step, TaskId, TaskInfo,
};

/// The samples of a task.
#[derive(Clone, Debug)]
pub struct Task {
    /// The images.
    pub images: Images,
    /// The class of each.
    pub labels: Vec<ClassId>,
}

impl Task {
    /// How many of the predicted classes are right, as a fraction.
    pub fn accuracy(&self, learner: &dyn Learner) -> f64 {
        let predicted = learner.predict(&self.images).unwrap().predicted();
        let right = predicted
            .iter()
            .zip(&self.labels)
            .filter(|(a, b)| a == b)
            .count();
        right as f64 / self.labels.len() as f64
    }
}

/// `per_class` images of each class, in mixed order; see [`toy_images`].
pub fn toy_task(shape: ImageShape, classes: &[u32], per_class: usize, key: Key) -> Task {
    let classes: Vec<_> = classes.iter().map(|class| (*class, per_class)).collect();
    let (images, labels) = toy_images(shape, &classes, key).unwrap();
    Task { images, labels }
}

/// One call to a learner.
#[derive(Clone, Debug)]
pub enum Action {
    /// [`Learner::on`].
    On(Event, Ctx),
    /// [`Learner::observe`].
    Observe(Batch, Step, Ctx),
}

impl Action {
    /// Makes the call.
    pub fn apply(&self, learner: &mut dyn Learner) -> everburn_core::Result<()> {
        match self {
            Self::On(event, cx) => learner.on(event, cx),
            Self::Observe(batch, step, cx) => learner.observe(batch, step, cx).map(drop),
        }
    }
}

/// All calls that show the tasks to a learner.
pub fn script(learner: &dyn Learner, tasks: &[Task], flow: Flow, key: Key) -> Vec<Action> {
    let segments: Vec<Task> = match flow {
        Flow::Borderless => vec![join(tasks)],
        _ => tasks.to_vec(),
    };
    let mut actions = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let key = key.at(number as u64);
        let info = (flow != Flow::Borderless).then(|| TaskInfo {
            task: TaskId(number as u32),
            classes: classes(&segment.labels),
            seen: classes(&join(&segments[..=number]).labels).len(),
            samples: segment.labels.len(),
            single_pass: flow == Flow::SinglePass,
        });
        let seen = join(&segments[..=number]);
        let event = |name: &str, event| Action::On(event, Ctx::new(key.child(name)));
        actions.extend(
            info.clone()
                .map(|info| event("begin", Event::TaskBegin(info))),
        );
        for (index, stage) in learner.stages(info.as_ref()).into_iter().enumerate() {
            let key = key.at(index as u64);
            let event = |name: &str, event| Action::On(event, Ctx::new(key.child(name)));
            let source = match stage.source {
                Source::Stream | Source::Task | Source::Synthetic { .. } => segment,
                Source::AllSeen => &seen,
            };
            actions.push(event("begin", Event::StageBegin(stage.clone())));
            actions.extend(steps(
                source,
                &stage,
                info.as_ref().map(|i| i.task),
                index,
                key,
            ));
            actions.push(event("end", Event::StageEnd(stage)));
        }
        actions.extend(info.map(|info| event("end", Event::TaskEnd(info))));
    }
    actions
}

/// Shows the tasks to a learner.
pub fn feed(learner: &mut dyn Learner, tasks: &[Task], flow: Flow, key: Key) {
    for action in script(learner, tasks, flow, key) {
        action.apply(learner).unwrap();
    }
}

fn join(tasks: &[Task]) -> Task {
    let mut all = tasks[0].clone();
    for task in &tasks[1..] {
        all.images.extend(&task.images).unwrap();
        all.labels.extend(&task.labels);
    }
    all
}

fn classes(labels: &[ClassId]) -> Vec<ClassId> {
    SeenClasses::from(labels.to_vec()).into()
}

fn steps(
    source: &Task,
    stage: &Stage,
    task: Option<TaskId>,
    number: usize,
    key: Key,
) -> Vec<Action> {
    let count = source.labels.len();
    let mut epochs = Vec::new();
    for epoch in 0..stage.epochs {
        if let Source::Synthetic { steps } = stage.source {
            epochs.extend((0..steps).map(|_| (epoch, Vec::new())));
            continue;
        }
        let groups: Vec<Vec<usize>> = match stage.order {
            Order::Stream => vec![(0..count).collect()],
            Order::Shuffled => vec![key.child("order").at(epoch as u64).permutation(count)],
            Order::ByClass => (classes(&source.labels).iter())
                .map(|class| (0..count).filter(|i| source.labels[*i] == *class).collect())
                .collect(),
        };
        for chunk in groups.iter().flat_map(|group| group.chunks(stage.batch)) {
            if chunk.len() == stage.batch || !stage.drop_last {
                epochs.push((epoch, chunk.to_vec()));
            }
        }
    }
    let steps = epochs.len();
    let action = |(index, (epoch, chunk)): (usize, (usize, Vec<usize>))| {
        let labels = chunk.iter().map(|i| source.labels[*i]).collect();
        let images = source.images.select(&chunk).unwrap();
        let step = Step {
            task,
            stage: number,
            epoch,
            epochs: stage.epochs,
            index,
            steps,
        };
        let cx = Ctx::new(key.child("step").at(index as u64));
        Action::Observe(Batch::new(images, labels, stage.view).unwrap(), step, cx)
    };
    epochs.into_iter().enumerate().map(action).collect()
}
