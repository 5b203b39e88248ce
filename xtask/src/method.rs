//! `method`: what there is, and what its settings mean.

use everburn::core::{Error, Result};
use everburn::eval::format::wrapped;
use everburn::methods::{METHODS, Method, method as find};
use everburn::nn::{Choice, Described, Setting, Tuning};
use serde_json::{Map, Value};

use crate::bench::print;
use crate::cli::{MethodCommand, MethodOptions};
use crate::job::without_nulls;

/// Characters of a line in the terminal.
const WIDTH: usize = 100;

/// `method`.
pub fn method(command: MethodCommand) -> anyhow::Result<()> {
    match command {
        MethodCommand::List => {
            let mut text = String::new();
            for method in METHODS {
                text += &format!(
                    "{:<12} {}\n{:<12}   {}\n",
                    method.name, method.about, "", method.source
                );
            }
            print(&text)
        }
        MethodCommand::Show(options) => {
            let method = find(&options.name)?;
            let setting = setting(method, &options)?;
            if options.toml {
                print(&toml(method, &setting)?)
            } else {
                print(&listing(method, &setting)?)
            }
        }
    }
}

/// What a method's preset is asked for.
fn setting(method: &Method, options: &MethodOptions) -> Result<Setting> {
    let asked = options.tuning.as_deref().map(str::parse::<Tuning>);
    let asked = asked.transpose()?;
    if let (Some(asked), Some(only)) = (asked, method.only)
        && asked != only
    {
        let expected = format!("{}, the only tuning of `{}`", only.name(), method.name);
        return Err(Error::config("--tuning", asked.name(), expected));
    }
    Ok(Setting {
        preset: options.preset.parse()?,
        tuning: method.tuning(asked.unwrap_or(Tuning::Frozen)),
        from_scratch: options.from_scratch,
    })
}

/// The method, where it is from, and what it was asked for.
fn header(method: &Method, setting: &Setting) -> String {
    let only = if method.only.is_some() {
        ", its only one"
    } else {
        ""
    };
    let scratch = if setting.from_scratch {
        " · from scratch"
    } else {
        ""
    };
    format!(
        "{}: {}\n{}\npreset {} · tuning {}{only}{scratch}\n",
        method.name,
        method.about,
        method.source,
        setting.preset.name(),
        setting.tuning.name(),
    )
}

/// Every setting with its value and its meaning.
fn listing(method: &Method, setting: &Setting) -> Result<String> {
    let settings = method.settings(setting, &Default::default())?;
    let mut text = header(method, setting);
    for one in method.settings.describe(&settings) {
        text += &entry(&one);
    }
    Ok(text)
}

fn entry(one: &Described) -> String {
    let value = match &one.value {
        // Its settings follow, each on its own.
        Value::Object(_) if one.choices.is_empty() => String::new(),
        Value::Object(table) => format!(" = {}", tagged(table, &one.choices)),
        value => format!(" = {}", inline(value)),
    };
    let mut text = format!("\n{}{value}\n", one.path);
    text += &wrapped(&one.meaning, "    ", 4, WIDTH);
    let longest = one.choices.iter().map(|choice| choice.name.chars().count());
    let width = longest.max().unwrap_or(0);
    for choice in &one.choices {
        text += &alternative(choice, width);
    }
    text
}

/// A choice with settings of its own, which follow: `{ rule = "adam", … }`.
fn tagged(table: &Map<String, Value>, choices: &[Choice]) -> String {
    let chosen = choices.iter().find(|choice| choice.chosen);
    let tag = chosen.and_then(|choice| table.iter().find(|(_, value)| **value == choice.name));
    let tag = tag.map_or_else(String::new, |(tag, name)| format!("{tag} = {name}"));
    let more = if table.len() > 1 { ", …" } else { "" };
    format!("{{ {tag}{more} }}")
}

/// An alternative; the settings of those that are not chosen stand below, for they have no entry.
fn alternative(choice: &Choice, width: usize) -> String {
    let mark = if choice.chosen { '*' } else { ' ' };
    let indent = width + 8;
    let first = format!("    {mark} {:<width$}  ", choice.name);
    let mut text = wrapped(&choice.meaning, &first, indent, WIDTH);
    for (name, meaning) in choice.settings.iter().filter(|_| !choice.chosen) {
        let first = format!("{}{name}: ", " ".repeat(indent));
        text += &wrapped(meaning, &first, indent + 2, WIDTH);
    }
    text
}

/// A single value as TOML has it, and as `--set` takes it.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// All settings as a part of a suite file.
fn toml(method: &Method, setting: &Setting) -> anyhow::Result<String> {
    let settings = method.settings(setting, &Default::default())?;
    let settings = method.settings.written(&settings);
    let mut text: String = (header(method, setting).lines())
        .map(|line| format!("# {line}\n"))
        .collect();
    // TOML has no value for what is not there.
    let absent = method.settings.describe(&settings);
    for one in absent.iter().filter(|one| one.value.is_null()) {
        text += &format!("# {}: none\n", one.path);
    }
    let set = serde_json::json!({ "set": { method.name: without_nulls(&settings) } });
    Ok(text + &toml::to_string(&set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BenchOptions;
    use crate::suite::Suite;
    use everburn::nn::Preset;

    /// Every preset of every method.
    fn all() -> Vec<(&'static Method, Setting)> {
        let mut all = Vec::new();
        for method in METHODS {
            for preset in [Preset::Cpu, Preset::Paper] {
                for tuning in method.only.map_or(Tuning::ALL.to_vec(), |only| vec![only]) {
                    for from_scratch in [false, true] {
                        let setting = Setting {
                            preset,
                            tuning,
                            from_scratch,
                        };
                        all.push((method, setting));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn lines_are_short_and_every_setting_has_its_value_and_meaning() {
        for (method, setting) in all() {
            let text = listing(method, &setting).unwrap();
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line.trim_end(), line);
            }
            let name = method.name;
            assert!(!text.contains("\n\n\n"), "{name}: {text}");
        }
        let er = find("er").unwrap();
        let paper = Setting {
            preset: Preset::Paper,
            ..Setting::default()
        };
        let text = listing(er, &paper).unwrap();
        for part in [
            "er: experience replay from a memory that a reservoir fills\nChaudhry et al.",
            "\npreset paper · tuning frozen\n\nbuffer = 2000\n    M, images in the memory. Published: 1000,",
            "\ncombine = \"concatenated\"\n    How the losses of the stream and of the memory are combined.\n      separate      L = mean",
            "\n    * concatenated  L = mean CE over both",
            "\nrecipe\n    How the network is trained",
            "\nrecipe.training.rule = { rule = \"adam\", … }\n",
            "\nrecipe.training.rule.beta1 = 0.9\n",
            "\nrecipe.training.clipping = none\n",
            "momentum: μ",
        ] {
            assert!(text.contains(part), "{part}\n is not in\n{text}");
        }
    }

    #[test]
    fn what_is_printed_as_toml_is_a_suite_file_with_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suite.toml");
        let mut count = 0;
        for (method, setting) in all() {
            let text = toml(method, &setting).unwrap();
            std::fs::write(&path, &text).unwrap();
            // Over another preset, which it must change everywhere.
            let other = match setting.preset {
                Preset::Cpu => Preset::Paper,
                Preset::Paper => Preset::Cpu,
            };
            let options = BenchOptions {
                suite: Some(path.clone()),
                preset: Some(other.name().to_owned()),
                methods: vec![method.name.to_owned()],
                ..BenchOptions::default()
            };
            let suite = Suite::new(&options).unwrap();
            let expected = method.settings(&setting, &Default::default()).unwrap();
            assert_eq!(suite.settings[method.name], expected, "{text}");
            count += 1;
        }
        assert!(count >= 40, "{count}");
    }
}
