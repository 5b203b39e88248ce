//! Golden numbers of PET modules under the reference implementations' names.

use std::collections::BTreeMap;

use burn::tensor::Device;
use everburn_backend::{Grads, load_params, params, save_params, to_vec};
use everburn_core::{Array, Key, State, Values};
use everburn_nn::pet::Pet;
use everburn_nn::vit::{VisionTransformer, VitConfig};
use everburn_nn::{Backbone, Frozen, Normalise, PetConfig, WeightFile};

use crate::Golden;

/// Where a parameter of ours is in a golden file.
struct Place {
    /// The reference's name, below the kind's prefix.
    name: String,
    /// Whether the reference has it turned, `[out, in]`.
    turned: bool,
    /// The row of the reference's tensor that it is, if not all of it.
    row: Option<usize>,
}

/// The place of the parameter at `path` (`blocks.3.adapter.bottleneck.down.weight`); `adapted` are the blocks
/// that LAE's lists of modules stand for.
fn place(path: &str, adapted: &[usize]) -> Place {
    let whole = |name: String, turned| Place {
        name,
        turned,
        row: None,
    };
    let Some(rest) = path.strip_prefix("blocks.") else {
        return match path {
            "prompts.tokens" => whole("Prompt_Tokens".to_owned(), false),
            "patches.scale" => whole("patch_embed.ssf_scale_1".to_owned(), false),
            "patches.shift" => whole("patch_embed.ssf_shift_1".to_owned(), false),
            "norm.scale" => whole("ssf_scale_1".to_owned(), false),
            "norm.shift" => whole("ssf_shift_1".to_owned(), false),
            other => panic!("no reference name for {other}"),
        };
    };
    let (block, rest) = rest.split_once('.').unwrap();
    let block: usize = block.parse().unwrap();
    let lae = || adapted.iter().position(|b| *b == block).unwrap();
    let ssf = |place: &str| format!("blocks.{block}.{place}");
    match rest {
        "adapter.bottleneck.down.weight" => whole(format!("{}.layer.0.weight", lae()), true),
        "adapter.bottleneck.down.bias" => whole(format!("{}.layer.0.bias", lae()), false),
        "adapter.bottleneck.up.weight" => whole(format!("{}.layer.2.weight", lae()), true),
        "adapter.bottleneck.up.bias" => whole(format!("{}.layer.2.bias", lae()), false),
        "adapter.bottleneck.scaler.scale" => whole(format!("{}.layer.3.scale", lae()), false),
        "adaptformer.bottleneck.down.weight" => whole(ssf("down_proj.weight"), true),
        "adaptformer.bottleneck.down.bias" => whole(ssf("down_proj.bias"), false),
        "adaptformer.bottleneck.up.weight" => whole(ssf("up_proj.weight"), true),
        "adaptformer.bottleneck.up.bias" => whole(ssf("up_proj.bias"), false),
        "lora.thirds.1.a" => whole(format!("{}.lora_A.0", lae()), false),
        "lora.thirds.1.b" => whole(format!("{}.lora_B.0", lae()), false),
        "lora.thirds.1.scaler.scale" => whole(format!("{}.scale.0.scale", lae()), false),
        "lora.thirds.2.a" => whole(format!("{}.lora_A.1", lae()), false),
        "lora.thirds.2.b" => whole(format!("{}.lora_B.1", lae()), false),
        "lora.thirds.2.scaler.scale" => whole(format!("{}.scale.1.scale", lae()), false),
        "lora.qkv.a" => whole(ssf("attn.lora_A"), false),
        "lora.qkv.b" => whole(ssf("attn.lora_B"), false),
        "lora.fc1.a" => whole(ssf("mlp.lora_1_A"), false),
        "lora.fc1.b" => whole(ssf("mlp.lora_1_B"), false),
        "lora.fc2.a" => whole(ssf("mlp.lora_2_A"), false),
        "lora.fc2.b" => whole(ssf("mlp.lora_2_B"), false),
        "prefix.keys" => whole(format!("{}.key.tokens", lae()), false),
        "prefix.values" => whole(format!("{}.val.tokens", lae()), false),
        "prefix.key_scaler.scale" => whole(format!("{}.key.scaler.scale", lae()), false),
        "prefix.value_scaler.scale" => whole(format!("{}.val.scaler.scale", lae()), false),
        "prompts.tokens" => Place {
            name: "Prompt_Tokens".to_owned(),
            turned: false,
            row: Some(block),
        },
        _ => {
            let (of, number, what) = match rest.strip_prefix("ssf.").unwrap() {
                "norm1.scale" => ("", 1, "scale"),
                "norm1.shift" => ("", 1, "shift"),
                "norm2.scale" => ("", 2, "scale"),
                "norm2.shift" => ("", 2, "shift"),
                "qkv.scale" => ("attn.", 1, "scale"),
                "qkv.shift" => ("attn.", 1, "shift"),
                "proj.scale" => ("attn.", 2, "scale"),
                "proj.shift" => ("attn.", 2, "shift"),
                "fc1.scale" => ("mlp.", 1, "scale"),
                "fc1.shift" => ("mlp.", 1, "shift"),
                "fc2.scale" => ("mlp.", 2, "scale"),
                "fc2.shift" => ("mlp.", 2, "shift"),
                other => panic!("no reference name for {other}"),
            };
            whole(ssf(&format!("{of}ssf_{what}_{number}")), false)
        }
    }
}

/// `[rows, columns]` turned.
fn turn(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let at = |i: usize| values[i % rows * columns + i / rows];
    (0..values.len()).map(at).collect()
}

/// The sizes of a case's Vision Transformer.
pub fn golden_sizes(golden: &Golden) -> VitConfig {
    VitConfig {
        image: golden.size("img"),
        patch: golden.size("patch"),
        dim: golden.size("dim"),
        depth: golden.size("depth"),
        heads: golden.size("heads"),
        hidden: golden.size("dim") * golden.size("mlp_ratio"),
    }
}

/// The backbone of a case, from its `sizes` and `weights.*`.
pub fn golden_vit(golden: &Golden, device: &Device) -> VisionTransformer {
    let config = golden_sizes(golden);
    let all = WeightFile::from_safetensors("golden", golden.bytes()).unwrap();
    let mut weights = WeightFile::empty("golden");
    for (name, tensor) in all.tensors() {
        if let Some(name) = name.strip_prefix("weights.") {
            weights.replace(name, tensor.clone());
        }
    }
    let vit = VisionTransformer::new(config, Key::from_seed(0), device).unwrap();
    let (vit, report) = weights.load_into(vit).unwrap();
    assert!(report.unexpected.is_empty(), "{report}");
    vit
}

/// A frozen backbone of a network, for images of values in 0..=1.
pub fn frozen_vit(vit: &VisionTransformer, device: &Device) -> Frozen {
    let backbone = Backbone::from_vit("golden", vit.clone(), Normalise::NONE).unwrap();
    Frozen::new(backbone, device)
}

/// Golden PET modules: a kind's parameters below `prefix` (`pet.lora`) of a file.
pub struct GoldenPet<'a> {
    /// The file.
    pub golden: &'a Golden,
    /// What stands before a parameter's name.
    pub prefix: String,
    /// The blocks of LAE's lists.
    pub adapted: Vec<usize>,
}

impl GoldenPet<'_> {
    /// Modules with the file's parameters.
    pub fn load(&self, config: &PetConfig, vit: &VisionTransformer, device: &Device) -> Pet {
        let pet = Pet::new(config, vit, Key::from_seed(0), device).unwrap();
        let mut state = State::default();
        for param in params(&pet) {
            let place = place(&param.path, &self.adapted);
            let mut values = self.golden.f32(&format!("{}.{}", self.prefix, place.name));
            let size: usize = param.shape.iter().product();
            if let Some(row) = place.row {
                values = values[row * size..(row + 1) * size].to_vec();
            }
            if place.turned {
                values = turn(&values, [param.shape[1], param.shape[0]]);
            }
            state.put(param.path, Array::f32(param.shape, values));
        }
        load_params(pet, &state).unwrap()
    }

    /// Compares values by path (of gradients, or of parameters) with those below `prefix` (`grad.lora`).
    pub fn check(&self, pet: &Pet, found: &ByPath, prefix: &str, fraction: f64) {
        for (name, values) in self.by_name(pet, found) {
            let name = format!("{prefix}.{name}");
            self.golden.check(&name, &values, fraction);
        }
    }

    /// Values by path as the reference names and lays them out.
    pub fn by_name(&self, pet: &Pet, found: &ByPath) -> Vec<(String, Vec<f32>)> {
        let mut all: Vec<(String, Vec<f32>)> = Vec::new();
        for param in params(pet) {
            let place = place(&param.path, &self.adapted);
            let mut values = found[&param.path].clone();
            if place.turned {
                values = turn(&values, [param.shape[0], param.shape[1]]);
            }
            match all.last_mut() {
                // The rows of one tensor come one after another.
                Some((name, rows)) if place.row.is_some() && *name == place.name => {
                    rows.extend(values);
                }
                _ => all.push((place.name, values)),
            }
        }
        all
    }
}

/// Values by a parameter's path.
pub type ByPath = BTreeMap<String, Vec<f32>>;

/// The parameters of modules.
pub fn values_of(pet: &Pet) -> ByPath {
    let arrays = save_params(pet).unwrap().arrays.into_iter();
    let values = |(path, array): (String, Array)| match array.values {
        Values::F32(values) => (path, values),
        other => panic!("{path}: {other:?}"),
    };
    arrays.map(values).collect()
}

/// Gradients of modules.
pub fn grads_of(grads: &Grads) -> ByPath {
    let values = |(path, grad): (&String, _)| (path.clone(), to_vec(grad).unwrap());
    grads.iter().map(values).collect()
}
