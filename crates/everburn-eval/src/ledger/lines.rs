//! The lines of a file that is appended to, and what a crash leaves of them.

/// What should be a whole line.
pub(super) struct Piece<'a> {
    /// The file and the line.
    pub(super) place: String,
    pub(super) text: &'a str,
    /// Whether no newline ends it: the file ends there, or another line was appended to it.
    pub(super) open: bool,
}

/// The lines of a text. One that is not whole and in which lines begin once more is taken apart:
/// such is what `cat` makes of a file whose last line was torn and of the next file.
pub(super) fn pieces<'a>(
    file: &str,
    text: &'a str,
    prefix: &str,
    whole: impl Fn(&str) -> bool,
) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let open = !line.ends_with('\n');
        let line = line.trim_end_matches(['\n', '\r']);
        let mut push = |text: &'a str, open| {
            if !text.trim().is_empty() {
                let place = format!("{file}, line {}", index + 1);
                pieces.push(Piece { place, text, open });
            }
        };
        let mut rest = line;
        while !whole(rest) {
            let next = rest
                .match_indices(prefix)
                .map(|(at, _)| at)
                .find(|at| *at > 0);
            let Some((torn, next)) = next.and_then(|at| rest.split_at_checked(at)) else {
                break;
            };
            push(torn, true);
            rest = next;
        }
        push(rest, open);
    }
    pieces
}

/// Whether an open piece is no complete JSON, as a crash leaves it: an end is missing, or zeros stand
/// for bytes that never reached the disk.
pub(super) fn was_cut(piece: &Piece<'_>) -> bool {
    piece.open && serde_json::from_str::<serde::de::IgnoredAny>(piece.text).is_err()
}
