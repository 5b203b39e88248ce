use std::fmt;
use std::str::FromStr;

use everburn_core::{Error, Result};

/// One of so many parts of a suite, such as `2/3`: the runs that one machine of several does.
///
/// ```
/// use everburn_run::Partition;
/// let second: Partition = "2/3".parse()?;
/// let mine: Vec<usize> = (0..8).filter(|index| second.contains(*index)).collect();
/// assert_eq!(mine, [1, 4, 7]);
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    number: usize,
    of: usize,
}

impl Partition {
    /// Whether the run at an index belongs to it. Neighbours belong to different partitions, so each
    /// gets its share of every kind if runs of a kind are neighbours.
    pub fn contains(&self, index: usize) -> bool {
        index % self.of == self.number - 1
    }

    /// `2-of-3`, for names of files.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-of-{}", self.number, self.of)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Partition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(number, of)| {
            let (number, of) = (number.parse().ok()?, of.parse().ok()?);
            (1..=of).contains(&number).then_some(Self { number, of })
        });
        parts.ok_or_else(|| {
            Error::config("partition", text, "NUMBER/OF, counted from 1, such as 2/3")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Partition;

    #[test]
    fn every_run_belongs_to_exactly_one_partition() {
        for of in 1..6 {
            let all: Vec<Partition> = (1..=of)
                .map(|k| format!("{k}/{of}").parse().unwrap())
                .collect();
            for index in 0..20 {
                assert_eq!(all.iter().filter(|p| p.contains(index)).count(), 1);
            }
        }
    }

    #[test]
    fn what_is_no_partition_is_refused() {
        for wrong in ["", "1", "0/3", "4/3", "1/0", "a/b", "1/2/3", "-1/2"] {
            let message = wrong.parse::<Partition>().unwrap_err().to_string();
            assert!(message.contains("counted from 1"), "{message}");
        }
    }
}
