//! Which code is running, as the build script found when it was compiled.

use std::path::Path;
use std::sync::LazyLock;

#[path = "../build/sources.rs"]
mod sources;

/// A hash of the sources that decide a result.
///
/// Cargo does not run a build script again when two checkouts take turns in one target folder: then
/// what it said is the other one's, and the sources are hashed now.
pub static CODE: LazyLock<String> = LazyLock::new(|| hash(env!("EVERBURN_CODE"), Ok));

/// A hash of the sources that decide what a frozen backbone makes of an image.
pub static FEATURE_CODE: LazyLock<String> = LazyLock::new(|| {
    hash(env!("EVERBURN_FEATURE_CODE"), |parts| {
        Ok(sources::of_features(parts))
    })
});

fn hash(found: &str, of: impl Fn(Vec<String>) -> std::io::Result<Vec<String>>) -> String {
    if is_own() {
        return found.to_owned();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let now = sources::parts(&root)
        .and_then(of)
        .and_then(|parts| sources::hash(&root, &parts));
    now.unwrap_or_else(|_| found.to_owned())
}

/// The compiler, as it calls itself: `rustc 1.95.0 (…)`.
pub const RUSTC: &str = env!("EVERBURN_RUSTC");

/// Whether the build script looked at this checkout.
fn is_own() -> bool {
    let (looked_at, compiled) = (env!("EVERBURN_ROOT"), env!("CARGO_MANIFEST_DIR"));
    looked_at == compiled
}

/// The commit, if this was compiled in a checkout.
pub fn commit() -> Option<&'static str> {
    option_env!("EVERBURN_COMMIT").filter(|_| is_own())
}

/// Whether the sources differed from the commit.
pub fn dirty() -> bool {
    is_own() && option_env!("EVERBURN_DIRTY") == Some("true")
}
