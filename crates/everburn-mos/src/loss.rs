use burn::tensor::Tensor;
use everburn_nn::{cross_entropy, targets};

/// L_orth, which draws features apart from each other and from the means of earlier classes (`orth_loss`): with the rows
/// of M the means `[classes, dim]`, which stay as they are, and the features `[batch, dim]`, cross-entropy of M·Mᵀ/T
/// with each row's own number, averaged over all rows. Dot products, not cosines.
pub fn orthogonality(means: Option<Tensor<2>>, features: Tensor<2>, temperature: f64) -> Tensor<1> {
    let device = features.device();
    let rows = match means {
        Some(means) => Tensor::cat(vec![means, features], 0),
        None => features,
    };
    let similarity = rows.clone().matmul(rows.transpose()) / temperature;
    let own: Vec<usize> = (0..similarity.dims()[0]).collect();
    cross_entropy(similarity, targets(&own, &device))
}
