use everburn_run::{Checkpoint, Runner};

use crate::case::{SEED, USUAL, settings};
use crate::lab::{Flow, Toy};
use crate::{Case, Violation};

pub(super) fn anywhere(case: &Case<'_>) -> Result<(), Violation> {
    for flow in Flow::ALL {
        let toy = case.toy(flow, USUAL)?;
        let Some(mut runner) = case.runner(&toy, SEED, case.learner(SEED)?)? else {
            continue;
        };
        let mut saved = vec![runner.checkpoint()?.to_bytes()?];
        while runner.advance()? {
            saved.push(runner.checkpoint()?.to_bytes()?);
        }
        let resumed = if case.is_exact() { step_by_step } else { near };
        resumed(case, &toy, &saved)
            .map_err(|violation| Violation(format!("on {}: {violation}", flow.name())))?;
    }
    Ok(())
}

fn restart<'t>(case: &Case<'_>, toy: &'t Toy, bytes: &[u8]) -> Result<Runner<'t>, Violation> {
    let checkpoint = Checkpoint::from_bytes("checkpoint", bytes)?;
    let learner = case.learner(SEED)?;
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
fn step_by_step(case: &Case<'_>, toy: &Toy, saved: &[Vec<u8>]) -> Result<(), Violation> {
    let moments = saved.len() - 1;
    for (moment, pair) in saved.windows(2).enumerate() {
        let [now, next] = pair else { continue };
        let mut runner = restart(case, toy, now)?;
        differs(
            moment,
            "what was restored",
            &runner.checkpoint()?.to_bytes()?,
            now,
        )?;
        runner.advance()?;
        differs(
            moment,
            "the step after it",
            &runner.checkpoint()?.to_bytes()?,
            next,
        )?;
    }
    for moment in [0, moments / 3, moments / 2, moments - 1] {
        let mut runner = restart(case, toy, &saved[moment])?;
        while runner.advance()? {}
        differs(
            moment,
            "the end",
            &runner.checkpoint()?.to_bytes()?,
            &saved[moments],
        )?;
    }
    Ok(())
}

fn differs(moment: usize, what: &str, found: &[u8], expected: &[u8]) -> Result<(), Violation> {
    if found == expected {
        return Ok(());
    }
    let read = |bytes| Checkpoint::from_bytes("checkpoint", bytes);
    let (found, expected) = (read(found)?, read(expected)?);
    let field = found.learner().difference(expected.learner());
    let field = field.unwrap_or("an evaluation or footprint");
    Err(Violation(format!(
        "killed at moment {moment}, {what} differs in `{field}`"
    )))
}

/// Where kernels do not repeat to the byte: what is saved comes back to the byte, and the run comes to
/// its end.
fn near(case: &Case<'_>, toy: &Toy, saved: &[Vec<u8>]) -> Result<(), Violation> {
    let moments = saved.len() - 1;
    for moment in [moments / 3, moments / 2] {
        let mut runner = restart(case, toy, &saved[moment])?;
        differs(
            moment,
            "what was restored",
            &runner.checkpoint()?.to_bytes()?,
            &saved[moment],
        )?;
        while runner.advance()? {}
    }
    Ok(())
}
