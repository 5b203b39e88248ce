use everburn_core::Key;
use rand_distr::{Binomial, Distribution};
use serde::{Deserialize, Serialize};
use statrs::statistics::{Data, OrderStatistics};

use crate::{CONFIDENCE, Evaluation};

/// How often tables resample.
pub const RESAMPLES: usize = 10_000;

/// An interval that covers the true value with a probability of [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The 95 % percentile interval of [`Evaluation::accuracy`] by the bootstrap over test images,
/// stratified by class: what other test images of the same classes might have shown about the same
/// trained learner. It knows nothing of other seeds.
///
/// Resampling the n_c images of a class with replacement draws each time one that is right with
/// probability a_c, independently; how many of the n_c are right is therefore Binomial(n_c, a_c).
/// Drawing that number *is* drawing the images, for counts are all that accuracy looks at.
///
/// The same key gives the same interval. `None` without test images or resamples, or with counts
/// that cannot be.
///
/// ```
/// use everburn_core::{ClassId, Key};
/// use everburn_eval::{Evaluation, Moment, bootstrap_accuracy};
/// let (labels, predicted) = ([ClassId(0); 4], [0, 0, 0, 1].map(ClassId));
/// let evaluation = Evaluation::from_predictions(Moment::default(), &labels, &labels, &predicted)?;
/// let interval = bootstrap_accuracy(&evaluation, 1000, Key::from_seed(1)).unwrap();
/// // Four images say little.
/// assert_eq!((interval.low, interval.high), (0.25, 1.0));
/// # Ok::<(), everburn_core::Error>(())
/// ```
pub fn bootstrap_accuracy(evaluation: &Evaluation, resamples: usize, key: Key) -> Option<Interval> {
    let tested = evaluation.classes.iter().filter(|count| count.total > 0);
    let classes: Vec<Binomial> = tested
        .map(|count| Binomial::new(count.total.into(), count.accuracy()?).ok())
        .collect::<Option<_>>()?;
    let counts = evaluation.classes.iter();
    let total: u64 = counts.map(|count| u64::from(count.total)).sum();
    if total == 0 || resamples == 0 {
        return None;
    }
    let mut rng = key.rng();
    let accuracies: Vec<f64> = (0..resamples)
        .map(|_| {
            let right: u64 = classes.iter().map(|class| class.sample(&mut rng)).sum();
            right as f64 / total as f64
        })
        .collect();
    let mut accuracies = Data::new(accuracies);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval {
        low: accuracies.quantile(tail),
        high: accuracies.quantile(1.0 - tail),
    })
}
