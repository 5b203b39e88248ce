//! Numbers as people read them, and lines as tables read them.

use everburn_core::{Error, Result};

/// What stands for a number that is not defined or was not measured.
pub const MISSING: &str = "–";

/// A fraction in percent with two decimals and without the sign: `0.8312` is `83.12`.
///
/// ```
/// use everburn_eval::format::percent;
/// assert_eq!(percent(0.83124), "83.12");
/// assert_eq!(percent(-0.00001), "0.00");
/// assert_eq!(percent(f64::NAN), "–");
/// ```
pub fn percent(fraction: f64) -> String {
    fixed(fraction * 100.0, 2)
}

/// A difference of fractions in percentage points, with its sign: `0.0521` is `+5.21`.
///
/// ```
/// use everburn_eval::format::points;
/// assert_eq!(points(0.0521), "+5.21");
/// assert_eq!(points(-0.0521), "-5.21");
/// assert_eq!(points(0.00001), "0.00");
/// ```
pub fn points(difference: f64) -> String {
    let text = percent(difference);
    let positive = difference > 0.0 && difference.is_finite() && text != percent(0.0);
    if positive { format!("+{text}") } else { text }
}

/// A number with so many decimals; never `-0.00`.
///
/// ```
/// assert_eq!(everburn_eval::format::fixed(5.425, 1), "5.4");
/// ```
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => text,
    }
}

/// Bytes in binary units: `1536` is `1.5 KiB`. A mean over runs need not be whole.
///
/// ```
/// use everburn_eval::format::bytes;
/// assert_eq!(bytes(0.0), "0 B");
/// assert_eq!(bytes(1536.0), "1.5 KiB");
/// assert_eq!(bytes(343_000_000.0), "327.1 MiB");
/// ```
pub fn bytes(count: f64) -> String {
    if !count.is_finite() || count < 0.0 {
        return MISSING.to_owned();
    }
    let mut value = count;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        // What one decimal would show as 1024.0 belongs to the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let decimals = usize::from(unit != "B");
    format!("{} {unit}", fixed(value, decimals))
}

/// A time: `0.042 s`, `8.3 s`, `4m 10s`, `2h 05m`.
///
/// ```
/// use everburn_eval::format::seconds;
/// assert_eq!(seconds(0.0421), "0.042 s");
/// assert_eq!(seconds(8.31), "8.3 s");
/// assert_eq!(seconds(249.7), "4m 10s");
/// assert_eq!(seconds(7500.0), "2h 05m");
/// assert_eq!(seconds(-1.0), "–");
/// ```
pub fn seconds(time: f64) -> String {
    if !time.is_finite() || time < 0.0 {
        return MISSING.to_owned();
    }
    if time < 0.9995 {
        return format!("{} s", fixed(time, 3));
    }
    if time < 99.95 {
        return format!("{} s", fixed(time, 1));
    }
    // Casts of finite non-negative numbers saturate.
    let whole = time.round() as u64;
    if whole < 3600 {
        return format!("{}m {:02}s", whole / 60, whole % 60);
    }
    let minutes = (time / 60.0).round() as u64;
    format!("{}h {:02}m", minutes / 60, minutes % 60)
}

/// A text after `first`, broken at spaces into lines of at most `width` characters where words allow, further
/// lines indented by so many spaces.
///
/// ```
/// use everburn_eval::format::wrapped;
/// assert_eq!(wrapped("one two three", "- ", 2, 9), "- one two\n  three\n");
/// ```
pub fn wrapped(text: &str, first: &str, indent: usize, width: usize) -> String {
    let spaces = " ".repeat(indent);
    let options = textwrap::Options::new(width)
        .initial_indent(first)
        .subsequent_indent(&spaces)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false);
    textwrap::fill(text, options) + "\n"
}

/// Lines of CSV.
pub(crate) fn csv<L>(lines: impl IntoIterator<Item = L>) -> Result<String>
where
    L: IntoIterator<Item = String>,
{
    let error = |error: String| Error::other("writing CSV", error);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer
            .write_record(line)
            .map_err(|e| error(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| error(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_between_units() {
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1024.0), "1.0 KiB");
        assert_eq!(bytes(1024.0 * 1024.0 - 1.0), "1.0 MiB");
        assert_eq!(
            bytes(f64::from(2_u32.pow(30)) * 1024.0 * 4096.0),
            "4096.0 TiB"
        );
        assert_eq!(seconds(0.0), "0.000 s");
        assert_eq!(seconds(99.97), "1m 40s");
        assert_eq!(seconds(3599.6), "1h 00m");
        assert!(seconds(f64::MAX).ends_with("m"));
    }

    #[test]
    fn what_is_no_number_is_a_dash() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let texts = [
                percent(value),
                bytes(value),
                seconds(value),
                fixed(value, 3),
            ];
            assert!(texts.iter().all(|text| text == MISSING));
        }
    }
}
