use std::fmt::Display;
use std::ops::RangeBounds;

use crate::{Error, Result};

/// Checks hyper-parameters when they are built, and names the ones that are wrong.
///
/// ```
/// use everburn_core::Checker;
/// let check = Checker::new("er");
/// assert!(check.within("rate", 0.1, 0.0..=1.0, "a number from 0 to 1").is_ok());
/// let error = check.within("rate", 2.0, 0.0..=1.0, "a number from 0 to 1").unwrap_err();
/// assert_eq!(error.to_string(), "er.rate: found 2, expected a number from 0 to 1");
/// ```
pub struct Checker {
    prefix: &'static str,
}

impl Checker {
    /// A checker for the settings of `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix }
    }

    /// Requires a value inside a range; NaN is inside none.
    ///
    /// # Errors
    /// Names the setting, its value and `expected`.
    pub fn within<T: PartialOrd + Display>(
        &self,
        field: &str,
        value: T,
        range: impl RangeBounds<T>,
        expected: &str,
    ) -> Result<()> {
        if range.contains(&value) {
            return Ok(());
        }
        let field = format!("{}.{field}", self.prefix);
        Err(Error::config(field, value, expected))
    }

    /// Requires a whole number of at least one.
    ///
    /// # Errors
    /// Names the setting.
    pub fn positive(&self, field: &str, value: usize) -> Result<()> {
        self.within(field, value, 1.., "a whole number of at least 1")
    }
}
