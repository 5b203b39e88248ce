//! Drawings, in part by how they look.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::ClassId;
use everburn_stream::{Manifest, Scenario, SplitTasks, scenario, show};

fn interleaved(classes: u32, samples: u32) -> Vec<ClassId> {
    (0..samples).map(|i| ClassId(i % classes)).collect()
}

#[test]
fn a_split_looks_like_stairs() {
    let labels = interleaved(6, 120);
    let scenario = SplitTasks::even(3).unwrap();
    let manifest = scenario.compile(&labels, 6, 1993).unwrap();
    let drawing = show::terminal(&manifest, &labels, 36, 10);
    assert_eq!(drawing, STAIRS, "\n{drawing}");
}

const STAIRS: &str = "\
split-3 · seed 1993 · 120 samples
3 tasks, borders told
several epochs
 task 0         1         2
class┌──────────┬─────────┬─────────
    0│██████████┊         ┊
    2│██████████┊         ┊
    3│          ██████████┊
    4│          ██████████┊
    1│          ┊         ██████████
    5│          ┊         ██████████
     └──────────┴─────────┴─────────
      0        samples           120
▓ 1  █ 2 samples  ┊ task
↓ classes as they first appear
";

#[test]
fn lines_and_rows_keep_to_their_limits() {
    let labels = interleaved(100, 20_000);
    let manifest = scenario("si-blurry")
        .unwrap()
        .compile(&labels, 100, 1)
        .unwrap();
    for (width, height) in [(80, 24), (120, 100), (40, 5), (61, 33)] {
        let drawing = show::terminal(&manifest, &labels, width, height);
        assert!(
            drawing.lines().all(|line| line.chars().count() <= width),
            "\n{drawing}"
        );
        let rows = drawing.lines().filter(|line| line.contains('│')).count();
        assert_eq!(rows, height.min(100), "\n{drawing}");
        if let Some(folder) = std::env::var_os("EVERBURN_SHOW_DIR") {
            let path = std::path::Path::new(&folder).join(format!("{width}x{height}.txt"));
            std::fs::write(path, drawing).unwrap();
        }
    }
}

#[test]
fn a_document_stays_small() {
    for (name, classes, samples) in [
        ("split-5", 10, 5_000),
        ("split-b50-inc10", 100, 50_000),
        ("split-100", 100, 500_000),
        ("si-blurry", 100, 50_000),
        ("si-blurry+borders", 10, 2_000),
        ("split-1000", 2000, 4_000),
        ("split-1", 1, 1),
    ] {
        let labels = interleaved(classes, samples);
        let manifest = scenario(name)
            .unwrap()
            .compile(&labels, classes as usize, 1)
            .unwrap();
        let document = show::svg(&manifest, &labels);
        let elements = document.matches('<').count();
        assert!(elements < 350, "{name}: {elements} elements");
        assert!(document.len() < 200_000, "{name}: {} bytes", document.len());
        assert!(document.contains(name));
        // The same on every call, whatever maps lie below.
        assert_eq!(document, show::svg(&manifest, &labels));
        if let Some(folder) = std::env::var_os("EVERBURN_SHOW_DIR") {
            let path = std::path::Path::new(&folder).join(format!("{name}.svg"));
            std::fs::write(path, document).unwrap();
        }
    }
}

#[test]
fn names_from_files_are_made_harmless() {
    let manifest = Manifest {
        scenario: "<script>&\u{1b}[31m\"".to_owned(),
        ..Manifest::default()
    };
    let document = show::svg(&manifest, &[]);
    assert!(!document.contains("<script>") && document.contains("&lt;script&gt;&amp;"));
    assert!(!document.contains('\u{1b}'));
    let drawing = show::terminal(&manifest, &[], 80, 10);
    assert!(!drawing.contains('\u{1b}') && drawing.contains("no samples"));
}
