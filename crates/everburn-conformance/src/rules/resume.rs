use everburn_core::Output;
use everburn_run::{Checkpoint, Runner};

use crate::case::{SEED, USUAL, settings};
use crate::lab::Toy;
use crate::{Case, Violation};

pub(super) fn anywhere(case: &Case<'_>) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let Some(mut runner) = case.runner(&toy, SEED, case.learner(SEED)?)? else {
            continue;
        };
        let mut saved = vec![Moment::of(&runner, &toy)?];
        while runner.advance()? {
            saved.push(Moment::of(&runner, &toy)?);
        }
        let resumed = if case.is_exact() { step_by_step } else { near };
        resumed(case, &toy, &saved)
            .map_err(|violation| Violation(format!("on {}: {violation}", flow.name())))?;
    }
    Ok(())
}

/// A run between two steps.
struct Moment {
    checkpoint: Vec<u8>,
    /// What it would predict; `None` before the first class.
    scores: Option<Output>,
}

impl Moment {
    fn of(runner: &Runner<'_>, toy: &Toy) -> Result<Self, Violation> {
        Ok(Self {
            checkpoint: runner.checkpoint()?.to_bytes()?,
            scores: runner.learner().predict(toy.probe()).ok(),
        })
    }

    /// Compares with another way to the same moment: state, cursor and scores.
    fn check(&self, found: &Runner<'_>, toy: &Toy, what: &str) -> Result<(), Violation> {
        let found = Self::of(found, toy)?;
        if found.checkpoint != self.checkpoint {
            let read = |bytes| Checkpoint::from_bytes("checkpoint", bytes);
            let (found, expected) = (read(&found.checkpoint)?, read(&self.checkpoint)?);
            let field = found.learner().difference(expected.learner());
            let field = field.unwrap_or("an evaluation or footprint");
            return Err(Violation(format!("{what} differs in `{field}`")));
        }
        if found.scores != self.scores {
            return Err(Violation(format!(
                "{what} has the same state, but other scores: something that matters is not saved"
            )));
        }
        Ok(())
    }
}

fn restart<'t>(case: &Case<'_>, toy: &'t Toy, moment: &Moment) -> Result<Runner<'t>, Violation> {
    let checkpoint = Checkpoint::from_bytes("checkpoint", &moment.checkpoint)?;
    // Built from another key: what was drawn from the first one must be in the state.
    let learner = case.learner(SEED + 1)?;
    Ok(Runner::resume(
        toy.material(),
        settings(SEED),
        learner,
        &checkpoint,
    )?)
}

/// Each state leads to the next one, also when it was read back from bytes: so by induction a run may
/// be killed anywhere and any number of times. Some runs go on to the end as well, for what shows only
/// later.
fn step_by_step(case: &Case<'_>, toy: &Toy, saved: &[Moment]) -> Result<(), Violation> {
    let last = saved.len() - 1;
    for (number, pair) in saved.windows(2).enumerate() {
        let [now, next] = pair else { continue };
        let mut runner = restart(case, toy, now)?;
        now.check(
            &runner,
            toy,
            &format!("killed at moment {number}, what was restored"),
        )?;
        runner.advance()?;
        next.check(
            &runner,
            toy,
            &format!("killed at moment {number}, the step after it"),
        )?;
    }
    for number in [0, last / 3, last / 2, last - 1] {
        let mut runner = restart(case, toy, &saved[number])?;
        while runner.advance()? {}
        saved[last].check(&runner, toy, &format!("killed at moment {number}, the end"))?;
    }
    Ok(())
}

/// Where kernels do not repeat to the byte: what is saved comes back to the byte, and the run comes to
/// its end.
fn near(case: &Case<'_>, toy: &Toy, saved: &[Moment]) -> Result<(), Violation> {
    let last = saved.len() - 1;
    for number in [last / 3, last / 2] {
        let mut runner = restart(case, toy, &saved[number])?;
        if runner.checkpoint()?.to_bytes()? != saved[number].checkpoint {
            return Err(Violation(format!(
                "moment {number} does not come back to the byte"
            )));
        }
        while runner.advance()? {}
    }
    Ok(())
}
