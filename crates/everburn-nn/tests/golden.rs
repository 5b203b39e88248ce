//! Golden cases `vit`, `adapters`, `vit_pos_embed`, `resnet18_reduced` and the float resizing of `transforms`, on
//! every device that is present.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use everburn_backend::{DeviceChoice, collect_grads, to_vec, track};
use everburn_core::Key;
use everburn_nn::layers::{Linear, Norm};
use everburn_nn::resample::{Kernel, resize, resize_pos_embed};
use everburn_nn::resnet::ResNet18;
use everburn_nn::vit::VisionTransformer;
use everburn_nn::weights::RawTensor;
use everburn_nn::{PetConfig, WeightFile, cross_entropy, is_trainable};
use everburn_testkit::pet::{GoldenPet, golden_sizes, golden_vit, grads_of};
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::json;

/// The case's `weights.*` under their original names, those below `head` renamed to `head.*`.
fn weights(golden: &Golden, head: &str) -> WeightFile {
    let all = WeightFile::from_safetensors("golden", golden.bytes()).unwrap();
    let mut renamed = WeightFile::empty("golden");
    for (name, tensor) in all.tensors() {
        if let Some(name) = name.strip_prefix("weights.") {
            match name.strip_prefix(head) {
                Some(rest) => renamed.replace(&format!("head{rest}"), tensor.clone()),
                None => renamed.replace(&format!("body.{name}"), tensor.clone()),
            }
        }
    }
    renamed
}

#[derive(Module, Debug)]
struct WithHead<M: Module + ModuleDisplay> {
    body: M,
    head: Linear,
}

/// Compares the gradients that the case lists.
fn check_grads<M: Module + ModuleDisplay>(
    golden: &Golden,
    module: &WithHead<M>,
    loss: Tensor<1>,
    head: &str,
    fraction: f64,
) {
    let grads = collect_grads(module, loss.backward());
    for name in golden.meta("hyper")["grads"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let path = match name.strip_prefix(head) {
            Some(rest) => format!("head{rest}"),
            None => format!("body.{name}"),
        };
        let shape = golden.shape(&format!("grad.{name}"));
        let mut values = to_vec(&grads[&path]).unwrap();
        if shape.len() == 2 {
            // Ours is [in, out].
            let (rows, columns) = (shape[1], shape[0]);
            let at = |i: usize| values[(i % rows) * columns + i / rows];
            values = (0..values.len()).map(at).collect();
        }
        golden.check(&format!("grad.{name}"), &values, fraction);
    }
}

fn vit(golden: &Golden, device: &Device) -> WithHead<VisionTransformer> {
    let config = golden_sizes(golden);
    let key = Key::from_seed(0);
    let (dim, classes) = (config.dim, golden.size("classes"));
    let module = WithHead {
        body: VisionTransformer::new(config, key, device).unwrap(),
        head: Linear::new(dim, classes, key, device),
    };
    let (module, report) = weights(golden, "head").load_into(module).unwrap();
    assert!(report.unexpected.is_empty(), "{report}");
    module
}

#[test]
fn vit_forward_and_backward() {
    let golden = golden!("vit");
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let module = vit(&golden, &device);
        let images: Tensor<4> = golden.tensor("input.images", &device);

        let mut tokens = module.body.embed(images.clone());
        golden.check_tensor("out.tokens_embed", tokens.clone(), slack.forward);
        for (index, block) in module.body.blocks.iter().enumerate() {
            tokens = block.forward(tokens);
            golden.check_tensor(
                &format!("out.tokens_block{index}"),
                tokens.clone(),
                slack.forward,
            );
        }
        let normed = module.body.norm.forward(tokens);
        golden.check_tensor("out.tokens_norm", normed, slack.forward);
        golden.check_tensor(
            "out.feature",
            module.body.forward(images.clone()),
            slack.forward,
        );

        // With a tape: the other form of attention.
        let module = track(module, is_trainable);
        let feature = module.body.forward(images);
        golden.check_tensor("out.feature", feature.clone(), slack.forward);
        let logits = module.head.forward(feature);
        golden.check_tensor("out.logits", logits.clone(), slack.forward);
        let loss = cross_entropy(logits, golden.int("input.labels", &device));
        golden.check_tensor("out.loss", loss.clone(), slack.forward);
        check_grads(&golden, &module, loss, "head", slack.gradient);
    }
}

#[test]
fn position_embedding_is_resampled() {
    let golden = golden!("vit_pos_embed");
    let targets = golden.meta("hyper")["targets_hw"]
        .as_array()
        .unwrap()
        .clone();
    for (choice, device) in test_devices() {
        let slack = slack(choice).forward;
        for (k, target) in targets.iter().enumerate() {
            let grid = [0, 1].map(|i| target[i].as_u64().unwrap() as usize);
            for (name, antialias) in [("plain", false), ("antialias", true)] {
                let input: Tensor<3> = golden.tensor("input.pos_embed", &device);
                let found = resize_pos_embed(input, grid, antialias).unwrap();
                golden.check_tensor(&format!("out.{name}.{k}"), found, slack);
            }
        }
    }
}

#[test]
fn float_resizing() {
    let golden = golden!("transforms");
    let names = golden.names();
    let cases: Vec<&String> = names
        .iter()
        .filter(|n| n.starts_with("out.resize_float."))
        .collect();
    assert!(!cases.is_empty());
    for (choice, device) in test_devices() {
        let slack = slack(choice).forward;
        let pixels: Tensor<3> = golden.tensor("input.image", &device);
        let image = (pixels / 255.0).permute([2, 0, 1]).unsqueeze::<4>();
        for name in &cases {
            let kernel = if name.contains("bilinear") {
                Kernel::Bilinear
            } else {
                Kernel::Bicubic
            };
            let shape = golden.shape(name);
            let size = [shape[1], shape[2]];
            let antialias = name.contains("_antialias");
            let found = resize(image.clone(), size, kernel, antialias).unwrap();
            golden.check_tensor(name, found.squeeze_dim::<3>(0), slack);
        }
    }
}

fn resnet(golden: &Golden, device: &Device) -> WithHead<ResNet18> {
    let key = Key::from_seed(0);
    let body = ResNet18::new(golden.size("nf"), key, device).unwrap();
    let head = Linear::new(body.dim(), golden.size("classes"), key, device);
    let file = weights(golden, "linear");
    let (module, report) = file.load_into(WithHead { body, head }).unwrap();
    assert!(report.unexpected.is_empty(), "{report}");
    module
}

#[test]
fn resnet_in_evaluation_mode() {
    let golden = golden!("resnet18_reduced");
    for (choice, device) in test_devices() {
        let slack = slack(choice).forward;
        let module = resnet(&golden, &device);
        let images: Tensor<4> = golden.tensor("input.images", &device);
        let stages = module.body.stages(images.clone(), &mut Norm::Eval);
        for (index, stage) in stages.into_iter().enumerate() {
            golden.check_tensor(&format!("out.eval.layer{}", index + 1), stage, slack);
        }
        let features = module.body.forward(images, &mut Norm::Eval);
        golden.check_tensor("out.eval.features", features.clone(), slack);
        golden.check_tensor(
            "out.eval.logits",
            module.head.forward(features.clone()),
            slack,
        );

        let trap = golden.f32("out.eval.features_without_stem_relu");
        let found = to_vec(&features).unwrap();
        let apart = found.iter().zip(&trap).any(|(a, b)| (a - b).abs() > 1e-3);
        assert!(apart, "the ReLU after the stem is missing");
    }
}

#[test]
fn resnet_in_train_mode() {
    let golden = golden!("resnet18_reduced");
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let module = track(resnet(&golden, &device), is_trainable);
        let mut statistics = Vec::new();
        let images: Tensor<4> = golden.tensor("input.images", &device);
        let features = module
            .body
            .forward(images, &mut Norm::Train(&mut statistics));
        golden.check_tensor("out.train.features", features.clone(), slack.forward);
        let logits = module.head.forward(features);
        golden.check_tensor("out.train.logits", logits.clone(), slack.forward);
        let loss = cross_entropy(logits, golden.int("input.labels", &device));
        golden.check_tensor("out.train.loss", loss.clone(), slack.forward);
        check_grads(&golden, &module, loss, "linear", slack.gradient);

        let mut body = module.body;
        body.absorb(statistics);
        let state = everburn_backend::save_params(&body).unwrap();
        let mut checked = 0;
        for (path, array) in &state.arrays {
            if !is_trainable(path) {
                let (everburn_core::Values::F32(values), name) =
                    (&array.values, format!("out.train.state.{path}"))
                else {
                    panic!("{path}");
                };
                golden.check(&name, values, slack.forward);
                checked += 1;
            }
        }
        assert_eq!(checked, 40, "20 layers with two statistics each");
    }
}

#[test]
fn a_raw_tensor_of_another_shape_is_reported() {
    let golden = golden!("vit");
    let (_, device) = test_devices().remove(0);
    let mut file = weights(&golden, "head");
    let raw = RawTensor {
        shape: vec![2],
        values: vec![0.0; 2],
    };
    file.replace("body.norm.weight", raw.clone());
    file.replace("body.extra", raw);
    file.remove("body.cls_token");
    let module = vit(&golden, &device);
    let message = file.load_into(module).unwrap_err().to_string();
    for part in [
        "missing: 1 (body.cls_token)",
        "body.norm.weight is [2]",
        "unexpected: 1 (body.extra)",
    ] {
        assert!(message.contains(part), "{message}");
    }
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
        let vit = golden_vit(&golden, &device);
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

            // Compiling a GPU's kernels takes longer than this test: once is enough there.
            let taped: &[bool] = match choice {
                DeviceChoice::CPU => &[false, true],
                _ => &[true],
            };
            for &taped in taped {
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
                    let grads = grads_of(&grads);
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
