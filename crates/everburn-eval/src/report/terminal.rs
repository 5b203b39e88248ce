use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Grid};

use super::{Differences, Report, Table};
use crate::format::wrapped;

/// A line under the head and nothing else, in the order of comfy-table's presets.
const PRESET: &str = "     ──            ";

impl Report {
    /// The tables for a terminal of so many columns, each under a title that says what its rows
    /// have in common, and the legend. Cells that do not fit are broken into lines.
    pub fn terminal(&self, width: u16) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text += &wrapped(&table.name(), "", 2, width.into());
            text += &wrapped(&table.caption(), "", 2, width.into());
            text += &grid(table, width);
            text.push('\n');
            for differences in table.shown_differences() {
                text += &pairs(differences, width);
                text.push('\n');
            }
        }
        for entry in self.legend() {
            text += &wrapped(
                &format!("{}: {}", entry.term, entry.text),
                "",
                2,
                width.into(),
            );
        }
        text
    }
}

fn grid(table: &Table, width: u16) -> String {
    let heads = table.heads();
    let mut grid = empty(width);
    let names = heads.iter().map(|head| Cell::new(head.label));
    let columns = table
        .columns
        .iter()
        .map(|column| right(column.label.clone()));
    grid.set_header(names.chain(columns));
    for row in &table.rows {
        let names = heads.iter().map(|head| Cell::new((head.value)(row)));
        grid.add_row(names.chain(table.texts(row).map(right)));
    }
    text(grid)
}

/// The paired differences of one metric.
fn pairs(differences: &Differences, width: u16) -> String {
    let mut grid = empty(width);
    let label = right(differences.column.label.clone());
    grid.set_header([Cell::new("paired differences"), label, Cell::new("")]);
    for pair in &differences.pairs {
        let (name, number, note) = (pair.name(), pair.difference(), pair.note());
        grid.add_row([Cell::new(name), right(number), Cell::new(note)]);
    }
    text(grid)
}

fn empty(width: u16) -> Grid {
    let mut grid = Grid::new();
    grid.load_preset(PRESET)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    grid
}

fn text(mut grid: Grid) -> String {
    for column in grid.column_iter_mut() {
        column.set_padding((0, 1));
    }
    grid.trim_fmt() + "\n"
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
