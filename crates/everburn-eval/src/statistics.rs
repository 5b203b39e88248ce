use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The probability that an interval covers the mean.
pub const CONFIDENCE: f64 = 0.95;

/// What several seeds say about one number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation, with divisor n - 1; `None` for one value.
    pub std: Option<f64>,
    /// Half the width of the 95 % interval of the mean by Student's t with n - 1 degrees of
    /// freedom; `None` for one value.
    pub half_width: Option<f64>,
}

impl Summary {
    /// Sums up the values of one number, in any order: the result is the same to the bit. `None`
    /// without values or if one is not finite.
    ///
    /// ```
    /// use everburn_eval::Summary;
    /// let summary = Summary::of(&[0.5, 0.6, 0.7]).unwrap();
    /// assert!((summary.mean - 0.6).abs() < 1e-12);
    /// assert!((summary.half_width.unwrap() - 0.2484).abs() < 1e-4);
    /// assert_eq!(Summary::of(&[0.5]).unwrap().half_width, None);
    /// assert_eq!(Summary::of(&[]), None);
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let std = (n > 1).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (squares / (n as f64 - 1.0)).sqrt()
        });
        let half_width = std.and_then(|std| {
            let quantile = t_quantile(0.5 + CONFIDENCE / 2.0, n as f64 - 1.0)?;
            Some(quantile * std / (n as f64).sqrt())
        });
        let summary = Self {
            n,
            mean,
            std,
            half_width,
        };
        let numbers = [Some(mean), std, half_width];
        numbers
            .iter()
            .flatten()
            .all(|number| number.is_finite())
            .then_some(summary)
    }
}

/// The quantile of Student's t distribution.
fn t_quantile(probability: f64, freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(t.inverse_cdf(probability)).filter(|x| x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_t_distribution() {
        // One degree of freedom is tan(π (p - 1/2)), two are known in closed form, too.
        let one = (std::f64::consts::PI * 0.475).tan();
        let two = 0.95 * (2.0_f64 / (1.0 - 0.95_f64.powi(2))).sqrt();
        for (freedom, exact) in [(1.0, one), (2.0, two), (4.0, 2.776_445_105_197_793_4)] {
            let found = t_quantile(0.975, freedom).unwrap();
            assert!((found / exact - 1.0).abs() < 1e-12, "{freedom}: {found}");
        }
        for freedom in (1..500).map(f64::from) {
            let found = t_quantile(0.975, freedom).unwrap();
            let back = StudentsT::new(0.0, 1.0, freedom).unwrap().sf(found);
            assert!(
                (back / 0.025 - 1.0).abs() < 1e-11,
                "{freedom}: {found}, {back}"
            );
        }
    }

    #[test]
    fn equal_values_have_no_spread_and_bad_ones_no_summary() {
        let summary = Summary::of(&[0.25; 4]).unwrap();
        assert_eq!((summary.std, summary.half_width), (Some(0.0), Some(0.0)));
        assert_eq!(Summary::of(&[0.5, f64::NAN]), None);
        assert_eq!(Summary::of(&[f64::MAX, f64::MAX]), None);
    }
}
