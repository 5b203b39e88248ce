use std::collections::BTreeMap;
use std::fmt::Debug;

use everburn_core::{ClassId, Error, Result};

use crate::Manifest;

/// The most classes a data set may have: enough for any known one, and few enough that a wrong
/// number is an error and not a lack of memory.
pub const MAX_CLASSES: usize = 1 << 24;

/// A rule by which the samples of a data set become a stream.
pub trait Scenario: Debug + Send + Sync {
    /// The name in tables. Settings that differ from their defaults are part of it, so that two
    /// streams of one name differ in nothing but the seed.
    fn name(&self) -> String;

    /// All settings, defaults included, as text.
    fn settings(&self) -> BTreeMap<String, String>;

    /// The stream over samples whose classes are `labels`, in data set order.
    ///
    /// The same arguments give the same manifest on every platform.
    ///
    /// # Errors
    /// If a label is not below `num_classes`, or the data set does not suffice for the scenario.
    fn compile(&self, labels: &[ClassId], num_classes: usize, seed: u64) -> Result<Manifest>;
}

/// Checks what every scenario needs of a data set, and counts the samples of each class.
pub(crate) fn count_classes(labels: &[ClassId], num_classes: usize) -> Result<Vec<usize>> {
    if labels.is_empty() || u32::try_from(labels.len()).is_err() {
        let expected = "1 to 4294967295, as an index has 32 bits";
        return Err(Error::input(
            "samples of the data set",
            labels.len(),
            expected,
        ));
    }
    if !(1..=MAX_CLASSES).contains(&num_classes) {
        let expected = format!("1 to {MAX_CLASSES}");
        return Err(Error::input(
            "classes of the data set",
            num_classes,
            expected,
        ));
    }
    let mut counts = vec![0; num_classes];
    for (index, class) in labels.iter().enumerate() {
        match counts.get_mut(class.0 as usize) {
            Some(count) => *count += 1,
            None => {
                let what = format!("label of sample {index}");
                let expected = format!("below the {num_classes} classes");
                return Err(Error::input(what, class.0, expected));
            }
        }
    }
    Ok(counts)
}
