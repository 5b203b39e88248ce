//! The file that says which images are for testing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use everburn_core::{Error, Result};

use super::Item;
use crate::files;

const NAMES: [&str; 3] = ["split.txt", "split.csv", "split.tsv"];

/// The split file of a folder, if it has one.
///
/// # Errors
/// If it has several.
pub(super) fn find(root: &Path) -> Result<Option<PathBuf>> {
    let present = NAMES.map(|name| root.join(name));
    let mut present = present.into_iter().filter(|path| path.is_file());
    match (present.next(), present.next()) {
        (Some(one), Some(other)) => {
            let found = format!("{} and {}", files::show(&one), files::show(&other));
            Err(Error::input(files::show(root), found, "one split file"))
        }
        (one, _) => Ok(one),
    }
}

struct Line {
    number: usize,
    is_test: bool,
}

/// For each image, whether it is for testing.
///
/// # Errors
/// If a line has another form, an image is in it twice or not at all, or a path is no image's.
pub(super) fn read(file: &Path, root: &Path, items: &[Item]) -> Result<Vec<bool>> {
    let name = files::show(file);
    let text = String::from_utf8(files::read(file)?)
        .map_err(|e| Error::input(&name, e.utf8_error(), "UTF-8 text"))?;
    let mut lines = parse(&text, &name)?;
    let find = |item: &Item| {
        let path = below(root, &item.path);
        let line = lines.remove(&path).ok_or_else(|| {
            Error::input(
                format!("{name}: `{path}`"),
                "no line",
                "a line for every image",
            )
        })?;
        Ok(line.is_test)
    };
    let is_test = items.iter().map(find).collect::<Result<_>>()?;
    match lines.into_iter().min_by_key(|(_, line)| line.number) {
        Some((path, Line { number, .. })) => {
            let expected = format!("an image in a class folder of {}", files::show(root));
            let found = format!("`{path}`, which is none");
            Err(Error::input(
                format!("{name}, line {number}"),
                found,
                expected,
            ))
        }
        None => Ok(is_test),
    }
}

fn parse(text: &str, name: &str) -> Result<BTreeMap<String, Line>> {
    let mut lines = BTreeMap::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |found: String, expected: &str| {
            Error::input(format!("{name}, line {number}"), found, expected)
        };
        // The last separator: paths may have spaces and commas in them.
        let (path, part) = line
            .rsplit_once(['\t', ' ', ','])
            .ok_or_else(|| wrong(format!("`{line}`"), "a path and `train` or `test`"))?;
        let is_test = match part {
            "train" => false,
            "test" => true,
            _ => return Err(wrong(format!("`{part}`"), "`train` or `test` at the end")),
        };
        let path = path.trim_end_matches(['\t', ' ', ',']);
        let path = path.trim_start_matches("./").to_owned();
        if let Some(Line { number: first, .. }) = lines.get(&path) {
            let found = format!("`{path}` again, after line {first}");
            return Err(wrong(found, "every image once"));
        }
        lines.insert(path, Line { number, is_test });
    }
    Ok(lines)
}

/// The path below the root, with `/` between its parts on every platform.
fn below(root: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(root).unwrap_or(path).components();
    let parts: Vec<_> = parts
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}
