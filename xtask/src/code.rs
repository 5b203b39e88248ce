//! Which code is running, as the build script found when it was compiled.

/// A hash of the sources that decide a result.
pub const CODE: &str = env!("EVERBURN_CODE");

/// The compiler, as it calls itself: `rustc 1.95.0 (…)`.
pub const RUSTC: &str = env!("EVERBURN_RUSTC");

/// The commit, if this was compiled in a checkout.
pub const COMMIT: Option<&str> = option_env!("EVERBURN_COMMIT");

/// Whether the sources differed from the commit.
pub fn dirty() -> bool {
    option_env!("EVERBURN_DIRTY") == Some("true")
}
