//! What is kept of past classes in place of their images: a Gaussian of each one's features.

use everburn_core::{
    Array, Checker, ClassId, Error, Footprint, Kind, Order, Result, Rng, SeenClasses, Source,
    Stage, State, View,
};
use faer::Mat;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::linalg::{cholesky, eigen};
use crate::settings::nothing_more;

/// How the covariance of a class is kept. All are made of the unbiased covariance Σ of its features, of width D,
/// plus ε on the diagonal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Covariance {
    /// All of it, as the lower triangle of its Cholesky factor: 2·D·(D + 1) bytes for a class.
    #[default]
    #[serde(deserialize_with = "nothing_more")]
    Full,
    /// The variances alone: 4·D bytes.
    #[serde(deserialize_with = "nothing_more")]
    Diagonal,
    /// The r directions of the largest variance, and what each feature varies besides, so that all variances
    /// are right and covariances as right as rank r allows: 4·D·(r + 1) bytes.
    LowRank {
        /// r, at most D.
        rank: usize,
    },
}

impl Covariance {
    /// Values kept for a class with features of width `dim`.
    fn values(self, dim: usize) -> usize {
        match self {
            Self::Full => dim * (dim + 1) / 2,
            Self::Diagonal => dim,
            Self::LowRank { rank } => dim * (rank + 1),
        }
    }

    /// Independent normal numbers for one sample.
    fn draws(self, dim: usize) -> usize {
        match self {
            Self::Full | Self::Diagonal => dim,
            Self::LowRank { rank } => dim + rank,
        }
    }

    /// Checks what needs no width.
    ///
    /// # Errors
    /// If the rank is 0.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::LowRank { rank: 0 } => {
                let expected = "at least 1; `diagonal` is what rank 0 would be";
                Err(Error::config("covariance.rank", 0, expected))
            }
            _ => Ok(()),
        }
    }
}

/// Count n, mean μ and scatter Σᵢ (fᵢ − μ)(fᵢ − μ)ᵀ of features, taken in batch by batch (Chan, Golub and
/// LeVeque, 1983), in 64 bits.
#[derive(Clone, Debug)]
struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// `[dim, dim]`, or its diagonal, `[dim, 1]`, where nobody asks for more.
    scatter: Mat<f64>,
}

impl Moments {
    /// Of features `[count, dim]`, at least one.
    fn of(features: &[f32], dim: usize, covariance: Covariance) -> Self {
        let count = features.len() / dim;
        let value = |row: usize, column: usize| f64::from(features[row * dim + column]);
        let mean: Vec<f64> = (0..dim)
            .map(|column| (0..count).map(|row| value(row, column)).sum::<f64>() / count as f64)
            .collect();
        let centred = Mat::from_fn(count, dim, |row, column| value(row, column) - mean[column]);
        let scatter = match covariance {
            Covariance::Diagonal => Mat::from_fn(dim, 1, |d, _| {
                (0..count).map(|row| centred[(row, d)].powi(2)).sum()
            }),
            Covariance::Full | Covariance::LowRank { .. } => centred.transpose() * &centred,
        };
        Self {
            count,
            mean,
            scatter,
        }
    }

    fn merge(&mut self, other: &Self) {
        let (old, new) = (self.count as f64, other.count as f64);
        let all = old + new;
        let pairs = other.mean.iter().zip(&self.mean);
        let apart: Vec<f64> = pairs.map(|(b, a)| b - a).collect();
        let (weight, is_diagonal) = (old * new / all, self.scatter.ncols() == 1);
        for column in 0..self.scatter.ncols() {
            for row in 0..self.mean.len() {
                let across = if is_diagonal { row } else { column };
                self.scatter[(row, column)] +=
                    other.scatter[(row, column)] + weight * apart[row] * apart[across];
            }
        }
        for (mean, apart) in self.mean.iter_mut().zip(&apart) {
            *mean += apart * new / all;
        }
        self.count += other.count;
    }

    /// The unbiased covariance, as far as the scatter goes; of a single sample, which has none, zero.
    fn covariance(&self) -> Mat<f64> {
        let divisor = self.count.saturating_sub(1).max(1) as f64;
        let (rows, columns) = (self.scatter.nrows(), self.scatter.ncols());
        Mat::from_fn(rows, columns, |row, column| {
            self.scatter[(row, column)] / divisor
        })
    }

    fn bytes(&self) -> u64 {
        8 * (1 + self.mean.len() + self.scatter.nrows() * self.scatter.ncols()) as u64
    }
}

/// What is kept of a class.
struct Complete {
    class: ClassId,
    count: usize,
    mean: Vec<f64>,
    factor: Vec<f32>,
    jitter: f64,
}

/// Mean and covariance of the features of each class.
///
/// Features are [`add`](Self::add)ed batch by batch. When a class is complete, [`close`](Self::close) computes
/// what is kept of it, a factor of its covariance from which samples are drawn; until then its scatter takes 8·D² bytes (8·D of a
/// diagonal one). A class that is met again is pooled with what was kept.
///
/// ```
/// use everburn_core::{ClassId, Key};
/// use everburn_nn::{ClassGaussians, Covariance};
///
/// let mut classes = ClassGaussians::new(2, Covariance::Full, 1e-4)?;
/// classes.add(&[1.0, 0.0, 3.0, 2.0], &[ClassId(7), ClassId(7)])?;
/// classes.close()?;
/// assert_eq!(classes.mean(0), [2.0, 1.0]);
/// let covariance = classes.covariance(0); // [[2, 2], [2, 2]] and ε: singular without it
/// assert!((covariance[0] - 2.0001).abs() < 1e-6 && (covariance[1] - 2.0).abs() < 1e-6);
///
/// let mut sample = [0.0; 2];
/// classes.sample(0, 1.0, &mut Key::from_seed(1).rng(), &mut sample);
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClassGaussians {
    dim: usize,
    covariance: Covariance,
    /// ε.
    jitter: f64,
    seen: SeenClasses,
    counts: Vec<i64>,
    /// What was added to the diagonal of each: ε, or more where rounding leaves ε too small.
    jitters: Vec<f64>,
    /// `[classes, dim]`.
    means: Vec<f64>,
    /// `[classes, values of a covariance]`: of a full one the columns of the lower triangle L with Σ + ε·I = L·Lᵀ, of a
    /// diagonal one the deviation of each feature, of one of rank r first r directions of width D.
    factors: Vec<f32>,
    /// Classes that are not complete.
    open: Vec<(ClassId, Moments)>,
}

/// Images of a forward pass that collects statistics; affects the speed alone.
const STATISTICS_BATCH: usize = 128;

impl ClassGaussians {
    /// What the stage is called that shows a task's images once more, class after class, for statistics of them.
    pub const STAGE: &'static str = "statistics";

    /// That stage.
    pub fn stage() -> Stage {
        Stage {
            name: Self::STAGE.to_owned(),
            source: Source::Task,
            epochs: 1,
            batch: STATISTICS_BATCH,
            view: View::Test,
            order: Order::ByClass,
            drop_last: false,
        }
    }

    /// No class yet, for features of width `dim`; `jitter` is ε.
    ///
    /// # Errors
    /// If the width or the rank is 0, the rank is above the width, or ε is negative.
    pub fn new(dim: usize, covariance: Covariance, jitter: f64) -> Result<Self> {
        covariance.validate()?;
        let check = Checker::new("covariance");
        check.positive("width", dim)?;
        check.within("jitter", jitter, 0.0..f64::INFINITY, "0 or more")?;
        if let Covariance::LowRank { rank } = covariance {
            let expected = format!("at most the width {dim} of a feature");
            check.within("rank", rank, 1..=dim, &expected)?;
        }
        Ok(Self {
            dim,
            covariance,
            jitter,
            seen: SeenClasses::default(),
            counts: Vec::new(),
            jitters: Vec::new(),
            means: Vec::new(),
            factors: Vec::new(),
            open: Vec::new(),
        })
    }

    /// The classes that are complete, in the order of their completion. They go by their place in it.
    pub fn seen(&self) -> &SeenClasses {
        &self.seen
    }

    /// Width of a feature.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many features a class was made of.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn count(&self, class: usize) -> usize {
        self.counts[class] as usize
    }

    /// μ of a class, `[dim]`.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn mean(&self, class: usize) -> &[f64] {
        &self.means[class * self.dim..(class + 1) * self.dim]
    }

    /// μ of all classes, `[classes, dim]`.
    pub fn means(&self) -> &[f64] {
        &self.means
    }

    /// The covariance of what is [`sample`](Self::sample)d of a class, ε included: `[dim, dim]`.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn covariance(&self, class: usize) -> Vec<f64> {
        let (dim, factor) = (self.dim, self.factor(class));
        let at = |place: usize| f64::from(factor[place]);
        let entry = |row: usize, column: usize| -> f64 {
            let rank = match self.covariance {
                Covariance::Full => {
                    let in_column = |k: usize, row: usize| at(self.column(k) + row - k);
                    let product = |k| in_column(k, row) * in_column(k, column);
                    return (0..=row.min(column)).map(product).sum();
                }
                Covariance::Diagonal => 0,
                Covariance::LowRank { rank } => rank,
            };
            let product = |k: usize| at(k * dim + row) * at(k * dim + column);
            let own = usize::from(row == column);
            (0..rank + own).map(product).sum()
        };
        let places = (0..dim).flat_map(|row| (0..dim).map(move |column| (row, column)));
        places.map(|(row, column)| entry(row, column)).collect()
    }

    /// Where column `k` of a full covariance's factor begins; it has `dim − k` values.
    fn column(&self, k: usize) -> usize {
        k * self.dim - k * k.saturating_sub(1) / 2
    }

    fn factor(&self, class: usize) -> &[f32] {
        let values = self.covariance.values(self.dim);
        &self.factors[class * values..(class + 1) * values]
    }

    /// Takes in features `[samples, dim]`.
    ///
    /// # Errors
    /// If there are not `dim` numbers for each label, or one of them is not finite.
    pub fn add(&mut self, features: &[f32], labels: &[ClassId]) -> Result<()> {
        if features.len() != labels.len() * self.dim {
            let expected = format!("{} × {}", labels.len(), self.dim);
            return Err(Error::input("features", features.len(), expected));
        }
        if let Some(wrong) = features.iter().find(|value| !value.is_finite()) {
            let expected = "finite numbers: the network has diverged";
            return Err(Error::input("features", wrong, expected));
        }
        for class in SeenClasses::from(labels.to_vec()).as_slice() {
            let rows = features.chunks_exact(self.dim).zip(labels);
            let own: Vec<f32> = rows
                .filter(|(_, label)| *label == class)
                .flat_map(|(row, _)| row.iter().copied())
                .collect();
            let new = Moments::of(&own, self.dim, self.covariance);
            match self.open.iter_mut().find(|(open, _)| open == class) {
                Some((_, moments)) => moments.merge(&new),
                None => self.open.push((*class, new)),
            }
        }
        Ok(())
    }

    /// Completes all classes to which features were added.
    ///
    /// # Errors
    /// If a covariance cannot be factorised.
    pub fn close(&mut self) -> Result<()> {
        self.close_but(&[])
    }

    /// Completes all classes to which features were added but those of a batch: where classes come one after
    /// another, there is never more than one that is not.
    ///
    /// # Errors
    /// If a covariance cannot be factorised.
    pub fn close_but(&mut self, labels: &[ClassId]) -> Result<()> {
        let is_complete = |(class, _): &(ClassId, Moments)| !labels.contains(class);
        while let Some(place) = self.open.iter().position(is_complete) {
            let (class, moments) = &self.open[place];
            let complete = self.completed(*class, moments)?;
            self.keep(complete);
            self.open.remove(place);
        }
        Ok(())
    }

    /// What is to be kept of a class.
    fn completed(&self, class: ClassId, moments: &Moments) -> Result<Complete> {
        let mut pooled = None;
        if let Some(old) = self.seen.index(class) {
            let mut kept = self.kept_moments(old);
            kept.merge(moments);
            pooled = Some(kept);
        }
        let moments = pooled.as_ref().unwrap_or(moments);
        let (factor, jitter) = self.factorised(class, moments.covariance())?;
        Ok(Complete {
            class,
            count: moments.count,
            mean: moments.mean.clone(),
            factor,
            jitter,
        })
    }

    fn keep(&mut self, complete: Complete) {
        let place = self.seen.insert(complete.class);
        if place == self.counts.len() {
            self.counts.push(0);
            self.jitters.push(0.0);
            self.means.extend(&complete.mean);
            self.factors.extend(&complete.factor);
        }
        self.counts[place] = complete.count as i64;
        self.jitters[place] = complete.jitter;
        self.means[place * self.dim..(place + 1) * self.dim].copy_from_slice(&complete.mean);
        let values = complete.factor.len();
        self.factors[place * values..(place + 1) * values].copy_from_slice(&complete.factor);
    }

    /// The moments of a class as far as they were kept.
    fn kept_moments(&self, class: usize) -> Moments {
        let (dim, covariance, count) = (self.dim, self.covariance(class), self.count(class));
        let is_diagonal = self.covariance == Covariance::Diagonal;
        let entry = |row: usize, column: usize| {
            let column = if is_diagonal { row } else { column };
            let own = f64::from(u8::from(row == column)) * self.jitters[class];
            (covariance[row * dim + column] - own) * count.saturating_sub(1) as f64
        };
        Moments {
            count,
            mean: self.mean(class).to_vec(),
            scatter: Mat::from_fn(dim, if is_diagonal { 1 } else { dim }, entry),
        }
    }

    /// What is kept of a covariance, and what was added to its diagonal.
    fn factorised(&self, class: ClassId, covariance: Mat<f64>) -> Result<(Vec<f32>, f64)> {
        let dim = self.dim;
        let failed = |why: String| Error::other(format!("the covariance of class {class}"), why);
        match self.covariance {
            Covariance::Full => {
                let (factor, jitter) = cholesky(covariance, self.jitter)
                    .ok_or_else(|| failed("it has no Cholesky factor".to_owned()))?;
                let places =
                    (0..dim).flat_map(|column| (column..dim).map(move |row| (row, column)));
                let values = places.map(|place| factor[place] as f32).collect();
                Ok((values, jitter))
            }
            Covariance::Diagonal => {
                let deviation = |d| (covariance[(d, 0)].max(0.0) + self.jitter).sqrt() as f32;
                Ok(((0..dim).map(deviation).collect(), self.jitter))
            }
            Covariance::LowRank { rank } => {
                let (values, vectors) = eigen(&covariance)
                    .ok_or_else(|| failed("its eigenvalues do not converge".to_owned()))?;
                let mut own: Vec<f64> = (0..dim).map(|d| covariance[(d, d)]).collect();
                let mut factor = Vec::with_capacity(dim * (rank + 1));
                for (k, value) in values.iter().enumerate().take(rank) {
                    for (d, own) in own.iter_mut().enumerate() {
                        let loading = vectors[(d, k)] * value.max(0.0).sqrt();
                        *own -= loading * loading;
                        factor.push(loading as f32);
                    }
                }
                let deviation = |own: f64| (own.max(0.0) + self.jitter).sqrt() as f32;
                factor.extend(own.into_iter().map(deviation));
                Ok((factor, self.jitter))
            }
        }
    }

    /// One sample of a class, into `sample` of width `dim`: `mean_scale`·μ + L·z, with z normal and L·Lᵀ the
    /// [`covariance`](Self::covariance). In 64 bits up to its last rounding.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn sample(&self, class: usize, mean_scale: f64, rng: &mut Rng, sample: &mut [f32]) {
        let draws = self.covariance.draws(self.dim);
        let z: Vec<f64> = (0..draws).map(|_| StandardNormal.sample(rng)).collect();
        self.sample_from_noise(class, mean_scale, &z, sample);
    }

    /// [`sample`](Self::sample) for given z: `[dim]`, and of a covariance of rank r `[r + dim]`.
    ///
    /// # Panics
    /// If there is no such class, or another number of z.
    pub fn sample_from_noise(&self, class: usize, mean_scale: f64, z: &[f64], sample: &mut [f32]) {
        let (dim, factor) = (self.dim, self.factor(class));
        assert_eq!(
            z.len(),
            self.covariance.draws(dim),
            "numbers for one sample"
        );
        let mut value: Vec<f64> = self.mean(class).iter().map(|m| mean_scale * m).collect();
        let mut add = |from: usize, direction: &[f32], z: f64| {
            for (value, direction) in value[from..].iter_mut().zip(direction) {
                *value += f64::from(*direction) * z;
            }
        };
        let rank = match self.covariance {
            Covariance::Full => {
                for (k, z) in z.iter().enumerate() {
                    add(k, &factor[self.column(k)..][..dim - k], *z);
                }
                dim
            }
            Covariance::Diagonal => 0,
            Covariance::LowRank { rank } => {
                for (direction, z) in factor.chunks_exact(dim).zip(&z[..rank]) {
                    add(0, direction, *z);
                }
                rank
            }
        };
        if self.covariance != Covariance::Full {
            let deviations = factor[rank * dim..].iter().zip(&z[rank..]);
            for (value, (deviation, z)) in value.iter_mut().zip(deviations) {
                *value += f64::from(*deviation) * z;
            }
        }
        for (sample, value) in sample.iter_mut().zip(value) {
            *sample = value as f32;
        }
    }

    /// Adds what is held to an account of memory.
    pub fn account(&self, footprint: &mut Footprint) {
        let classes = 16 * self.counts.len() + 8 * self.means.len();
        let bytes = |bytes: usize| bytes as u64;
        footprint.add(Kind::Statistics, "class means", bytes(classes));
        let factors = bytes(4 * self.factors.len());
        footprint.add(Kind::Statistics, "class covariances", factors);
        if !self.open.is_empty() {
            let open = self.open.iter().map(|(_, moments)| moments.bytes()).sum();
            footprint.add(Kind::Statistics, "moments of incomplete classes", open);
        }
    }

    /// The complete state.
    ///
    /// # Errors
    /// If a value cannot be written as text.
    pub fn save(&self) -> Result<State> {
        let (mut state, classes) = (State::default(), self.counts.len());
        state.put_value("covariance", self.covariance)?;
        state.put_value("seen", &self.seen)?;
        state.put("counts", Array::i64([classes], self.counts.clone()));
        state.put("jitters", Array::f64([classes], self.jitters.clone()));
        state.put("means", Array::f64([classes, self.dim], self.means.clone()));
        let shape = [classes, self.covariance.values(self.dim)];
        state.put("factors", Array::f32(shape, self.factors.clone()));
        let open: Vec<ClassId> = self.open.iter().map(|(class, _)| *class).collect();
        state.put_value("open", open)?;
        for (number, (_, moments)) in self.open.iter().enumerate() {
            let mut inner = State::default();
            inner.put("count", Array::i64([1], vec![moments.count as i64]));
            inner.put("mean", Array::f64([self.dim], moments.mean.clone()));
            let columns = moments.scatter.col_iter();
            let scatter = columns.flat_map(|column| column.iter().copied()).collect();
            let shape = [moments.scatter.ncols(), self.dim];
            inner.put("scatter", Array::f64(shape, scatter));
            state.nest(&format!("open.{number}"), inner);
        }
        Ok(state)
    }

    /// With a saved state.
    ///
    /// # Errors
    /// If it is of another width or kind of covariance, or its parts do not fit together.
    pub fn restored(&self, state: &State) -> Result<Self> {
        let covariance: Covariance = state.value("covariance")?;
        if covariance != self.covariance {
            let text = |covariance| format!("{covariance:?}");
            let (found, expected) = (text(covariance), text(self.covariance));
            return Err(Error::state("covariance", found, expected));
        }
        let seen: SeenClasses = state.value("seen")?;
        let (classes, dim) = (seen.len(), self.dim);
        let counts = state.i64("counts")?.to_vec();
        let (_, jitters) = state.f64::<1>("jitters")?;
        let (of_means, means) = state.f64::<2>("means")?;
        let (of_factors, factors) = state.f32::<2>("factors")?;
        let positive = counts.iter().all(|count| *count > 0);
        let expected = [[classes, dim], [classes, covariance.values(dim)]];
        let lengths = [counts.len(), jitters.len()];
        if [of_means, of_factors] != expected || lengths != [classes; 2] || !positive {
            let found = format!("means {of_means:?}, factors {of_factors:?}, counts {counts:?}");
            let expected = format!("{expected:?}, and a count above 0 for each class");
            return Err(Error::state("class statistics", found, expected));
        }
        let open: Vec<ClassId> = state.value("open")?;
        let moments = |number: usize| {
            let inner = state.below(&format!("open.{number}"));
            let count = inner.i64("count")?.first().copied().unwrap_or_default();
            let (of_mean, mean) = inner.f64::<1>("mean")?;
            let (of_scatter, scatter) = inner.f64::<2>("scatter")?;
            let columns = if covariance == Covariance::Diagonal {
                1
            } else {
                dim
            };
            if of_mean != [dim] || of_scatter != [columns, dim] || count < 1 {
                let found = format!("{count} features, mean {of_mean:?}, scatter {of_scatter:?}");
                let expected = format!("at least one feature of width {dim}");
                return Err(Error::state("open class statistics", found, expected));
            }
            Ok(Moments {
                count: count as usize,
                mean: mean.to_vec(),
                scatter: Mat::from_fn(dim, columns, |row, column| scatter[column * dim + row]),
            })
        };
        let open = open.into_iter().enumerate();
        Ok(Self {
            open: open
                .map(|(number, class)| Ok((class, moments(number)?)))
                .collect::<Result<_>>()?,
            seen,
            counts,
            jitters: jitters.to_vec(),
            means: means.to_vec(),
            factors: factors.to_vec(),
            ..self.clone()
        })
    }
}
