use super::{Differences, Report, Table};

impl Report {
    /// The tables and the legend in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text += &format!("### {}\n\n", escaped(&table.name()));
            text += &format!("{}\n\n", escaped(&table.caption()));
            text += &rows(table);
            text.push('\n');
            for differences in table.shown_differences() {
                text += &pairs(differences);
                text.push('\n');
            }
        }
        for entry in self.legend() {
            let meaning = match entry.formula {
                true => format!("`{}`", entry.text),
                false => entry.text,
            };
            text += &format!("- **{}**: {meaning}\n", escaped(&entry.term));
        }
        text
    }
}

fn rows(table: &Table) -> String {
    let heads = table.heads();
    let names = heads.iter().map(|head| head.label.to_owned());
    let columns = table.columns.iter().map(|column| column.label.clone());
    let mut text = line(names.chain(columns));
    let left = heads.iter().map(|_| ":--");
    let right = table.columns.iter().map(|_| "--:");
    text += &format!("|{}|\n", left.chain(right).collect::<Vec<_>>().join("|"));
    for row in &table.rows {
        let names = heads.iter().map(|head| (head.value)(row));
        text += &line(names.chain(table.texts(row)));
    }
    text
}

/// The paired differences of one metric.
fn pairs(differences: &Differences) -> String {
    let head = ["paired differences", &differences.column.label, ""];
    let mut text = line(head.map(str::to_owned).into_iter());
    text += "|:--|--:|:--|\n";
    for pair in &differences.pairs {
        text += &line([pair.name(), pair.difference(), pair.note()].into_iter());
    }
    text
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.map(|cell| escaped(&cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Names come from configurations: what would end a cell or a line, or begin a tag, is defused.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' => safe.push(' '),
            '|' | '<' | '\\' | '`' | '*' | '[' | ']' => {
                safe.push('\\');
                safe.push(character);
            }
            _ => safe.push(character),
        }
    }
    safe
}
