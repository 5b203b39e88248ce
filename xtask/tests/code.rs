//! The hash of the code changes with what decides a result, and with nothing else.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

#[path = "../build/sources.rs"]
mod sources;

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn hash(root: &Path) -> String {
    sources::hash(root, &sources::parts(root).unwrap()).unwrap()
}

/// A small workspace.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "xtask/Cargo.toml",
        "xtask/src/main.rs",
        "crates/a/Cargo.toml",
        "crates/a/src/lib.rs",
        "crates/a/src/deep/er.rs",
        "crates/a/weights/vit.safetensors",
        "crates/everburn-conformance/src/lib.rs",
        "crates/everburn-testkit/src/lib.rs",
        "xtask/template/src/lib.rs",
    ] {
        write(folder.path(), name, "content");
    }
    folder
}

#[test]
fn sources_weights_and_manifests_decide_a_result() {
    let folder = workspace();
    let root = folder.path();
    let mut hashes = vec![hash(root)];
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/main.rs",
        "crates/a/Cargo.toml",
        "crates/a/src/deep/er.rs",
        "crates/a/weights/vit.safetensors",
        "crates/a/src/new.rs",
        "crates/b/src/lib.rs",
    ] {
        write(root, name, "other");
        hashes.push(hash(root));
    }
    // The same bytes at another place.
    fs::rename(
        root.join("crates/a/src/new.rs"),
        root.join("crates/a/src/newer.rs"),
    )
    .unwrap();
    hashes.push(hash(root));
    let count = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!((hashes.len(), count), (10, 10));
}

#[test]
fn tests_benches_and_documents_do_not() {
    let folder = workspace();
    let root = folder.path();
    let before = hash(root);
    for name in [
        "README.md",
        "docs/architecture.md",
        "crates/a/README.md",
        "crates/a/weights/README.md",
        "crates/a/tests/golden.rs",
        "crates/a/benches/speed.rs",
        "crates/a/src/.lib.rs.swp",
        "crates/everburn-testkit/src/lib.rs",
        "crates/everburn-conformance/src/lib.rs",
        "xtask/template/src/lib.rs",
        "xtask/tests/cli.rs",
        "benches/src/lib.rs",
        "suites/digits.toml",
    ] {
        write(root, name, "other");
    }
    assert_eq!(hash(root), before);
    fs::write(root.join("crates/a/src/lib.rs"), "content").unwrap(); // only its time
    assert_eq!(hash(root), before);
}

#[test]
fn few_sources_decide_a_feature() {
    let folder = workspace();
    let root = folder.path();
    write(root, "crates/everburn-nn/src/vit.rs", "content");
    let of_features = || {
        let parts = sources::of_features(sources::parts(root).unwrap());
        sources::hash(root, &parts).unwrap()
    };
    let before = of_features();
    for name in ["xtask/src/main.rs", "crates/a/src/deep/er.rs"] {
        write(root, name, "other");
    }
    assert_eq!(of_features(), before);
    let mut hashes = vec![before];
    for name in ["crates/everburn-nn/src/vit.rs", "Cargo.lock", "Cargo.toml"] {
        write(root, name, "other");
        hashes.push(of_features());
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}

#[test]
fn the_program_knows_the_hash_of_these_very_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    assert_eq!(env!("EVERBURN_CODE"), hash(&root));
}
