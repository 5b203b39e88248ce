//! CIFAR's binary format, written here, read, and broken in every way.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use everburn_core::ClassId;
use everburn_data::{
    Cifar100Labels, Dataset, FileState, LoadOptions, Preprocess, load, load_cifar100, verify,
};

const PIXELS: usize = 3072;

/// The pixel at (row, column, channel) of image `image`: something that tells all four apart.
fn pixel(image: usize, row: usize, column: usize, channel: usize) -> u8 {
    ((image * 61 + row * 7 + column * 3 + channel * 101) % 256) as u8
}

fn record(labels: &[u8], image: usize) -> Vec<u8> {
    let mut record = labels.to_vec();
    for channel in 0..3 {
        for row in 0..32 {
            record.extend((0..32).map(|column| pixel(image, row, column, channel)));
        }
    }
    record
}

fn cifar100(dir: &Path) -> PathBuf {
    let folder = dir.join("cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    let train = [record(&[4, 0], 0), record(&[14, 99], 1), record(&[4, 0], 2)].concat();
    fs::write(folder.join("train.bin"), train).unwrap();
    fs::write(folder.join("test.bin"), record(&[19, 41], 3)).unwrap();
    folder
}

fn cifar10(dir: &Path) -> PathBuf {
    let folder = dir.join("cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    for batch in 1..=5_u8 {
        let name = format!("data_batch_{batch}.bin");
        fs::write(folder.join(name), record(&[batch], usize::from(batch))).unwrap();
    }
    fs::write(folder.join("test_batch.bin"), record(&[9], 6)).unwrap();
    folder
}

fn read(name: &str, dir: &Path) -> Dataset {
    load(name, Some(dir), &Preprocess::default()).unwrap()
}

fn refused(name: &str, dir: &Path) -> String {
    load(name, Some(dir), &Preprocess::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn planes_become_interleaved_channels() {
    let dir = tempfile::tempdir().unwrap();
    cifar100(dir.path());
    let data = read("cifar100", dir.path());
    assert_eq!(
        (data.train.len(), data.test.len(), data.num_classes()),
        (3, 1, 100)
    );
    for image in 0..3 {
        let images = data.train.images.select(&[image]).unwrap();
        let pixels = images.image(0);
        for (place, value) in pixels.iter().enumerate() {
            let (row, column, channel) = (place / 96, place / 3 % 32, place % 3);
            assert_eq!(*value, pixel(image, row, column, channel));
        }
    }
    assert_eq!(data.train.labels, [0, 99, 0].map(ClassId));
    assert_eq!(data.class_names[99], "worm");
}

#[test]
fn coarse_labels_are_an_option() {
    let dir = tempfile::tempdir().unwrap();
    cifar100(dir.path());
    let data = read("cifar100-coarse", dir.path());
    assert_eq!(data.num_classes(), 20);
    assert_eq!(data.train.labels, [4, 14, 4].map(ClassId));
    assert_eq!(data.class_names[14], "people");
    let same = load_cifar100(dir.path(), Cifar100Labels::Coarse, &Preprocess::default());
    assert_eq!(same.unwrap().identity().unwrap(), data.identity().unwrap());
    let fine = read("cifar100", dir.path()).identity().unwrap();
    assert_ne!(fine, data.identity().unwrap());
}

/// More records than are decoded at once, and than the memory budget has room for.
#[test]
fn a_file_is_read_part_by_part() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar100(dir.path());
    let records = 2000;
    let label = |index: usize| (index % 100) as u8;
    let mut bytes: Vec<u8> = (0..records)
        .flat_map(|index| record(&[0, label(index)], index))
        .collect();
    fs::write(folder.join("train.bin"), &bytes).unwrap();
    let preprocess = Preprocess {
        channels: everburn_data::Channels::Grey,
        ..Preprocess::default()
    };
    let options = LoadOptions {
        preprocess,
        memory_budget: Some(2_000_000),
        spool_dir: Some(dir.path().to_owned()),
    };
    let budget = load("cifar100", Some(dir.path()), options).unwrap();
    assert!(budget.train.images.is_on_disk() && !budget.test.images.is_on_disk());
    assert_eq!(budget.train.images.memory_bytes(), 2000 * 16);
    let all = load("cifar100", Some(dir.path()), &preprocess).unwrap();
    assert!(!all.train.images.is_on_disk());
    assert_eq!(budget, all);
    assert_eq!(budget.identity().unwrap(), all.identity().unwrap());
    let chosen = [1999, 0, 683, 682];
    let [a, b] = [&budget, &all].map(|data| data.train.images.select(&chosen).unwrap());
    assert_eq!(a, b);
    assert_eq!(all.train.labels[1999], ClassId(99));
    // The temporary file has no name.
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1);

    let wrong = 1900 * 3074 + 1;
    bytes[wrong] = 100;
    fs::write(folder.join("train.bin"), &bytes).unwrap();
    let error = refused("cifar100", dir.path());
    assert!(
        error.contains(&format!(
            "fine label of record 1900 at byte {wrong}: found 100"
        )),
        "{error}"
    );
}

#[test]
fn the_five_batches_follow_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar10(dir.path());
    let data = read("cifar10", dir.path());
    assert_eq!(data.train.labels, [1, 2, 3, 4, 5].map(ClassId));
    assert_eq!(data.test.labels, [ClassId(9)]);
    assert_eq!(
        data.train.images.select(&[4]).unwrap().image(0)[..3],
        [0, 1, 2].map(|c| pixel(5, 0, 0, c))
    );
    // The folder itself is as good as the one above it.
    assert_eq!(read("cifar10", &folder), data);
}

#[test]
fn names_are_read_if_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar10(dir.path());
    assert_eq!(read("cifar10", dir.path()).class_names[9], "truck");
    let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\r\n j \n\n";
    fs::write(folder.join("batches.meta.txt"), names).unwrap();
    assert_eq!(read("cifar10", dir.path()).class_names[8..], ["i", "j"]);
    fs::write(folder.join("batches.meta.txt"), "a\nb\n").unwrap();
    let error = refused("cifar10", dir.path());
    assert!(
        error.contains("batches.meta.txt: class names: found 2, expected 10"),
        "{error}"
    );
    fs::write(folder.join("batches.meta.txt"), [0xff, 0xfe]).unwrap();
    assert!(refused("cifar10", dir.path()).contains("UTF-8"));
}

#[test]
fn a_truncated_or_empty_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar100(dir.path());
    let mut bytes = fs::read(folder.join("train.bin")).unwrap();
    bytes.pop();
    fs::write(folder.join("train.bin"), bytes).unwrap();
    let error = refused("cifar100", dir.path());
    assert!(
        error.ends_with(
            "train.bin: size: found 9221 bytes (2 records and 3073 bytes), expected a whole number \
             of 3074-byte records, at least one"
        ),
        "{error}"
    );
    fs::write(folder.join("train.bin"), []).unwrap();
    assert!(refused("cifar100", dir.path()).contains("found 0 bytes"));
}

#[test]
fn a_label_out_of_range_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar100(dir.path());
    let mut bytes = fs::read(folder.join("test.bin")).unwrap();
    bytes.extend(record(&[3, 100], 0));
    fs::write(folder.join("test.bin"), &bytes).unwrap();
    let place = "test.bin: fine label of record 1 at byte 3075: found 100, expected less than 100";
    assert!(refused("cifar100", dir.path()).ends_with(place));
    bytes[0] = 20;
    fs::write(folder.join("test.bin"), &bytes).unwrap();
    let place = "coarse label of record 0 at byte 0: found 20, expected less than 20";
    assert!(refused("cifar100", dir.path()).ends_with(place));

    let folder = cifar10(dir.path());
    fs::write(folder.join("data_batch_3.bin"), record(&[10], 0)).unwrap();
    let place = "data_batch_3.bin: label of record 0 at byte 0: found 10, expected less than 10";
    assert!(refused("cifar10", dir.path()).ends_with(place));
}

#[test]
fn what_is_missing_is_named_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused("cifar100", dir.path());
    assert!(error.contains("cifar-100-binary, "), "{error}");
    assert!(error.contains("train.bin, test.bin"), "{error}");
    assert!(
        error.contains("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"),
        "{error}"
    );
    let folder = cifar10(dir.path());
    fs::remove_file(folder.join("data_batch_1.bin")).unwrap();
    assert!(
        refused("cifar10", dir.path())
            .ends_with("data_batch_1.bin: found nothing, expected a file")
    );
    assert!(load("cifar10", None, &Preprocess::default()).is_err());
}

#[test]
fn the_report_tells_subsets_from_the_official_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar100(dir.path());
    let report = verify("cifar100", Some(dir.path())).unwrap();
    assert!(report.is_usable() && !report.is_official());
    let subset = FileState::Subset {
        records: 3,
        official: 50_000,
    };
    assert_eq!(report.files[0].state, subset);
    assert_eq!(report.files[0].bytes, Some(3 * (PIXELS as u64 + 2)));
    assert_eq!(
        (report.train_per_class[0], report.train_per_class[99]),
        (2, 1)
    );
    assert_eq!(report.test_per_class.iter().sum::<usize>(), 1);
    let text = report.to_string();
    assert!(
        text.contains("a subset: 3 of 50000 records, every record valid"),
        "{text}"
    );

    fs::write(folder.join("train.bin"), [1, 2, 3]).unwrap();
    fs::remove_file(folder.join("test.bin")).unwrap();
    let report = verify("cifar100", Some(dir.path())).unwrap();
    assert!(!report.is_usable());
    assert!(
        matches!(&report.files[0].state, FileState::Invalid { why } if why.contains("3 bytes"))
    );
    assert_eq!(report.files[1].state, FileState::Missing);
}

#[test]
fn a_file_of_the_official_size_with_other_bytes_is_not_official() {
    let dir = tempfile::tempdir().unwrap();
    let folder = cifar100(dir.path());
    fs::write(folder.join("test.bin"), record(&[1, 2], 0).repeat(10_000)).unwrap();
    let archive = dir.path().join("cifar-100-binary.tar.gz");
    fs::write(&archive, b"no archive").unwrap();
    let report = verify("cifar100", Some(dir.path())).unwrap();
    assert!(matches!(
        &report.files[1].state,
        FileState::Altered { records: 10_000, expected, .. } if expected.starts_with("4499cf")
    ));
    assert_eq!(report.files[2].path, archive);
    assert!(matches!(
        &report.files[2].state,
        FileState::Altered { found, .. } if found == "e7870f97196c5a5a5bc170081adb83fc"
    ));
    assert!(!report.is_official());
}

#[test]
fn a_folder_without_files_is_a_report_of_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let report = verify("cifar10", Some(dir.path())).unwrap();
    assert_eq!(report.files.len(), 6);
    assert!(
        report
            .files
            .iter()
            .all(|file| file.state == FileState::Missing)
    );
    assert!(!report.is_usable());
}
