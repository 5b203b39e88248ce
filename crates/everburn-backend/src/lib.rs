#![cfg_attr(test, allow(clippy::unwrap_used))]

//! What stands between everburn and [burn]: devices chosen at run time, randomness drawn from keys,
//! optimisers that remember by name, and tensors to and from saved states.
//!
//! burn differs from PyTorch in places that decide results: its default device is a GPU if there is
//! one, its optimisers key their state by random numbers, its Adam, SGD and LayerNorm have other
//! defaults, its initialisers draw from one global generator. Each of these is wrapped here once.
//!
//! ```
//! use everburn_backend::{DeviceChoice, random};
//! use everburn_core::Key;
//!
//! let device = "cpu".parse::<DeviceChoice>()?.open()?;
//! let key = Key::from_seed(1).child("example");
//! let x = random::uniform(key, [2, 3], -1.0, 1.0, &device);
//! assert_eq!(x.dims(), [2, 3]);
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod arrays;
mod device;
pub mod kernels;
mod optimiser;
mod params;
pub mod random;
mod schedule;

pub use burn::tensor::Device;

pub use arrays::{from_array, from_state, reads, to_array, to_vec};
pub use device::{DeviceChoice, DeviceInfo, DeviceKind, devices, is_asynchronous, use_this_thread};
pub use optimiser::{AdamSettings, Group, Optimiser, Rule, SgdSettings};
pub use params::{
    Clipping, Grads, ParamInfo, collect_grads, ema, load_params, load_params_of, param_bytes,
    param_bytes_of, params, save_params, save_params_of, track, untrack,
};
pub use schedule::Schedule;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
