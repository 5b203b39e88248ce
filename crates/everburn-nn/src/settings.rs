//! Settings that say what they mean: doc comments of a method's configuration, as text.

use everburn_core::{Error, Result};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A method's settings as a type. The doc comment of each field is what it means, with the published
/// value and its source; `cargo xtask method show` prints it.
pub trait Config: Serialize + DeserializeOwned + JsonSchema {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    fn validate(&self) -> Result<()>;
}

/// What is known of a [`Config`] without its type.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    schema: fn() -> Value,
    fill: fn(&Value) -> serde_json::Result<Value>,
    validate: fn(&Value) -> Result<()>,
}

impl Settings {
    /// The settings of a type.
    pub const fn of<C: Config>() -> Self {
        Self {
            schema: || {
                SchemaGenerator::default()
                    .into_root_schema_for::<C>()
                    .into()
            },
            fill: |value| serde_json::to_value(C::deserialize(value)?),
            validate: |value| {
                let config = C::deserialize(value);
                config.map_err(|e| Error::other("settings", e))?.validate()
            },
        }
    }

    /// The same settings with everything that may be left out filled in. `place` and `found` are what an
    /// error names.
    ///
    /// # Errors
    /// If a key is unknown or missing, or a value of the wrong kind.
    pub fn fill(&self, settings: &Value, place: &str, found: &Value) -> Result<Value> {
        (self.fill)(settings)
            .map_err(|error| Error::config(place, found, expected(&error.to_string())))
    }

    /// Checks complete settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self, settings: &Value) -> Result<()> {
        (self.validate)(settings)
    }

    /// Whether there is a setting at a path of tables, if only where it is not left out.
    pub(crate) fn knows(&self, path: &str) -> bool {
        let schema = (self.schema)();
        let mut steps = path.split('.');
        (steps.try_fold(Node::of(&schema, &schema), |node, key| node.property(key))).is_some()
    }

    /// Each setting by its path, in the order of the alphabet: its value and what it means.
    pub fn describe(&self, settings: &Value) -> Vec<Described> {
        let schema = (self.schema)();
        let mut found = Vec::new();
        let root = Node::of(&schema, &schema);
        root.table(&object(settings), "", &mut found);
        found
    }

    /// The settings with each number as somebody would write it: one that is kept in 32 bits as 0.9, not as
    /// 0.8999999761581421.
    pub fn written(&self, settings: &Value) -> Value {
        let schema = (self.schema)();
        Node::of(&schema, &schema).written(settings)
    }
}

/// A setting with its meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Where it stands: `recipe.training.head_rate`.
    pub path: String,
    /// Its value; a table if it is a choice with settings of its own.
    pub value: Value,
    /// What it means, the published value and its source.
    pub meaning: String,
    /// The alternatives, if it is one of several.
    pub choices: Vec<Choice>,
}

/// One of the values that a setting may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// Its own settings with their meanings.
    pub settings: Vec<(String, String)>,
    /// Whether it is the setting's value.
    pub chosen: bool,
}

/// A part of a schema, references followed.
#[derive(Clone, Copy)]
struct Node<'a> {
    root: &'a Value,
    schema: &'a Value,
    /// Said where the part is used, or else where it is defined.
    meaning: Option<&'a str>,
    /// Said where it is defined.
    own: Option<&'a str>,
}

impl<'a> Node<'a> {
    fn of(root: &'a Value, schema: &'a Value) -> Self {
        let (mut schema, mut meaning, mut own) = (schema, None, None);
        loop {
            own = schema["description"].as_str().or(own);
            meaning = meaning.or(own);
            let target = schema["$ref"].as_str().and_then(|at| at.strip_prefix('#'));
            match target.and_then(|at| root.pointer(at)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        let node = Self {
            root,
            schema,
            meaning,
            own,
        };
        // An `Option` is described by what is in it.
        let (null, some): (Vec<_>, Vec<_>) =
            (node.listed("anyOf")).partition(|of| of.schema["type"] == "null");
        match some.into_iter().next().filter(|_| !null.is_empty()) {
            Some(some) => Self {
                meaning: meaning.or(some.meaning),
                ..some
            },
            None => node,
        }
    }

    fn listed(self, key: &str) -> impl Iterator<Item = Self> {
        let list = self.schema[key].as_array().into_iter().flatten();
        list.map(move |schema| Self::of(self.root, schema))
    }

    fn property(self, key: &str) -> Option<Self> {
        let schema = self.schema.get("properties")?.get(key)?;
        Some(Self::of(self.root, schema))
    }

    /// The settings of a table with their meanings, without its `tag`.
    fn fields(self, tag: Option<&str>) -> Vec<(String, String)> {
        let fields = self.schema["properties"].as_object();
        let fields = fields.into_iter().flat_map(Map::keys);
        let own = fields.filter(|field| Some(field.as_str()) != tag);
        let meaning = |field: &String| self.property(field).map(Node::meaning);
        own.map(|field| (field.clone(), meaning(field).unwrap_or_default()))
            .collect()
    }

    fn meaning(self) -> String {
        plain(self.meaning.unwrap_or_default())
    }

    /// The alternatives with their names.
    fn variants(self) -> Vec<Variant<'a>> {
        let named = |name: &'a Value, how, node| {
            let name = name.as_str()?;
            Some(Variant { name, how, node })
        };
        // Alternatives without a comment of their own are a list of names.
        let bare = |node: Self| {
            let names = node.schema["enum"].as_array().into_iter().flatten();
            names.filter_map(move |name| named(name, How::Name, node))
        };
        let documented = self.listed("oneOf").flat_map(|node| {
            let fields = node.schema["properties"].as_object().into_iter().flatten();
            let tag = fields.filter_map(|(tag, of)| Some((tag.as_str(), of.get("const")?)));
            match tag.into_iter().next() {
                Some((tag, name)) => named(name, How::Tag(tag), node).into_iter().collect(),
                None => (named(&node.schema["const"], How::Name, node).into_iter())
                    .chain(bare(node))
                    .collect::<Vec<_>>(),
            }
        });
        // Alternatives without a name are told apart by the kind of value.
        let kinds = self.listed("anyOf").filter_map(|node| {
            let (kind, how) = (node.schema["type"].as_str()?, How::Kind);
            let name = match kind {
                "integer" => WHOLE_NUMBER,
                "number" => NUMBER,
                "array" => LIST,
                _ => TEXT,
            };
            Some(Variant { name, how, node })
        });
        documented.chain(bare(self)).chain(kinds).collect()
    }

    fn choices(self, value: &Value) -> Vec<Choice> {
        let table = self.schema["properties"].as_object();
        if let (Value::Null, Some(table)) = (value, table) {
            // What it would be if it were there.
            let names: Vec<&str> = table.keys().map(String::as_str).collect();
            return vec![Choice {
                name: format!("{{ {} }}", names.join(", ")),
                meaning: plain(self.own.unwrap_or_default()),
                settings: self.fields(None),
                chosen: false,
            }];
        }
        // Of a list any of the alternatives may be items.
        let items = Self::of(self.root, &self.schema["items"]);
        let chosen = |variant: &Variant| match value.as_array() {
            Some(values) if variant.how == How::Name => values.iter().any(|v| variant.is(v)),
            _ => variant.is(value),
        };
        let variants = [self.variants(), items.variants()].concat();
        let choice = |variant: &Variant| Choice {
            name: variant.name.to_owned(),
            meaning: variant.node.meaning(),
            settings: variant.node.fields(variant.tag()),
            chosen: chosen(variant),
        };
        variants.iter().map(choice).collect()
    }

    /// The settings of a table, each at its place.
    fn table(self, table: &Map<String, Value>, path: &str, found: &mut Vec<Described>) {
        // Single values first, as in a file.
        let (tables, single): (Vec<_>, Vec<_>) = table.iter().partition(|(_, v)| v.is_object());
        for (key, value) in single.into_iter().chain(tables) {
            let path = format!("{path}{key}");
            match self.property(key) {
                Some(node) => node.setting(value, path, found),
                // Without a schema it has no meaning, which a test finds.
                None => found.push(Described {
                    path,
                    value: value.clone(),
                    meaning: String::new(),
                    choices: Vec::new(),
                }),
            }
        }
    }

    fn setting(self, value: &Value, path: String, found: &mut Vec<Described>) {
        let below = format!("{path}.");
        found.push(Described {
            path,
            value: self.written(value),
            meaning: self.meaning(),
            choices: self.choices(value),
        });
        match self.variants().into_iter().find(|one| one.is(value)) {
            Some(variant) => {
                let mut own = object(value);
                own.remove(variant.tag().unwrap_or_default());
                variant.node.table(&own, &below, found);
            }
            None => self.table(&object(value), &below, found),
        }
    }

    fn written(self, value: &Value) -> Value {
        let variant = self.variants().into_iter().find(|one| one.is(value));
        let node = variant.map_or(self, |variant| variant.node);
        match value {
            Value::Object(table) => {
                let one = |(key, value): (&String, &Value)| {
                    let written = node.property(key).map(|node| node.written(value));
                    (key.clone(), written.unwrap_or_else(|| value.clone()))
                };
                Value::Object(table.iter().map(one).collect())
            }
            Value::Array(values) => {
                let items = Self::of(self.root, &node.schema["items"]);
                values.iter().map(|value| items.written(value)).collect()
            }
            Value::Number(number) if node.schema["format"] == "float" => {
                let short = number.as_f64().map(|number| (number as f32).to_string());
                let short = short.and_then(|short| short.parse::<f64>().ok());
                short.map_or_else(|| value.clone(), Value::from)
            }
            other => other.clone(),
        }
    }
}

/// One of several alternatives.
#[derive(Clone, Copy)]
struct Variant<'a> {
    name: &'a str,
    how: How<'a>,
    node: Node<'a>,
}

/// How a value says which of the alternatives it is.
#[derive(Clone, Copy, PartialEq)]
enum How<'a> {
    /// It is the name.
    Name,
    /// By this key of a table.
    Tag(&'a str),
    /// By its kind.
    Kind,
}

const WHOLE_NUMBER: &str = "a whole number";
const NUMBER: &str = "a number";
const LIST: &str = "a list";
const TEXT: &str = "a text";

impl<'a> Variant<'a> {
    fn is(&self, value: &Value) -> bool {
        match self.how {
            How::Name => value == self.name,
            How::Tag(tag) => value[tag] == self.name,
            How::Kind => match value {
                Value::Number(number) if number.is_f64() => self.name == NUMBER,
                Value::Number(_) => self.name == WHOLE_NUMBER,
                Value::Array(_) => self.name == LIST,
                Value::String(_) => self.name == TEXT,
                _ => false,
            },
        }
    }

    fn tag(&self) -> Option<&'a str> {
        match self.how {
            How::Tag(tag) => Some(tag),
            How::Name | How::Kind => None,
        }
    }
}

/// serde's `deny_unknown_fields` does not reach variants without fields: `{kind = "none", padding = 4}`
/// would silently not pad. To be named by `deserialize_with` on each such variant.
///
/// # Errors
/// If there is a field.
pub fn nothing_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A doc comment on one line, without rustdoc's links.
fn plain(comment: &str) -> String {
    let words: Vec<&str> = comment.split_whitespace().collect();
    let text = words.join(" ");
    let (mut plain, mut rest) = (String::new(), text.as_str());
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else {
            break;
        };
        plain += &format!("{before}`{name}`");
        let target = after.strip_prefix('(').and_then(|at| at.split_once(')'));
        rest = target.map_or(after, |(_, after)| after);
    }
    plain + rest
}

/// What serde expected, from its message, in our words.
fn expected(message: &str) -> String {
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} beside it");
    }
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number of at least 0",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    match found.strip_prefix("unknown field ") {
        Some(field) => format!("no {field} but {expected}"),
        None => expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preset, Recipe, Setting};
    use serde_json::json;

    const RECIPE: Settings = Settings::of::<Recipe>();

    fn recipe() -> Value {
        let paper = Setting {
            preset: Preset::Paper,
            ..Setting::default()
        };
        serde_json::to_value(Recipe::preset(&paper)).unwrap()
    }

    #[test]
    fn a_setting_has_its_doc_comment_and_a_choice_its_alternatives() {
        let all = RECIPE.describe(&recipe());
        let find = |path: &str| all.iter().find(|one| one.path == path).unwrap();
        assert!(find("online_updates").meaning.contains("3 (Si-Blurry)"));
        assert_eq!(find("training.head_rate").value, json!(5e-3));
        assert_eq!(find("training.rule.beta1").value, json!(0.9));
        assert!(!all.iter().any(|one| one.path == "training.rule.rule"));
        let rules = &find("training.rule").choices;
        let names: Vec<&str> = rules.iter().map(|choice| choice.name.as_str()).collect();
        assert_eq!(names, ["sgd", "adam", "adam-w"]);
        assert!(
            rules
                .iter()
                .all(|rule| rule.chosen == (rule.name == "adam"))
        );
        assert_eq!(rules[0].settings[0].0, "momentum");
        // An optional table that is not there still says what it would be.
        let clipping = find("training.clipping");
        assert_eq!(clipping.value, Value::Null);
        assert_eq!(clipping.choices[0].name, "{ max_norm }");
    }

    #[test]
    fn links_and_line_ends_are_no_text() {
        let comment = "[`WarmUp`](Self::WarmUp), then\n[`Cosine`] over `1/x`.";
        assert_eq!(plain(comment), "`WarmUp`, then `Cosine` over `1/x`.");
    }

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_wrong_is_named() {
        let mut settings = recipe();
        settings["training"]["rule"] = json!({ "rule": "adam-w", "beta2": 0.99 });
        let fill = |settings: &Value| RECIPE.fill(settings, "x.y", &json!("found"));
        let filled = RECIPE.written(&fill(&settings).unwrap());
        let rule = json!({ "rule": "adam-w", "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8 });
        assert_eq!(filled["training"]["rule"], rule);
        for (wrong, part) in [
            (json!("many"), "a whole number of at least 0"),
            (json!(1.5), "a whole number of at least 0"),
        ] {
            settings["epochs"] = wrong;
            let message = fill(&settings).unwrap_err().to_string();
            assert!(message.starts_with("x.y: found \"found\""), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
