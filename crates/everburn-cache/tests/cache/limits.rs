use std::fs;

use super::*;

/// Values of a row in bytes.
const VALUES: u64 = 4 * DIM as u64;

#[test]
fn beyond_its_memory_a_store_reads_from_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let memory = 400 * VALUES;
    let writer = open_with(root.path(), EXTRACTOR, memory, 1 << 20);
    for start in (0..2000).step_by(50) {
        put(&writer, start..start + 50);
        assert!(writer.stats().bytes_in_memory <= memory);
        has(&writer, start / 2..start + 50);
    }
    assert_eq!(segments(root.path(), EXTRACTOR).len(), 20);
    let reader = open_with(root.path(), EXTRACTOR, memory, 1 << 20);
    assert_eq!(reader.stats().rows_in_memory, 0);
    for store in [writer, reader] {
        for _ in 0..2 {
            has(&store, 0..2000);
            assert!(store.load(&keys(0..2000)).is_empty());
            // A quarter of the memory waits for rows to come.
            assert_eq!(store.stats().rows_in_memory, 300);
        }
        assert!(store.notes().is_empty());
    }
}

#[test]
fn many_rows_at_once_are_stored_little_by_little() {
    let root = tempfile::tempdir().unwrap();
    let store = open_with(root.path(), EXTRACTOR, 400 * VALUES, 1 << 20);
    put(&store, 0..1050);
    assert_eq!(segments(root.path(), EXTRACTOR).len(), 10);
    assert_eq!(store.stats().pending, 50);
    has(&store, 0..1050);
}

#[test]
fn the_least_recently_used_segments_of_others_go_first() {
    let root = tempfile::tempdir().unwrap();
    let others = ["11111111", "22222222", "33333333"];
    for (seconds, extractor) in [(300, others[0]), (100, others[1]), (200, others[2])] {
        let store = open_with(root.path(), extractor, 1 << 20, 1 << 20);
        put(&store, 0..10);
        drop(store);
        age(&segments(root.path(), extractor)[0], seconds);
    }
    // Whoever opens a store uses it: now the first is the youngest and the third the oldest.
    drop(open_with(root.path(), others[0], 1 << 20, 1 << 20));
    let left = || others.map(|extractor| segments(root.path(), extractor).len());
    let one = SEGMENT + 10 * ROW;
    let store = open_with(root.path(), EXTRACTOR, 1 << 20, 3 * one);
    for (start, expected) in [
        (0, [1, 1, 0]),
        (10, [1, 0, 0]),
        (20, [0, 0, 0]),
        (30, [0, 0, 0]),
    ] {
        // Another process goes on with what was deleted meanwhile.
        let reader = open_with(root.path(), others[1], 0, 1 << 20);
        age_all(&root.path().join(others[1]), 100);
        put(&store, start..start + 10);
        store.flush();
        assert_eq!(left(), expected);
        if cfg!(unix) && start == 10 {
            has(&reader, 0..10);
        }
    }
    // Its own are never deleted: the last ones were not stored, and are in memory.
    assert_eq!(segments(root.path(), EXTRACTOR).len(), 3);
    let notes = store.notes();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("not stored"), "{notes:?}");
    has(&store, 0..40);
    assert_eq!(
        open(root.path()).missing(&keys(0..40)),
        (30..40).collect::<Vec<_>>()
    );
}

fn age_all(folder: &Path, seconds: u64) {
    for file in files(folder) {
        age(&file, seconds);
    }
}

#[test]
fn what_would_not_fit_in_any_case_deletes_nothing() {
    let root = tempfile::tempdir().unwrap();
    put(&open_with(root.path(), OTHER, 1 << 20, 1 << 20), 0..10);
    let store = open_with(root.path(), EXTRACTOR, 1 << 20, SEGMENT + 10 * ROW);
    put(&store, 0..11);
    store.flush();
    assert_eq!(segments(root.path(), OTHER).len(), 1);
    assert!(segments(root.path(), EXTRACTOR).is_empty());
    has(&store, 0..11);
}

#[test]
fn without_room_in_memory_and_on_the_disk_rows_are_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = open_with(root.path(), EXTRACTOR, 400 * VALUES, 0);
    for start in (0..1000).step_by(100) {
        put(&store, start..start + 100);
        assert!(store.stats().rows_in_memory <= 400);
    }
    assert_eq!(store.notes().len(), 1);
    assert_eq!(store.stats().rows_in_memory, 300);
    has(&store, 0..300);
    assert!(store.get(&keys(300..301)).is_none());
    // Nor does it end anything.
    put(&store, 300..301);
    has(&store, 300..301);
    drop(store);
    assert!(segments(root.path(), EXTRACTOR).is_empty());
}

#[test]
fn a_store_that_was_used_is_young_again() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..2);
    let store = open_with(root.path(), EXTRACTOR, 0, 1 << 20);
    let path = segment(root.path());
    let is_young = || {
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed();
        age.unwrap_or_default() < Duration::from_secs(60)
    };
    assert!(is_young());
    age(&path, 1000);
    store.flush();
    assert!(!is_young());
    has(&store, 0..1);
    store.flush();
    assert!(is_young());
}

#[test]
fn a_folder_that_cannot_be_had_is_a_note() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let store = open(&file);
    put(&store, 0..3);
    store.flush();
    let guard = store.computing(|| panic!("nothing to wait for"));
    assert!(guard.is_some());
    has(&store, 0..3);
    let notes = store.notes();
    assert!(
        notes.len() >= 2 && notes.iter().all(|note| note.contains("file")),
        "{notes:?}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"");
}
