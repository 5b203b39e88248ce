//! How a method crate makes itself known by name.

use everburn_core::{Error, Key, Learner, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Frozen, Setting, Settings, Tuning};

/// What a method crate exports, so that a method can be found by name, set and built.
///
/// ```
/// use everburn_core::Learner;
/// # use everburn_core::{Error, Key, Result};
/// # fn build(_: Recipe, _: Frozen, _: Key) -> Result<Box<dyn Learner>> {
/// #     Err(Error::unsupported("mine", "an example"))
/// # }
/// use everburn_nn::{Frozen, Method, Recipe, Setting, Settings, from_value, to_value};
///
/// const METHOD: Method = Method {
///     name: "mine",
///     about: "what it does, in one line",
///     source: "Authors, Title, Venue Year",
///     only: None,
///     settings: Settings::of::<Recipe>(),
///     preset: |setting| to_value(Recipe::preset(setting)),
///     build: |settings, frozen, key| build(from_value("mine", settings)?, frozen, key),
/// };
/// let settings = METHOD.settings(&Setting::default(), &Default::default())?;
/// assert_eq!(settings["tuning"], "frozen");
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name on the command line and in tables; the learner's `Spec::method` says the same.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Where it is from.
    pub source: &'static str,
    /// The only tuning that it knows, whatever the suite says; `None`: any.
    pub only: Option<Tuning>,
    /// What its settings mean: `Settings::of` its configuration's type.
    pub settings: Settings,
    /// Its settings by preset, as a table.
    pub preset: fn(&Setting) -> Result<Value>,
    /// Builds a learner that has seen nothing from complete settings.
    pub build: fn(Value, Frozen, Key) -> Result<Box<dyn Learner>>,
}

impl Method {
    /// Its complete settings: the preset, changed by `changes` (a table with any of the same keys).
    ///
    /// # Errors
    /// If a key is unknown or a value out of its domain.
    pub fn settings(&self, setting: &Setting, changes: &Map<String, Value>) -> Result<Value> {
        let settings = self.change((self.preset)(setting)?, changes)?;
        self.settings.validate(&settings)?;
        Ok(settings)
    }

    /// Changes some of its settings. A key may be a path, `training.head_rate`.
    ///
    /// # Errors
    /// If a key is unknown, with the nearest one, or a value of the wrong kind. Whether values are in
    /// their domain is seen when all changes are made: [`Settings::validate`].
    pub fn change(&self, mut settings: Value, changes: &Map<String, Value>) -> Result<Value> {
        for (key, change) in changes {
            let known = |path: &str| {
                let path = path.strip_prefix(self.name);
                path.is_some_and(|path| self.settings.knows(path.trim_start_matches('.')))
            };
            merge(&mut settings, key, change, self.name, &known)?;
            let place = format!("{}.{key}", self.name);
            settings = self.settings.fill(&settings, &place, change)?;
        }
        Ok(settings)
    }

    /// The tuning that it has where `asked` is asked for.
    pub fn tuning(&self, asked: Tuning) -> Tuning {
        self.only.unwrap_or(asked)
    }

    /// Builds a learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn build(&self, settings: Value, frozen: Frozen, key: Key) -> Result<Box<dyn Learner>> {
        (self.build)(settings, frozen, key)
    }
}

/// Changes `config[key]`, going down into tables; `a.b` is the key b of the table a. A key that is not there is
/// one that was left out if it is `known`.
fn merge(
    config: &mut Value,
    key: &str,
    change: &Value,
    path: &str,
    known: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let here = format!("{path}.{first}");
    let Value::Object(table) = config else {
        return Err(Error::config(path, change, "a single value, not a table"));
    };
    let names: Vec<String> = table.keys().cloned().collect();
    if rest.is_none() && !table.contains_key(first) && known(&here) {
        table.insert(first.to_owned(), Value::Null);
    }
    let Some(old) = table.get_mut(first) else {
        return Err(Error::unknown(
            "setting",
            first,
            names.iter().map(String::as_str),
        ));
    };
    match (rest, change) {
        (Some(rest), change) => merge(old, rest, change, &here, known),
        // Enums with a tag (`kind`, `rule`) are replaced as a whole: their keys depend on the tag.
        (None, Value::Object(new)) if old.is_object() && !tagged(new) => new
            .iter()
            .try_for_each(|(key, change)| merge(old, key, change, &here, known)),
        (None, change) => {
            *old = change.clone();
            Ok(())
        }
    }
}

fn tagged(table: &Map<String, Value>) -> bool {
    table.contains_key("kind") || table.contains_key("rule")
}

/// Settings as a table.
///
/// # Errors
/// If they cannot be written as JSON.
pub fn to_value(config: impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::other("a preset", error))
}

/// Settings from a table.
///
/// # Errors
/// If a key is unknown or missing, or a value of the wrong kind; `name` is the method's.
pub fn from_value<T: DeserializeOwned>(name: &str, config: Value) -> Result<T> {
    T::deserialize(&config)
        .map_err(|error| Error::config(format!("settings of `{name}`"), &config, error.to_string()))
}
