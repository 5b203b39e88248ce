//! The catalogue, loading by name, and the embedded digits.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_data::{FileState, Preprocess, SplitRule, catalogue, info, load, verify};

#[test]
fn every_entry_is_complete() {
    for entry in catalogue() {
        assert_eq!(info(entry.name).unwrap(), entry);
        let page = entry.to_string();
        for part in [entry.name, entry.terms, entry.citation, entry.source] {
            assert!(!part.is_empty() && page.contains(part), "{}", entry.name);
        }
        for file in entry.files {
            let sums = [file.md5, file.packed.map(|packed| packed.md5)];
            for md5 in sums.into_iter().flatten() {
                assert!(
                    md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit()),
                    "{md5}"
                );
                assert!(page.contains(md5));
            }
        }
        let channels = entry.shape.map_or(3, |shape| shape.channels);
        for statistics in entry.normalisation {
            assert_eq!(
                (statistics.mean.len(), statistics.std.len()),
                (channels, channels)
            );
        }
        if let Some(counts) = entry.counts.filter(|_| !entry.files.is_empty()) {
            let records: usize = entry.files.iter().map(|file| file.records).sum();
            let each = if entry.files.iter().any(|f| f.packed.is_some()) {
                2
            } else {
                1
            };
            assert_eq!(
                records,
                each * (counts.train + counts.test),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn sizes_follow_from_counts() {
    for entry in catalogue() {
        for file in entry.files {
            let labels = file.name.contains("labels");
            let (header, record) = match entry.name {
                "mnist" | "fashion-mnist" if labels => (8, 1),
                "mnist" | "fashion-mnist" => (16, 784),
                "cifar10" => (0, 3073),
                _ => (0, 3074),
            };
            assert_eq!(
                file.bytes,
                header + record * file.records as u64,
                "{}",
                file.name
            );
        }
    }
}

#[test]
fn unknown_names_are_told_the_nearest() {
    for (wrong, right) in [
        ("mnits", "mnist"),
        ("cifar-10", "cifar10"),
        ("digit", "digits"),
    ] {
        let hint = format!("did you mean `{right}`?");
        assert!(
            load(wrong, None, &Preprocess::default())
                .unwrap_err()
                .to_string()
                .contains(&hint)
        );
        assert!(verify(wrong, None).unwrap_err().to_string().contains(&hint));
        assert!(info(wrong).unwrap_err().to_string().contains(&hint));
    }
    assert!(load("folder:", None, &Preprocess::default()).is_err());
    assert!(info("mnist:x").is_err());
}

#[test]
fn what_needs_a_folder_says_so() {
    for entry in catalogue().iter().filter(|entry| entry.name != "digits") {
        let error = load(entry.name, None, &Preprocess::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no data folder"), "{error}");
        assert!(verify(entry.name, None).is_err());
    }
}

#[test]
fn the_digits_are_the_digits() {
    let digits = load("digits", None, &Preprocess::default()).unwrap();
    let (train, test) = (
        digits.train.counts(10).unwrap(),
        digits.test.counts(10).unwrap(),
    );
    let both: Vec<usize> = train.iter().zip(&test).map(|(a, b)| a + b).collect();
    // As scikit-learn's documentation and the data set's own file give them.
    assert_eq!(both, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    assert_eq!(test, both.iter().map(|count| count / 5).collect::<Vec<_>>());
    assert_eq!(digits.split_rule, SplitRule::EveryFifth);
    let counts = info("digits").unwrap().counts.unwrap();
    assert_eq!(
        (digits.train.len(), digits.test.len()),
        (counts.train, counts.test)
    );
    // The first image is a zero: 0 0 5 13 9 1 0 0 / 0 0 13 15 10 15 5 0 / …, of 16.
    let expected = [
        0, 0, 80, 207, 143, 16, 0, 0, 0, 0, 207, 239, 159, 239, 80, 0,
    ];
    assert_eq!(digits.train.labels[0].0, 0);
    let images = digits.train.images.to_images().unwrap();
    assert_eq!(images.image(0)[..16], expected);
    // The order of the file is kept: the first images are 0 to 9 in turn.
    let first: Vec<u32> = digits.train.labels[..10]
        .iter()
        .map(|label| label.0)
        .collect();
    assert_eq!(first, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn the_digits_are_official() {
    let report = verify("digits", None).unwrap();
    assert!(report.is_official() && report.is_usable());
    assert_eq!(report.files[0].state, FileState::Official { records: 1797 });
    assert!(
        report
            .to_string()
            .starts_with("digits: the official data set\n")
    );
}

#[test]
fn preprocessing_is_part_of_what_is_loaded() {
    let names = Preprocess::presets().iter().map(|preset| preset.name);
    let mut identities: Vec<String> = names
        .filter(|name| !name.contains("224"))
        .map(|name| {
            let preprocess: Preprocess = name.parse().unwrap();
            let digits = load("digits", None, &preprocess).unwrap();
            assert_eq!(digits.preprocess, preprocess);
            digits.identity().unwrap()
        })
        .collect();
    let loaded = identities.len();
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), loaded);
    let wrong = Preprocess {
        size: Some(everburn_data::Size::square(0)),
        ..Preprocess::default()
    };
    assert!(
        load("digits", None, &wrong)
            .unwrap_err()
            .to_string()
            .contains("preprocess.size")
    );
}
