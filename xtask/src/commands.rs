//! The small commands.

use std::path::Path;

use everburn::backend::{DeviceKind, devices as found};
use everburn::core::Error;
use everburn::data::{Preprocess, catalogue, info, load, verify};
use everburn::run::write_atomically;
use everburn::stream::{Manifest, SCENARIOS, scenario, show};

use crate::bench::print;
use crate::cli::{DataCommand, StreamCommand, StreamOptions};

/// `devices`.
pub fn devices() -> anyhow::Result<()> {
    let mut text = String::new();
    for device in found() {
        text += &format!("{:<10} {}\n", device.choice.to_string(), device.name);
    }
    for kind in DeviceKind::ALL {
        if let Some(feature) = kind.missing_feature() {
            text += &format!(
                "{:<10} not in this build; `cargo xtask` with `--features {feature}`\n",
                kind.name()
            );
        } else if !found().iter().any(|device| device.choice.kind == kind) {
            text += &format!("{:<10} no such device on this machine\n", kind.name());
        }
    }
    print(&text)
}

/// `data`.
pub fn data(command: DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::List => {
            let mut text = String::new();
            for entry in catalogue() {
                text += &format!("{:<16} {}\n", entry.name, entry.title);
            }
            print(&text)
        }
        DataCommand::Info { name } => print(&format!("{}\n", info(&name)?)),
        DataCommand::Verify { name, data_dir } => {
            let report = verify(&name, data_dir.as_deref())?;
            print(&format!("{report}\n"))?;
            if report.is_usable() {
                Ok(())
            } else {
                Err(Error::input(
                    format!("data set `{name}`"),
                    "files as above",
                    "usable files",
                )
                .into())
            }
        }
    }
}

/// `stream`.
pub fn stream(command: StreamCommand) -> anyhow::Result<()> {
    match command {
        StreamCommand::List => {
            let mut text = String::new();
            for entry in SCENARIOS {
                text += &format!("{:<20} {}\n", entry.name, entry.description);
                if !entry.options.is_empty() {
                    text += &format!("{:<20} options: {}\n", "", entry.options);
                }
            }
            print(&text)
        }
        StreamCommand::Show { of, svg: None } => {
            let (manifest, labels) = compile(&of)?;
            print(&format!(
                "{}\n",
                show::terminal(&manifest, &labels, 100, 30)
            ))
        }
        StreamCommand::Show {
            of,
            svg: Some(path),
        } => {
            let (manifest, labels) = compile(&of)?;
            write_atomically(&path, show::svg(&manifest, &labels).as_bytes())?;
            written(&path, &manifest)
        }
        StreamCommand::Export { of, output } => {
            let (manifest, _) = compile(&of)?;
            manifest.save(&output)?;
            written(&output, &manifest)
        }
    }
}

fn compile(of: &StreamOptions) -> anyhow::Result<(Manifest, Vec<everburn::core::ClassId>)> {
    let scenario = scenario(&of.stream)?;
    let dataset = load(
        &of.dataset,
        of.data_dir.as_deref(),
        &"native".parse::<Preprocess>()?,
    )?;
    let manifest = scenario.compile(&dataset.train.labels, dataset.num_classes(), of.seed)?;
    Ok((manifest, dataset.train.labels))
}

fn written(path: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    print(&format!(
        "{}: {} samples in {} tasks, manifest {}\n",
        path.display(),
        manifest.len(),
        manifest.tasks.len(),
        manifest.hash()
    ))
}
