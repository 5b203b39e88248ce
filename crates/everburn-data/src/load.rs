use std::path::Path;

use everburn_core::{Error, Result};

use crate::{
    Cifar100Labels, Dataset, LoadOptions, catalogue, files, load_cifar10, load_cifar100,
    load_digits, load_fashion_mnist, load_folder, load_mnist,
};

/// Loads a data set of the [`catalogue`] by its name. `options` are [`LoadOptions`], or a
/// [`Preprocess`](crate::Preprocess) to apply to every image.
///
/// `data_dir` is the folder that holds the data set's own folder, or that folder itself; `digits` needs
/// none. `folder` loads class folders from `data_dir`, `folder:PATH` from `PATH` (below `data_dir`, if there
/// is one and `PATH` is relative).
///
/// # Errors
/// If the name is unknown, or as the loader of the data set: [`load_digits`], [`load_mnist`],
/// [`load_fashion_mnist`], [`load_cifar10`], [`load_cifar100`], [`load_folder`]. Each of them fails
/// too if the preprocessing is not possible, there is not enough memory, or the disk refuses the
/// temporary file.
pub fn load(
    name: &str,
    data_dir: Option<&Path>,
    options: impl Into<LoadOptions>,
) -> Result<Dataset> {
    let options = options.into();
    let dir = || files::required(name, data_dir);
    if let Some(path) = folder_path(name, data_dir) {
        return load_folder(&path?, options);
    }
    match name {
        "digits" => load_digits(options),
        "mnist" => load_mnist(dir()?, options),
        "fashion-mnist" => load_fashion_mnist(dir()?, options),
        "cifar10" => load_cifar10(dir()?, options),
        "cifar100" => load_cifar100(dir()?, Cifar100Labels::Fine, options),
        "cifar100-coarse" => load_cifar100(dir()?, Cifar100Labels::Coarse, options),
        _ => Err(unknown(name)),
    }
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::unknown("data set", name, catalogue().iter().map(|entry| entry.name))
}

/// Where the class folders lie, if `name` asks for some.
pub(crate) fn folder_path(
    name: &str,
    data_dir: Option<&Path>,
) -> Option<Result<std::path::PathBuf>> {
    match name.split_once(':') {
        None if name == "folder" => Some(files::required(name, data_dir).map(Path::to_owned)),
        Some(("folder", "")) => Some(Err(Error::input(name, "no path", "folder:PATH"))),
        Some(("folder", path)) => Some(Ok(
            data_dir.map_or_else(|| path.into(), |dir| dir.join(path))
        )),
        _ => None,
    }
}
