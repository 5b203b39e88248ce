use everburn_core::{
    Array, Batch, Borders, ClassId, Ctx, Error, Event, ImageShape, Images, Key, Learner, Source,
    Stage, State, Step, TaskId, TaskInfo, Values, View,
};
use everburn_run::Runner;
use serde_json::json;

use crate::case::{SEED, USUAL};
use crate::lab::toy_images;
use crate::watch::Watched;
use crate::{Case, Violation};

pub(super) fn bad_input(case: &Case<'_>) -> Result<(), Violation> {
    let shape = case.shape();
    let (images, labels) = toy_images(shape, &[(26, 2), (2, 1)], Key::from_seed(5))?;
    let mut learner = case.learner(SEED)?;
    refused(
        learner.predict(&images),
        &["no class has been seen"],
        "a prediction before any class",
    )?;
    if let Some(info) = task_info(learner.as_ref()) {
        // Otherwise all labels are of no task.
        learner.on(&Event::TaskBegin(info), &Ctx::new(Key::from_seed(6)))?;
    }
    for has_seen in [false, true] {
        if has_seen {
            learner = in_mid_stage(case)?;
        }
        let others = [
            ImageShape::new(shape.height + 1, shape.width, shape.channels),
            ImageShape::new(shape.height, shape.width, shape.channels % 3 + 1),
        ];
        for other in others {
            let wrong = Images::new(other, vec![9; 2 * other.bytes()])?;
            let sizes = [other.to_string(), shape.to_string()];
            let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
            let two = vec![ClassId(26), ClassId(2)];
            let what = format!("a batch of {other} images");
            refused(observe(learner.as_mut(), wrong.clone(), two), &sizes, &what)?;
            // Before the first class there is another reason to refuse.
            let parts = if has_seen { &sizes[..] } else { &[] };
            let what = format!("a prediction for {other} images");
            refused(learner.predict(&wrong), parts, &what)?;
        }
        let none = Images::empty(shape);
        refused(learner.predict(&none), &[], "a prediction for no image")?;
        // A synthetic stage is fed batches of no image.
        let fed = stages(learner.as_ref());
        if fed
            .iter()
            .all(|stage| !matches!(stage.source, Source::Synthetic { .. }))
        {
            let observed = observe(learner.as_mut(), none, Vec::new());
            refused(observed, &[], "a batch of no image")?;
        }
        for labels in [&labels[1..], &[]] {
            let what = format!("{} labels for {} images", labels.len(), images.len());
            refused(
                observe(learner.as_mut(), images.clone(), labels.to_vec()),
                &[],
                &what,
            )?;
        }
    }
    learner.predict(&images)?;
    Ok(())
}

fn refused<T>(result: Result<T, Error>, parts: &[&str], what: &str) -> Result<(), Violation> {
    match result {
        Ok(_) => Err(Violation(format!("{what} is accepted"))),
        Err(error) => {
            let text = error.to_string();
            match parts.iter().find(|part| !text.contains(**part)) {
                Some(part) => Err(Violation(format!(
                    "{what} is refused without a word of `{part}`: {text}"
                ))),
                None => Ok(()),
            }
        }
    }
}

/// What the learner is told of a task, if it must be.
fn task_info(learner: &dyn Learner) -> Option<TaskInfo> {
    (learner.spec().borders == Borders::Needed).then(|| TaskInfo {
        task: TaskId(0),
        classes: vec![ClassId(26), ClassId(2)],
        seen: 2,
        samples: 8,
        single_pass: false,
    })
}

/// What it asks for.
fn stages(learner: &dyn Learner) -> Vec<Stage> {
    learner.stages(task_info(learner).as_ref())
}

/// Hands over a batch as it is, past the check of [`Batch::new`].
fn observe(learner: &mut dyn Learner, images: Images, labels: Vec<ClassId>) -> Result<(), Error> {
    let view = stages(learner)
        .first()
        .map_or(View::Raw, |stage| stage.view);
    let borders = learner.spec().borders == Borders::Needed;
    let step = Step {
        task: borders.then_some(TaskId(0)),
        stage: 0,
        epoch: 0,
        epochs: 1,
        index: 0,
        steps: 1,
    };
    let batch = Batch {
        images,
        labels,
        view,
    };
    learner
        .observe(&batch, &step, &Ctx::new(Key::from_seed(3)))
        .map(drop)
}

/// A learner that has learnt from two batches and can predict.
fn in_mid_stage(case: &Case<'_>) -> Result<Box<dyn Learner>, Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        if let Some(mut runner) = case.runner(&toy, SEED, Box::new(watched))? {
            // Some can predict only when a stage or task has ended.
            let begun = |runner: &Runner<'_>| {
                log.borrow().batches > 1 && runner.learner().predict(toy.probe()).is_ok()
            };
            while !begun(&runner) && runner.advance()? {}
            return Ok(runner.into_learner());
        }
    }
    Err(Violation(
        "it is refused on every kind of stream".to_owned(),
    ))
}

pub(super) fn foreign_state(case: &Case<'_>) -> Result<(), Violation> {
    let (learner, _) = case.taught(USUAL)?;
    let state = learner.save()?;
    let copies = damaged(&state);
    // Each restore writes all arrays to the device: elsewhere than on the CPU some must do.
    let every = if case.is_exact() {
        1
    } else {
        copies.len().div_ceil(25)
    };
    // One that knows nothing shows what it takes over of a state that it refuses; one that knows all, what it gives up.
    for knows in [false, true] {
        let mut victim = case.learner(SEED + 1)?;
        if knows {
            victim.restore(&state)?;
        }
        let own = victim.save()?;
        for (what, damaged) in copies.iter().step_by(every) {
            if victim.restore(damaged).is_ok() {
                return Err(Violation(format!("a state with {what} is accepted")));
            }
            if let Some(name) = victim.save()?.difference(&own) {
                return Err(Violation(format!(
                    "a state with {what} is refused, but changes `{name}`"
                )));
            }
        }
    }
    Ok(())
}

/// Copies of a state, each with one thing wrong.
fn damaged(state: &State) -> Vec<(String, State)> {
    let mut copies = vec![("nothing in it".to_owned(), State::default())];
    for (name, array) in &state.arrays {
        let mut copy = |what: &str, array: Option<Array>| {
            let mut copy = state.clone();
            match array {
                Some(array) => copy.arrays.insert(name.clone(), array),
                None => copy.arrays.remove(name),
            };
            copies.push((format!("`{name}` {what}"), copy));
        };
        let (shape, values) = (array.shape.clone(), array.values.clone());
        let mut longer = shape.clone();
        if let Some(first) = longer.first_mut() {
            *first += 1;
        }
        let count = longer.iter().product();
        copy("missing", None);
        copy(
            "of another type",
            Some(Array {
                shape: shape.clone(),
                values: other_type(&values),
            }),
        );
        copy(
            "of a wrong shape",
            Some(Array {
                shape: longer.clone(),
                values: values.clone(),
            }),
        );
        copy(
            "with a row more",
            Some(Array {
                shape: longer,
                values: repeated(&values, count),
            }),
        );
    }
    for name in state.values.keys() {
        for value in [None, Some(json!({ "other": [1.5] })), Some(json!("?"))] {
            let mut copy = state.clone();
            let what = value
                .as_ref()
                .map_or("nothing".to_owned(), ToString::to_string);
            match value {
                Some(value) => copy.values.insert(name.clone(), value),
                None => copy.values.remove(name),
            };
            copies.push((format!("{what} for `{name}`"), copy));
        }
    }
    copies
}

fn other_type(values: &Values) -> Values {
    match values {
        Values::F32(v) => Values::U8(vec![0; v.len()]),
        other => Values::F32(vec![0.0; other.len()]),
    }
}

fn repeated(values: &Values, count: usize) -> Values {
    fn cycle<T: Copy>(values: &[T], count: usize) -> Vec<T> {
        values.iter().copied().cycle().take(count).collect()
    }
    match values {
        Values::F32(v) => Values::F32(cycle(v, count)),
        Values::F64(v) => Values::F64(cycle(v, count)),
        Values::I64(v) => Values::I64(cycle(v, count)),
        Values::U8(v) => Values::U8(cycle(v, count)),
    }
}
