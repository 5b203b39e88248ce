//! Every setting of every method says what it means, and wrong ones are refused before anything runs.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn::methods::{METHODS, method};
use everburn::nn::{Described, Preset, Setting, Tuning};
use serde_json::{Map, Value, json};

/// All that a preset may be asked for.
fn all_settings() -> Vec<Setting> {
    let mut all = Vec::new();
    for preset in [Preset::Cpu, Preset::Paper] {
        for tuning in Tuning::ALL {
            for from_scratch in [false, true] {
                all.push(Setting {
                    preset,
                    tuning,
                    from_scratch,
                });
            }
        }
    }
    all
}

/// The paths of a table's values, tables themselves included.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}{key}");
        paths(value, &format!("{path}."), found);
        found.push(path);
    }
}

fn lacks_meaning(one: &Described) -> bool {
    let choices = one.choices.iter();
    let mut parts =
        choices.flat_map(|c| std::iter::once(&c.meaning).chain(c.settings.iter().map(|(_, m)| m)));
    one.meaning.is_empty() || parts.any(String::is_empty)
}

#[test]
fn every_setting_of_every_method_says_what_it_means() {
    for method in METHODS {
        for setting in all_settings() {
            let setting = Setting {
                tuning: method.tuning(setting.tuning),
                ..setting
            };
            let settings = method.settings(&setting, &Map::new()).unwrap();
            let described = method.settings.describe(&settings);
            for one in &described {
                assert!(!lacks_meaning(one), "{}: {one:?}", method.name);
                let chosen = one.choices.iter().filter(|choice| choice.chosen).count();
                let is_choice = !one.choices.is_empty() && !one.value.is_null();
                // A list may have several of them, or none.
                match one.value.is_array() && !one.choices.iter().any(|c| c.name == "a list") {
                    true => {
                        let is_empty = one.value.as_array().is_some_and(Vec::is_empty);
                        assert!(chosen > 0 || is_empty || !is_choice, "{one:?}");
                    }
                    false => assert_eq!(chosen, usize::from(is_choice), "{one:?}"),
                }
            }
            // None is left out but the tags, which their tables say.
            let mut expected = Vec::new();
            paths(&settings, "", &mut expected);
            expected.retain(|path| !path.ends_with(".rule.rule") && !path.ends_with(".kind"));
            let mut found: Vec<String> = described.into_iter().map(|one| one.path).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{}", method.name);
        }
    }
    assert!(METHODS.len() >= 6);
}

#[test]
fn the_numbers_that_are_written_are_the_settings() {
    for method in METHODS {
        for setting in all_settings() {
            let settings = method.settings(&setting, &Map::new()).unwrap();
            let written = method.settings.written(&settings);
            let read = method.settings.fill(&written, "", &Value::Null).unwrap();
            assert_eq!(read, settings);
        }
    }
}

/// What ER's settings become with one change.
fn changed(key: &str, value: Value) -> everburn::core::Result<Value> {
    let changes = [(key.to_owned(), value)].into_iter().collect();
    method("er")
        .unwrap()
        .settings(&Setting::default(), &changes)
}

#[test]
fn a_wrong_value_is_refused_when_settings_are_made() {
    for (key, value, parts) in [
        ("buffer", json!(0), ["er.buffer", "found 0"]),
        ("buffer", json!("many"), ["er.buffer", "a whole number"]),
        ("buffer", json!(-1), ["er.buffer", "a whole number"]),
        ("combine", json!("both"), ["er.combine", "`separate`"]),
        (
            "recipe.training.head_rate",
            json!(-0.5),
            ["training.head_rate", "-0.5"],
        ),
        (
            "recipe.training.rule",
            json!({ "rule": "adam", "momentum": 0.9 }),
            ["er.recipe.training.rule", "no `momentum` but"],
        ),
        (
            "recipe.augment.crop",
            json!({ "kind": "padded" }),
            ["er.recipe.augment.crop", "`padding`"],
        ),
    ] {
        let message = changed(key, value).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[test]
fn a_setting_that_a_preset_leaves_out_can_be_set() {
    let modules = json!({ "tuning": "pet", "pet": { "kind": "lora", "rank": 3 } });
    let settings = changed("recipe", modules).unwrap();
    let pet = &settings["recipe"]["pet"];
    assert_eq!((&pet["rank"], &pet["blocks"]), (&json!(3), &json!(5)));
    let message = changed("recipe.pets", json!(1)).unwrap_err().to_string();
    assert!(message.contains("unknown setting `pets`"), "{message}");
    // Without its tuning it has no sense.
    let alone = changed("recipe.pet", json!({ "kind": "lora" }));
    assert!(alone.unwrap_err().to_string().contains("recipe.pet"));
}

#[test]
fn alternatives_without_a_name_are_told_apart_by_kind() {
    let lae = method("lae").unwrap();
    let shown = |pet: Value| {
        let changes = [("recipe.pet".to_owned(), pet)].into_iter().collect();
        let settings = lae.settings(&Setting::default(), &changes).unwrap();
        lae.settings.describe(&settings)
    };
    let chosen = |all: &[Described], path: &str| -> Vec<String> {
        let one = all.iter().find(|one| one.path == path).unwrap();
        let chosen = one.choices.iter().filter(|choice| choice.chosen);
        chosen.map(|choice| choice.name.clone()).collect()
    };
    let adapter = shown(json!({ "kind": "adapter", "blocks": [1, 2], "bottleneck": 0.5 }));
    assert_eq!(chosen(&adapter, "recipe.pet.blocks"), ["a list"]);
    assert_eq!(chosen(&adapter, "recipe.pet.bottleneck"), ["a number"]);
    assert_eq!(chosen(&adapter, "recipe.pet.scale"), ["a text"]);
    let lora = shown(json!({ "kind": "lora", "targets": ["queries", "values"] }));
    assert_eq!(chosen(&lora, "recipe.pet.targets"), ["queries", "values"]);
}

#[test]
fn what_a_change_leaves_out_is_in_the_settings() {
    let rule = json!({ "rule": "adam-w" });
    let settings = changed("recipe.training.rule", rule).unwrap();
    let rule = &settings["recipe"]["training"]["rule"];
    assert_eq!(rule.as_object().unwrap().len(), 4, "{rule}");
    // As a number of the type that it has.
    let settings = changed("recipe.training.head_rate", json!(1)).unwrap();
    let rate = &settings["recipe"]["training"]["head_rate"];
    assert!(rate.is_f64(), "{rate}");
}
