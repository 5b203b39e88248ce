use std::collections::BTreeMap;

use everburn_core::{ImageShape, Images, Kind, Learner, State};

use crate::case::{SEED, USUAL};
use crate::{Case, Violation};

/// Bytes of small values at toy size: the steps of an optimiser by parameter are most of it.
const MOST_SMALL: usize = 8192;

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
        // Counters and lists of classes; whoever stores samples as small values hides them.
        let small: usize = state
            .values
            .values()
            .map(|value| value.to_string().len())
            .sum();
        if small > MOST_SMALL {
            return Err(Violation(format!(
                "the small values of the state take {small} bytes, at most {MOST_SMALL} are not counted"
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

/// Images in a saved state: arrays of any type with four sides, of which the last three have as many
/// values as an image.
fn images_in(state: &State, shape: ImageShape) -> u64 {
    let rows = state
        .arrays
        .values()
        .filter_map(|array| match array.shape[..] {
            [rows, a, b, c] if a * b * c == shape.bytes() => Some(rows as u64),
            _ => None,
        });
    rows.sum()
}

pub(super) fn budget(case: &Case<'_>) -> Result<(), Violation> {
    let shape = case.shape();
    // A budget may depend on the classes, and on nothing else.
    let mut budgets: BTreeMap<usize, u64> = BTreeMap::new();
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
                return Err(over(name, held.images, held.budget));
            }
            images += held.images;
            allowed += held.budget;
            stores = true;
        }
        let one = Images::new(shape, vec![0; shape.bytes()])?;
        let classes = learner
            .predict(&one)
            .map_or(0, |output| output.classes().len());
        let before = *budgets.entry(classes).or_insert(allowed);
        if before != allowed {
            return Err(Violation(format!(
                "with {classes} classes the budget was {before} images and is {allowed} now"
            )));
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
