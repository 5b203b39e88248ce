use everburn_core::{Learner, Output, TaskId};

use crate::case::{SEED, USUAL};
use crate::lab::Toy;
use crate::watch::Watched;
use crate::{Case, Violation};

/// How far two scores of one image may be apart, as a fraction of its largest: kernels round
/// differently by batch size.
const ROUNDING: f32 = 1e-5;

/// Compares an image's scores with those it had among all images, and names the pair furthest apart.
pub(crate) fn same_scores(what: &str, found: &[f32], expected: &[f32]) -> Result<(), Violation> {
    if found.len() != expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return Err(Violation(format!(
            "{what}: {found} scores instead of {expected}"
        )));
    }
    let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let off = |(a, b): &(&f32, &f32)| (*a - *b).abs();
    let pairs = found.iter().zip(expected);
    match pairs.max_by(|a, b| off(a).total_cmp(&off(b))) {
        // A NaN is the furthest from everything.
        Some(pair) if off(&pair).is_nan() || off(&pair) > ROUNDING * largest => {
            let (found, expected) = pair;
            Err(Violation(format!(
                "{what}: a score of {found} instead of {expected}"
            )))
        }
        _ => Ok(()),
    }
}

/// The rows of an output, which must have the same columns as another.
fn rows<'a>(output: &'a Output, other: &Output, what: &str) -> Result<Vec<&'a [f32]>, Violation> {
    if output.classes() != other.classes() {
        return Err(Violation(format!(
            "{what}: scores for {:?} instead of {:?}",
            output.classes(),
            other.classes()
        )));
    }
    Ok(output.rows().collect())
}

/// Checks a learner in the middle of its last stage and at the end of the stream, on all flows.
fn at_two_moments(
    case: &Case<'_>,
    check: impl Fn(&dyn Learner, &Toy) -> Result<(), Violation>,
) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        let Some(mut runner) = case.runner(&toy, SEED, Box::new(watched))? else {
            continue;
        };
        let here = |violation| Violation(format!("on {}: {violation}", flow.name()));
        let batches = runner.plan().steps();
        while log.borrow().batches + 1 < batches && runner.advance()? {}
        if runner.learner().predict(toy.probe()).is_ok() {
            check(runner.learner(), &toy)
                .map_err(|violation| here(Violation(format!("in mid-stage: {violation}"))))?;
        }
        while runner.advance()? {}
        check(runner.learner(), &toy).map_err(here)?;
    }
    Ok(())
}

pub(super) fn image_alone(case: &Case<'_>) -> Result<(), Violation> {
    at_two_moments(case, scores_of_the_image_alone)
}

fn scores_of_the_image_alone(learner: &dyn Learner, toy: &Toy) -> Result<(), Violation> {
    let images = toy.probe();
    let together = learner.predict(images)?;
    let count = images.len();
    let order: Vec<usize> = (0..count).rev().chain(0..count).collect();
    let mixed = learner.predict(&images.select(&order)?)?;
    let mixed = rows(&mixed, &together, "backwards and again")?;
    for (index, expected) in together.rows().enumerate() {
        let single = learner.predict(&images.select(&[index])?)?;
        for row in rows(&single, &together, "alone")? {
            same_scores(&format!("image {index} alone"), row, expected)?;
        }
        let places = order
            .iter()
            .zip(&mixed)
            .filter(|(image, _)| **image == index);
        for (_, row) in places {
            same_scores(&format!("image {index} in another order"), row, expected)?;
        }
    }
    Ok(())
}

pub(super) fn task_identity(case: &Case<'_>) -> Result<(), Violation> {
    at_two_moments(case, |learner, toy| same_for_every_task(case, learner, toy))
}

fn same_for_every_task(case: &Case<'_>, learner: &dyn Learner, toy: &Toy) -> Result<(), Violation> {
    let together = learner.predict(toy.probe())?;
    let expected: Vec<&[f32]> = together.rows().collect();
    for task in 0..USUAL.len() as u32 {
        let (chosen, images) = toy.probe_of(TaskId(task))?;
        let asked = |learner: &dyn Learner, what: &str| -> Result<(), Violation> {
            let output = learner.predict(&images)?;
            for (row, image) in rows(&output, &together, what)?.into_iter().zip(&chosen) {
                same_scores(&format!("image {image} {what}"), row, expected[*image])?;
            }
            Ok(())
        };
        let among = format!("among those of task {task}");
        asked(learner, &among)?;
        // A learner that remembers what it was asked has not been asked anything here.
        let mut fresh = case.learner(SEED + 1)?;
        fresh.restore(&learner.save()?)?;
        asked(fresh.as_ref(), &format!("{among}, when asked first"))?;
    }
    Ok(())
}
