//! All methods by name: their presets, their settings, and how to build them.

use everburn_core::{Error, Key, Learner, Result};
use everburn_nn::Frozen;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::presets::Setting;

/// A method of this build.
pub struct Method {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Where it is from.
    pub source: &'static str,
    /// Whether it never trains its backbone: its tuning is `frozen` whatever the suite says.
    pub always_frozen: bool,
    preset: fn(&Setting) -> Result<Value>,
    build: fn(Value, Frozen, Key) -> Result<Box<dyn Learner>>,
}

/// The methods of this build, in the order of tables.
pub static METHODS: &[Method] = &[
    #[cfg(feature = "baselines")]
    Method {
        name: "finetune",
        about: "cross-entropy over all classes seen and nothing else: the lower bound",
        source: "the baseline of every paper",
        always_frozen: false,
        preset: |setting| to_value(crate::presets::recipe(setting)),
        build: |config, frozen, key| {
            let recipe = from_value("finetune", config)?;
            Ok(Box::new(everburn_baselines::FineTune::new(
                recipe, frozen, key,
            )?))
        },
    },
    #[cfg(feature = "er")]
    Method {
        name: "er",
        about: "experience replay from a memory that a reservoir fills",
        source: "Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019",
        always_frozen: false,
        preset: |setting| to_value(crate::presets::er(setting)),
        build: |config, frozen, key| {
            let config = from_value("er", config)?;
            Ok(Box::new(everburn_er::Er::new(config, frozen, key)?))
        },
    },
    #[cfg(feature = "simplecil")]
    Method {
        name: "simplecil",
        about: "cosine to the class means of a frozen backbone",
        source: "Zhou et al., Revisiting Class-Incremental Learning with Pre-Trained Models, IJCV 2024",
        always_frozen: true,
        preset: |setting| to_value(crate::presets::simplecil(setting, Default::default())),
        build: build_simplecil,
    },
    #[cfg(feature = "simplecil")]
    Method {
        name: "nmc",
        about: "Euclidean distance to the class means of a frozen backbone",
        source: "Janson et al., A Simple Baseline that Questions the Use of Pretrained-Models, 2022",
        always_frozen: true,
        preset: |setting| {
            let similarity = everburn_simplecil::Similarity::Euclidean;
            to_value(crate::presets::simplecil(setting, similarity))
        },
        build: build_simplecil,
    },
    #[cfg(feature = "baselines")]
    Method {
        name: "joint",
        about: "trained anew on everything so far: the ceiling (offline on a single-pass stream)",
        source: "the baseline of every paper",
        always_frozen: false,
        preset: |setting| to_value(crate::presets::recipe(setting)),
        build: |config, frozen, key| {
            let recipe = from_value("joint", config)?;
            Ok(Box::new(everburn_baselines::Joint::new(
                recipe, frozen, key,
            )?))
        },
    },
];

#[cfg(feature = "simplecil")]
fn build_simplecil(config: Value, frozen: Frozen, _key: Key) -> Result<Box<dyn Learner>> {
    let config = from_value("simplecil", config)?;
    Ok(Box::new(everburn_simplecil::SimpleCil::new(
        config, frozen,
    )?))
}

/// The method with a name.
///
/// # Errors
/// If there is none, with the nearest name.
pub fn method(name: &str) -> Result<&'static Method> {
    METHODS
        .iter()
        .find(|method| method.name == name)
        .ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|method| method.name)))
}

impl Method {
    /// Its complete settings: the preset, changed by `changes` (a table with any of the same keys).
    ///
    /// # Errors
    /// If a key is unknown or a value out of its domain.
    pub fn settings(&self, setting: &Setting, changes: &Map<String, Value>) -> Result<Value> {
        change((self.preset)(setting)?, changes, self.name)
    }

    /// Builds a learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn build(&self, settings: Value, frozen: Frozen, key: Key) -> Result<Box<dyn Learner>> {
        (self.build)(settings, frozen, key)
    }
}

/// Changes some of a method's settings. A key may be a path, `training.head_rate`.
///
/// # Errors
/// If a key is unknown, with the nearest one.
pub fn change(mut settings: Value, changes: &Map<String, Value>, method: &str) -> Result<Value> {
    for (key, change) in changes {
        merge(&mut settings, key, change, method)?;
    }
    Ok(settings)
}

/// Changes `config[key]`, going down into tables; `a.b` is the key b of the table a.
fn merge(config: &mut Value, key: &str, change: &Value, path: &str) -> Result<()> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let here = format!("{path}.{first}");
    let Value::Object(table) = config else {
        return Err(Error::config(path, change, "a single value, not a table"));
    };
    let known: Vec<String> = table.keys().cloned().collect();
    let Some(old) = table.get_mut(first) else {
        return Err(Error::unknown(
            "setting",
            first,
            known.iter().map(String::as_str),
        ));
    };
    match (rest, change) {
        (Some(rest), change) => merge(old, rest, change, &here),
        // Enums with a tag (`kind`, `rule`) are replaced as a whole: their keys depend on the tag.
        (None, Value::Object(new)) if old.is_object() && !tagged(new) => new
            .iter()
            .try_for_each(|(key, change)| merge(old, key, change, &here)),
        (None, change) => {
            *old = change.clone();
            Ok(())
        }
    }
}

fn tagged(table: &Map<String, Value>) -> bool {
    table.contains_key("kind") || table.contains_key("rule")
}

fn to_value(config: impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::other("a preset", error))
}

fn from_value<T: DeserializeOwned>(name: &str, config: Value) -> Result<T> {
    T::deserialize(&config)
        .map_err(|error| Error::config(format!("settings of `{name}`"), &config, error.to_string()))
}
