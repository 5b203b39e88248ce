use std::collections::BTreeSet;

use everburn_core::{Borders, ClassId, Error, Learner};
use everburn_run::Runner;

use super::prediction::same_scores;
use crate::case::{SEED, Tasks, USUAL, settings};
use crate::lab::{Flow, Toy};
use crate::watch::{Log, Watched};
use crate::{Case, Violation};

/// The learner comes to the end of the stream on every flow on which it is not refused, and its scores
/// are in order at every moment and right about the classes at the end.
fn healthy(case: &Case<'_>, tasks: Tasks<'_>) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, tasks)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        let Some(mut runner) = case.runner(&toy, SEED, Box::new(watched))? else {
            continue;
        };
        let on_flow = |violation| Violation(format!("on {}: {violation}", flow.name()));
        let end = loop {
            match runner.advance() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(Violation::from(error)),
            }
            check_scores(runner.learner(), &log.borrow(), &toy).map_err(on_flow)?;
        };
        end.map_err(on_flow)?;
        let classes = runner.learner().predict(toy.probe())?.classes().to_vec();
        covers(&classes, &log.borrow().observed).map_err(on_flow)?;
    }
    Ok(())
}

/// Every class that is due has a column, and no class that was neither shown nor announced has one; all
/// scores are finite. On a single pass a class is due as soon as a sample of it was shown, for a test may
/// come at any time; between the borders of tasks, when its task has ended.
fn check_scores(learner: &dyn Learner, log: &Log, toy: &Toy) -> Result<(), Violation> {
    let due = if toy.flow() == Flow::Tasks {
        &log.settled
    } else {
        &log.observed
    };
    let output = match learner.predict(toy.probe()) {
        Ok(output) => output,
        Err(_) if due.is_empty() => return Ok(()),
        Err(error) => {
            let due = due.len();
            return Err(Violation(format!(
                "{due} classes were shown, but it cannot predict: {error}"
            )));
        }
    };
    let classes: BTreeSet<ClassId> = output.classes().iter().copied().collect();
    let known = log.observed.union(&log.announced).copied().collect();
    if classes.len() != output.classes().len() {
        let classes = numbers(output.classes());
        return Err(Violation(format!("two columns for one class: {classes}")));
    }
    if let Some(class) = due.difference(&classes).next() {
        return Err(Violation(format!("{class} was shown and has no score")));
    }
    if let Some(class) = classes.difference(&known).next() {
        return Err(Violation(format!(
            "{class} has a score and was never shown"
        )));
    }
    let (rows, images) = (output.rows().len(), toy.probe().len());
    if rows != images {
        return Err(Violation(format!(
            "{rows} rows of scores for {images} images"
        )));
    }
    match output.scores().iter().find(|score| !score.is_finite()) {
        Some(score) => Err(Violation(format!("a score of {score}"))),
        None => Ok(()),
    }
}

fn numbers(classes: &[ClassId]) -> String {
    let numbers: Vec<String> = classes.iter().map(|class| class.0.to_string()).collect();
    numbers.join(", ")
}

fn covers(classes: &[ClassId], shown: &BTreeSet<ClassId>) -> Result<(), Violation> {
    let found: BTreeSet<ClassId> = classes.iter().copied().collect();
    if found == *shown {
        return Ok(());
    }
    let [found, shown] = [&found, shown].map(|set| set.iter().copied().collect::<Vec<_>>());
    let (found, shown) = (numbers(&found), numbers(&shown));
    Err(Violation(format!(
        "scores for the classes {found} at the end, after {shown}"
    )))
}

pub(super) fn scores(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, USUAL)
}

pub(super) fn one_image(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(4, 1)], &[(5, 1), (7, 1)], &[(1, 1)]])
}

pub(super) fn one_class(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(4, 5)], &[(8, 6)]])
}

/// On a stream without borders the later classes come unannounced; with borders a class comes back.
pub(super) fn unseen_class(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(3, 5)], &[(12, 2), (5, 3)]])?;
    let once_more: Tasks = &[&[(3, 5), (1, 2)], &[(12, 2), (3, 3)]];
    for flow in [Flow::SinglePass, Flow::Borderless] {
        let toy = case.toy(flow, once_more)?;
        if let Some(mut runner) = case.runner(&toy, SEED, case.learner(SEED)?)? {
            while runner.advance()? {}
        }
    }
    Ok(())
}

pub(super) fn single_sample(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(2, 4), (13, 1)], &[(6, 1), (10, 5)]])
}

pub(super) fn out_of_order(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(25, 3), (0, 3)], &[(13, 3), (24, 3)], &[(1, 3)]])
}

pub(super) fn empty_task(case: &Case<'_>) -> Result<(), Violation> {
    healthy(case, &[&[(4, 4), (5, 3)], &[], &[(7, 3), (1, 4)], &[]])?;
    healthy(case, &[&[], &[(4, 4), (5, 3)]])
}

/// Under other class numbers, in another order of size, the same images lead to the same scores.
pub(super) fn labels_are_names(case: &Case<'_>) -> Result<(), Violation> {
    // Toy classes are below 64: the larger the number, the smaller the other.
    let other = |class: ClassId| ClassId(class.0 ^ 63);
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let renamed = toy.relabelled(other)?;
        let Some(mut first) = case.runner(&toy, SEED, case.learner(SEED)?)? else {
            continue;
        };
        let mut second = Runner::new(renamed.material(), settings(SEED), case.learner(SEED)?)?;
        while first.advance()? {}
        while second.advance()? {}
        let expected = first.learner().predict(toy.probe())?;
        let found = second.learner().predict(toy.probe())?;
        let on = format!("on {} under other class numbers", flow.name());
        // Columns may stand in any order: each says whose it is.
        let place = |class: &ClassId| found.classes().iter().position(|c| *c == other(*class));
        let places: Option<Vec<usize>> = expected.classes().iter().map(place).collect();
        let Some(places) = places.filter(|places| places.len() == found.classes().len()) else {
            let found = numbers(found.classes());
            return Err(Violation(format!("{on}: scores for the classes {found}")));
        };
        for (found, expected) in found.rows().zip(expected.rows()) {
            let found: Vec<f32> = places.iter().map(|place| found[*place]).collect();
            if case.is_exact() {
                same_scores(&on, &found, expected)?;
            }
        }
    }
    Ok(())
}

pub(super) fn ends_early(case: &Case<'_>) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        let Some(mut runner) = case.runner(&toy, SEED, Box::new(watched))? else {
            continue;
        };
        let mut ends = 0;
        while runner.advance()? {
            // Restoring at every moment is the business of another rule.
            ends += 1;
            let known = runner.learner().predict(toy.probe()).is_ok();
            if ends % 3 == 0 && (known || !log.borrow().observed.is_empty()) {
                useful(case, runner.learner(), &toy, &log.borrow())
                    .map_err(|v| Violation(format!("on {}, ended early: {v}", flow.name())))?;
            }
        }
    }
    Ok(())
}

fn useful(case: &Case<'_>, learner: &dyn Learner, toy: &Toy, log: &Log) -> Result<(), Violation> {
    check_scores(learner, log, toy)?;
    let mut later = case.learner(SEED + 1)?;
    later.restore(&learner.save()?)?;
    let Ok(now) = learner.predict(toy.probe()) else {
        return Ok(()); // nothing is due yet
    };
    let later = later.predict(toy.probe())?;
    if now.classes() != later.classes() {
        return Err(Violation("restored it knows other classes".to_owned()));
    }
    for (found, expected) in later.rows().zip(now.rows()) {
        same_scores("restored", found, expected)?;
    }
    Ok(())
}

pub(super) fn refusals(case: &Case<'_>) -> Result<(), Violation> {
    let mut ran = 0;
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let (watched, log) = Watched::new(case.learner(SEED)?);
        let spec = watched.spec();
        let on_flow = |text: String| Violation(format!("on {}: {text}", flow.name()));
        match Runner::new(toy.material(), settings(SEED), Box::new(watched)) {
            Ok(mut runner) => {
                while runner.advance().map_err(|error| {
                    let batches = log.borrow().batches;
                    on_flow(format!(
                        "it was not refused, but fails after {batches} batches: {error}"
                    ))
                })? {}
                ran += 1;
            }
            Err(Error::Unsupported { what, why }) => {
                if spec.borders == Borders::NotNeeded && flow == Flow::Borderless {
                    return Err(on_flow(format!(
                        "its `Spec` says that it needs no borders, but it is refused: {why}"
                    )));
                }
                if !what.contains(&spec.method) || why.is_empty() {
                    return Err(on_flow(format!(
                        "refused without name or reason: `{what}: {why}`"
                    )));
                }
                if log.borrow().batches > 0 {
                    return Err(on_flow("it was refused after it had begun".to_owned()));
                }
            }
            Err(error) => return Err(on_flow(format!("refused in the wrong words: {error}"))),
        }
    }
    if ran == 0 {
        return Err(Violation(
            "it is refused on every kind of stream".to_owned(),
        ));
    }
    Ok(())
}
