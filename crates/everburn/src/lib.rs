#![cfg_attr(test, allow(clippy::unwrap_used))]

//! everburn: continual learning on [burn](https://burn.dev).
//!
//! This crate re-exports the others under short names and knows all methods by name
//! ([`methods`]). Each of them also works alone; depend on the one that you need.

pub use everburn_backend as backend;
pub use everburn_cache as cache;
pub use everburn_core as core;
pub use everburn_data as data;
pub use everburn_eval as eval;
pub use everburn_nn as nn;
pub use everburn_run as run;
pub use everburn_stream as stream;

#[cfg(feature = "baselines")]
pub use everburn_baselines as baselines;
#[cfg(feature = "er")]
pub use everburn_er as er;
#[cfg(feature = "er-ace")]
pub use everburn_er_ace as er_ace;
#[cfg(feature = "lae")]
pub use everburn_lae as lae;
#[cfg(feature = "mos")]
pub use everburn_mos as mos;
#[cfg(feature = "onpro")]
pub use everburn_onpro as onpro;
#[cfg(feature = "simplecil")]
pub use everburn_simplecil as simplecil;
#[cfg(feature = "slca")]
pub use everburn_slca as slca;

// `cargo xtask new-method` adds lines above this one.

pub mod methods;

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
