//! Tells the program which code it is, when it is compiled: a binary cannot be older than it says.

use std::path::Path;
use std::process::Command;

#[path = "build/sources.rs"]
mod sources;

fn main() -> std::io::Result<()> {
    // At run time: this program may have been compiled in another checkout.
    let own = std::env::var("CARGO_MANIFEST_DIR").map_err(std::io::Error::other)?;
    let root = Path::new(&own).join("..");
    let parts = sources::parts(&root)?;
    println!(
        "cargo:rustc-env=EVERBURN_CODE={}",
        sources::hash(&root, &parts)?
    );
    println!(
        "cargo:rustc-env=EVERBURN_FEATURE_CODE={}",
        sources::hash(&root, &sources::of_features(parts.clone()))?
    );
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!(
        "cargo:rustc-env=EVERBURN_RUSTC={}",
        version.unwrap_or_default()
    );
    println!(
        "cargo:rustc-env=EVERBURN_ROOT={}",
        env!("CARGO_MANIFEST_DIR")
    );
    for part in &parts {
        println!("cargo:rerun-if-changed={}", root.join(part).display());
    }
    if let Some(commit) = git(&root, &["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo:rustc-env=EVERBURN_COMMIT={commit}");
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let status = git(
            &root,
            &[&["status", "--porcelain", "--"][..], &parts].concat(),
        );
        let dirty = status.is_none_or(|changes| !changes.is_empty());
        println!("cargo:rustc-env=EVERBURN_DIRTY={dirty}");
    }
    // Every commit adds a line to it.
    let log = git(&root, &["rev-parse", "--git-path", "logs/HEAD"]).map(|path| root.join(path));
    if let Some(log) = log.filter(|log| log.exists()) {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    Ok(())
}

/// What git says, if this is a checkout and git is there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
