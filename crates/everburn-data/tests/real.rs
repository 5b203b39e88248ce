//! Real files in the official formats, subsets or complete, from the folder EVERBURN_DATA_DIR.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::path::PathBuf;
use std::time::Instant;

use everburn_data::{Dataset, FileState, Preprocess, SplitRule, load, verify};

/// The folder, if it is given and has the data set in it.
fn data_dir(folder: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("EVERBURN_DATA_DIR").map(PathBuf::from);
    let dir = dir.filter(|dir| dir.join(folder).is_dir());
    if dir.is_none() {
        eprintln!("skipped: EVERBURN_DATA_DIR is no folder with {folder}/ in it");
    }
    dir
}

/// Loads and verifies, and checks what must hold of complete sets and subsets alike.
fn checked(name: &str, folder: &str) -> Option<Dataset> {
    let dir = data_dir(folder)?;
    let start = Instant::now();
    let data = load(name, Some(&dir), &Preprocess::default()).unwrap();
    eprintln!(
        "{name}: {} images in {:?}",
        data.train.len() + data.test.len(),
        start.elapsed()
    );
    let report = verify(name, Some(&dir)).unwrap();
    eprintln!("{report}");
    assert!(report.is_usable());
    assert_eq!(
        report.train_per_class,
        data.train.counts(data.num_classes()).unwrap()
    );
    assert_eq!(
        report.test_per_class,
        data.test.counts(data.num_classes()).unwrap()
    );
    assert!(
        report
            .train_per_class
            .iter()
            .chain(&report.test_per_class)
            .all(|count| *count > 0)
    );
    Some(data)
}

/// The mean of each channel, of values from 0 to 1.
fn mean(data: &Dataset, channel: usize) -> f64 {
    let images = data.train.images.to_images().unwrap();
    let values = images
        .pixels()
        .iter()
        .skip(channel)
        .step_by(images.shape().channels);
    let (sum, count) = values.fold((0_u64, 0_u64), |(sum, count), v| {
        (sum + u64::from(*v), count + 1)
    });
    sum as f64 / count as f64 / 255.0
}

#[track_caller]
fn assert_usual_means(data: &Dataset) {
    // A subset's means are near those of the whole; exchanged channels would not be.
    let published = everburn_data::info(&data.name).unwrap().normalisation[0].mean;
    for (channel, published) in published.iter().enumerate() {
        let found = mean(data, channel);
        assert!(
            (found - f64::from(*published)).abs() < 0.015,
            "channel {channel}: {found}"
        );
    }
}

#[test]
fn cifar_100() {
    let Some(data) = checked("cifar100", "cifar-100-binary") else {
        return;
    };
    assert_eq!(data.num_classes(), 100);
    assert_eq!(
        (data.class_names[0].as_str(), data.class_names[99].as_str()),
        ("apple", "worm")
    );
    assert_usual_means(&data);
    let Some(coarse) = checked("cifar100-coarse", "cifar-100-binary") else {
        return;
    };
    assert_eq!(coarse.train.images, data.train.images);
    // Five fine classes make a superclass.
    let mut pairs: Vec<_> = data.train.labels.iter().zip(&coarse.train.labels).collect();
    pairs.sort();
    pairs.dedup();
    assert_eq!(pairs.len(), 100);
}

#[test]
fn cifar_10() {
    let Some(data) = checked("cifar10", "cifar-10-batches-bin") else {
        return;
    };
    assert_eq!(data.class_names[0], "airplane");
    assert_usual_means(&data);
}

#[test]
fn fashion_mnist() {
    let Some(data) = checked("fashion-mnist", "fashion-mnist") else {
        return;
    };
    assert_usual_means(&data);
    // The first labels of the official training and test files.
    let first =
        |labels: &[everburn_core::ClassId]| labels[..10].iter().map(|l| l.0).collect::<Vec<_>>();
    assert_eq!(first(&data.train.labels), [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
    assert_eq!(first(&data.test.labels), [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
}

#[test]
fn mnist() {
    let Some(data) = checked("mnist", "mnist") else {
        return;
    };
    assert_usual_means(&data);
}

#[test]
fn pacs_photographs() {
    let Some(dir) = data_dir("pacs64/photo") else {
        return;
    };
    let preprocess: Preprocess = "pilot-test-224".parse().unwrap();
    let data = load("folder:pacs64/photo", Some(&dir), &preprocess).unwrap();
    let names = [
        "dog", "elephant", "giraffe", "guitar", "horse", "house", "person",
    ];
    assert_eq!(data.class_names, names);
    assert_eq!(data.name, "photo");
    assert_eq!(data.split_rule, SplitRule::EveryFifth);
    assert_eq!(data.train.counts(7).unwrap(), [48; 7]);
    assert_eq!(data.test.counts(7).unwrap(), [12; 7]);
    assert_eq!(data.shape().to_string(), "224×224×3");
    let report = verify("folder:pacs64/photo", Some(&dir)).unwrap();
    assert_eq!(report.files[0].state, FileState::Unchecked { records: 420 });
}

#[test]
fn a_damaged_copy_is_refused() {
    let Some(dir) = data_dir("cifar-100-binary") else {
        return;
    };
    let copy = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(dir.join("cifar-100-binary/test.bin")).unwrap();
    std::fs::write(copy.path().join("train.bin"), &bytes).unwrap();
    bytes.truncate(bytes.len() - 7);
    std::fs::write(copy.path().join("test.bin"), bytes).unwrap();
    let error = load("cifar100", Some(copy.path()), &Preprocess::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("test.bin: size") && error.contains("3067 bytes"),
        "{error}"
    );
}
