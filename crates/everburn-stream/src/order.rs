use everburn_core::{ClassId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::MAX_CLASSES;
use crate::rng::{NumpyRandom, PythonRandom, TorchRandom};

/// The order in which a scenario takes the classes of a data set.
///
/// Frameworks disagree: the same seed gives other tasks in each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClassOrder {
    /// 0, 1, 2, …: L2P, DualPrompt, CODA-Prompt's first trial, and PyCIL without shuffling.
    Natural,
    /// `numpy.random.RandomState(seed).permutation(classes)`: PyCIL, PILOT (seed 1993), Continuum.
    /// Seeds have 32 bits.
    #[default]
    Numpy,
    /// Mammoth: numpy's permutation gives each class its new number, so that the order is the
    /// inverse of [`Numpy`](Self::Numpy)'s. Seeds have 32 bits.
    MammothMap,
    /// `random.Random(seed).shuffle(classes)`: CODA-Prompt and OVOR, which leave the
    /// [`Natural`](Self::Natural) order in trial 0 and pass the trial as seed in the others.
    Python,
    /// `torch.randperm(classes)` under `torch.manual_seed(seed)`: Avalanche. PyTorch looks at the
    /// low 32 bits of a seed only.
    Torch,
    /// A given order, which must name each class of the data set once.
    Fixed(Vec<ClassId>),
}

impl ClassOrder {
    /// The orders that have a name in a scenario's name.
    pub(crate) const NAMES: [&str; 5] = ["natural", "numpy", "mammoth", "python", "torch"];

    /// The name within a scenario's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::Numpy => "numpy",
            Self::MammothMap => "mammoth",
            Self::Python => "python",
            Self::Torch => "torch",
            Self::Fixed(_) => "fixed",
        }
    }

    /// The order of a name; a fixed one has none.
    ///
    /// # Errors
    /// If there is no such order.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "natural" => Ok(Self::Natural),
            "numpy" => Ok(Self::Numpy),
            "mammoth" => Ok(Self::MammothMap),
            "python" => Ok(Self::Python),
            "torch" => Ok(Self::Torch),
            _ => Err(Error::unknown("class order", name, Self::NAMES)),
        }
    }

    /// All classes in this order: the first task takes the first of them.
    ///
    /// # Errors
    /// If the seed is too large for the generator, there are more classes than
    /// [`MAX_CLASSES`], or a fixed order is not one of exactly these classes.
    pub fn classes(&self, num_classes: usize, seed: u64) -> Result<Vec<ClassId>> {
        let count = match u32::try_from(num_classes) {
            Ok(count) if num_classes <= MAX_CLASSES => count,
            _ => {
                let expected = format!("at most {MAX_CLASSES}");
                return Err(Error::input("classes to order", num_classes, expected));
            }
        };
        let order: Vec<u32> = match self {
            Self::Natural => (0..count).collect(),
            Self::Numpy => NumpyRandom::new(numpy_seed(seed)?).permutation(count),
            Self::MammothMap => {
                let map = NumpyRandom::new(numpy_seed(seed)?).permutation(count);
                let mut order: Vec<u32> = (0..count).collect();
                order.sort_unstable_by_key(|class| map.get(*class as usize));
                order
            }
            Self::Python => {
                let mut order: Vec<u32> = (0..count).collect();
                PythonRandom::new(seed).shuffle(&mut order);
                order
            }
            Self::Torch => TorchRandom::new(seed).randperm(num_classes)?,
            Self::Fixed(classes) => {
                check_fixed(classes)?;
                if classes.len() != num_classes {
                    let expected = format!("each of the {num_classes} classes once");
                    let found = format!("{} classes", classes.len());
                    return Err(Error::config("order", found, expected));
                }
                return Ok(classes.clone());
            }
        };
        Ok(order.into_iter().map(ClassId).collect())
    }
}

/// Checks that an order is a permutation of its first so many classes.
pub(crate) fn check_fixed(classes: &[ClassId]) -> Result<()> {
    let mut seen = vec![false; classes.len()];
    for class in classes {
        match seen.get_mut(class.0 as usize) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => {
                let expected = "each class once";
                return Err(Error::config("order", format!("{class} twice"), expected));
            }
            None => {
                let expected = format!("classes below {}, its length", classes.len());
                return Err(Error::config("order", class, expected));
            }
        }
    }
    Ok(())
}

fn numpy_seed(seed: u64) -> Result<u32> {
    let expected = "at most 4294967295, as numpy's legacy generator takes 32 bits";
    u32::try_from(seed).map_err(|_| Error::config("seed", seed, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mammoth_inverts_pycil() {
        let numpy = ClassOrder::Numpy.classes(50, 7).unwrap();
        let mammoth = ClassOrder::MammothMap.classes(50, 7).unwrap();
        for (place, class) in numpy.iter().enumerate() {
            assert_eq!(mammoth[class.0 as usize].0 as usize, place);
        }
        assert_ne!(numpy, mammoth);
    }

    #[test]
    fn seeds_and_fixed_orders_are_checked() {
        let text = |r: Result<Vec<ClassId>>| r.unwrap_err().to_string();
        let wide = u64::from(u32::MAX) + 1;
        assert!(text(ClassOrder::Numpy.classes(5, wide)).contains("seed: found 4294967296"));
        assert!(text(ClassOrder::MammothMap.classes(5, wide)).contains("seed"));
        assert_ne!(
            ClassOrder::Python.classes(50, wide).unwrap(),
            ClassOrder::Python.classes(50, 0).unwrap()
        );
        let fixed = |classes: &[u32]| {
            let classes = classes.iter().copied().map(ClassId).collect();
            ClassOrder::Fixed(classes).classes(3, 0)
        };
        assert!(text(fixed(&[0, 1])).contains("found 2 classes"));
        assert!(text(fixed(&[0, 1, 1])).contains("class 1 twice"));
        assert!(text(fixed(&[0, 1, 3])).contains("found class 3"));
        assert_eq!(fixed(&[2, 0, 1]).unwrap(), [2, 0, 1].map(ClassId));
    }

    #[test]
    fn names_come_back() {
        for name in ClassOrder::NAMES {
            assert_eq!(ClassOrder::from_name(name).unwrap().name(), name);
        }
        assert!(
            ClassOrder::from_name("nunpy")
                .unwrap_err()
                .to_string()
                .contains("`numpy`")
        );
    }
}
