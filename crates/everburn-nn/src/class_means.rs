//! Prototypes: the mean of each class's features.

use everburn_core::{Array, ClassId, Error, Result, SeenClasses, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How near a feature is to a class mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Similarity {
    /// SimpleCIL: (f/‖f‖)·(p/‖p‖), with ε = 1e-12 for the norms.
    #[default]
    Cosine,
    /// NMC: −‖f − p‖.
    Euclidean,
}

/// The arithmetic mean of each class's raw, un-normalised features, kept as sum and count in 64 bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassMeans {
    seen: SeenClasses,
    dim: usize,
    counts: Vec<i64>,
    /// `[classes, dim]`.
    sums: Vec<f64>,
}

impl ClassMeans {
    /// No class yet, for features of width `dim`.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            ..Self::default()
        }
    }

    /// The classes that have a mean.
    pub fn seen(&self) -> &SeenClasses {
        &self.seen
    }

    /// Takes in features `[samples, dim]`.
    ///
    /// # Errors
    /// If there are not `dim` numbers for each label.
    pub fn add(&mut self, features: &[f32], labels: &[ClassId]) -> Result<()> {
        if features.len() != labels.len() * self.dim {
            let expected = format!("{} × {}", labels.len(), self.dim);
            return Err(Error::input("features", features.len(), expected));
        }
        for (feature, label) in features.chunks_exact(self.dim.max(1)).zip(labels) {
            let row = self.seen.insert(*label);
            if row == self.counts.len() {
                self.counts.push(0);
                self.sums.resize(self.sums.len() + self.dim, 0.0);
            }
            self.counts[row] += 1;
            let sums = &mut self.sums[row * self.dim..(row + 1) * self.dim];
            for (sum, value) in sums.iter_mut().zip(feature) {
                *sum += f64::from(*value);
            }
        }
        Ok(())
    }

    /// The means, `[classes, dim]`.
    pub fn means(&self) -> Vec<f64> {
        let rows = self.sums.chunks_exact(self.dim.max(1)).zip(&self.counts);
        rows.flat_map(|(row, count)| row.iter().map(|sum| sum / *count as f64))
            .collect()
    }

    /// Similarities of features `[samples, dim]` to the means, `[samples, classes]`.
    ///
    /// # Errors
    /// If the features are not a whole number of rows.
    pub fn scores(&self, features: &[f32], similarity: Similarity) -> Result<Vec<f32>> {
        let dim = self.dim.max(1);
        if !features.len().is_multiple_of(dim) {
            return Err(Error::input(
                "features",
                features.len(),
                format!("a multiple of {dim}"),
            ));
        }
        let mut means = self.means();
        if similarity == Similarity::Cosine {
            means.chunks_exact_mut(dim).for_each(normalise);
        }
        let mut scores = Vec::with_capacity(features.len() / dim * self.counts.len());
        for feature in features.chunks_exact(dim) {
            let mut feature: Vec<f64> = feature.iter().map(|x| f64::from(*x)).collect();
            if similarity == Similarity::Cosine {
                normalise(&mut feature);
            }
            scores.extend(means.chunks_exact(dim).map(|mean| {
                let pairs = feature.iter().zip(mean);
                let score = match similarity {
                    Similarity::Cosine => pairs.map(|(f, p)| f * p).sum(),
                    Similarity::Euclidean => {
                        -pairs.map(|(f, p)| (f - p).powi(2)).sum::<f64>().sqrt()
                    }
                };
                score as f32
            }));
        }
        Ok(scores)
    }

    /// Bytes of sums and counts.
    pub fn bytes(&self) -> u64 {
        8 * (self.sums.len() + self.counts.len()) as u64
    }

    /// The complete state.
    ///
    /// # Errors
    /// If a value cannot be written as text.
    pub fn save(&self) -> Result<State> {
        let mut state = State::default();
        state.put_value("seen", &self.seen)?;
        state.put(
            "counts",
            Array::i64([self.counts.len()], self.counts.clone()),
        );
        let shape = [self.counts.len(), self.dim];
        state.put("sums", Array::f64(shape, self.sums.clone()));
        Ok(state)
    }

    /// With a saved state.
    ///
    /// # Errors
    /// If it is of another width, or its parts do not fit together.
    pub fn restored(&self, state: &State) -> Result<Self> {
        let seen: SeenClasses = state.value("seen")?;
        let counts = state.i64("counts")?.to_vec();
        let (shape, sums) = state.f64::<2>("sums")?;
        let (expected, dim) = ([seen.len(), self.dim], self.dim);
        if shape != expected || counts.len() != seen.len() || counts.iter().any(|n| *n <= 0) {
            let found = format!("{shape:?} with counts {counts:?}");
            let expected = format!("{expected:?}, a count above 0 for each");
            return Err(Error::state("sums", found, expected));
        }
        Ok(Self {
            seen,
            dim,
            counts,
            sums: sums.to_vec(),
        })
    }
}

fn normalise(vector: &mut [f64]) {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= norm);
}
