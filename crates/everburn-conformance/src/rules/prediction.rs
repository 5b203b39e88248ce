use everburn_core::{Learner, Output};

use crate::case::USUAL;
use crate::{Case, Violation};

/// How far two scores of one image may be apart, as a fraction of its largest: kernels round
/// differently by batch size.
const ROUNDING: f32 = 1e-5;

/// Compares an image's scores with those it had among all images.
pub(crate) fn same_scores(what: &str, found: &[f32], expected: &[f32]) -> Result<(), Violation> {
    let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let pairs = found.iter().zip(expected);
    let off = pairs.fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    if found.len() == expected.len() && off <= ROUNDING * largest {
        return Ok(());
    }
    Err(Violation(format!(
        "{what}: scores {found:?} instead of {expected:?}"
    )))
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

pub(super) fn image_alone(case: &Case<'_>) -> Result<(), Violation> {
    let (learner, toy) = case.taught(USUAL)?;
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
    let (learner, toy) = case.taught(USUAL)?;
    let together = learner.predict(toy.probe())?;
    let expected: Vec<&[f32]> = together.rows().collect();
    for task in 0..USUAL.len() {
        let (chosen, images) = toy.probe_of(task)?;
        let asked = |learner: &dyn Learner, what: &str| -> Result<(), Violation> {
            let output = learner.predict(&images)?;
            for (row, image) in rows(&output, &together, what)?.into_iter().zip(&chosen) {
                same_scores(&format!("image {image} {what}"), row, expected[*image])?;
            }
            Ok(())
        };
        let among = format!("among those of task {task}");
        asked(learner.as_ref(), &among)?;
        // A learner that remembers what it was asked has not been asked anything here.
        let mut fresh = case.learner(crate::case::SEED)?;
        fresh.restore(&learner.save()?)?;
        asked(fresh.as_ref(), &format!("{among}, when asked first,"))?;
    }
    Ok(())
}
