//! A minimal driver that feeds a learner tasks of toy images, and the checks that every learner passes.

use everburn_core::{
    Array, Batch, ClassId, Ctx, Event, ImageShape, Images, Key, Kind, Learner, Order, SeenClasses,
    Source, Stage, State, Step, TaskId, TaskInfo, Values,
};
use serde_json::{Value, json};

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

/// `per_class` images of each class, in mixed order. A class has a colour of its own (27 of them),
/// each pixel of which is off by at most 24 of 255.
pub fn toy_task(shape: ImageShape, classes: &[u32], per_class: usize, key: Key) -> Task {
    let count = classes.len() * per_class;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (image, sample) in key.permutation(count).into_iter().enumerate() {
        let class = classes[sample / per_class];
        let noise = key
            .child("noise")
            .at(image as u64)
            .permutation(shape.bytes());
        pixels.extend(noise.into_iter().enumerate().map(|(byte, noise)| {
            let digit = class / 3_u32.pow((byte % shape.channels) as u32) % 3;
            (40 + 88 * digit as usize + noise % 49 - 24) as u8
        }));
        labels.push(ClassId(class));
    }
    let images = Images::new(shape, pixels).unwrap();
    Task { images, labels }
}

/// How the tasks are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// One after another, with as many epochs as the learner wants.
    Tasks,
    /// One after another, each sample once.
    SinglePass,
    /// As one stream without borders.
    Borderless,
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
                Source::Stream | Source::Task => segment,
                Source::AllSeen => &seen,
                Source::Synthetic { .. } => panic!("the toy driver has no synthetic stages"),
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

/// The first thing in which two states differ, to the bit.
pub fn difference(a: &State, b: &State) -> Option<String> {
    if !a.arrays.keys().eq(b.arrays.keys()) || !a.values.keys().eq(b.values.keys()) {
        return Some("the names of the fields".to_owned());
    }
    let bits = |array: &Array| match &array.values {
        Values::F32(v) => v.iter().map(|x| u64::from(x.to_bits())).collect(),
        Values::F64(v) => v.iter().map(|x| x.to_bits()).collect(),
        Values::I64(v) => v.iter().map(|x| *x as u64).collect(),
        Values::U8(v) => v.iter().map(|x| u64::from(*x)).collect::<Vec<_>>(),
    };
    for (name, left) in &a.arrays {
        let right = &b.arrays[name];
        if left.shape != right.shape || bits(left) != bits(right) {
            return Some(name.clone());
        }
    }
    (a.values.iter())
        .find(|(name, value)| b.values[*name] != **value)
        .map(|(name, _)| name.clone())
}

/// A learner that is saved after any step and restored into a newly built one goes on to the byte as
/// if nothing had happened.
pub fn check_resume(build: &dyn Fn() -> Box<dyn Learner>, tasks: &[Task], flow: Flow) {
    let key = Key::from_seed(11);
    let actions = script(build().as_ref(), tasks, flow, key);
    let cuts = [
        0,
        1,
        2,
        actions.len() / 3,
        actions.len() / 2,
        actions.len() - 2,
    ];
    let mut straight = build();
    let mut saved = Vec::new();
    for (index, action) in actions.iter().enumerate() {
        if cuts.contains(&index) {
            saved.push((index, straight.save().unwrap()));
        }
        action.apply(straight.as_mut()).unwrap();
    }
    let (end, probe) = (straight.save().unwrap(), &tasks[0].images);
    for (cut, state) in saved {
        let mut resumed = build();
        resumed.restore(&state).unwrap();
        assert_eq!(
            difference(&resumed.save().unwrap(), &state),
            None,
            "restored at {cut}"
        );
        for action in &actions[cut..] {
            action.apply(resumed.as_mut()).unwrap();
        }
        assert_eq!(
            difference(&resumed.save().unwrap(), &end),
            None,
            "resumed at {cut}"
        );
        assert_eq!(
            resumed.footprint(),
            straight.footprint(),
            "resumed at {cut}"
        );
        let [a, b] = [&resumed, &straight].map(|learner| learner.predict(probe).unwrap());
        assert!(
            a.scores()
                .iter()
                .map(|s| s.to_bits())
                .eq(b.scores().iter().map(|s| s.to_bits()))
        );
    }
}

/// The bytes of a footprint are those of the arrays that are saved.
pub fn check_footprint(learner: &dyn Learner) {
    let footprint = learner.footprint();
    let uncounted = footprint.bytes(Kind::Frozen) + footprint.bytes(Kind::Bookkeeping);
    let saved = learner.save().unwrap().array_bytes();
    assert_eq!(footprint.total() - uncounted, saved, "{footprint:?}");
    assert!(footprint.macs_per_image > 0);
}

/// The scores of a batch are those of its images one by one, in any order, within 1e-5 of the
/// largest.
pub fn check_singles(learner: &dyn Learner, images: &Images) {
    let together = learner.predict(images).unwrap();
    let order = Key::from_seed(5).permutation(images.len());
    let mixed = learner.predict(&images.select(&order).unwrap()).unwrap();
    let mixed: Vec<&[f32]> = mixed.rows().collect();
    for (index, row) in together.rows().enumerate() {
        let single = learner.predict(&images.select(&[index]).unwrap()).unwrap();
        let place = order.iter().position(|i| *i == index).unwrap();
        let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        for (other, what) in [
            (single.scores(), "alone"),
            (mixed[place], "in another order"),
        ] {
            assert_eq!(row.len(), other.len());
            for (a, b) in row.iter().zip(other) {
                assert!(
                    (a - b).abs() <= 1e-5 * largest,
                    "image {index} {what}: {row:?} {other:?}"
                );
            }
        }
    }
}

/// What does not fit is an error that says why, before and after the learner has seen something.
pub fn check_bad_input(build: &dyn Fn() -> Box<dyn Learner>, task: &Task) {
    let mut learner = build();
    let key = Key::from_seed(3);
    let step = Step {
        task: None,
        stage: 0,
        epoch: 0,
        epochs: 1,
        index: 0,
        steps: 1,
    };
    let unseen = learner.predict(&task.images).unwrap_err().to_string();
    assert!(unseen.contains("no class has been seen"), "{unseen}");
    check_footprint(learner.as_ref());
    let shape = task.images.shape();
    let others = [
        ImageShape::new(shape.height + 1, shape.width, shape.channels),
        ImageShape::new(shape.height, shape.width, 1),
    ];
    let view = learner.stages(None)[0].view;
    let good = Batch::new(task.images.clone(), task.labels.clone(), view).unwrap();
    for _ in 0..2 {
        for other in others {
            let wrong = Images::new(other, vec![9; other.bytes() * 2]).unwrap();
            let batch = Batch::new(wrong.clone(), vec![ClassId(0), ClassId(1)], view).unwrap();
            let observed = learner.observe(&batch, &step, &Ctx::new(key)).unwrap_err();
            for error in [observed, learner.predict(&wrong).unwrap_err()] {
                let text = error.to_string();
                let sizes = [other.to_string(), shape.to_string()];
                assert!(sizes.iter().all(|size| text.contains(size)), "{text}");
            }
        }
        let none = Images::empty(shape);
        assert!(learner.predict(&none).is_err());
        let empty = Batch::new(none, vec![], view).unwrap();
        assert!(learner.observe(&empty, &step, &Ctx::new(key)).is_err());
        for labels in [&task.labels[1..], &[]] {
            let mut lame = good.clone();
            lame.labels = labels.to_vec();
            assert!(
                learner.observe(&lame, &step, &Ctx::new(key)).is_err(),
                "{labels:?}"
            );
        }
        learner.observe(&good, &step, &Ctx::new(key)).unwrap();
    }
    learner.predict(&task.images).unwrap();
}

/// A state in which anything is missing or of another kind is refused, and so is any in `foreign`;
/// the learner that refused it is as it was.
pub fn check_refusals(
    build: &dyn Fn() -> Box<dyn Learner>,
    learner: &dyn Learner,
    foreign: &[State],
) {
    let state = learner.save().unwrap();
    let mut damaged: Vec<(String, State)> = foreign
        .iter()
        .map(|state| ("a foreign state".to_owned(), state.clone()))
        .collect();
    for (name, array) in &state.arrays {
        let replace = |what: &str, array: Option<Array>| {
            let mut copy = state.clone();
            match array {
                Some(array) => copy.arrays.insert(name.clone(), array),
                None => copy.arrays.remove(name),
            };
            (format!("{name}: {what}"), copy)
        };
        let kind = match &array.values {
            Values::F32(_) => Values::U8(vec![0; array.values.len()]),
            _ => Values::F32(vec![0.0; array.values.len()]),
        };
        let with = |shape: &[usize], values| Array {
            shape: shape.to_vec(),
            values,
        };
        let mut longer = array.shape.clone();
        longer[0] += 1;
        let rows = longer.iter().product();
        let more = match &array.values {
            Values::F32(v) => Values::F32(v.iter().copied().cycle().take(rows).collect()),
            Values::F64(v) => Values::F64(v.iter().copied().cycle().take(rows).collect()),
            Values::I64(v) => Values::I64(v.iter().copied().cycle().take(rows).collect()),
            Values::U8(v) => Values::U8(v.iter().copied().cycle().take(rows).collect()),
        };
        damaged.push(replace("missing", None));
        damaged.push(replace("another type", Some(with(&array.shape, kind))));
        damaged.push(replace(
            "a wrong shape",
            Some(with(&longer, array.values.clone())),
        ));
        damaged.push(replace("a row more", Some(with(&longer, more))));
    }
    for name in state.values.keys() {
        for change in [
            None,
            Some(Value::Null),
            Some(json!({"other": [1.5]})),
            Some(json!("?")),
        ] {
            let mut copy = state.clone();
            match change.clone() {
                Some(value) => copy.values.insert(name.clone(), value),
                None => copy.values.remove(name),
            };
            damaged.push((format!("{name}: {change:?}"), copy));
        }
    }
    let mut victim = build();
    victim.restore(&state).unwrap();
    for (what, damaged) in damaged {
        let refused = victim.restore(&damaged);
        assert!(refused.is_err(), "{what}: not refused");
        assert_eq!(
            difference(&victim.save().unwrap(), &state),
            None,
            "{what}: half-restored"
        );
    }
    assert!(victim.restore(&State::default()).is_err());
}
