/// The result of everything in everburn that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what, where, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter outside its domain.
    #[error("{field}: found {found}, expected {expected}")]
    Config {
        /// The path of the setting, such as `er.buffer`.
        field: String,
        /// The value that was given.
        found: String,
        /// The values that are allowed.
        expected: String,
    },
    /// Images, labels or tensors that do not fit together.
    #[error("{what}: found {found}, expected {expected}")]
    Input {
        /// What was handed in.
        what: String,
        /// What it was.
        found: String,
        /// What it should have been.
        expected: String,
    },
    /// A saved state that does not fit the learner that restores it.
    #[error("saved state, field `{field}`: found {found}, expected {expected}")]
    State {
        /// The name of the field.
        field: String,
        /// What the state holds.
        found: String,
        /// What the learner needs.
        expected: String,
    },
    /// A stream, device or backbone that cannot give what a method needs.
    #[error("{what}: {why}")]
    Unsupported {
        /// Who asked for it.
        what: String,
        /// Why it cannot be had, and what can be done instead.
        why: String,
    },
    /// A name that nobody has registered.
    #[error("unknown {kind} `{name}`{}; known: {known}", hint(.nearest))]
    Unknown {
        /// What the name should name: a method, a stream, a data set.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The known name that looks most like it.
        nearest: Option<String>,
        /// All known names.
        known: String,
    },
    /// A failure below us, in words.
    #[error("{context}: {message}")]
    Other {
        /// What was being done.
        context: String,
        /// What the layer below said.
        message: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|n| format!(", did you mean `{n}`?"))
        .unwrap_or_default()
}

impl Error {
    /// A hyper-parameter outside its domain.
    pub fn config(
        field: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config {
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// Input that does not fit.
    pub fn input(what: impl Into<String>, found: impl ToString, expected: impl ToString) -> Self {
        Self::Input {
            what: what.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// A saved state that does not fit.
    pub fn state(field: impl Into<String>, found: impl ToString, expected: impl ToString) -> Self {
        Self::State {
            field: field.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Something that cannot be had.
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }

    /// A failure of a layer below.
    pub fn other(context: impl Into<String>, message: impl ToString) -> Self {
        Self::Other {
            context: context.into(),
            message: message.to_string(),
        }
    }

    /// An unknown name, with the nearest of the known ones.
    pub fn unknown<'a>(
        kind: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Self {
        Self::Unknown {
            kind,
            name: name.to_owned(),
            nearest: nearest(name, known.clone()).map(str::to_owned),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

/// The known name most like `name`, if any is close enough to be meant.
///
/// ```
/// assert_eq!(everburn_core::nearest("simplecli", ["er", "simplecil"]), Some("simplecil"));
/// assert_eq!(everburn_core::nearest("zzz", ["er", "simplecil"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
