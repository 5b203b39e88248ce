//! Golden case `adapters`: every kind of PET in a small ViT, forward and backward, on every device; and what
//! each of them must be by construction.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::{Device, Tensor};
use everburn_backend::{collect_grads, param_bytes, params, to_vec, track};
use everburn_core::Key;
use everburn_nn::pet::*;
use everburn_nn::vit::{VisionTransformer, VitConfig};
use everburn_nn::{PetConfig, WeightFile};
use everburn_testkit::pet::GoldenPet;
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::json;

fn cpu() -> Device {
    everburn_backend::DeviceChoice::CPU.open().unwrap()
}

fn key(number: u64) -> Key {
    Key::from_seed(number)
}

/// The case's backbone.
fn backbone(golden: &Golden, device: &Device) -> VisionTransformer {
    let config = VitConfig {
        image: golden.size("img"),
        patch: golden.size("patch"),
        dim: golden.size("dim"),
        depth: golden.size("depth"),
        heads: golden.size("heads"),
        hidden: golden.size("dim") * golden.size("mlp_ratio"),
    };
    let all = WeightFile::from_safetensors("golden", golden.bytes()).unwrap();
    let mut weights = WeightFile::empty("golden");
    for (name, tensor) in all.tensors() {
        if let Some(name) = name.strip_prefix("weights.") {
            weights.replace(name, tensor.clone());
        }
    }
    let vit = VisionTransformer::new(config, key(0), device).unwrap();
    let (vit, report) = weights.load_into(vit).unwrap();
    assert!(report.unexpected.is_empty(), "{report}");
    vit
}

/// The settings of a kind of the case, as somebody would write them in a suite.
fn settings(golden: &Golden, kind: &str) -> PetConfig {
    let hyper = golden.meta("hyper");
    let blocks = &hyper["lae_blocks"];
    let settings = match kind {
        "adaptformer" => {
            json!({"kind": "adaptformer", "bottleneck": hyper["adaptformer_bottleneck"],
            "scale": hyper["adaptformer_scale"]})
        }
        "lae_adapter" => {
            json!({"kind": "adapter", "blocks": blocks, "bottleneck": hyper["lae_bottleneck"]})
        }
        "lae_lora" => json!({"kind": "lora", "blocks": blocks, "rank": hyper["lae_lora_rank"]}),
        "lae_prefix" => {
            json!({"kind": "prefix", "blocks": blocks, "length": hyper["lae_prefix_length"]})
        }
        "lae_prefix_uncompensated" => json!({"kind": "prefix", "blocks": blocks,
            "length": hyper["lae_prefix_length"], "compensate": false}),
        "ssf" => json!({"kind": "ssf"}),
        "vpt_shallow" => {
            json!({"kind": "vpt", "depth": "shallow", "tokens": hyper["vpt_tokens"]})
        }
        "vpt_deep" => json!({"kind": "vpt", "depth": "deep", "tokens": hyper["vpt_tokens"]}),
        "slcapp_lora" => json!({"kind": "lora", "blocks": "all", "rank": hyper["slcapp_lora_rank"],
            "scale": hyper["slcapp_lora_scale"], "targets": ["qkv", "fc1", "fc2"]}),
        other => panic!("the case has a kind that we do not know: {other}"),
    };
    serde_json::from_value(settings).unwrap()
}

#[test]
fn every_kind_computes_what_the_reference_does() {
    let golden = golden!("adapters");
    let hyper = golden.meta("hyper");
    let kinds: Vec<String> = serde_json::from_value(hyper["kinds"].clone()).unwrap();
    assert!(kinds.len() > 5);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let vit = backbone(&golden, &device);
        let images: Tensor<4> = golden.tensor("input.images", &device);
        for kind in &kinds {
            if kind == "plain" {
                let feature = vit.forward(images.clone());
                golden.check_tensor("out.plain.feature", feature, slack.forward);
                continue;
            }
            // The uncompensated prefix has the parameters of the compensated one.
            let stored = kind.trim_end_matches("_uncompensated");
            let golden_pet = GoldenPet {
                golden: &golden,
                prefix: format!("pet.{stored}"),
                adapted: serde_json::from_value(hyper["lae_blocks"].clone()).unwrap(),
            };
            let pet = golden_pet.load(&settings(&golden, kind), &vit, &device);

            let nothing = [false, true];
            for taped in nothing {
                let pet = if taped {
                    track(pet.clone(), |_| true)
                } else {
                    pet.clone()
                };
                let mut x = vit.embed_with(images.clone(), Some(&pet));
                if let Some(prompts) = &pet.prompts {
                    x = prompts.append_to(x);
                }
                for (number, (block, acts)) in vit.blocks.iter().zip(&pet.blocks).enumerate() {
                    x = block.forward_with(x, acts, None);
                    let cls: Tensor<2> = x.clone().narrow(1, 0, 1).squeeze_dim(1);
                    golden.check_tensor(
                        &format!("out.{kind}.cls_block{number}"),
                        cls,
                        slack.forward,
                    );
                }
                let embedded = vit.embed_with(images.clone(), Some(&pet));
                let feature = vit.finish(embedded, 0, Some(&pet), None);
                golden.check_tensor(
                    &format!("out.{kind}.feature"),
                    feature.clone(),
                    slack.forward,
                );
                if taped {
                    let probe = golden.tensor("input.probe", &device);
                    let grads = collect_grads(&pet, (feature * probe).sum().backward());
                    golden_pet.check(&pet, &grads, &format!("grad.{kind}"), slack.gradient);
                }
            }
            if matches!(kind.as_str(), "lae_lora" | "ssf" | "slcapp_lora") {
                let merged = vit.merged(&pet).unwrap().forward(images.clone());
                let name = format!("out.{kind}.feature");
                golden.check_tensor(&name, merged, slack.forward.max(1e-5));
            }
        }
    }
}
