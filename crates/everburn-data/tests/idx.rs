//! The IDX format, written here, read, and broken in every way.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::path::Path;

use everburn_core::ClassId;
use everburn_data::{FileState, IdxValues, LoadOptions, Preprocess, load, read_idx, verify};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

fn idx(kind: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|side| side.to_be_bytes()));
    bytes.extend_from_slice(data);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn images(count: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..count).flat_map(|image| [image; 784]).collect();
    idx(8, &[u32::from(count), 28, 28], &pixels)
}

fn labels(labels: &[u8]) -> Vec<u8> {
    idx(8, &[labels.len() as u32], labels)
}

fn mnist(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gz(&images(3))).unwrap();
    fs::write(
        folder.join("train-labels-idx1-ubyte.gz"),
        gz(&labels(&[5, 0, 9])),
    )
    .unwrap();
    fs::write(folder.join("t10k-images-idx3-ubyte"), images(1)).unwrap();
    fs::write(folder.join("t10k-labels-idx1-ubyte"), labels(&[7])).unwrap();
}

fn refused(dir: &Path) -> String {
    load("mnist", Some(dir), &Preprocess::default())
        .unwrap_err()
        .to_string()
}

fn parsed(bytes: &[u8]) -> Result<everburn_data::Idx, everburn_core::Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.idx");
    fs::write(&path, bytes).unwrap();
    read_idx(&path)
}

#[test]
fn every_type_is_read() {
    let be = |values: [f64; 2]| values.map(f64::to_be_bytes).concat();
    let cases = [
        (0x08, vec![0, 255], IdxValues::U8(vec![0, 255])),
        (0x09, vec![1, 255], IdxValues::I8(vec![1, -1])),
        (0x0b, vec![1, 2, 255, 254], IdxValues::I16(vec![258, -2])),
        (
            0x0c,
            vec![0, 0, 1, 0, 255, 255, 255, 255],
            IdxValues::I32(vec![256, -1]),
        ),
        (
            0x0d,
            vec![0x3f, 0x80, 0, 0, 0xbf, 0, 0, 0],
            IdxValues::F32(vec![1.0, -0.5]),
        ),
        (0x0e, be([0.1, -3.0]), IdxValues::F64(vec![0.1, -3.0])),
    ];
    for (kind, data, values) in cases {
        let plain = parsed(&idx(kind, &[2, 1], &data)).unwrap();
        assert_eq!(
            (plain.dims.as_slice(), &plain.values),
            (&[2, 1][..], &values)
        );
        assert_eq!(parsed(&gz(&idx(kind, &[2, 1], &data))).unwrap(), plain);
    }
}

#[test]
fn what_is_no_idx_file_is_refused() {
    let good = idx(8, &[2, 2], &[1, 2, 3, 4]);
    let error = |bytes: &[u8]| parsed(bytes).unwrap_err().to_string();
    for (place, value) in [(0, 1), (1, 1), (2, 0x0a), (3, 0)] {
        let mut bad = good.clone();
        bad[place] = value;
        assert!(
            error(&bad).contains("file.idx: magic number: found"),
            "byte {place}"
        );
    }
    assert!(error(&[]).contains("magic number"));
    assert!(error(&good[..7]).ends_with("sides: found 3 bytes, expected 8 bytes"));
    assert!(error(&good[..15]).ends_with("values: found 3 bytes, expected 4 bytes"));
    assert!(error(&[good.as_slice(), &[0]].concat()).contains("more bytes"));
    let huge = idx(0x0e, &[u32::MAX, u32::MAX, u32::MAX], &[]);
    assert!(error(&huge).contains("fits into memory"));
    let packed = gz(&good);
    assert!(parsed(&packed[..packed.len() - 4]).is_err());
    let mut damaged = packed.clone();
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    assert!(parsed(&damaged).is_err());
    assert!(
        read_idx(Path::new("/nowhere/x.idx"))
            .unwrap_err()
            .to_string()
            .contains("/nowhere/x.idx")
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = parsed(&bytes);
        let with_magic = [&[0, 0, 8, 2][..], &bytes].concat();
        let _ = parsed(&with_magic);
    }
}

#[test]
fn plain_and_gzipped_files_may_be_mixed() {
    let dir = tempfile::tempdir().unwrap();
    mnist(&dir.path().join("mnist"));
    let data = load("mnist", Some(dir.path()), &Preprocess::default()).unwrap();
    assert_eq!(data.train.labels, [5, 0, 9].map(ClassId));
    assert_eq!(data.test.labels, [ClassId(7)]);
    let images = data.train.images.to_images().unwrap();
    assert_eq!(images.image(2), [2; 784]);
    assert_eq!(data.shape().to_string(), "28×28×1");
    // The folder itself, and the one that torchvision makes.
    let torch = tempfile::tempdir().unwrap();
    mnist(&torch.path().join("MNIST/raw"));
    for other in [dir.path().join("mnist"), torch.path().to_owned()] {
        assert_eq!(
            load("mnist", Some(&other), &Preprocess::default()).unwrap(),
            data
        );
    }
}

/// More images than are decoded at once, and than the memory budget has room for.
#[test]
fn a_file_is_read_part_by_part() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    let count = 6000_u32;
    let pixels: Vec<u8> = (0..count * 784)
        .map(|i| (i / 784 + i % 256) as u8)
        .collect();
    let file = idx(8, &[count, 28, 28], &pixels);
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("train-images-idx3-ubyte.gz", &gz(&file));
    write("train-labels-idx1-ubyte.gz", &gz(&labels(&[3; 6000])));
    let options = LoadOptions {
        memory_budget: Some(1000),
        ..LoadOptions::default()
    };
    let budget = load("mnist", Some(dir.path()), options).unwrap();
    let all = load("mnist", Some(dir.path()), &Preprocess::default()).unwrap();
    assert!(budget.train.images.is_on_disk() && !budget.test.images.is_on_disk());
    assert_eq!(budget, all);
    assert_eq!(all.train.images.to_images().unwrap().pixels(), pixels);

    let name = "train-images-idx3-ubyte";
    write(name, &file[..file.len() - 1]);
    let error = refused(dir.path());
    assert!(
        error.ends_with("values: found 4703999 bytes, expected 4704000 bytes"),
        "{error}"
    );
    write(name, &[file.as_slice(), &[0]].concat());
    assert!(refused(dir.path()).contains("found more bytes, expected the end after 4704000"));
    assert!(!verify("mnist", Some(dir.path())).unwrap().is_usable());
    // A header that promises what the file does not have.
    write(name, &idx(8, &[6000, 28, 28], &[]));
    assert!(refused(dir.path()).ends_with("values: found 0 bytes, expected 4704000 bytes"));
}

#[test]
fn the_two_mnists_do_not_mix_their_folders() {
    let dir = tempfile::tempdir().unwrap();
    mnist(&dir.path().join("fashion-mnist"));
    let fashion = load("fashion-mnist", Some(dir.path()), &Preprocess::default()).unwrap();
    assert_eq!(fashion.class_names[9], "Ankle boot");
    let error = refused(dir.path());
    assert!(error.contains("ossci-datasets"), "{error}");
}

#[test]
fn images_and_labels_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("t10k-labels-idx1-ubyte", &labels(&[1, 2]));
    let error = refused(dir.path());
    assert!(
        error.contains("t10k-labels-idx1-ubyte: labels: found 2, expected 1, one"),
        "{error}"
    );
    write("t10k-labels-idx1-ubyte", &labels(&[10]));
    let error = refused(dir.path());
    assert!(
        error.ends_with("label 0 at byte 8: found 10, expected less than 10"),
        "{error}"
    );
    write("t10k-labels-idx1-ubyte", &images(1));
    assert!(refused(dir.path()).contains("found u8 [1, 28, 28], expected u8 with one side"));
    write("t10k-labels-idx1-ubyte", &labels(&[1]));
    write(
        "t10k-images-idx3-ubyte",
        &idx(0x09, &[1, 28, 28], &[0; 784]),
    );
    assert!(refused(dir.path()).contains("found i8 [1, 28, 28]"));
    write("t10k-images-idx3-ubyte", &idx(8, &[1, 14, 56], &[0; 784]));
    assert!(refused(dir.path()).contains("expected u8 [at least 1, 28, 28]"));
    write("t10k-images-idx3-ubyte", &images(0));
    assert!(refused(dir.path()).contains("found u8 [0, 28, 28]"));
    fs::remove_file(dir.path().join("t10k-images-idx3-ubyte")).unwrap();
    assert!(refused(dir.path()).contains("t10k-images-idx3-ubyte.gz: found nothing"));
}

#[test]
fn the_report_names_every_file() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    let report = verify("mnist", Some(dir.path())).unwrap();
    assert!(report.is_usable());
    let subset = |records, official| FileState::Subset { records, official };
    let states: Vec<_> = report.files.iter().map(|file| file.state.clone()).collect();
    let expected = [
        subset(3, 60_000),
        subset(3, 60_000),
        subset(1, 10_000),
        subset(1, 10_000),
    ];
    assert_eq!(states, expected);
    assert_eq!(report.train_per_class, [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]);

    fs::write(dir.path().join("t10k-labels-idx1-ubyte"), labels(&[1, 2])).unwrap();
    let report = verify("mnist", Some(dir.path())).unwrap();
    assert!(
        matches!(&report.files[3].state, FileState::Invalid { why } if why.contains("found 2"))
    );
    assert!(!report.is_usable());
}
