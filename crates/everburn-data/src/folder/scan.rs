//! Which images there are, of which class, and for what.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use everburn_core::{ClassId, Error, Result};

use super::split_file;
use crate::digits::every_fifth;
use crate::{SplitRule, files};

/// How deep class folders may be nested: no more than this, so that a link in a circle has an end.
const DEPTH: usize = 16;

/// An image on the disk.
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) class: ClassId,
}

/// What lies in a folder.
pub(crate) struct Listing {
    pub(crate) name: String,
    pub(crate) class_names: Vec<String>,
    pub(crate) train: Vec<Item>,
    pub(crate) test: Vec<Item>,
    pub(crate) rule: SplitRule,
    pub(crate) skipped: usize,
}

/// Lists a folder's images; see [`load_folder`](crate::load_folder) for the rules.
pub(crate) fn scan(root: &Path) -> Result<Listing> {
    if !root.is_dir() {
        return Err(Error::input(
            files::show(root),
            "no such folder",
            "a folder of class folders",
        ));
    }
    let [train, test] = ["train", "test"].map(|part| root.join(part));
    let mut skipped = 0;
    let name = (root.canonicalize().ok())
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "folder".to_owned());
    let parts = match (train.is_dir(), test.is_dir()) {
        (true, true) => two_folders(&train, &test, &mut skipped)?,
        _ => one_folder(root, &mut skipped)?,
    };
    let listing = Listing {
        name,
        class_names: parts.class_names,
        train: parts.train,
        test: parts.test,
        rule: parts.rule,
        skipped,
    };
    listing.check(root)?;
    Ok(listing)
}

impl Listing {
    /// Every class can be learned and tested.
    fn check(&self, root: &Path) -> Result<()> {
        for (which, items) in [("training", &self.train), ("test", &self.test)] {
            let mut counts = vec![0_usize; self.class_names.len()];
            for item in items {
                if let Some(count) = counts.get_mut(item.class.0 as usize) {
                    *count += 1;
                }
            }
            if let Some((name, _)) = self.class_names.iter().zip(counts).find(|(_, n)| *n == 0) {
                let expected = match self.rule {
                    SplitRule::EveryFifth => {
                        "at least one: without a split, a class needs 5 images, for the fifth is its \
                         first test image"
                    }
                    _ => "at least one",
                };
                let what = format!("{}: {which} images of class `{name}`", files::show(root));
                return Err(Error::input(what, 0, expected));
            }
        }
        Ok(())
    }
}

/// Classes and images, divided by a rule.
struct Parts {
    class_names: Vec<String>,
    train: Vec<Item>,
    test: Vec<Item>,
    rule: SplitRule,
}

fn two_folders(train: &Path, test: &Path, skipped: &mut usize) -> Result<Parts> {
    let [train_classes, test_classes] = [class_folders(train)?, class_folders(test)?];
    let both = train_classes.iter().chain(&test_classes);
    let mut class_names: Vec<String> = both.map(|class| class.name.clone()).collect();
    class_names.sort_unstable();
    class_names.dedup();
    Ok(Parts {
        train: items(train_classes, &class_names, skipped)?,
        test: items(test_classes, &class_names, skipped)?,
        class_names,
        rule: SplitRule::Folders,
    })
}

fn one_folder(root: &Path, skipped: &mut usize) -> Result<Parts> {
    let classes = class_folders(root)?;
    let class_names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
    let items = items(classes, &class_names, skipped)?;
    let (is_test, rule) = match split_file::find(root)? {
        Some(file) => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let rule = SplitRule::File(name.into_owned());
            (split_file::read(&file, root, &items)?, rule)
        }
        None => (fifths(&items), SplitRule::EveryFifth),
    };
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (item, is_test) in items.into_iter().zip(is_test) {
        let part = if is_test { &mut test } else { &mut train };
        part.push(item);
    }
    Ok(Parts {
        class_names,
        train,
        test,
        rule,
    })
}

/// Whether each image is the fifth, tenth, … of its class.
fn fifths(items: &[Item]) -> Vec<bool> {
    let labels: Vec<ClassId> = items.iter().map(|item| item.class).collect();
    let mut is_test = vec![false; items.len()];
    for index in every_fifth(&labels).1 {
        if let Some(place) = is_test.get_mut(index) {
            *place = true;
        }
    }
    is_test
}

struct ClassFolder {
    name: String,
    path: PathBuf,
}

/// The class folders in the byte order of their names.
fn class_folders(dir: &Path) -> Result<Vec<ClassFolder>> {
    let mut classes = Vec::new();
    for path in entries(dir)? {
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() || is_hidden(name) {
            continue;
        }
        let name = name.to_str().ok_or_else(|| {
            Error::input(
                files::show(&path),
                "a name that is not UTF-8",
                "a class name in UTF-8",
            )
        })?;
        classes.push(ClassFolder {
            name: name.to_owned(),
            path: path.clone(),
        });
    }
    if classes.is_empty() {
        return Err(Error::input(
            files::show(dir),
            "no folder in it",
            "a folder for each class",
        ));
    }
    Ok(classes)
}

fn items(classes: Vec<ClassFolder>, names: &[String], skipped: &mut usize) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for ClassFolder { name, path } in classes {
        let rank = names.partition_point(|other| *other < name);
        let class = ClassId(u32::try_from(rank).map_err(|e| Error::other(&name, e))?);
        let mut paths = Vec::new();
        images(&path, DEPTH, &mut paths, skipped)?;
        if paths.is_empty() {
            let expected = "at least one PNG or JPEG image";
            return Err(Error::input(files::show(&path), "no image", expected));
        }
        items.extend(paths.into_iter().map(|path| Item { path, class }));
    }
    Ok(items)
}

/// The images below a folder: its files first, then those of its sub-folders.
fn images(dir: &Path, depth: usize, found: &mut Vec<PathBuf>, skipped: &mut usize) -> Result<()> {
    if depth == 0 {
        let deep = format!("folders nested more than {DEPTH} deep");
        return Err(Error::input(files::show(dir), deep, "no link in a circle"));
    }
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir)?.into_iter().partition(|p| p.is_dir());
    for path in files {
        if is_image(&path) {
            found.push(path)
        } else {
            *skipped += 1
        }
    }
    for folder in folders {
        if !is_hidden(folder.file_name().unwrap_or_default()) {
            images(&folder, depth - 1, found, skipped)?;
        }
    }
    Ok(())
}

/// What a folder holds, in the byte order of the names.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let fault = |e: std::io::Error| files::unreadable(dir, &e);
    let mut paths = fs::read_dir(dir)
        .map_err(fault)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(fault))
        .collect::<Result<Vec<_>>>()?;
    let key = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .as_encoded_bytes()
            .to_vec()
    };
    paths.sort_by_cached_key(key);
    Ok(paths)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    let visible = !is_hidden(path.file_name().unwrap_or_default());
    visible && ["png", "jpg", "jpeg"].iter().any(|known| ending == *known)
}
