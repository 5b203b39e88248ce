//! The losses: prototype equilibrium, the instance losses of OCM, and cross-entropy with mixed labels.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use everburn_nn::layers::unit_rows;
use everburn_nn::targets;

/// Keeps logarithms and quotients finite.
const EPSILON: f64 = 1e-8;

/// Takes the mean of rows by class.
pub struct ClassAverage {
    /// The classes that have rows, ascending.
    pub classes: Vec<usize>,
    /// `[classes, n]`: 1/(rows of the class) for its rows, else 0.
    matrix: Tensor<2>,
}

impl ClassAverage {
    /// For rows of these classes.
    pub fn new(labels: &[usize], device: &Device) -> Self {
        let mut classes = labels.to_vec();
        classes.sort_unstable();
        let groups = classes.chunk_by(|a, b| a == b);
        let counts: Vec<(usize, usize)> = groups.map(|group| (group[0], group.len())).collect();
        let weight = |(class, count): (usize, usize), label: usize| match label == class {
            true => 1.0 / count as f32,
            false => 0.0,
        };
        let weights: Vec<f32> = (counts.iter())
            .flat_map(|count| labels.iter().map(|label| weight(*count, *label)))
            .collect();
        let matrix = TensorData::new(weights, [counts.len(), labels.len()]);
        Self {
            classes: counts.into_iter().map(|(class, _)| class).collect(),
            matrix: Tensor::from_data(matrix, device),
        }
    }

    /// The mean of `[n, width]` of each class, `[classes, width]`: the prototypes of rows of length 1.
    pub fn of(&self, rows: Tensor<2>) -> Tensor<2> {
        self.matrix.clone().matmul(rows)
    }
}

/// L_OPE of the prototypes p and p' of two views, `[classes, width]` each (the paper's online prototype equilibrium, the
/// code's `OPELoss`): each is to be nearer to that of its class in the other view than to those of all other classes in both.
pub fn equilibrium(first: Tensor<2>, second: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [classes, _] = first.dims();
    let (rows, device) = (2 * classes, first.device());
    let prototypes = Tensor::cat(vec![unit_rows(first), unit_rows(second)], 0);
    let similarity = prototypes.clone().matmul(prototypes.transpose()) / temperature;
    let log_probabilities = log_softmax(similarity.mask_fill(diagonal(rows, &device), -1e9), 1);
    log_probabilities
        .gather(1, partners(rows, &device))
        .mean()
        .neg()
}

/// Similarities of n images, as the official loop has them from OCM: λ·(ẑ·f̂[o..o+w]ᵀ + ẑ·ẑᵀ), `[n, n]`. `projections` ẑ `[n, w]` and `features` f̂
/// `[n, dim]` have rows of length 1, which the part of the features has not.
pub fn similarities(
    projections: Tensor<2>,
    features: Tensor<2>,
    offset: usize,
    factor: f64,
) -> Tensor<2> {
    let width = projections.dims()[1];
    let others = features.narrow(1, offset, width) + projections.clone();
    projections.matmul(others.transpose()) * factor
}

/// The instance loss of the stream, the code's `Supervised_NT_xent_n`, of similarities `[2n, 2n]` of n images and their
/// second views, and labels `[n]`: twice the supervised contrastive loss and that of the two views. An image is no
/// positive of itself, but counts as one where the loss is divided by the positives.
pub fn instance_stream(similarity: Tensor<2>, labels: &[f32], temperature: f64) -> Tensor<1> {
    let (rows, device) = (similarity.dims()[0], similarity.device());
    let exponentials = exponentials(similarity, temperature).mask_fill(diagonal(rows, &device), 0);
    let losses = negative_logarithms(exponentials);
    let supervised = (positives(labels, &device) * losses.clone()).sum() * 2.0;
    let views = losses.gather(1, partners(rows, &device)).sum();
    (supervised + views) / rows as f64
}

/// The instance loss of the memory, the code's `Supervised_NT_xent_uni`: an image is a positive of itself. Labels of
/// mixed images lie between those of their classes.
pub fn instance_memory(similarity: Tensor<2>, labels: &[f32], temperature: f64) -> Tensor<1> {
    let (rows, device) = (similarity.dims()[0], similarity.device());
    let losses = negative_logarithms(exponentials(similarity, temperature));
    (positives(labels, &device) * losses).sum() / rows as f64
}

/// exp((s − the largest of its row)/τ).
fn exponentials(similarity: Tensor<2>, temperature: f64) -> Tensor<2> {
    let largest = similarity.clone().max_dim(1).detach();
    ((similarity - largest) / temperature).exp()
}

/// −log of each part of its row.
fn negative_logarithms(exponentials: Tensor<2>) -> Tensor<2> {
    let sums = exponentials.clone().sum_dim(1);
    (exponentials / (sums + EPSILON) + EPSILON).log().neg()
}

/// For labels `[n]` of images and their second views, `[2n, 2n]`: 1/(equal labels in the row) where they are equal.
fn positives(labels: &[f32], device: &Device) -> Tensor<2> {
    let rows = 2 * labels.len();
    let labels = TensorData::new([labels, labels].concat(), [rows]);
    let labels = Tensor::<1>::from_data(labels, device);
    let down = labels.clone().unsqueeze_dim::<2>(1).expand([rows, rows]);
    let across = labels.unsqueeze_dim::<2>(0).expand([rows, rows]);
    let equal = down.equal(across).float();
    equal.clone() / (equal.sum_dim(1) + EPSILON)
}

/// True where row and column are the same.
fn diagonal(rows: usize, device: &Device) -> Tensor<2, Bool> {
    Tensor::<2>::eye(rows, device).bool()
}

/// The number of the other view of each row, `[rows, 1]`.
fn partners(rows: usize, device: &Device) -> Tensor<2, Int> {
    let partners: Vec<usize> = (0..rows).map(|row| (row + rows / 2) % rows).collect();
    targets(&partners, device).reshape([rows, 1])
}

/// The code's `loss_mixup`: mean of (1 − λ)·CE(a) + λ·CE(b) of logits `[n, classes]`, for the numbers a and b of two classes and λ, n each.
pub fn mixed_cross_entropy(
    logits: Tensor<2>,
    first: &[usize],
    second: &[usize],
    shares: &[f32],
) -> Tensor<1> {
    let (rows, device) = (shares.len(), logits.device());
    let log_probabilities = log_softmax(logits, 1);
    let of = |classes: &[usize]| {
        let classes = targets(classes, &device).reshape([rows, 1]);
        log_probabilities.clone().gather(1, classes)
    };
    let shares = Tensor::<2>::from_data(TensorData::new(shares.to_vec(), [rows, 1]), &device);
    let (first, second) = (of(first), of(second));
    (first.clone() + (second - first) * shares).mean().neg()
}
