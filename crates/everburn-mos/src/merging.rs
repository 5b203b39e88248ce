//! Adapter merging: each new set of adapters stays near the mean of those before it.

use burn::module::Module;
use everburn_backend::ema;
use everburn_core::Result;
use everburn_nn::Pet;

/// A after so many merges with the mean m of earlier sets, each A ← (1 − α)·A + α·m, for every parameter:
/// m + (1 − α)ⁿ·(A − m).
///
/// # Errors
/// If the two are not of one shape.
pub fn merged<M: Module>(working: M, mean: &M, alpha: f64, times: usize) -> Result<M> {
    let times = i32::try_from(times).unwrap_or(i32::MAX);
    ema(working, mean, (1.0 - alpha).powi(times))
}

/// The sets that one forward pass of the released code computes with: it merges all blocks once more before each
/// block, so block i, counted from 0, has been merged i + 1 times.
///
/// # Errors
/// If the two are not of one shape.
pub fn merged_block_by_block(mut working: Pet, mean: &Pet, alpha: f64) -> Result<Pet> {
    let pairs = working.blocks.into_iter().zip(&mean.blocks).enumerate();
    working.blocks = pairs
        .map(|(number, (block, mean))| merged(block, mean, alpha, number + 1))
        .collect::<Result<_>>()?;
    Ok(working)
}

/// The mean of `count` sets and one more.
///
/// # Errors
/// If the two are not of one shape.
pub fn mean_with<M: Module>(mean: M, count: usize, next: &M) -> Result<M> {
    ema(mean, next, count as f64 / (count + 1) as f64)
}

/// The mean of all sets; none of none.
pub(crate) fn mean_of(sets: &[Pet]) -> Result<Option<Pet>> {
    let (Some(first), later) = (sets.first(), sets.iter().enumerate().skip(1)) else {
        return Ok(None);
    };
    let mut mean = first.clone();
    for (count, set) in later {
        mean = mean_with(mean, count, set)?;
    }
    Ok(Some(mean))
}
