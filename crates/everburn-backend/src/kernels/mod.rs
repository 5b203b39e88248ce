//! What burn-flex does on one core, element by element, done on all cores in vector instructions.
//!
//! A profile of training a ViT on burn-flex shows the matrix products at full speed, and as much time
//! again in a scalar `erf`, softmax, copies between layouts and the many small operations of the tape.
//! Each function here is one such operation as a whole, with its gradient worked out by hand. On other
//! devices, and on tapes that recompute activations, each is burn's own operation: callers need not know. So it is for
//! shapes that do not fit together, which are burn's to refuse.

mod add;
mod attention;
mod batch_norm;
mod conv;
mod gelu;
mod layer_norm;
mod linear;
mod prefix_attention;
mod relu;
mod simd;
mod tape;

pub use add::add;
pub use attention::self_attention;
pub use batch_norm::{Normalised, batch_norm, batch_norm_train};
pub use conv::conv2d;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use prefix_attention::prefix_attention;
pub use relu::relu;
