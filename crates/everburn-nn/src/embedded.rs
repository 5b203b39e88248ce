//! The small pre-trained ViT that comes with this crate.

use everburn_core::Result;

use crate::weights::WeightFile;

static BYTES: &[u8] = include_bytes!("../weights/vit_micro_patch4_32.safetensors");

/// The weights of the embedded backbone, `vit_micro_patch4_32`; see `weights/README.md` for what it
/// was trained on and how good it is.
///
/// # Errors
/// If the crate was built from a damaged file.
pub fn embedded_weights() -> Result<WeightFile> {
    WeightFile::from_safetensors("the embedded vit_micro_patch4_32", BYTES)
}
