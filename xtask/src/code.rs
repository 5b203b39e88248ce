//! Which code is running: the commit, and whether the sources differ from it.

use std::process::Command;

/// The folders and files that decide a result.
const SOURCES: [&str; 4] = ["crates", "xtask", "Cargo.toml", "Cargo.lock"];

/// `<commit>`, `<commit>+<hash of the uncommitted changes>`, or the version outside a checkout.
pub fn version() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let git = |arguments: &[&str]| -> Option<Vec<u8>> {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        output.status.success().then_some(output.stdout)
    };
    let describe = || -> Option<String> {
        let commit = String::from_utf8(git(&["rev-parse", "--short=12", "HEAD"])?).ok()?;
        let commit = commit.trim().to_owned();
        let diff = git(&[&["diff", "HEAD", "--"], &SOURCES[..]].concat())?;
        let new = git(&[
            &["ls-files", "--others", "--exclude-standard", "--"],
            &SOURCES[..],
        ]
        .concat())?;
        if diff.is_empty() && new.is_empty() {
            return Some(commit);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&diff);
        for name in String::from_utf8_lossy(&new).lines() {
            hasher.update(name.as_bytes());
            hasher.update(&std::fs::read(format!("{root}/{name}")).unwrap_or_default());
        }
        Some(format!("{commit}+{}", &hasher.finalize().to_hex()[..8]))
    };
    describe().unwrap_or_else(|| format!("v{}", env!("CARGO_PKG_VERSION")))
}
