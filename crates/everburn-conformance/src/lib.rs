#![cfg_attr(test, allow(clippy::unwrap_used))]

//! The rules that every method must keep, as tests.
//!
//! One line in `tests/conformance.rs` of a method's crate runs all of [`RULES`], each as a test of its
//! own, on every device that is present, with the backbone frozen and with all of it tuned:
//!
//! ```ignore
//! everburn_conformance::suite!(everburn_conformance::Subject::of(everburn_er::METHOD).set("buffer", 6));
//! ```
//!
//! The rules are about a learner's behaviour, not about its accuracy: that a prediction depends on the
//! image alone, that a killed run goes on to the byte, that memory is counted and kept within its
//! budget, that odd streams are learnt from or refused with a reason. Each answers a failure that users
//! of other frameworks report.
//!
//! A learner that is no registered [`Method`](everburn_nn::Method) is built by a function:
//!
//! ```
//! use everburn_conformance::{Lab, RULES, Subject, check};
//! use everburn_core::{Error, Key, Learner, Result};
//!
//! fn build(_lab: &Lab, _key: Key) -> Result<Box<dyn Learner>> {
//!     Err(Error::unsupported("mine", "not written yet"))
//! }
//! let broken = check(&Subject::new("mine", build), &RULES[0]).unwrap_err();
//! assert!(broken.contains("not written yet"));
//! ```

mod case;
mod devices;
pub mod lab;
mod rules;
mod watch;

use std::fmt;

pub use case::{Case, Subject};
pub use devices::test_devices;
pub use lab::Lab;
pub use rules::RULES;

/// A rule that every learner keeps.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, which is also the test's.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub says: &'static str,
    /// Looks whether a learner keeps it.
    pub check: fn(&Case<'_>) -> Result<(), Violation>,
}

/// How a learner broke a rule, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a learner refuses in the middle of a rule breaks it.
impl From<everburn_core::Error> for Violation {
    fn from(error: everburn_core::Error) -> Self {
        Self(format!("it fails: {error}"))
    }
}

impl From<String> for Violation {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// Checks one rule on every device and tuning of a subject.
///
/// # Errors
/// A line for each device and tuning on which the rule is broken.
pub fn check(subject: &Subject, rule: &Rule) -> Result<(), String> {
    let mut broken = Vec::new();
    for case in subject.cases().map_err(|error| error.to_string())? {
        if let Err(violation) = (rule.check)(&case) {
            broken.push(format!("{case}: {violation}"));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    let broken = broken.join("\n  ");
    Err(format!("{}\n  {broken}", rule.says))
}

/// Fails the calling test unless a subject keeps the rule of a name; what [`suite!`] calls.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn assert_rule(subject: &Subject, name: &str) {
    let rule = RULES.iter().find(|rule| rule.name == name);
    let kept = match rule {
        Some(rule) => check(subject, rule),
        None => Err(format!("there is no rule `{name}`")),
    };
    if let Err(broken) = kept {
        panic!("{broken}");
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
