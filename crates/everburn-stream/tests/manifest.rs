//! Manifests on disk, and manifests that are not right.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::ClassId;
use everburn_stream::{Manifest, ManifestTask, Scenario, SiBlurry, SplitTasks};

fn labels() -> Vec<ClassId> {
    (0..40).map(|i| ClassId(i % 8)).collect()
}

fn manifest() -> Manifest {
    SplitTasks::even(4)
        .unwrap()
        .compile(&labels(), 8, 3)
        .unwrap()
}

fn text() -> String {
    let mut file = Vec::new();
    manifest().write_jsonl(&mut file).unwrap();
    String::from_utf8(file).unwrap()
}

fn refusal(text: &str) -> String {
    Manifest::read_jsonl(text.as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn files_come_back_compressed_or_not() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["manifest.jsonl.zst", "manifest.jsonl", "manifest"] {
        let path = folder.path().join(name);
        manifest().save(&path).unwrap();
        // A second time over the first.
        manifest().save(&path).unwrap();
        assert_eq!(Manifest::load(&path).unwrap(), manifest());
        let plain = std::fs::read(&path).unwrap().starts_with(b"{");
        assert_eq!(plain, name == "manifest.jsonl");
    }
    // Nothing but the three files is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl.zst");
    let error = Manifest::load(&path).unwrap_err().to_string();
    assert!(error.contains("m.jsonl.zst"), "{error}");
    manifest().save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = Manifest::load(&path).unwrap_err().to_string();
        assert!(error.contains("m.jsonl.zst"), "{error}");
    }
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        if let Ok(read) = Manifest::load(&path) {
            assert_eq!(read, manifest());
        }
    }
    let nowhere = folder.path().join("no/such/folder/m.jsonl");
    let error = manifest().save(&nowhere).unwrap_err().to_string();
    assert!(
        error.contains("writing manifest") && error.contains("no/such"),
        "{error}"
    );
}

#[test]
fn what_was_changed_is_said() {
    let text = text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(refusal("").contains("an empty file"));
    assert!(refusal("hello\n").contains("manifest, line 1: found expected value, column 1"));
    assert!(refusal(&lines[..3].join("\n")).contains("tasks up to its end: found 2, expected 4"));
    let cut = refusal(&text[..text.len() - 9]);
    assert!(
        cut.contains("line 5") && cut.contains("may be cut off"),
        "{cut}"
    );
    let more = refusal(&format!("{text}{}\n", lines[1]));
    assert!(more.contains("line 6: found another line"), "{more}");
    let swapped = refusal(&[lines[0], lines[2], lines[1], lines[3], lines[4]].join("\n"));
    assert!(
        swapped.contains("line 2, field `task`: found task 1"),
        "{swapped}"
    );

    let edited = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        refusal(&text.replacen(from, to, 1))
    };
    let version = edited("\"version\":1", "\"version\":2");
    assert!(
        version.contains("field `version`: found 2, expected 1"),
        "{version}"
    );
    assert!(edited("everburn-manifest", "other").contains("field `format`: found other"));
    assert!(edited("\"seed\":3", "\"seed\":4").contains("the content was changed"));
    assert!(edited("split-4", "split-5").contains("the content was changed"));
    assert!(edited("\"samples\":40", "\"samples\":41").contains("found 40, expected 41"));
    assert!(edited("\"borders\":true", "\"borders\":false").contains("hash"));
    assert!(edited("\"online\"", "\"offline\"").contains("unknown field `offline`"));
    assert!(edited("\"indices\":[", "\"indices\":[4294967296,").contains("line 2"));
    assert!(edited("\"indices\":[", "\"indices\":[7,").contains("samples in all tasks"));
}

#[test]
fn validation_names_what_is_wrong() {
    let labels = labels();
    manifest().validate(&labels).unwrap();
    let wrong = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        manifest.validate(&labels).unwrap_err().to_string()
    };
    let contains = |error: String, expected: &str| assert!(error.contains(expected), "{error}");
    contains(
        wrong(&|m| m.num_samples = 39),
        "labels of the data set: found 40, expected 39",
    );
    contains(
        wrong(&|m| m.num_classes = usize::MAX),
        "field `num_classes`",
    );
    contains(
        wrong(&|m| m.tasks[1].indices[0] = 40),
        "field `indices` of task 1",
    );
    let twice = wrong(&|m| m.tasks[3].indices[0] = m.tasks[0].indices[2]);
    contains(
        twice,
        "already in task 0, expected every sample at most once",
    );
    contains(
        wrong(&|m| m.tasks[2].classes[0] = ClassId(8)),
        "expected below the 8 classes",
    );
    contains(
        wrong(&|m| m.class_order[0] = ClassId(9)),
        "field `class_order`",
    );
    contains(
        wrong(&|m| m.class_order[0] = m.class_order[1]),
        "twice, expected every class",
    );
    contains(
        wrong(&|m| m.tasks[0].classes.reverse()),
        "in the manifest's class order",
    );
    contains(
        wrong(&|m| m.tasks[0].classes.truncate(1)),
        "expected one of the task's classes",
    );
    let idle = wrong(&|m| {
        let classes = m.tasks[0].classes.clone();
        m.tasks[0].indices.retain(|i| ClassId(i % 8) != classes[0]);
    });
    contains(idle, "of which the task has no sample");
    // An empty task, and samples left out, are no fault.
    let mut fewer = manifest();
    fewer.tasks[1] = ManifestTask::default();
    fewer.validate(&labels).unwrap();
}

#[test]
fn every_field_changes_the_hash() {
    let changes: [&dyn Fn(&mut Manifest); 12] = [
        &|_| {},
        &|m| m.scenario.push('x'),
        &|m| drop(m.settings.insert("order".to_owned(), "natural".to_owned())),
        &|m| m.seed += 1,
        &|m| m.num_samples += 1,
        &|m| m.num_classes += 1,
        &|m| m.class_order.swap(0, 1),
        &|m| m.online = true,
        &|m| m.borders = false,
        &|m| m.tasks[0].classes.swap(0, 1),
        &|m| m.tasks[0].indices.swap(0, 1),
        &|m| m.tasks.push(ManifestTask::default()),
    ];
    let hash = |change: &&dyn Fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        manifest.hash()
    };
    let hashes: std::collections::BTreeSet<String> = changes.iter().map(hash).collect();
    assert_eq!(hashes.len(), changes.len());
}

#[test]
fn ten_million_samples_take_seconds() {
    let labels: Vec<ClassId> = (0..10_000_000_u32).map(|i| ClassId(i % 1000)).collect();
    let split = SplitTasks::even(100).unwrap();
    let scenarios: [&dyn Scenario; 2] = [&split, &SiBlurry::default()];
    for scenario in scenarios {
        let start = std::time::Instant::now();
        let manifest = scenario.compile(&labels, 1000, 1).unwrap();
        let compiled = start.elapsed();
        manifest.validate(&labels).unwrap();
        let hash = manifest.hash();
        let all = start.elapsed();
        assert_eq!((manifest.len(), hash.len()), (10_000_000, 64));
        // Quadratic work would take hours; a busy machine may take a while.
        assert!(all.as_secs() < 120, "compiled {compiled:?}, in all {all:?}");
    }
}
