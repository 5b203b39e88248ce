//! The random numbers of numpy, Python and PyTorch, bit for bit.
//!
//! Published streams are defined by what one of three programs draws from a seed. All three run the
//! same Mersenne Twister (MT19937), and differ in how they seed it and in how they turn 32-bit words
//! into numbers below a bound:
//!
//! | generator | seeding | a number below `n` | shuffle |
//! |---|---|---|---|
//! | [`NumpyRandom`] | one word | low bits, redrawn while too large | from the last place down |
//! | [`PythonRandom`] | a key of words | high bits, redrawn while too large | from the last place down |
//! | [`TorchRandom`] | one word | remainder | from the first place up |
//!
//! ```
//! use everburn_stream::rng::{NumpyRandom, PythonRandom, TorchRandom};
//! assert_eq!(NumpyRandom::new(1993).permutation(5), [0, 2, 3, 4, 1]);
//! assert_eq!(TorchRandom::new(0).randperm(5)?, [4, 0, 1, 3, 2]);
//! let mut items = ["a", "b", "c"];
//! PythonRandom::new(0).shuffle(&mut items);
//! assert_eq!(items, ["a", "c", "b"]);
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod numpy;
mod python;
mod torch;

pub use numpy::NumpyRandom;
pub use python::PythonRandom;
pub use torch::TorchRandom;

/// A double in [0, 1) from two words, 27 and 26 bits of them: `genrand_res53` of the Mersenne
/// Twister's authors, as numpy and Python use it.
fn res53(first: u32, second: u32) -> f64 {
    let high = f64::from(first >> 5);
    let low = f64::from(second >> 6);
    (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
}
