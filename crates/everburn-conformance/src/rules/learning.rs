use everburn_core::{Learner, Result, State};

use crate::case::{SEED, USUAL, settings};
use crate::lab::Toy;
use crate::watch::Watched;
use crate::{Case, Violation};

pub(super) fn outside(case: &Case<'_>) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        let watched = Box::new(watched.with_probe(toy.probe()));
        let Some(mut runner) = case.runner(&toy, SEED, watched)? else {
            continue;
        };
        let mut reads = 0;
        while runner.advance()? {
            // Once a step would be slow, and a learner that changes when read does so at any time.
            if reads % 4 == 0 {
                reading_changes_nothing(runner.learner(), &toy)?;
            }
            reads += 1;
        }
        if let Some(moved) = log.borrow_mut().moved.take() {
            return Err(Violation(format!("on {}: {moved}", flow.name())));
        }
    }
    Ok(())
}

fn reading_changes_nothing(learner: &dyn Learner, toy: &Toy) -> Result<(), Violation> {
    let before = learner.save()?;
    // Before the first class this is an error, which is another rule's matter.
    let first = learner.predict(toy.probe()).ok();
    learner.footprint();
    learner.spec();
    learner.stages(toy.manifest().task_info(everburn_core::TaskId(0)).as_ref());
    let second = learner.predict(toy.probe()).ok();
    if first != second {
        return Err(Violation(
            "a second prediction differs from the first".to_owned(),
        ));
    }
    let after = learner.save()?;
    match before.difference(&after) {
        None => Ok(()),
        Some(name) => Err(Violation(format!(
            "predicting changes `{name}` of the state"
        ))),
    }
}

/// The state and the final scores of a run.
fn result(case: &Case<'_>, toy: &Toy, seed: u64) -> Result<(State, Vec<f32>)> {
    let mut runner =
        everburn_run::Runner::new(toy.material(), settings(seed), case.learner(seed)?)?;
    while runner.advance()? {}
    let scores = runner.learner().predict(toy.probe())?.scores().to_vec();
    Ok((runner.learner().save()?, scores))
}

pub(super) fn seeds(case: &Case<'_>) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        // On a single pass the order is the stream's: there only the keys can make a difference.
        if case.runner(&toy, SEED, case.learner(SEED)?)?.is_some() {
            seeds_on(case, &toy)
                .map_err(|violation| Violation(format!("on {}: {violation}", flow.name())))?;
        }
    }
    Ok(())
}

fn seeds_on(case: &Case<'_>, toy: &Toy) -> Result<(), Violation> {
    let deterministic = case.learner(SEED)?.spec().deterministic;
    let (first, again) = (result(case, toy, SEED)?, result(case, toy, SEED)?);
    if case.is_exact() {
        if let Some(name) = first.0.difference(&again.0) {
            let differ = format!("two runs with the same seed differ in `{name}`");
            return Err(Violation(differ));
        }
    } else {
        let largest = first.1.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * largest;
        if !first.1.iter().zip(&again.1).all(near) {
            return Err(Violation("two runs with the same seed differ".to_owned()));
        }
    }
    let same = first.1 == result(case, toy, SEED + 1)?.1;
    let wrong = match (deterministic, same) {
        (false, true) => {
            "another seed gives the same scores; if it draws nothing, let its `Spec` say so"
        }
        (true, false) if case.is_exact() => {
            "its `Spec` says that it draws nothing, but another seed gives other scores"
        }
        _ => return Ok(()),
    };
    Err(Violation(wrong.to_owned()))
}
