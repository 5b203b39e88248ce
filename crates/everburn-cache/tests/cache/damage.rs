//! Whatever lies on the disk: a row is right or absent, and nothing fails.

use std::fs;

use super::*;

/// Opens a cache in which something is wrong. What it serves must be right; then what is missing is
/// stored again, after which nothing is wrong any more.
#[track_caller]
fn heals(root: &Path, images: u64) -> u64 {
    let store = open(root);
    let mut served = 0;
    for number in 0..images {
        if let Some(row) = store.get(&[key(number)]) {
            assert!(row == rows(number..number + 1), "a wrong row {number}");
            served += 1;
        }
    }
    let notes = store.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("found") && notes[0].contains("expected"),
        "{notes:?}"
    );
    for number in store.load(&keys(0..images)) {
        let number = number as u64;
        put(&store, number..number + 1);
    }
    drop(store);
    let store = open(root);
    has(&store, 0..images);
    assert!(store.notes().is_empty());
    served
}

#[test]
fn no_flipped_bit_makes_a_wrong_row() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..4);
    let path = segment(root.path());
    let good = fs::read(&path).unwrap();
    assert_eq!(good.len() as u64, SEGMENT + 4 * ROW);
    let first_row = good.len() - 4 * (4 * DIM + 8);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            let store = open(root.path());
            let served = (0..4).filter(|&number| {
                let row = store.get(&[key(number)]);
                row.inspect(|row| assert!(*row == rows(number..number + 1)))
                    .is_some()
            });
            // The other rows of the segment are still good.
            assert_eq!(
                served.count(),
                if at < first_row { 0 } else { 3 },
                "byte {at}"
            );
            assert_eq!(store.notes().len(), 1);
            assert!(!path.exists());
            std::mem::forget(store); // It would store them.
        }
    }
    for at in (0..good.len()).step_by(5) {
        files(&root.path().join(EXTRACTOR))
            .iter()
            .for_each(|file| fs::remove_file(file).unwrap());
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        heals(root.path(), 4);
    }
}

#[test]
fn a_truncated_or_longer_file_is_absent() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..4);
    let path = segment(root.path());
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() + 3 {
        if length != good.len() {
            let mut bytes = good.clone();
            bytes.resize(length, 0);
            fs::write(&path, bytes).unwrap();
            let store = open(root.path());
            assert_eq!(store.missing(&keys(0..4)).len(), 4, "{length} bytes");
            assert_eq!(store.notes().len(), 1);
            assert!(!path.exists());
        }
    }
    fs::write(&path, &good[..100]).unwrap();
    assert_eq!(heals(root.path(), 4), 0);
}

#[test]
fn a_header_that_claims_everything_allocates_nothing() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..1);
    let path = segment(root.path());
    let good = fs::read(&path).unwrap();
    for (from, to) in [(40, 44), (44, 48), (40, 48)] {
        let mut bytes = good.clone();
        bytes[from..to].fill(0xff);
        fs::write(&path, bytes).unwrap();
        assert_eq!(open(root.path()).notes().len(), 1);
    }
}

#[test]
fn a_file_truncated_while_it_is_open_is_absent() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..4);
    let store = open(root.path());
    let path = segment(root.path());
    has(&store, 0..1);
    let length = SEGMENT + 3 * ROW;
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length)
        .unwrap();
    assert!(store.get(&keys(0..4)).is_none());
    assert_eq!(store.notes().len(), 1);
    // Row 0 was in memory. Of the others one and a half are gone.
    assert_eq!(store.load(&keys(0..4)), [2, 3]);
    drop(store);
    has(&open(root.path()), 0..2);
}

#[test]
fn what_is_sound_beside_a_damaged_row_is_stored_anew() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..10);
    let path = segment(root.path());
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(root.path());
    has(&store, 0..5);
    assert_eq!(store.load(&keys(0..10)), [9]);
    assert_eq!(store.stats().pending, 9);
    assert!(store.notes()[0].contains("row 9"));
    drop(store);
    let store = open(root.path());
    has(&store, 0..9);
    assert!(store.notes().is_empty() && !path.exists());
}

#[test]
fn a_row_in_the_place_of_another_is_absent() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..3);
    let path = segment(root.path());
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes.len() - 3 * (4 * DIM + 8);
    bytes[start..].rotate_left(4 * DIM + 8);
    fs::write(&path, bytes).unwrap();
    assert_eq!(heals(root.path(), 3), 0);
}

#[test]
fn what_is_pending_when_its_other_copy_is_lost_is_stored_once() {
    let root = tempfile::tempdir().unwrap();
    let a = open(root.path());
    put(&a, 0..2);
    store(root.path(), 0..3);
    let path = segment(root.path());
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[good.len() - 1] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(a.refresh(), 1);
    assert_eq!(a.load(&keys(0..3)), [2]);
    assert_eq!((a.stats().pending, a.stats().rows_on_disk), (2, 0));
    // Somebody computes the same again, under the same name.
    fs::write(&path, good).unwrap();
    assert_eq!(a.refresh(), 1);
    has(&a, 0..3);
    drop(a);
    segment(root.path());
}

#[test]
fn a_segment_of_another_extractor_or_size_is_absent() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..2);
    let name = segment(root.path()).file_name().unwrap().to_owned();
    let other = root.path().join(OTHER);
    fs::create_dir(&other).unwrap();
    fs::copy(segment(root.path()), other.join(&name)).unwrap();
    let store = open_with(root.path(), OTHER, 1 << 20, 1 << 20);
    assert!(store.get(&keys(0..1)).is_none());
    assert!(store.notes()[0].contains("another extractor"));
    assert!(!other.join(name).exists());

    let limits = Limits::default();
    let store = FeatureStore::open(root.path(), EXTRACTOR, DIM + 1, limits).unwrap();
    assert!(store.get(&keys(0..1)).is_none());
    let notes = store.notes();
    assert!(
        notes[0].contains("found 3 values per row, expected 4"),
        "{notes:?}"
    );
}

#[test]
fn some_other_file_is_absent() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(EXTRACTOR);
    fs::create_dir_all(&folder).unwrap();
    let name = format!("{:032x}.features", 7);
    fs::write(
        folder.join(&name),
        "a text that is long enough to hold the header of a segment",
    )
    .unwrap();
    let store = open(root.path());
    assert!(store.notes()[0].contains("found some other file"));
    fs::write(folder.join(&name), "").unwrap();
    heals(root.path(), 2);
    // A folder with the name of a segment is left alone.
    fs::create_dir(folder.join(&name)).unwrap();
    let store = open(root.path());
    has(&store, 0..2);
    assert!(store.notes().is_empty());
}

#[test]
fn leftovers_of_dead_processes_are_removed_when_they_are_old() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..2);
    let folder = root.path().join(EXTRACTOR);
    let [old, young, foreign] =
        [".everburn-cache-a.tmp", ".everburn-cache-b.tmp", "c.tmp"].map(|name| folder.join(name));
    for path in [&old, &young, &foreign] {
        fs::copy(segment(root.path()), path).unwrap();
    }
    age(&old, 3700);
    age(&young, 3500);
    age(&foreign, 3700);
    has(&open(root.path()), 0..2);
    assert!(!old.exists() && young.exists() && foreign.exists());
}
