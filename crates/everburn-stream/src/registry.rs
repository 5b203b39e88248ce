use std::str::FromStr;

use everburn_core::{Error, Result};

use crate::{ClassOrder, Scenario, SiBlurry, SiBlurryMode, SplitTasks};

/// A scenario that [`scenario`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScenarioInfo {
    /// The pattern of its name; capital letters stand for numbers.
    pub name: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// The options that may follow the name after a colon, separated by commas.
    pub options: &'static str,
}

const SPLIT_OPTIONS: &str =
    "order=natural|numpy|mammoth|python|torch (numpy), min=SAMPLES per class (1)";

const SI_BLURRY_OPTIONS: &str = "n=PERCENT of disjoint classes (50), m=PERCENT of moved samples \
     (10), t=TASKS (5), mode=stochastic|static (stochastic)";

/// All scenarios that [`scenario`] knows.
pub const SCENARIOS: &[ScenarioInfo] = &[
    ScenarioInfo {
        name: "split-T",
        description: "T tasks, each with as many new classes",
        options: SPLIT_OPTIONS,
    },
    ScenarioInfo {
        name: "split-bN-incM",
        description: "a base task of N classes, then M new classes per task; N = 0 for M in all",
        options: SPLIT_OPTIONS,
    },
    ScenarioInfo {
        name: "si-blurry",
        description: "single pass, classes partly blurred over random tasks, no task borders told",
        options: SI_BLURRY_OPTIONS,
    },
    ScenarioInfo {
        name: "si-blurry+borders",
        description: "the stream of si-blurry, but the learner is told of task borders",
        options: SI_BLURRY_OPTIONS,
    },
];

/// The scenario of a name, such as `split-10`, `split-b50-inc10:order=torch`, `si-blurry` or
/// `si-blurry+borders:n=50,m=30,t=5`.
///
/// # Errors
/// If there is no scenario or option of that name, or an option's value is wrong.
///
/// ```
/// let scenario = everburn_stream::scenario("si-blurry:n=50,m=30,t=5")?;
/// assert_eq!(scenario.name(), "si-blurry:m=30");
/// # Ok::<(), everburn_core::Error>(())
/// ```
pub fn scenario(name: &str) -> Result<Box<dyn Scenario>> {
    let (base, options) = match name.split_once(':') {
        Some((base, options)) => (base, Options::parse(base, options)?),
        None => (name, Options::default()),
    };
    match base {
        "si-blurry" => si_blurry(false, options),
        "si-blurry+borders" => si_blurry(true, options),
        _ => match split(base)? {
            Some(scenario) => with_split_options(scenario, options),
            None => {
                let known = SCENARIOS.iter().map(|info| info.name);
                Err(Error::unknown("scenario", base, known))
            }
        },
    }
}

/// The split of a name, if it is a split's at all.
fn split(base: &str) -> Result<Option<SplitTasks>> {
    let Some(numbers) = base.strip_prefix("split-") else {
        return Ok(None);
    };
    if is_number(numbers) {
        let tasks = number(base, "tasks", numbers)?;
        return SplitTasks::even(tasks).map(Some);
    }
    let parts = numbers.strip_prefix('b').and_then(|n| n.split_once("-inc"));
    match parts {
        Some((first, increment)) if is_number(first) && is_number(increment) => {
            let first = number(base, "base", first)?;
            let increment = number(base, "increment", increment)?;
            SplitTasks::base_increment(first, increment).map(Some)
        }
        _ => Ok(None),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number<T: FromStr>(base: &str, key: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::config(format!("{base}.{key}"), text, "a whole number"))
}

fn with_split_options(scenario: SplitTasks, mut options: Options) -> Result<Box<dyn Scenario>> {
    let mut scenario = scenario;
    if let Some(order) = options.take("order") {
        scenario = scenario.with_order(ClassOrder::from_name(order)?)?;
    }
    if let Some(samples) = options.take_number("min")? {
        scenario = scenario.with_min_per_class(samples);
    }
    options.finish(&["order", "min"])?;
    Ok(Box::new(scenario))
}

fn si_blurry(borders: bool, mut options: Options) -> Result<Box<dyn Scenario>> {
    let default = SiBlurry::default();
    let scenario = SiBlurry {
        disjoint_percent: options
            .take_number("n")?
            .unwrap_or(default.disjoint_percent),
        blurry_percent: options.take_number("m")?.unwrap_or(default.blurry_percent),
        tasks: options.take_number("t")?.unwrap_or(default.tasks),
        mode: match options.take("mode") {
            None => default.mode,
            Some("stochastic") => SiBlurryMode::Stochastic,
            Some("static") => SiBlurryMode::Static,
            Some(other) => {
                let known = ["stochastic", "static"];
                return Err(Error::unknown("mode of si-blurry", other, known));
            }
        },
        borders,
    };
    options.finish(&["n", "m", "t", "mode"])?;
    scenario.check()?;
    Ok(Box::new(scenario))
}

/// What follows the colon of a name.
#[derive(Default)]
struct Options<'a> {
    base: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn parse(base: &'a str, text: &'a str) -> Result<Self> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for option in text.split(',') {
            let expected = "options such as key=value, separated by commas";
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| Error::config(base, format!("`{option}`"), expected))?;
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(Error::config(
                    format!("{base}.{key}"),
                    "it twice",
                    "it once",
                ));
            }
            pairs.push((key, value));
        }
        Ok(Self { base, pairs })
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let position = self.pairs.iter().position(|(known, _)| *known == key)?;
        Some(self.pairs.remove(position).1)
    }

    fn take_number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let value = self.take(key);
        value.map(|text| number(self.base, key, text)).transpose()
    }

    /// Refuses what nobody has taken.
    fn finish(self, known: &[&'static str]) -> Result<()> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => {
                let known = known.iter().copied();
                Err(Error::unknown("option of the scenario", key, known))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        scenario(text).unwrap().name()
    }

    fn error(text: &str) -> String {
        scenario(text).unwrap_err().to_string()
    }

    #[test]
    fn names_are_canonical() {
        for same in [
            "split-5",
            "split-b50-inc10",
            "split-b0-inc10",
            "split-5:order=torch",
            "split-5:order=python,min=20",
            "si-blurry",
            "si-blurry+borders",
            "si-blurry:n=0,m=30,t=3,mode=static",
            "si-blurry+borders:m=30",
        ] {
            assert_eq!(name(same), same);
        }
        assert_eq!(name("split-b10-inc10"), "split-b0-inc10");
        assert_eq!(name("split-5:order=numpy,min=1"), "split-5");
        assert_eq!(name("si-blurry:t=5,m=10,n=50,mode=stochastic"), "si-blurry");
    }

    #[test]
    fn a_wrong_name_meets_the_nearest_right_one() {
        assert!(error("si-blury").contains("did you mean `si-blurry`?"));
        assert!(error("splitt-5").contains("did you mean `split-T`?"));
        assert!(error("split-").contains("unknown scenario `split-`"));
        assert!(error("split-b5").contains("split-bN-incM"));
        assert!(error("").contains("known: split-T, split-bN-incM, si-blurry"));
        assert!(error("si-blurry:mod=static").contains("did you mean `mode`?"));
        assert!(error("split-5:order=torhc").contains("did you mean `torch`?"));
        assert!(error("si-blurry:mode=dynamic").contains("`dynamic`"));
    }

    #[test]
    fn a_wrong_value_is_named() {
        assert!(error("split-0").contains("split.tasks: found 0"));
        assert!(error("split-b5-inc0").contains("split.increment: found 0"));
        assert!(error("split-99999999999999999999").contains("split-99999999999999999999.tasks"));
        assert!(error("si-blurry:n=101").contains("si-blurry.disjoint_percent: found 101"));
        assert!(error("si-blurry:m=-1").contains("si-blurry.m: found -1"));
        assert!(error("si-blurry:t=0").contains("si-blurry.tasks: found 0"));
        assert!(error("si-blurry:t=2,t=3").contains("it twice"));
        assert!(error("si-blurry:").contains("found ``"));
        assert!(error("split-5:min").contains("found `min`"));
    }
}
