use everburn_core::{Checker, Result};
use serde::{Deserialize, Serialize};

/// At which places of a stream a learner is evaluated.
///
/// ```
/// use everburn_stream::EvalPoints;
/// let mut schedule = EvalPoints::Count(2).schedule(100)?;
/// let due: Vec<u64> = (0..=100).step_by(30).filter(|seen| schedule.due(*seen)).collect();
/// assert_eq!(due, [60]);
/// assert!(schedule.due(100));
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvalPoints {
    /// The rule of the official Si-Blurry trainer (`methods/_trainer.py`, period 1000): after a
    /// batch, if *more* than `next` samples have been seen, evaluate, and `next` grows by the
    /// period. The end of the stream is thus no point of its own.
    Period(u64),
    /// So many points over the stream: the k-th of n falls due after the first batch at which
    /// `samples · n ≥ k · total`. The last one is the end of the stream. Several that fall due
    /// after the same batch count once.
    Count(u64),
}

impl Default for EvalPoints {
    /// 50 points: as many, to one, as the official period gives on CIFAR-100, and as many on a
    /// stream of any other length.
    fn default() -> Self {
        Self::Count(50)
    }
}

impl EvalPoints {
    /// The schedule over a stream of `total` samples.
    ///
    /// # Errors
    /// If the period or the count is 0.
    pub fn schedule(self, total: u64) -> Result<EvalSchedule> {
        let check = Checker::new("eval_points");
        let expected = "a whole number of at least 1";
        let next = match self {
            Self::Period(period) => {
                check.within("period", period, 1.., expected)?;
                period
            }
            Self::Count(count) => {
                check.within("count", count, 1.., expected)?;
                1
            }
        };
        Ok(EvalSchedule {
            points: self,
            total,
            next,
        })
    }
}

/// Says after which batches a learner is to be evaluated. Part of a run's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSchedule {
    points: EvalPoints,
    total: u64,
    /// The number of samples to exceed, or the number of the next point.
    next: u64,
}

impl EvalSchedule {
    /// Whether to evaluate now that `samples` of the stream have been seen in all. To be asked
    /// after every batch, once.
    pub fn due(&mut self, samples: u64) -> bool {
        match self.points {
            EvalPoints::Period(period) => {
                let due = samples > self.next;
                if due {
                    self.next = self.next.saturating_add(period);
                }
                due
            }
            EvalPoints::Count(count) => {
                let passed = u128::from(samples) * u128::from(count);
                let Some(point) = passed.checked_div(u128::from(self.total)) else {
                    return false;
                };
                let point = u64::try_from(point).unwrap_or(u64::MAX);
                let due = point >= self.next;
                if due {
                    self.next = point.saturating_add(1);
                }
                due
            }
        }
    }

    /// The rule that this follows.
    pub fn points(&self) -> EvalPoints {
        self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(points: EvalPoints, total: u64, batch: u64) -> Vec<u64> {
        let mut schedule = points.schedule(total).unwrap();
        let batches = 1..=total.div_ceil(batch);
        let seen = batches.map(|b| (b * batch).min(total));
        seen.filter(|samples| schedule.due(*samples)).collect()
    }

    #[test]
    fn the_official_period_leaves_out_the_end() {
        let points = due(EvalPoints::Period(1000), 50_000, 64);
        assert_eq!((points.len(), points[0]), (49, 1024));
        assert_eq!(due(EvalPoints::Period(1000), 100_000, 64).len(), 99);
        assert_eq!(due(EvalPoints::Period(1000), 24_000, 64).len(), 23);
        // Each batch is due at most once, and the lag is made up for later.
        assert_eq!(due(EvalPoints::Period(10), 100, 25), [25, 50, 75, 100]);
    }

    #[test]
    fn a_count_ends_at_the_end() {
        assert_eq!(due(EvalPoints::Count(4), 100, 10), [30, 50, 80, 100]);
        assert_eq!(due(EvalPoints::Count(50), 100, 1).len(), 50);
        assert_eq!(due(EvalPoints::Count(1), 100, 7), [100]);
        // More points than batches: once after each batch, and none made up for later.
        assert_eq!(due(EvalPoints::Count(50), 100, 30), [30, 60, 90, 100]);
        assert_eq!(due(EvalPoints::default(), 50_000, 64).len(), 50);
    }

    #[test]
    fn a_schedule_goes_on_after_a_restart() {
        let mut schedule = EvalPoints::Count(10).schedule(100).unwrap();
        assert!(schedule.due(35));
        let text = serde_json::to_string(&schedule).unwrap();
        let mut restored: EvalSchedule = serde_json::from_str(&text).unwrap();
        assert!(!restored.due(39) && restored.due(40));
    }

    #[test]
    fn extremes_are_safe() {
        assert!(EvalPoints::Period(0).schedule(1).is_err());
        assert!(EvalPoints::Count(0).schedule(1).is_err());
        assert!(!EvalPoints::Count(5).schedule(0).unwrap().due(u64::MAX));
        assert!(
            EvalPoints::Count(u64::MAX)
                .schedule(1)
                .unwrap()
                .due(u64::MAX)
        );
        assert!(
            !EvalPoints::Period(u64::MAX)
                .schedule(1)
                .unwrap()
                .due(u64::MAX)
        );
    }
}
