//! `cargo xtask` and the tests share one set of compiled dependencies.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

/// The dependencies with their features, as cargo resolves them.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p} [{f}]",
        ])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.replace(" (*)", ""))
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn the_command_line_compiles_nothing_that_the_tests_do_not() {
    let own = tree(&["--package", "xtask", "--edges", "normal"]);
    let all = tree(&["--workspace", "--edges", "normal,dev"]);
    let extra: Vec<&String> = own.difference(&all).collect();
    assert!(
        extra.is_empty(),
        "compiled twice, with other features: {extra:#?}"
    );
}
