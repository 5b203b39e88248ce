//! The files that decide a result, and their hash. Part of the build script, and tested as a module.

use std::fs;
use std::io;
use std::path::Path;

/// Hexadecimal digits of the hash.
const DIGITS: usize = 16;

/// Crates that only tests use.
const TESTING: [&str; 2] = ["everburn-conformance", "everburn-testkit"];

/// Folders of a crate that are not compiled into the program.
const BESIDE: [&str; 4] = ["tests", "benches", "examples", "template"];

/// The files and folders, relative to the workspace, that decide a result: of each crate all but its
/// tests, benches and documents.
pub fn parts(root: &Path) -> io::Result<Vec<String>> {
    let mut packages = vec!["xtask".to_owned()];
    for name in names(&root.join("crates"))? {
        if !TESTING.contains(&&*name) && root.join("crates").join(&name).is_dir() {
            packages.push(format!("crates/{name}"));
        }
    }
    let mut parts = vec!["Cargo.lock".to_owned(), "Cargo.toml".to_owned()];
    for package in packages {
        for name in names(&root.join(&package))? {
            if decides(&name) && !BESIDE.contains(&&*name) {
                parts.push(format!("{package}/{name}"));
            }
        }
    }
    parts.sort();
    Ok(parts)
}

/// Crates whose sources decide what a frozen backbone makes of an image.
const OF_FEATURES: [&str; 4] = [
    "everburn-backend",
    "everburn-cache",
    "everburn-core",
    "everburn-nn",
];

/// Of these parts those that decide a feature.
pub fn of_features(mut parts: Vec<String>) -> Vec<String> {
    parts.retain(|part| match part.strip_prefix("crates/") {
        Some(below) => OF_FEATURES.contains(&below.split('/').next().unwrap_or_default()),
        None => !part.contains('/'),
    });
    parts
}

/// A hash of names and contents. Only these count: neither times nor permissions, nor what git knows.
pub fn hash(root: &Path, parts: &[String]) -> io::Result<String> {
    let mut files = Vec::new();
    for part in parts {
        collect(root, part, &mut files)?;
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for name in files {
        let content = fs::read(root.join(&name))?;
        for bytes in [name.as_bytes(), &content] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    Ok(hasher.finalize().to_hex()[..DIGITS].to_owned())
}

fn collect(root: &Path, name: &str, files: &mut Vec<String>) -> io::Result<()> {
    let path = root.join(name);
    if !path.is_dir() {
        files.push(name.to_owned());
        return Ok(());
    }
    for below in names(&path)?.into_iter().filter(|name| decides(name)) {
        collect(root, &format!("{name}/{below}"), files)?;
    }
    Ok(())
}

/// Documents decide nothing, nor do an editor's hidden files.
fn decides(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with(".md")
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| {
        let name = entry?.file_name();
        name.into_string()
            .map_err(|name| io::Error::other(format!("{name:?}: not UTF-8")))
    });
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
