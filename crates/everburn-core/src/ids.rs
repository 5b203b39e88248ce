use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A class, by its number in the data set (not by the order of arrival; see [`SeenClasses`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ClassId(pub u32);

/// A task, counted from 0 in the order of the stream.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TaskId(pub u32);

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class {}", self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.0)
    }
}

/// The classes met so far, numbered in the order of their first appearance.
///
/// A learner's output column `i` belongs to the `i`-th class of this list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ClassId>", into = "Vec<ClassId>")]
pub struct SeenClasses {
    order: Vec<ClassId>,
    index: BTreeMap<ClassId, usize>,
}

impl SeenClasses {
    /// Adds a class if it is new, and returns its number.
    pub fn insert(&mut self, class: ClassId) -> usize {
        let next = self.order.len();
        let index = *self.index.entry(class).or_insert(next);
        if index == next {
            self.order.push(class);
        }
        index
    }

    /// The number of a class, or `None` if it has not been met.
    pub fn index(&self, class: ClassId) -> Option<usize> {
        self.index.get(&class).copied()
    }

    /// The numbers of classes.
    ///
    /// # Errors
    /// Names the first that has not been met.
    pub fn indices(&self, classes: &[ClassId]) -> Result<Vec<usize>> {
        let number = |class: &ClassId| {
            let number = self.index(*class);
            number.ok_or_else(|| Error::input("a label", class, "a class that has been seen"))
        };
        classes.iter().map(number).collect()
    }

    /// How many classes have been met.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no class has been met.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The classes in the order of their first appearance.
    pub fn as_slice(&self) -> &[ClassId] {
        &self.order
    }
}

impl From<Vec<ClassId>> for SeenClasses {
    fn from(classes: Vec<ClassId>) -> Self {
        let mut seen = Self::default();
        for class in classes {
            seen.insert(class);
        }
        seen
    }
}

impl From<SeenClasses> for Vec<ClassId> {
    fn from(seen: SeenClasses) -> Self {
        seen.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_first_appearance() {
        let mut seen = SeenClasses::default();
        assert_eq!([9, 2, 9, 5].map(|c| seen.insert(ClassId(c))), [0, 1, 0, 2]);
        assert_eq!(seen.as_slice(), [ClassId(9), ClassId(2), ClassId(5)]);
        assert_eq!(seen.index(ClassId(3)), None);
    }
}
