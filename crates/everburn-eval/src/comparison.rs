use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Summary;

/// Below this standard deviation the differences are the same number, rounded differently.
const ZERO_SPREAD: f64 = 1e-12;

/// One number of one run, with what it is paired by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamValue {
    /// The seed of the run.
    pub seed: u64,
    /// The hash of its stream's manifest.
    pub manifest_hash: String,
    /// The number.
    pub value: f64,
}

/// What the differences of two methods on the same streams say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The 95 % interval of the mean difference excludes 0.
    Differs,
    /// It does not.
    NotSignificant,
    /// The difference is the same in every seed, as with two learners that draw nothing: there is
    /// no spread that an interval could come from.
    Constant,
    /// One seed gives no interval.
    OneSeed,
    /// No stream was learned by both.
    NoPairs,
}

impl Verdict {
    /// The verdict as it stands in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::NotSignificant => "not-significant",
            Self::Constant => "constant",
            Self::OneSeed => "one-seed",
            Self::NoPairs => "no-pairs",
        }
    }
}

/// The differences of one number between two methods that learned the same streams.
///
/// Pairing takes out what a stream does to both: a hard order of classes costs either method, and
/// only the difference is left. This is the paired t-test, told as an interval.
///
/// ```
/// use everburn_eval::{Paired, StreamValue, Verdict};
/// let runs = |values: [f64; 3]| {
///     let run = |(seed, value)| StreamValue { seed, manifest_hash: format!("stream {seed}"), value };
///     (1..).zip(values).map(run).collect::<Vec<_>>()
/// };
/// // The methods vary by ten points from seed to seed, their difference by one.
/// let paired = Paired::of(&runs([0.50, 0.60, 0.55]), &runs([0.45, 0.56, 0.50]));
/// assert_eq!(paired.verdict, Verdict::Differs);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The differences a - b, one for each pair; `None` without pairs. Without a half width where
    /// they are constant.
    pub differences: Option<Summary>,
    /// What they say.
    pub verdict: Verdict,
    /// Seeds that both have, but not on the same stream: left out.
    pub other_streams: usize,
}

impl Paired {
    /// Pairs two lists of runs by seed and manifest, in any order. A run without a manifest hash
    /// has no pair: nobody knows its stream. Of several runs of a list with the same seed, the last
    /// counts.
    pub fn of(a: &[StreamValue], b: &[StreamValue]) -> Self {
        let others: BTreeMap<u64, &StreamValue> = b.iter().map(|run| (run.seed, run)).collect();
        let runs: BTreeMap<u64, &StreamValue> = a.iter().map(|run| (run.seed, run)).collect();
        let mut differences = Vec::new();
        let mut other_streams = 0;
        for (seed, run) in runs {
            let Some(other) = others.get(&seed) else {
                continue;
            };
            if run.manifest_hash.is_empty() || run.manifest_hash != other.manifest_hash {
                other_streams += 1;
            } else {
                differences.push(run.value - other.value);
            }
        }
        let mut differences = Summary::of(&differences);
        let verdict = verdict(differences.as_ref());
        if let Some(summary) = differences
            .as_mut()
            .filter(|_| verdict == Verdict::Constant)
        {
            summary.std = Some(0.0);
            summary.half_width = None;
        }
        Self {
            differences,
            verdict,
            other_streams,
        }
    }
}

fn verdict(differences: Option<&Summary>) -> Verdict {
    let Some(summary) = differences else {
        return Verdict::NoPairs;
    };
    match summary.std.zip(summary.half_width) {
        None => Verdict::OneSeed,
        Some((std, _)) if std < ZERO_SPREAD => Verdict::Constant,
        Some((_, half_width)) if summary.mean.abs() > half_width => Verdict::Differs,
        Some(_) => Verdict::NotSignificant,
    }
}
