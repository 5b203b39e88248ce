//! Draws which classes a stream brings when: classes as rows, in the order of their first
//! appearance, and the stream as columns.
//!
//! ```
//! use everburn_core::ClassId;
//! use everburn_stream::{Scenario, SplitTasks, show};
//! let labels: Vec<ClassId> = (0..60).map(|i| ClassId(i % 6)).collect();
//! let manifest = SplitTasks::even(3)?.compile(&labels, 6, 1993)?;
//! let drawing = show::terminal(&manifest, &labels, 60, 20);
//! assert!(drawing.contains("split-3"));
//! assert!(show::svg(&manifest, &labels).starts_with("<svg"));
//! # Ok::<(), everburn_core::Error>(())
//! ```

mod density;
mod svg;
mod terminal;

pub use svg::svg;
pub use terminal::terminal;

use crate::Manifest;

/// What stands above a drawing.
fn title(manifest: &Manifest) -> Vec<String> {
    let told = if manifest.borders { "told" } else { "not told" };
    let pass = if manifest.online {
        "single pass"
    } else {
        "several epochs"
    };
    // A name read from a file may hold anything.
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    vec![
        manifest.scenario.chars().map(printable).collect(),
        format!("seed {}", manifest.seed),
        counted(manifest.len(), "sample"),
        format!("{}, borders {told}", counted(manifest.tasks.len(), "task")),
        pass.to_owned(),
    ]
}

/// So many things.
fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number))
}

/// A number with commas between its thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
