use everburn_core::ClassId;

use super::density::{Density, scaled};
use super::{grouped, title};
use crate::Manifest;

/// From few samples to many.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];

/// Fewer columns than this show nothing.
const MIN_COLUMNS: usize = 8;

/// The same for lines and rows that nobody can look at.
const MAX_SIDE: usize = 1000;

/// A drawing in Unicode text, with lines of at most `width` characters (but not narrower than the
/// axis needs) and at most `height` rows of classes.
///
/// `labels` are the labels of the data set; samples without a label are left out. Where there are
/// more classes than rows, a row stands for several.
pub fn terminal(manifest: &Manifest, labels: &[ClassId], width: usize, height: usize) -> String {
    let width = width.clamp(1, MAX_SIDE);
    let height = height.clamp(1, MAX_SIDE);
    let mut lines = wrap(&title(manifest), " · ", width);
    // The labels' width is only known with the rows, and the columns only with the labels' width.
    let rows = Density::new(manifest, labels, height, 1);
    let names: Vec<String> = (0..rows.rows).map(|row| row_name(&rows, row)).collect();
    let gutter = names.iter().map(|name| name.chars().count()).max();
    let gutter = gutter.unwrap_or(0).max("class".len());
    let columns = width.saturating_sub(gutter + 1).max(MIN_COLUMNS);
    let density = Density::new(manifest, labels, height, columns);
    if density.classes.is_empty() {
        lines.push("no samples".to_owned());
        return finish(&lines);
    }
    let borders = Borders::new(manifest, &density);
    lines.push(format!("{:>gutter$} {}", "task", borders.numbers()));
    lines.push(format!("{:>gutter$}┌{}", "class", borders.ruler('┬')));
    for (name, counts) in names.iter().zip(density.row_counts()) {
        let cells = counts.iter().zip(&borders.starts);
        let line: String = cells
            .map(|(count, start)| cell(&density, *count, *start))
            .collect();
        lines.push(format!("{name:>gutter$}│{line}"));
    }
    lines.push(format!("{:>gutter$}└{}", "", borders.ruler('┴')));
    lines.push(format!("{:>gutter$} {}", "", axis(&density)));
    lines.extend(wrap(&legend(&density), "  ", width));
    finish(&lines)
}

fn cell(density: &Density, count: usize, start: bool) -> char {
    let shade = density.shade(count, SHADES.len());
    match SHADES.get(shade.wrapping_sub(1)) {
        Some(shade) => *shade,
        None if start => '┊',
        None => ' ',
    }
}

/// A class's number, or where there are several the places of the first and the last.
fn row_name(density: &Density, row: usize) -> String {
    let ranks = density.ranks(row);
    if density.rows < density.classes.len() {
        return match ranks.len() {
            1 => format!("#{}", ranks.end),
            _ => format!("#{}–{}", ranks.start + 1, ranks.end),
        };
    }
    let class = density.classes.get(ranks.start);
    class.map(|class| class.0.to_string()).unwrap_or_default()
}

/// Where tasks begin.
struct Borders {
    /// Whether a task begins in a column.
    starts: Vec<bool>,
    /// The columns in which tasks with samples begin, and the tasks' numbers.
    tasks: Vec<(usize, usize)>,
}

impl Borders {
    fn new(manifest: &Manifest, density: &Density) -> Self {
        let mut starts = vec![false; density.columns];
        let mut tasks = Vec::new();
        let places = manifest.starts().into_iter().zip(&manifest.tasks);
        for (number, (start, task)) in places.enumerate() {
            let column = scaled(start, density.columns, density.samples);
            if let Some(mark) = starts.get_mut(column)
                && !task.indices.is_empty()
            {
                // The beginning of the stream needs no mark.
                *mark = start > 0;
                tasks.push((column, number));
            }
        }
        Self { starts, tasks }
    }

    /// The numbers of the tasks above their first columns, as far as they fit.
    fn numbers(&self) -> String {
        let mut line = String::new();
        for (column, number) in &self.tasks {
            let number = number.to_string();
            let fits = column + number.len() <= self.starts.len();
            if fits && (line.is_empty() || line.len() < *column) {
                line += &" ".repeat(column - line.len());
                line += &number;
            }
        }
        line
    }

    /// A horizontal line with a mark where a task begins.
    fn ruler(&self, mark: char) -> String {
        let point = |start: &bool| if *start { mark } else { '─' };
        self.starts.iter().map(point).collect()
    }
}

/// The first and last sample's number, and the one between them.
fn axis(density: &Density) -> String {
    let columns = density.columns;
    let last = grouped(density.samples);
    let unit = "samples";
    let ends = columns.saturating_sub(last.len() + 1);
    if ends > 2 * unit.len() + 2 {
        let middle = format!("{unit:^ends$}");
        return format!(
            "0{}{last}",
            middle.get(1..).unwrap_or_default().to_owned() + " "
        );
    }
    format!("0–{last} {unit}")
}

fn legend(density: &Density) -> Vec<String> {
    let shade = |(number, shade): (usize, &char)| {
        let (first, last) = density.shade_range(number, SHADES.len())?;
        Some(match first == last {
            true => format!("{shade} {first}"),
            false => format!("{shade} {first}–{last}"),
        })
    };
    let mut parts: Vec<String> = (1..).zip(&SHADES).filter_map(shade).collect();
    if let Some(last) = parts.last_mut() {
        *last += " samples";
    }
    parts.push("┊ task".to_owned());
    parts.push("↓ classes as they first appear".to_owned());
    if density.rows < density.classes.len() {
        parts.push(format!(
            "({} in {} rows)",
            density.classes.len(),
            density.rows
        ));
    }
    parts
}

/// Parts joined into lines of at most `width` characters, unless a part alone is longer.
fn wrap(parts: &[String], separator: &str, width: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if length(line) + length(separator) + length(part) <= width => {
                line.push_str(separator);
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

/// Lines without blanks at their ends.
fn finish(lines: &[String]) -> String {
    let line = |line: &String| format!("{}\n", line.trim_end());
    lines.iter().map(line).collect()
}
