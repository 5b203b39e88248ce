use everburn_core::{ImageShape, Kind, Learner, State, Values};

use crate::case::{SEED, USUAL};
use crate::{Case, Violation};

pub(super) fn footprint(case: &Case<'_>) -> Result<(), Violation> {
    at_every_moment(case, |learner, state| {
        let footprint = learner.footprint();
        let elsewhere = footprint.bytes(Kind::Frozen) + footprint.bytes(Kind::Bookkeeping);
        let (counted, saved) = (footprint.total() - elsewhere, state.array_bytes());
        if counted != saved {
            let held: Vec<_> = (footprint.memory.iter())
                .map(|memory| format!("{} {}", memory.name, memory.bytes))
                .collect();
            return Err(Violation(format!(
                "the footprint counts {counted} bytes ({}), the saved arrays have {saved}",
                held.join(", ")
            )));
        }
        if footprint.macs_per_image == 0 {
            return Err(Violation(
                "a prediction is said to cost no operation".to_owned(),
            ));
        }
        Ok(())
    })
}

/// Calls `check` with the learner and its state before the first and after every step, on all flows.
fn at_every_moment(
    case: &Case<'_>,
    mut check: impl FnMut(&dyn Learner, &State) -> Result<(), Violation>,
) -> Result<(), Violation> {
    for &flow in case.flows() {
        let toy = case.toy(flow, USUAL)?;
        let Some(mut runner) = case.runner(&toy, SEED, case.learner(SEED)?)? else {
            continue;
        };
        loop {
            check(runner.learner(), &runner.learner().save()?)
                .map_err(|violation| Violation(format!("on {}: {violation}", flow.name())))?;
            if !runner.advance()? {
                break;
            }
        }
    }
    Ok(())
}

/// Images in a saved state: arrays of bytes `[images, height, width, channels]`.
fn images_in(state: &State, shape: ImageShape) -> u64 {
    let sides = [shape.height, shape.width, shape.channels];
    let arrays = state.arrays.values();
    let rows = arrays.filter_map(|array| match (&array.values, array.shape.split_first()) {
        (Values::U8(_), Some((rows, rest))) if *rest == sides => Some(*rows as u64),
        _ => None,
    });
    rows.sum()
}

pub(super) fn budget(case: &Case<'_>) -> Result<(), Violation> {
    let shape = case.shape();
    let (mut stores, mut full) = (false, false);
    let mut smallest = u64::MAX;
    at_every_moment(case, |learner, state| {
        let footprint = learner.footprint();
        let (mut images, mut allowed) = (0, 0);
        let exemplars = footprint
            .memory
            .iter()
            .filter(|memory| memory.kind == Kind::Exemplars);
        for memory in exemplars {
            let name = &memory.name;
            let held = memory.held.ok_or_else(|| {
                format!("`{name}` holds exemplars without saying how many, and how many at most")
            })?;
            if held.images > held.budget {
                let Violation(over) = over(name, held.images, held.budget);
                return Err(Violation(over));
            }
            images += held.images;
            allowed += held.budget;
            stores = true;
        }
        let found = images_in(state, shape);
        if found > allowed {
            return Err(over("the state", found, allowed));
        }
        if found != images {
            return Err(Violation(format!(
                "the state holds {found} images, the footprint counts {images}"
            )));
        }
        full |= stores && images == allowed;
        smallest = smallest.min(allowed);
        Ok(())
    })?;
    if stores && !full {
        return Err(Violation(format!(
            "its memory of {smallest} images is never full on the toy streams, so this rule was not \
             tried: give the suite a smaller one"
        )));
    }
    Ok(())
}

fn over(name: &str, images: u64, budget: u64) -> Violation {
    Violation(format!(
        "`{name}` holds {images} images, the budget is {budget}"
    ))
}
