use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor, TensorData};
use everburn_nn::cross_entropy;

/// The smallest probability of a label (of a class that is not the sample's) in the reverse cross-entropy.
const LABEL: f64 = 1e-4;
/// The smallest predicted one.
const PREDICTED: f32 = 1e-7;

/// a·CE + b·RCE of logits `[batch, classes]` and class numbers `[batch]`, the mean over the batch: the symmetric
/// cross-entropy (Wang et al., ICCV 2019) of SLCA++ (`models/slca_pp.py`).
///
/// RCE = −Σ_k p_k·ln y_k, with y the labels as probabilities of at least 1e-4, and p clamped to at least 1e-7. Since
/// ln 1 = 0, it is ln 10⁴ = 9.21 times the probability of all other classes: bounded, so that a sample which fits no class
/// does not tear at the representation.
pub fn symmetric_cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    a: f64,
    b: f64,
) -> Tensor<1> {
    let [batch, classes] = logits.dims();
    let predicted = softmax(logits.clone(), 1).clamp(PREDICTED, 1.0);
    let numbers = Tensor::<1, Int>::arange(0..classes as i64, &logits.device());
    let others = (numbers.unsqueeze::<2>())
        .expand([batch, classes])
        .not_equal(
            targets
                .clone()
                .unsqueeze_dim::<2>(1)
                .expand([batch, classes]),
        );
    let reverse = (predicted * others.float()).sum_dim(1).mean() * -LABEL.ln();
    cross_entropy(logits, targets) * a + reverse * b
}

/// Added to a norm.
const NORM_EPS: f64 = 1e-7;

/// l/(τ·n) of logits `[batch, classes]`, with n the mean over the tasks k of n_k = ‖l on the classes of k‖₂ + 1e-7, for
/// each sample; `tasks` has the task of each class. The gradient goes through n (`models/slca.py`,
/// `_stage2_compact_classifier`).
pub fn normalised_by_task(logits: Tensor<2>, tasks: &[usize], tau: f64) -> Tensor<2> {
    let mut met: Vec<usize> = tasks.to_vec();
    met.sort_unstable();
    met.dedup();
    let places = tasks
        .iter()
        .flat_map(|task| met.iter().map(move |of| of == task));
    let indicator: Vec<f32> = places.map(|own| f32::from(u8::from(own))).collect();
    let data = TensorData::new(indicator, [tasks.len(), met.len()]);
    let indicator = Tensor::<2>::from_data(data, &logits.device());
    // The floor keeps the root of a task whose logits are all 0 from having an infinite gradient.
    let squares = logits
        .clone()
        .powi_scalar(2)
        .matmul(indicator)
        .clamp_min(1e-30);
    let norm = (squares.sqrt() + NORM_EPS).mean_dim(1);
    logits / (norm * tau)
}
