//! `new-method` writes and registers a crate or changes nothing; the tutorial, followed to the letter,
//! ends in `everburn-er-ace`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const REGISTERED: [&str; 4] = [
    "Cargo.toml",
    "crates/everburn/Cargo.toml",
    "crates/everburn/src/lib.rs",
    "crates/everburn/src/methods.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A checkout with the files that `new-method` touches.
fn checkout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in REGISTERED {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(root().join(file), path).unwrap();
    }
    folder
}

fn new_method(name: &str, into: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["new-method", name, "--into"]).arg(into);
    command.output().unwrap()
}

/// All files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(
                files(&path)
                    .into_iter()
                    .map(|(below, bytes)| (name.join(below), bytes)),
            );
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn a_method_is_written_and_registered() {
    let checkout = checkout();
    let output = new_method("my-way", checkout.path());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let written = files(&checkout.path().join("crates/everburn-my-way"));
    let template = files(&root().join("xtask/template"));
    assert!(written.keys().eq(template.keys()), "{:?}", written.keys());
    for (file, bytes) in &written {
        let text = String::from_utf8(bytes.clone()).unwrap();
        for placeholder in ["my-method", "my_method", "MyMethod", "publish = false"] {
            assert!(
                !text.contains(placeholder),
                "{}: {placeholder}",
                file.display()
            );
        }
    }
    for (file, line) in [
        ("Cargo.toml", "path = \"crates/everburn-my-way\""),
        ("crates/everburn/Cargo.toml", "    \"my-way\","),
        (
            "crates/everburn/Cargo.toml",
            "my-way = [\"dep:everburn-my-way\"]",
        ),
        (
            "crates/everburn/Cargo.toml",
            "everburn-my-way = { workspace = true, optional = true }",
        ),
        (
            "crates/everburn/src/lib.rs",
            "pub use everburn_my_way as my_way;",
        ),
        (
            "crates/everburn/src/methods.rs",
            "    everburn_my_way::METHOD,",
        ),
    ] {
        let text = fs::read_to_string(checkout.path().join(file)).unwrap();
        assert!(
            text.lines().any(|found| found.contains(line)),
            "{file} lacks {line}:\n{text}"
        );
        toml_is_valid(file, &text);
    }
    // A second method goes beside the first.
    assert!(new_method("other", checkout.path()).status.success());
}

fn toml_is_valid(file: &str, text: &str) {
    if file.ends_with(".toml") {
        toml::from_str::<toml::Table>(text).unwrap();
    }
}

#[test]
fn what_cannot_be_written_leaves_everything_as_it_was() {
    let checkout = checkout();
    assert!(new_method("taken", checkout.path()).status.success());
    let before = files(checkout.path());
    for (name, code, part) in [
        ("taken", 1, "exists already"),
        ("Er-Ace", 2, "lower-case"),
        ("wgpu", 1, "has a feature `wgpu`"),
        ("network", 2, "`Network`"),
        ("joint", 2, "no method has"),
        ("loop", 2, "no word of the language"),
    ] {
        let output = new_method(name, checkout.path());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {message}");
        assert!(message.contains(part), "{name}: {message}");
        assert_eq!(files(checkout.path()), before, "{name}");
    }
    // A mark that somebody has removed: found before anything is written.
    let methods = checkout.path().join("crates/everburn/src/methods.rs");
    let text = fs::read_to_string(&methods)
        .unwrap()
        .replace("new-method` adds", "");
    fs::write(&methods, text).unwrap();
    let before = files(checkout.path());
    let output = new_method("late", checkout.path());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("methods.rs") && message.contains("new-method"),
        "{message}"
    );
    assert_eq!(files(checkout.path()), before);
}

/// The files that a page gives, each in as many pieces as it likes: a comment with the file's name, then
/// a fence.
fn pieces(page: &str) -> BTreeMap<PathBuf, String> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for part in page.split("<!-- file: ").skip(1) {
        let (name, rest) = part.split_once(" -->\n").unwrap();
        let (fence, rest) = rest.split_once('\n').unwrap();
        let ticks: String = fence.chars().take_while(|c| *c == '`').collect();
        let (text, _) = rest.split_once(&format!("\n{ticks}\n")).unwrap();
        let file = files.entry(PathBuf::from(name)).or_default();
        if !file.is_empty() {
            file.push('\n');
        }
        file.push_str(text);
        file.push('\n');
    }
    files
}

#[test]
fn the_tutorial_followed_to_the_letter_ends_in_er_ace() {
    let page = fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let checkout = checkout();
    let command = page
        .lines()
        .find_map(|line| line.strip_prefix("$ cargo xtask new-method "));
    assert!(
        new_method(command.unwrap(), checkout.path())
            .status
            .success()
    );

    let own = root().join("crates/everburn-er-ace");
    let mine = checkout.path().join("crates/everburn-my-er-ace");
    for (file, text) in pieces(&page) {
        fs::create_dir_all(mine.join(&file).parent().unwrap()).unwrap();
        fs::write(mine.join(file), text).unwrap();
    }
    let golden = "tests/golden/er_ace.safetensors";
    assert!(page.contains(golden));
    fs::create_dir_all(mine.join("tests/golden")).unwrap();
    fs::copy(own.join(golden), mine.join(golden)).unwrap();

    let (expected, found) = (files(&own), files(&mine));
    assert!(expected.keys().eq(found.keys()), "{:?}", found.keys());
    for (file, expected) in expected {
        let found = &found[&file];
        if file.ends_with("er_ace.safetensors") {
            assert!(*found == expected, "{}", file.display());
            continue;
        }
        let renamed = String::from_utf8(found.clone())
            .unwrap()
            .replace("my-er-ace", "er-ace")
            .replace("my_er_ace", "er_ace")
            .replace("MyErAce", "ErAce");
        let expected = String::from_utf8(expected).unwrap();
        assert!(
            renamed == expected,
            "{} differs from the tutorial's:\n{renamed}",
            file.display()
        );
    }
    // What is registered is what the repository has for ER-ACE itself.
    for file in REGISTERED {
        let text = fs::read_to_string(checkout.path().join(file)).unwrap();
        let mine = text
            .lines()
            .filter(|line| line.contains("my-er-ace") || line.contains("my_er_ace"));
        for line in mine {
            let own = line
                .replace("my-er-ace", "er-ace")
                .replace("my_er_ace", "er_ace");
            assert!(text.lines().any(|line| line == own), "{file}: {own}");
        }
    }
}
