//! All methods of this build, by name.

use everburn_core::{Error, Result};

pub use everburn_nn::Method;

/// The methods of this build, in the order of tables.
pub static METHODS: &[Method] = &[
    #[cfg(feature = "baselines")]
    everburn_baselines::FINETUNE,
    #[cfg(feature = "baselines")]
    everburn_baselines::FINETUNE_LOCAL,
    #[cfg(feature = "er")]
    everburn_er::METHOD,
    #[cfg(feature = "er-ace")]
    everburn_er_ace::METHOD,
    #[cfg(feature = "simplecil")]
    everburn_simplecil::SIMPLECIL,
    #[cfg(feature = "simplecil")]
    everburn_simplecil::NMC,
    #[cfg(feature = "lae")]
    everburn_lae::METHOD,
    #[cfg(feature = "slca")]
    everburn_slca::SLCA,
    #[cfg(feature = "slca")]
    everburn_slca::SLCA_PLUS,
    #[cfg(feature = "mos")]
    everburn_mos::METHOD,
    #[cfg(feature = "onpro")]
    everburn_onpro::ONPRO,
    #[cfg(feature = "onpro")]
    everburn_onpro::ONPRO_SMALL,
    // `cargo xtask new-method` adds a line above this one.
    #[cfg(feature = "baselines")]
    everburn_baselines::JOINT,
];

/// The method with a name.
///
/// # Errors
/// If there is none, with the nearest name.
pub fn method(name: &str) -> Result<&'static Method> {
    METHODS
        .iter()
        .find(|method| method.name == name)
        .ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|method| method.name)))
}
