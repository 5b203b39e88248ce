use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::attention::heads_of;

/// What the sum of a prefix's weights is at least, where it divides them (gqk/LAE).
const LEAST_SUM: f64 = 1e-12;

/// Multi-head self-attention of a fused projection `[batch, tokens, 3·dim]` (as for
/// [`self_attention`](super::self_attention)) in which every query also sees a prefix of keys and values
/// `[length, dim]`: `[batch, tokens, dim]`.
///
/// With `compensate`, the weights of the prefix are divided by their sum λ (at least 1e-12) and those of the
/// tokens stay: each row then sums to 2 − λ (Gao et al., ICCV 2023, adaptation speed calibration).
pub fn prefix_attention(
    qkv: Tensor<3>,
    keys: Tensor<2>,
    values: Tensor<2>,
    heads: usize,
    compensate: bool,
) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    let (dim, [length, _]) = (width / 3, keys.dims());
    let [q, k, v] = heads_of(qkv, heads);
    let prefix = |rows: Tensor<2>| -> Tensor<4> {
        (rows.reshape([1, length, heads, dim / heads])).swap_dims(1, 2)
    };
    let q = q.mul_scalar(((dim / heads) as f64).powf(-0.5));
    let scores = vec![
        q.clone().matmul(k.swap_dims(2, 3)),
        q.matmul(prefix(keys).swap_dims(2, 3)),
    ];
    let weights = softmax(Tensor::cat(scores, 3), 3);
    let mut of_prefix = weights.clone().narrow(3, tokens, length);
    if compensate {
        let sum = of_prefix.clone().sum_dim(3);
        of_prefix = of_prefix / sum.clamp_min(LEAST_SUM);
    }
    let out = weights.narrow(3, 0, tokens).matmul(v) + of_prefix.matmul(prefix(values));
    out.swap_dims(1, 2).reshape([batch, tokens, dim])
}
