use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use everburn_cache::{Cleared, FeatureStore, Limits, clear, summary};

use super::*;

#[test]
fn rows_come_back_bit_for_bit_from_memory_and_from_the_disk() {
    let odd = [
        f32::from_bits(0x7fc0_1234),
        f32::from_bits(0xffa0_0001), // A signalling NaN.
        -0.0,
        f32::NEG_INFINITY,
        f32::from_bits(1),
        f32::MAX,
    ];
    let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let root = tempfile::tempdir().unwrap();
    let check = |store: &FeatureStore| {
        let row = store.get(&[key(1), key(0), key(1)]).unwrap();
        let (a, b) = (bits(&odd[..DIM]), bits(&odd[DIM..]));
        assert_eq!(bits(&row), [b.clone(), a, b].concat());
    };
    for store in [FeatureStore::in_memory(DIM), open(root.path())] {
        store.put(&keys(0..2), &odd).unwrap();
        check(&store);
        store.flush();
        check(&store);
    }
    let store = open(root.path());
    check(&store);
    // Now from memory.
    fs::remove_file(segment(root.path())).unwrap();
    check(&store);
}

#[test]
fn a_second_store_sees_what_the_first_has_stored() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (open(root.path()), open(root.path()));
    assert!(files(root.path()).is_empty(), "reading makes no folders");
    put(&first, 0..5);
    assert_eq!(second.refresh(), 0);
    first.flush();
    assert_eq!(second.missing(&keys(3..7)), [0, 1, 2, 3]);
    assert_eq!(second.refresh(), 5);
    assert_eq!(second.refresh(), 0);
    assert_eq!(second.missing(&keys(3..7)), [2, 3]);
    assert_eq!(second.load(&keys(3..7)), [2, 3]);
    assert!(second.contains(&key(4)) && !second.contains(&key(5)));
    has(&second, 0..5);
    assert!(second.get(&keys(0..6)).is_none());
    has(&open(root.path()), 0..5);
    assert!(
        open_with(root.path(), OTHER, 1 << 20, 1 << 20)
            .get(&keys(0..1))
            .is_none()
    );
    for store in [first, second] {
        assert!(store.notes().is_empty());
    }
}

#[test]
fn the_last_clone_stores_what_is_pending() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path());
    let second = first.clone();
    put(&second, 0..3);
    drop(first);
    assert_eq!(second.stats().pending, 3);
    drop(second);
    has(&open(root.path()), 0..3);
}

#[test]
fn an_image_keeps_its_first_row_and_is_stored_once() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    put(&store, 0..2);
    store
        .put(&[key(1), key(2), key(2)], &[7.; 3 * DIM])
        .unwrap();
    store.flush();
    store.put(&[key(1)], &[8.; DIM]).unwrap();
    has(&store, 0..2);
    assert_eq!(store.get(&[key(2)]), Some(vec![7.; DIM]));
    // A row on the disk is one as well, even if it has not been read.
    let unread = open(root.path());
    unread.put(&[key(1)], &[8.; DIM]).unwrap();
    has(&unread, 0..2);
    // Both know an image: the second to store it leaves it out.
    let (a, b) = (open(root.path()), open(root.path()));
    put(&a, 5..8);
    put(&b, 6..9);
    a.flush();
    assert_eq!(b.refresh(), 1);
    b.flush();
    assert_eq!(b.stats().rows_on_disk, 7);
    let rows: u64 = summary(root.path()).unwrap().iter().map(|s| s.rows).sum();
    assert_eq!(rows, 7);
}

#[test]
fn the_same_rows_get_the_same_name() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (open(root.path()), open(root.path()));
    put(&a, 0..3);
    put(&b, 0..3);
    drop((a, b));
    segment(root.path());
    has(&open(root.path()), 0..3);
}

#[test]
fn it_counts_what_it_holds_and_answers() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 0..4);
    let store = open(root.path());
    has(&store, 0..2);
    has(&store, 0..2);
    assert!(store.get(&keys(3..7)).is_none());
    put(&store, 9..10);
    let stats = store.stats();
    // Row 3 was read before the first that is absent, and not kept.
    assert_eq!((stats.rows_in_memory, stats.pending), (3, 1));
    assert_eq!(stats.bytes_in_memory, 3 * 4 * DIM as u64);
    assert_eq!(stats.rows_on_disk, 4);
    assert_eq!(stats.bytes_on_disk, SEGMENT + 4 * ROW);
    assert_eq!(
        stats.bytes_on_disk,
        fs::metadata(segment(root.path())).unwrap().len()
    );
    assert_eq!((stats.hits, stats.misses), (4, 3));
}

#[test]
fn wrong_use_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    for extractor in [
        "",
        "../../secret",
        "0123456789ABCDEF",
        "abc",
        &"a".repeat(129),
    ] {
        let error = FeatureStore::open(root.path(), extractor, DIM, limits).unwrap_err();
        assert!(error.to_string().contains("hexadecimal"), "{error}");
    }
    assert!(FeatureStore::open(root.path(), EXTRACTOR, 0, limits).is_err());
    assert!(FeatureStore::open(root.path(), EXTRACTOR, usize::MAX, limits).is_err());
    let store = open(root.path());
    let error = store.put(&keys(0..2), &[0.; 5]).unwrap_err().to_string();
    assert_eq!(
        error,
        "features of 2 images: found 5 values, expected 3 for each"
    );
    assert!(!store.contains(&key(0)));
    assert_eq!(store.get(&[]), Some(Vec::new()));
}

#[test]
fn threads_fill_and_read_one_store() {
    let root = tempfile::tempdir().unwrap();
    // So little memory that it is stored every 64 rows, most of them are read from the disk, and more
    // segments come together than are held open.
    let store = open_with(root.path(), EXTRACTOR, 80 * 4 * DIM as u64, 1 << 20);
    thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for start in (0..3000).step_by(10).skip(thread) {
                    if !store.missing(&keys(start..start + 10)).is_empty() {
                        put(&store, start..start + 10);
                    }
                    let earlier = start / 2;
                    if store.load(&keys(earlier..earlier + 10)).is_empty() {
                        has(&store, earlier..earlier + 10);
                    }
                }
            });
        }
    });
    put(&store, 0..3000);
    store.flush();
    assert!(store.notes().is_empty());
    has(&store, 0..3000);
    assert!(store.stats().rows_in_memory <= 80);
    drop(store);
    has(&open(root.path()), 0..3000);
}

#[test]
fn more_segments_than_are_held_open_can_be_read() {
    let root = tempfile::tempdir().unwrap();
    let writer = open(root.path());
    for number in 0..150 {
        put(&writer, number..number + 1);
        writer.flush();
    }
    let store = open_with(root.path(), EXTRACTOR, 0, 1 << 20);
    has(&store, 0..150);
    has(&writer, 0..150);
    // On Unix files that are held open can be read after they are gone; the others are absent.
    clear(root.path()).unwrap();
    let held = (0..150)
        .filter(|&number| store.get(&[key(number)]).is_some())
        .count();
    if cfg!(unix) {
        assert_eq!(held, 128);
    }
    assert!(store.notes().is_empty());
    let gone = store.load(&keys(0..150));
    assert_eq!(gone.len(), 150 - held);
    for number in gone {
        put(&store, number as u64..number as u64 + 1);
    }
    has(&store, 0..150);
}

#[test]
fn a_cache_is_summed_up_and_cleared() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    assert_eq!(summary(&missing).unwrap(), []);
    assert_eq!(clear(&missing).unwrap(), Cleared::default());

    store(root.path(), 0..2);
    store(root.path(), 2..3);
    put(&open_with(root.path(), OTHER, 1 << 20, 1 << 20), 0..1);
    // Not ours: beside the extractors, among the segments, in a run's folder.
    let run = root.path().join("aaaaaaaaaaaaaaaa");
    let empty = root.path().join("bbbbbbbbbbbbbbbb");
    for folder in [&run, &empty] {
        fs::create_dir(folder).unwrap();
    }
    let foreign = [
        root.path().join("README"),
        root.path().join(EXTRACTOR).join("mine.features"),
        run.join(".lock"),
        run.join("checkpoint"),
        run.join(".everburn-x.tmp"),
    ];
    for path in &foreign {
        fs::write(path, "mine").unwrap();
    }
    fs::write(
        root.path().join(OTHER).join(".everburn-cache-x.tmp"),
        "ours",
    )
    .unwrap();

    let summed = summary(root.path()).unwrap();
    let mut by_extractor = summed.iter().filter(|summary| summary.bytes > 0);
    let first = by_extractor.next().unwrap();
    assert_eq!((&*first.extractor, first.rows), (EXTRACTOR, 3));
    assert_eq!(first.bytes, 2 * SEGMENT + 3 * ROW);
    let age = SystemTime::now().duration_since(first.last_used.unwrap());
    assert!(age.unwrap_or_default() < Duration::from_secs(60));
    let second = by_extractor.next().unwrap();
    assert_eq!((&*second.extractor, second.rows), (OTHER, 1));
    assert!(by_extractor.next().is_none());

    // A damaged segment's rows do not count, its bytes do.
    let damaged = &segments(root.path(), OTHER)[0];
    let bytes = fs::read(damaged).unwrap();
    fs::write(damaged, &bytes[1..]).unwrap();
    let second = summary(root.path()).unwrap().pop().unwrap();
    assert_eq!((second.rows, second.bytes), (0, SEGMENT + ROW - 1));

    let cleared = clear(root.path()).unwrap();
    assert_eq!(
        (cleared.segments, cleared.bytes),
        (3, 3 * SEGMENT + 4 * ROW - 1)
    );
    assert!(foreign.iter().all(|path| path.exists()) && empty.exists());
    assert!(!root.path().join(OTHER).exists());
    assert_eq!(files(&root.path().join(EXTRACTOR)).len(), 1);
    assert_eq!(open(root.path()).missing(&keys(0..3)).len(), 3);
}
