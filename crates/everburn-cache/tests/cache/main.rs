//! The cache as its users and its disk see it.
#![allow(clippy::unwrap_used, missing_docs)]

mod damage;
mod limits;
mod processes;
mod store;

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use everburn_cache::{FeatureStore, Limits};
use everburn_core::ImageKey;

const EXTRACTOR: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";
const DIM: usize = 3;
/// Bytes of a segment without rows, and of each row with its key and checksum.
const SEGMENT: u64 = 80;
const ROW: u64 = 16 + 4 * DIM as u64 + 8;

fn key(number: u64) -> ImageKey {
    let mut key = [0xa5; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ImageKey(key)
}

fn keys(numbers: std::ops::Range<u64>) -> Vec<ImageKey> {
    numbers.map(key).collect()
}

/// The rows of images: a function of the key, so that a wrong one shows.
fn rows(numbers: std::ops::Range<u64>) -> Vec<f32> {
    let row = |number| (0..DIM as u64).map(move |value| (10 * number + value) as f32 + 0.5);
    numbers.flat_map(row).collect()
}

fn open(root: &Path) -> FeatureStore {
    FeatureStore::open(root, EXTRACTOR, DIM, Limits::default()).unwrap()
}

fn open_with(root: &Path, extractor: &str, memory: u64, disk: u64) -> FeatureStore {
    FeatureStore::open(root, extractor, DIM, Limits { memory, disk }).unwrap()
}

fn put(store: &FeatureStore, numbers: std::ops::Range<u64>) {
    store.put(&keys(numbers.clone()), &rows(numbers)).unwrap();
}

/// Stores images as a segment of their own.
fn store(root: &Path, numbers: std::ops::Range<u64>) {
    put(&open(root), numbers);
}

#[track_caller]
fn has(store: &FeatureStore, numbers: std::ops::Range<u64>) {
    assert!(store.get(&keys(numbers.clone())) == Some(rows(numbers)));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn segments(root: &Path, extractor: &str) -> Vec<PathBuf> {
    let mut files = files(&root.join(extractor));
    files.retain(|file| file.extension().is_some_and(|ending| ending == "features"));
    files
}

/// The one segment of a cache.
fn segment(root: &Path) -> PathBuf {
    let segments = segments(root, EXTRACTOR);
    assert_eq!(segments.len(), 1);
    segments[0].clone()
}

/// Makes a file older.
fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let times = FileTimes::new().set_modified(then);
    let file = File::options().append(true).open(path).unwrap();
    file.set_times(times).unwrap();
}
