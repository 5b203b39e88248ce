//! `cargo xtask new-method`: a crate for a method, known to the workspace, the facade and the command
//! line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use everburn::core::Error;
use everburn::run::write_atomically;

use crate::bench::print;
use crate::cli::NewMethodOptions;

/// The crate that new ones begin as. It is itself a member of the workspace, so that it compiles and
/// passes its tests.
const TEMPLATE: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml")),
    ("README.md", include_str!("../template/README.md")),
    ("src/lib.rs", include_str!("../template/src/lib.rs")),
    (
        "tests/conformance.rs",
        include_str!("../template/tests/conformance.rs"),
    ),
];

/// Words that cannot name a module; what holds a `-` becomes none of them.
const KEYWORDS: [&str; 49] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "use", "virtual", "where", "while",
];

/// Stands before each place at which a method is registered.
const MARK: &str = "`cargo xtask new-method` adds";

/// The spellings of a method's name.
struct Name {
    /// `er-ace`: on the command line and in crate names.
    kebab: String,
    /// `er_ace`: in paths.
    snake: String,
    /// `ErAce`: the learner's type.
    camel: String,
}

impl Name {
    fn parse(name: &str) -> Result<Self, Error> {
        let part = |part: &str| {
            let mut letters = part.chars();
            let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            letters.next().is_some_and(|c| c.is_ascii_lowercase()) && letters.all(lower)
        };
        if !name.split('-').all(part) || name.len() > 40 {
            let expected = "at most 40 lower-case letters and digits, in words that begin with a \
                            letter and are joined by `-`, such as er-ace";
            return Err(Error::config("new-method NAME", name, expected));
        }
        let camel = name.split('-').map(|part| {
            let (first, rest) = part.split_at(1);
            first.to_ascii_uppercase() + rest
        });
        let parsed = Self {
            kebab: name.to_owned(),
            snake: name.replace('-', "_"),
            camel: camel.collect(),
        };
        if everburn::methods::method(name).is_ok() {
            let expected = "a name that no method has, see `method list`";
            return Err(Error::config("new-method NAME", name, expected));
        }
        if KEYWORDS.contains(&name) {
            let expected = "a name that is no word of the language";
            return Err(Error::config("new-method NAME", name, expected));
        }
        let taken = TEMPLATE[2].1.split(|c: char| !c.is_ascii_alphanumeric());
        if taken.into_iter().any(|word| word == parsed.camel) {
            let expected = format!(
                "a name whose type is not called `{}`, as one that it uses",
                parsed.camel
            );
            return Err(Error::config("new-method NAME", name, expected));
        }
        Ok(parsed)
    }

    /// A file of the template under this name.
    fn fill(&self, text: &str) -> String {
        text.replace("publish = false\n", "")
            .replace("my-method", &self.kebab)
            .replace("my_method", &self.snake)
            .replace("MyMethod", &self.camel)
    }
}

/// What a method's name adds to a file, in front of which mark (counted from 0).
struct Registration {
    file: &'static str,
    mark: usize,
    lines: String,
}

fn registrations(name: &Name) -> [Registration; 6] {
    let Name {
        kebab,
        snake,
        camel,
    } = name;
    let facade = "crates/everburn/Cargo.toml";
    let cfg = format!("#[cfg(feature = \"{kebab}\")]");
    let at = |file, mark, lines| Registration { file, mark, lines };
    [
        at(
            "Cargo.toml",
            0,
            format!(
                "everburn-{kebab} = {{ version = \"0.1.0\", path = \"crates/everburn-{kebab}\", \
                 default-features = false }}\n"
            ),
        ),
        at(facade, 0, format!("    \"{kebab}\",\n")),
        at(
            facade,
            1,
            format!("# {camel}.\n{kebab} = [\"dep:everburn-{kebab}\"]\n"),
        ),
        at(
            facade,
            2,
            format!("everburn-{kebab} = {{ workspace = true, optional = true }}\n"),
        ),
        at(
            "crates/everburn/src/methods.rs",
            0,
            format!("    {cfg}\n    everburn_{snake}::METHOD,\n"),
        ),
        at(
            "crates/everburn/src/lib.rs",
            0,
            format!("{cfg}\npub use everburn_{snake} as {snake};\n\n"),
        ),
    ]
}

/// Writes the crate and registers it; on failure everything is as it was.
pub fn new_method(options: NewMethodOptions) -> anyhow::Result<()> {
    let name = Name::parse(&options.name)?;
    let root = options
        .into
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let folder = root.join(format!("crates/everburn-{}", name.kebab));
    if folder.exists() {
        bail!(
            "{}: exists already; remove it, or choose another name",
            folder.display()
        );
    }
    let edits = edits(&root, &name)?;
    let mut undo: Vec<(PathBuf, String)> = Vec::new();
    let done = write_crate(&root, &folder, &name).and_then(|()| {
        for Edit {
            path,
            before,
            after,
        } in edits
        {
            write_atomically(&path, after.as_bytes())?;
            undo.push((path, before));
        }
        Ok(())
    });
    if let Err(error) = done {
        for (path, before) in undo {
            write_atomically(&path, before.as_bytes())?;
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        }
        return Err(error);
    }
    let Name { kebab, snake, .. } = &name;
    print(&format!(
        "crates/everburn-{kebab}: a learner that trains on each batch as it comes, its settings and tests\n\
         registered in Cargo.toml and in Cargo.toml, src/lib.rs and src/methods.rs of crates/everburn\n\n\
         cargo test --workspace {snake}:: --test conformance   # the rules that every method keeps\n\
         cargo xtask bench --methods {kebab},er\n\
         docs/tutorial.md                                      # from here to a method\n"
    ))
}

/// A file before and after.
struct Edit {
    path: PathBuf,
    before: String,
    after: String,
}

/// All files in which the method is registered, changed; nothing is written yet.
fn edits(root: &Path, name: &Name) -> anyhow::Result<Vec<Edit>> {
    let mut edits: Vec<Edit> = Vec::new();
    for registration in registrations(name) {
        let path = root.join(registration.file);
        let shown = path.display().to_string();
        if edits.last().is_none_or(|edit| edit.path != path) {
            let before = fs::read_to_string(&path).with_context(|| shown.clone())?;
            edits.push(Edit {
                path,
                after: before.clone(),
                before,
            });
        }
        let Some(edit) = edits.last_mut() else {
            continue;
        };
        let key = format!("{} = ", name.kebab);
        if registration.mark == 1 && edit.before.lines().any(|line| line.starts_with(&key)) {
            bail!(
                "{shown}: has a feature `{}` already; choose another name",
                name.kebab
            );
        }
        // Earlier insertions leave the marks in place.
        let line_of_mark = (edit.after.match_indices(MARK).nth(registration.mark))
            .map(|(at, _)| edit.after[..at].rfind('\n').map_or(0, |end| end + 1));
        let Some(at) = line_of_mark else {
            bail!(
                "{shown}: found no comment no. {} with `{MARK}`, expected one",
                registration.mark + 1
            );
        };
        edit.after.insert_str(at, &registration.lines);
    }
    Ok(edits)
}

/// Writes the crate beside its place and moves it there as a whole.
fn write_crate(root: &Path, folder: &Path, name: &Name) -> anyhow::Result<()> {
    let draft = root.join(format!(".new-method-{}", name.kebab));
    let write = || -> anyhow::Result<()> {
        for (file, text) in TEMPLATE {
            let path = draft.join(file);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, name.fill(text))?;
        }
        Ok(fs::rename(&draft, folder)?)
    };
    let written = write().with_context(|| format!("{}", folder.display()));
    if written.is_err() && draft.exists() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_three_spellings() {
        let name = Name::parse("er-ace2").unwrap();
        assert_eq!((&*name.snake, &*name.camel), ("er_ace2", "ErAce2"));
        for wrong in [
            "", "Er", "er_ace", "-er", "er-", "er--ace", "2er", "er-2", "é", "method", "network",
        ] {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
    }
}
