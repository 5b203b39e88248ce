use everburn_core::ClassId;
use svg::node::element::{Group, Line, Path, Rectangle, Text};
use svg::{Document, Node};

use super::density::{Density, scaled};
use super::{grouped, title};
use crate::Manifest;

/// From few samples to many: one hue, evenly darker.
const SHADES: [&str; 5] = ["#d6e6f4", "#a6cde8", "#62a5d6", "#2874b4", "#0a3d78"];
const INK: &str = "#222222";
const FAINT: &str = "#666666";
const FONTS: &str = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif";

/// Finer than this no screen shows; more would only make the file larger.
const MAX_COLUMNS: usize = 200;
const MAX_ROWS: usize = 100;

/// The place of the heat map, in pixels.
const LEFT: usize = 80;
const TOP: usize = 92;
const WIDTH: usize = 820;
/// Below the heat map.
const BOTTOM: usize = 136;
const RIGHT: usize = 40;
/// The least room between borders that are drawn over the heat map.
const FULL_BORDER: usize = 12;
/// The least room between marks of borders above it.
const SHORT_BORDER: usize = 3;
/// The least room for a row whose class is named.
const NAMED_ROW: usize = 12;

/// A drawing as a self-contained SVG document.
///
/// `labels` are the labels of the data set; samples without a label are left out. Samples and
/// classes are binned, so that the document stays small however long the stream.
pub fn svg(manifest: &Manifest, labels: &[ClassId]) -> String {
    let density = Density::new(manifest, labels, MAX_ROWS, MAX_COLUMNS);
    let height = (density.rows * 16).clamp(120, 420);
    let (total_width, total_height) = (LEFT + WIDTH + RIGHT, TOP + height + BOTTOM);
    let parts = title(manifest);
    let (name, facts) = parts
        .split_first()
        .map_or(("", &[][..]), |(n, f)| (n.as_str(), f));
    let mut document = Document::new()
        .set("viewBox", format!("0 0 {total_width} {total_height}"))
        .set("width", total_width)
        .set("height", total_height)
        .set("font-family", FONTS)
        .set("font-size", 13)
        .set("fill", INK)
        .set("role", "img")
        .add(svg::node::element::Title::new(format!(
            "Classes over the stream {name}"
        )))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "#ffffff"),
        )
        .add(
            text(LEFT, 32, "start", name)
                .set("font-size", 20)
                .set("font-weight", "bold"),
        )
        .add(text(LEFT, 54, "start", &facts.join(" · ")).set("fill", FAINT));
    if density.classes.is_empty() {
        let (x, y) = (LEFT + WIDTH / 2, TOP + height / 2);
        document.append(text(x, y, "middle", "no samples"));
        return document.to_string();
    }
    document.append(heat_map(&density, height));
    document.append(tasks(manifest, density.samples, height));
    document.append(horizontal_axis(density.samples, height));
    document.append(vertical_axis(&density, height));
    document.append(legend(manifest, &density, TOP + height + 76));
    document.to_string()
}

fn text(x: usize, y: usize, anchor: &str, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
}

/// The cells, in the heat map's own measure of one unit for a row and a column: a path for each
/// shade.
fn heat_map(density: &Density, height: usize) -> Group {
    let mut paths = vec![String::new(); SHADES.len()];
    for (row, counts) in density.row_counts().enumerate() {
        let mut column = 0;
        let shade = |count: &usize| density.shade(*count, SHADES.len());
        for run in counts.chunk_by(|a, b| shade(a) == shade(b)) {
            let length = run.len();
            let number = run.first().map_or(0, shade);
            if let Some(path) = paths.get_mut(number.wrapping_sub(1)) {
                path.push_str(&format!("M{column} {row}h{length}v1h-{length}z"));
            }
            column += length;
        }
    }
    let x_scale = WIDTH as f64 / density.columns as f64;
    let y_scale = height as f64 / density.rows as f64;
    let place = format!("translate({LEFT} {TOP}) scale({x_scale:.4} {y_scale:.4})");
    let group = Group::new()
        .set("transform", place)
        .set("shape-rendering", "crispEdges");
    let filled = paths
        .into_iter()
        .zip(SHADES)
        .filter(|(path, _)| !path.is_empty());
    filled.fold(group, |group, (path, shade)| {
        group.add(Path::new().set("d", path).set("fill", shade))
    })
}

/// Borders between tasks, and the tasks' numbers where there is room.
fn tasks(manifest: &Manifest, samples: usize, height: usize) -> Group {
    let places = manifest
        .starts()
        .into_iter()
        .zip(&manifest.tasks)
        .enumerate();
    let places: Vec<(usize, usize, usize)> = places
        .filter(|(_, (_, task))| !task.indices.is_empty())
        .map(|(number, (start, task))| {
            let pixel = |position| LEFT + scaled(position, WIDTH, samples);
            (number, pixel(start), pixel(start + task.indices.len()))
        })
        .collect();
    let mut group = Group::new().set("font-size", 12).set("fill", FAINT);
    let mut end_of_last_name = 0;
    for (number, start, end) in &places {
        let middle = usize::midpoint(*start, *end);
        let name = [format!("task {number}"), number.to_string()];
        let name = name.into_iter().find(|name| {
            // A letter of this size is about 7 pixels wide.
            let half = name.len() * 7 / 2 + 2;
            end - start >= 2 * half && middle - half >= end_of_last_name
        });
        if let Some(name) = name {
            end_of_last_name = middle + name.len() * 7 / 2;
            group.append(text(middle, TOP - 10, "middle", &name));
        }
    }
    let starts = places.iter().skip(1).map(|(_, start, _)| *start);
    let path = border_path(starts, places.len() * FULL_BORDER <= WIDTH, height);
    if path.is_empty() {
        return group;
    }
    group.add(border(manifest, Path::new().set("d", path)))
}

/// Lines over the heat map, or where they would hide it marks above it, as far as they can be told
/// apart.
fn border_path(starts: impl Iterator<Item = usize>, full: bool, height: usize) -> String {
    let length = if full { height + 6 } else { 6 };
    let mut path = String::new();
    let mut last = 0;
    for start in starts {
        if start >= last + SHORT_BORDER {
            path.push_str(&format!("M{start} {}v{length}", TOP - 6));
            last = start;
        }
    }
    path
}

/// A border is a full line where the learner is told of it.
fn border(manifest: &Manifest, path: Path) -> Path {
    let dashes = if manifest.borders { "none" } else { "4 3" };
    path.set("stroke", "#d1495b")
        .set("stroke-width", 1.2)
        .set("stroke-dasharray", dashes)
}

/// At most so many round numbers from 0 to `end`.
fn ticks(end: usize, most: usize) -> Vec<usize> {
    let rough = end.div_ceil(most.max(1)).max(1);
    let power = 10_usize.saturating_pow(rough.ilog10());
    let round = [1, 2, 5, 10].map(|digit| power.saturating_mul(digit));
    let step = round
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    (0..=end).step_by(step).collect()
}

fn horizontal_axis(samples: usize, height: usize) -> Group {
    let bottom = TOP + height;
    let mut group = Group::new().set("font-size", 12).add(
        Rectangle::new()
            .set("x", LEFT)
            .set("y", TOP)
            .set("width", WIDTH)
            .set("height", height)
            .set("fill", "none")
            .set("stroke", FAINT),
    );
    for tick in ticks(samples, 10) {
        let x = LEFT + scaled(tick, WIDTH, samples);
        group.append(mark(x, bottom, x, bottom + 5));
        group.append(text(x, bottom + 19, "middle", &grouped(tick)));
    }
    let label = "samples of the stream";
    group.add(text(LEFT + WIDTH / 2, bottom + 40, "middle", label).set("font-size", 13))
}

fn mark(x1: usize, y1: usize, x2: usize, y2: usize) -> Line {
    let line = Line::new()
        .set("x1", x1)
        .set("y1", y1)
        .set("x2", x2)
        .set("y2", y2);
    line.set("stroke", FAINT)
}

/// The numbers of the classes where each row has room for one, else their places in the order of
/// first appearance.
fn vertical_axis(density: &Density, height: usize) -> Group {
    let classes = density.classes.len();
    let mut group = Group::new().set("font-size", 12);
    let named = classes == density.rows && height >= NAMED_ROW * classes;
    if named {
        for (rank, class) in density.classes.iter().enumerate() {
            let y = TOP + scaled(2 * rank + 1, height, 2 * classes) + 4;
            group.append(text(LEFT - 9, y, "end", &class.0.to_string()));
        }
    } else {
        for tick in ticks(classes, 8) {
            let y = TOP + scaled(tick, height, classes);
            group.append(mark(LEFT - 5, y, LEFT, y));
            group.append(text(LEFT - 9, y + 4, "end", &grouped(tick)));
        }
    }
    let label = match named {
        true => "class, by first appearance",
        false => "classes, by first appearance",
    };
    let (x, y) = (24, TOP + height / 2);
    let turned = text(x, y, "middle", label).set("transform", format!("rotate(-90 {x} {y})"));
    group.add(turned.set("font-size", 13))
}

/// What the shades and the lines mean.
fn legend(manifest: &Manifest, density: &Density, top: usize) -> Group {
    let mut group = Group::new().set("font-size", 12);
    let mut x = LEFT;
    for (number, shade) in (1..).zip(SHADES) {
        let Some((first, last)) = density.shade_range(number, SHADES.len()) else {
            continue;
        };
        let label = match first == last {
            true => grouped(first),
            false => format!("{}–{}", grouped(first), grouped(last)),
        };
        let swatch = Rectangle::new()
            .set("x", x)
            .set("y", top)
            .set("fill", shade);
        group.append(swatch.set("width", 18).set("height", 14));
        group.append(text(x + 24, top + 12, "start", &label));
        x += 40 + label.chars().count() * 7;
    }
    let samples = grouped(density.samples.div_ceil(density.columns.max(1)));
    let cell = match density.classes.len().div_ceil(density.rows.max(1)) {
        1 => format!("of {samples} samples are of the class"),
        classes => format!("of {samples} samples are of the row's {classes} classes"),
    };
    group.append(text(x, top + 12, "start", &cell));
    let told = if manifest.borders { "told" } else { "not told" };
    let label = format!("task border, {told} to the learner");
    group.append(text(LEFT + 24, top + 37, "start", &label));
    let path = Path::new().set("d", format!("M{} {}v18", LEFT + 9, top + 24));
    group.add(border(manifest, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            ticks(50_000, 10),
            (0..=10).map(|i| i * 5000).collect::<Vec<_>>()
        );
        assert_eq!(ticks(7, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ticks(0, 8), [0]);
        for end in [1, 9, 11, 99, 101, 12_345, 999_999, u32::MAX as usize] {
            assert!((2..=11).contains(&ticks(end, 10).len()), "{end}");
        }
    }
}
