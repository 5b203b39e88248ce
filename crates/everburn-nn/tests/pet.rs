//! What modules of parameter-efficient tuning must be by construction; their numbers are in `golden.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::Tensor;
use everburn_backend::{
    Device, DeviceChoice, collect_grads, param_bytes, params, save_params, to_vec, track,
};
use everburn_cache::FeatureStore;
use everburn_core::{ClassId, ImageShape, Images, Key, Kind, Values, View};
use everburn_nn::pet::{Blocks, Pet};
use everburn_nn::vit::{VisionTransformer, VitConfig};
use everburn_nn::{
    Augment, Backbone, BackbonePart, Frozen, Network, Normalise, PetConfig, Preset, Recipe,
    Setting, Tuning,
};
use serde_json::json;

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn key(number: u64) -> Key {
    Key::from_seed(number)
}

const DEPTH: usize = 3;

fn small(device: &Device) -> VisionTransformer {
    let config = VitConfig {
        image: 8,
        patch: 4,
        dim: 16,
        depth: DEPTH,
        heads: 2,
        hidden: 24,
    };
    VisionTransformer::new(config, key(1), device).unwrap()
}

fn pixels(device: &Device) -> Tensor<4> {
    everburn_backend::random::normal(key(2), [3, 3, 8, 8], 1.0, device)
}

fn pet(settings: serde_json::Value, vit: &VisionTransformer) -> Pet {
    let config: PetConfig = serde_json::from_value(settings).unwrap();
    Pet::new(&config, vit, key(3), &cpu()).unwrap()
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    to_vec(&tensor.without_autodiff()).unwrap()
}

fn features(vit: &VisionTransformer, pet: &Pet, dropout: Option<Key>) -> Vec<f32> {
    let tokens = vit.embed_with(pixels(&cpu()), Some(pet));
    values(vit.finish(tokens, 0, Some(pet), dropout))
}

#[test]
fn modules_that_begin_at_zero_leave_features_as_they_are_and_learn_from_their_end() {
    let (device, places) = (cpu(), ["parallel", "sequential"]);
    let vit = small(&device);
    let plain = values(vit.forward(pixels(&device)));
    let mut settings = vec![
        json!({"kind": "adapter", "blocks": 2}),
        json!({"kind": "lora", "blocks": "all", "rank": 3, "targets": ["qkv", "proj", "fc1", "fc2"]}),
        json!({"kind": "lora", "blocks": [1], "targets": ["queries", "values"]}),
    ];
    settings.extend(places.map(|place| json!({"kind": "adaptformer", "place": place})));
    for settings in settings {
        let pet = track(pet(settings.clone(), &vit), |_| true);
        let feature = vit.finish(vit.embed(pixels(&device)), 0, Some(&pet), None);
        assert_eq!(values(feature.clone()), plain, "{settings}");
        let probe = everburn_backend::random::normal(key(4), feature.dims(), 1.0, &device);
        let grads = collect_grads(&pet, (feature * probe).sum().backward());
        for (path, grad) in &grads {
            let moves = to_vec(grad).unwrap().iter().any(|g| *g != 0.0);
            let is_end = path.contains(".up.") || path.ends_with(".b");
            assert_eq!(moves, is_end, "{settings}: {path}");
        }
    }
}

#[test]
fn prompts_and_scales_are_not_nothing_at_first() {
    let vit = small(&cpu());
    let plain = values(vit.forward(pixels(&cpu())));
    for settings in [
        json!({"kind": "vpt", "depth": "shallow"}),
        json!({"kind": "vpt", "depth": "deep", "init": "uniform"}),
        json!({"kind": "ssf"}),
        json!({"kind": "prefix", "blocks": 1}),
    ] {
        assert_ne!(
            features(&vit, &pet(settings.clone(), &vit), None),
            plain,
            "{settings}"
        );
    }
    let still = pet(json!({"kind": "ssf", "deviation": 0.0}), &vit);
    let close = features(&vit, &still, None)
        .iter()
        .zip(&plain)
        .all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(close, "scale 1 and shift 0 are the identity");
}

/// A toy by hand: down·u = 2, ReLU 2, up gives (4, 0), scaled by 0.1; and −2, which the ReLU stops.
#[test]
fn adaptformer_by_hand() {
    let device = cpu();
    let config = VitConfig {
        image: 4,
        patch: 4,
        dim: 2,
        depth: 1,
        heads: 1,
        hidden: 2,
    };
    let vit = VisionTransformer::new(config, key(1), &device).unwrap();
    let pet = pet(
        json!({"kind": "adaptformer", "bottleneck": 1, "scale": 0.1}),
        &vit,
    );
    let mut state = save_params(&pet).unwrap();
    let path = |name: &str| format!("blocks.0.adaptformer.bottleneck.{name}.weight");
    state.arrays.get_mut(&path("down")).unwrap().values = Values::F32(vec![1.0, -1.0]);
    state.arrays.get_mut(&path("up")).unwrap().values = Values::F32(vec![2.0, 0.0]);
    let pet = everburn_backend::load_params(pet, &state).unwrap();
    let u = Tensor::<3>::from_data([[[3.0, 1.0], [1.0, 3.0]]], &device);
    let adapter = pet.blocks[0].adaptformer.as_ref().unwrap();
    let found = adapter.join(u.clone(), u.zeros_like(), None) - u;
    let found = to_vec(&found).unwrap();
    for (found, expected) in found.iter().zip([0.4, 0.0, 0.0, 0.0]) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn dropout_is_of_training_alone_and_drawn_from_the_key() {
    let vit = small(&cpu());
    let tuned = |dropout: f64| {
        let pet = pet(
            json!({"kind": "adaptformer", "dropout": dropout, "scale": 1.0}),
            &vit,
        );
        let mut state = save_params(&pet).unwrap();
        for (path, array) in &mut state.arrays {
            if path.contains("up.weight") {
                let count: usize = array.shape.iter().product();
                array.values = Values::F32((0..count).map(|i| (i % 7) as f32 - 3.0).collect());
            }
        }
        everburn_backend::load_params(pet, &state).unwrap()
    };
    let (some, none) = (tuned(0.5), tuned(0.0));
    assert_eq!(features(&vit, &some, None), features(&vit, &none, None));
    let one = features(&vit, &some, Some(key(7)));
    assert_eq!(one, features(&vit, &some, Some(key(7))));
    assert_ne!(one, features(&vit, &some, Some(key(8))));
    assert_ne!(one, features(&vit, &some, None));

    let x = Tensor::<1>::ones([20_000], &cpu());
    let dropped = to_vec(&everburn_nn::layers::dropout(x, 0.1, Some(key(9)))).unwrap();
    let kept = dropped.iter().filter(|x| **x != 0.0).count() as f64 / 20_000.0;
    assert!((kept - 0.9).abs() < 0.01, "{kept}");
    assert!(
        dropped
            .iter()
            .all(|x| *x == 0.0 || (x - 1.0 / 0.9).abs() < 1e-6)
    );
}

#[test]
fn prompts_act_as_a_set_and_leave_the_tokens_as_many_as_they_were() {
    let (device, vit) = (cpu(), small(&cpu()));
    let pet = pet(json!({"kind": "vpt", "init": "uniform", "tokens": 2}), &vit);
    let x = vit.embed(pixels(&device));
    let after = vit.blocks[0].forward_with(x.clone(), &pet.blocks[0], None);
    assert_eq!(after.dims(), x.dims());

    let mut state = save_params(&pet).unwrap();
    for array in state.arrays.values_mut() {
        let Values::F32(values) = &mut array.values else {
            panic!()
        };
        values.rotate_left(16);
    }
    let turned = everburn_backend::load_params(pet.clone(), &state).unwrap();
    for (a, b) in features(&vit, &pet, None)
        .iter()
        .zip(features(&vit, &turned, None))
    {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn counts_are_those_of_the_papers() {
    let device = cpu();
    let base = VisionTransformer::new(VitConfig::base16_224(), key(1), &device).unwrap();
    let tiny = VisionTransformer::new(VitConfig::tiny16_224(), key(1), &device).unwrap();
    for (settings, vit, count) in [
        (json!({"kind": "adaptformer"}), &base, 1_189_632),
        (
            json!({"kind": "adaptformer", "bottleneck": 16}),
            &base,
            304_320,
        ),
        (json!({"kind": "adaptformer"}), &tiny, 297_984),
        (json!({"kind": "adapter"}), &base, 42_270),
        (json!({"kind": "lora"}), &base, 76_810),
        (json!({"kind": "prefix"}), &base, 76_810),
        (json!({"kind": "vpt", "depth": "shallow"}), &base, 3_840),
        (json!({"kind": "vpt", "depth": "deep"}), &base, 46_080),
        (json!({"kind": "ssf"}), &base, 205_824),
        (json!({"kind": "ssf"}), &tiny, 51_456),
    ] {
        let pet = pet(settings.clone(), vit);
        assert_eq!(param_bytes(&pet), 4 * count, "{settings}");
        // What is saved is as small.
        assert_eq!(
            save_params(&pet).unwrap().array_bytes(),
            4 * count,
            "{settings}"
        );
    }
}

#[test]
fn settings_and_modules_agree_where_they_begin() {
    let vit = small(&cpu());
    for (settings, first) in [
        (json!({"kind": "adaptformer"}), Some(0)),
        (json!({"kind": "adapter", "blocks": 2}), Some(0)),
        (json!({"kind": "lora", "blocks": [2, 1]}), Some(1)),
        (json!({"kind": "prefix", "blocks": [2]}), Some(2)),
        (json!({"kind": "vpt", "depth": "shallow"}), Some(0)),
        (json!({"kind": "vpt", "depth": "deep"}), Some(0)),
        (json!({"kind": "ssf"}), None),
    ] {
        let config: PetConfig = serde_json::from_value(settings.clone()).unwrap();
        assert_eq!(config.first_block(), first, "{settings}");
        assert_eq!(pet(settings, &vit).first_block(), first);
    }
}

/// Width 16, 5 tokens, 3 blocks, MLP 24 wide; only the class token goes through the last block's.
#[test]
fn operations_by_hand() {
    let vit = small(&cpu());
    let plain = vit.config().macs();
    assert_eq!(
        plain,
        4 * 16 * 48 + 3 * (5 * 4 * 256 + 2 * 25 * 16) + (5 + 5 + 1) * 2 * 16 * 24
    );
    for (settings, expected) in [
        (
            json!({"kind": "adapter", "blocks": 2, "bottleneck": 3}),
            2 * 5 * 2 * 16 * 3,
        ),
        (
            json!({"kind": "adaptformer", "bottleneck": 3}),
            (5 + 5 + 1) * 2 * 16 * 3,
        ),
        (
            json!({"kind": "lora", "blocks": 1, "rank": 2}),
            5 * 2 * 2 * 2 * 16,
        ),
        (
            json!({"kind": "lora", "blocks": [2], "rank": 2, "targets": ["fc1"]}),
            2 * (16 + 24),
        ),
        (
            json!({"kind": "prefix", "blocks": 1, "length": 4}),
            5 * 2 * 4 * 16,
        ),
    ] {
        assert_eq!(
            pet(settings.clone(), &vit).macs(vit.config()),
            expected,
            "{settings}"
        );
    }
}

#[test]
fn kinds_can_be_put_together_but_not_twice() {
    let (device, vit) = (cpu(), small(&cpu()));
    let of = |settings| serde_json::from_value::<PetConfig>(settings).unwrap();
    let adapter = of(json!({"kind": "adapter", "blocks": [1]}));
    let lora = of(json!({"kind": "lora", "blocks": [2], "rank": 2}));
    let both = Pet::new(&adapter, &vit, key(1), &device).unwrap();
    let both = both.with(&lora, &vit, key(2), &device).unwrap();
    assert_eq!(both.first_block(), Some(1));
    let paths: Vec<String> = params(&both).into_iter().map(|p| p.path).collect();
    assert!(paths.iter().any(|p| p.starts_with("blocks.1.adapter")));
    assert!(paths.iter().any(|p| p.starts_with("blocks.2.lora")));
    let error = both
        .with(&adapter, &vit, key(3), &device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("two of one kind"), "{error}");
}

#[test]
fn wrong_settings_are_refused_with_a_reason() {
    let (device, vit) = (cpu(), small(&cpu()));
    for (settings, word) in [
        (json!({"kind": "adapter"}), "backbone, which has 3"),
        (json!({"kind": "adapter", "blocks": []}), "at least one"),
        (
            json!({"kind": "adapter", "blocks": 2, "bottleneck": 0}),
            "bottleneck",
        ),
        (
            json!({"kind": "adapter", "blocks": 2, "bottleneck": 0.01}),
            "Fraction(0.01) of 16",
        ),
        (
            json!({"kind": "adapter", "blocks": 2, "bottleneck": 1e300}),
            "at most 4",
        ),
        (
            json!({"kind": "adapter", "blocks": 9_000_000_000_000_000_000_u64}),
            "has 3",
        ),
        (json!({"kind": "adapter", "blocks": 0}), "at least one"),
        (
            json!({"kind": "adapter", "blocks": 2, "scale": 0.0}),
            "other than 0",
        ),
        (
            json!({"kind": "lora", "blocks": 2, "rank": 1_000_000}),
            "65536",
        ),
        (json!({"kind": "lora", "blocks": 2, "rank": 0}), "rank"),
        (
            json!({"kind": "lora", "blocks": 2, "targets": ["qkv", "keys"]}),
            "qkv",
        ),
        (
            json!({"kind": "lora", "blocks": 2, "targets": []}),
            "targets",
        ),
        (
            json!({"kind": "prefix", "blocks": 2, "length": 0}),
            "length",
        ),
        (json!({"kind": "adaptformer", "dropout": 1.0}), "dropout"),
        (json!({"kind": "vpt", "tokens": 0}), "tokens"),
        (json!({"kind": "ssf", "deviation": -1.0}), "deviation"),
    ] {
        let config: PetConfig = serde_json::from_value(settings.clone()).unwrap();
        let error = Pet::new(&config, &vit, key(1), &device)
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{settings}: {error}");
    }
    for (settings, word) in [
        (json!({"kind": "adaptor"}), "adaptor"),
        (json!({"kind": "adapter", "blocks": "most"}), "most"),
        (json!({"kind": "adapter", "scale": "learned"}), "learned"),
        (json!({"kind": "adapter", "rank": 3}), "rank"),
        (
            json!({"kind": "adapter", "blocks": -1}),
            "a number of blocks",
        ),
        (
            json!({"kind": "adapter", "scale": true}),
            "\"learnable\" or a number",
        ),
        (
            json!({"kind": "adapter", "bottleneck": "5"}),
            "or a fraction",
        ),
        (
            json!({"kind": "adapter", "blocks": -1}),
            "\"all\", a number of blocks",
        ),
        (
            json!({"kind": "adapter", "scale": true}),
            "\"learnable\" or a number",
        ),
        (
            json!({"kind": "adapter", "bottleneck": "5"}),
            "a whole number, or a fraction",
        ),
    ] {
        let error = serde_json::from_value::<PetConfig>(settings.clone()).unwrap_err();
        assert!(error.to_string().contains(word), "{settings}: {error}");
    }
    assert_eq!(Blocks::All.numbers(2).unwrap(), [0, 1]);
    assert_eq!(Blocks::Only(vec![2, 0, 2]).numbers(3).unwrap(), [0, 2]);
}

fn images(count: usize) -> Images {
    let shape = ImageShape::new(8, 8, 3);
    let byte = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    let bytes = (count * shape.bytes()) as u32;
    Images::new(shape, (0..bytes).map(byte).collect()).unwrap()
}

fn network(pet: serde_json::Value, augment: Augment, frozen: Frozen) -> Network {
    let recipe = Recipe::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    let recipe = Recipe {
        pet: Some(serde_json::from_value(pet).unwrap()),
        augment,
        ..recipe
    };
    let mut net = recipe.network(frozen, key(5)).unwrap();
    net.see(&[ClassId(0), ClassId(1)]);
    net
}

fn frozen() -> Frozen {
    let backbone = Backbone::from_vit("small", small(&cpu()), Normalise::HALF).unwrap();
    Frozen::new(backbone, &cpu())
}

#[test]
fn only_the_modules_and_the_head_train() {
    let images = images(6);
    let labels: Vec<ClassId> = [0, 1, 0, 1, 0, 1].map(ClassId).into();
    for pet in [
        json!({"kind": "adaptformer"}),
        json!({"kind": "adapter", "blocks": 3}),
        json!({"kind": "lora", "blocks": 3}),
        json!({"kind": "prefix", "blocks": 3}),
        json!({"kind": "ssf"}),
        json!({"kind": "vpt"}),
    ] {
        let mut net = network(pet.clone(), Augment::default(), frozen());
        let before = net.save().unwrap();
        for step in 0..2 {
            net.step(&images, &labels, View::Train, key(step)).unwrap();
        }
        let after = net.save().unwrap();
        for (path, array) in &before.arrays {
            assert!(
                path.starts_with("trained.pet.") || path.starts_with("trained.head."),
                "{path}"
            );
            assert_ne!(&after.arrays[path], array, "{pet}: {path} did not move");
        }
        // Frozen for a step, they have no gradient and no moments.
        let mut net = network(pet, Augment::default(), frozen());
        let before = save_params(net.pet().unwrap()).unwrap();
        let mut live = net.live_head();
        let loss = live.loss(&images, &labels, View::Train, key(1)).unwrap();
        let tape = live.into_tape();
        net.update(tape, loss).unwrap();
        assert_eq!(save_params(net.pet().unwrap()).unwrap(), before);
        let state = net.save().unwrap();
        assert!(
            !state
                .arrays
                .keys()
                .any(|path| path.starts_with("optimiser.pet"))
        );
    }
}

#[test]
fn low_rank_changes_can_begin_with_the_singular_vectors_of_their_weight() {
    let vit = small(&cpu());
    let rank = 3;
    let begun = |targets: &[&str]| {
        let lora = json!({"kind": "lora", "blocks": 1, "rank": rank, "targets": targets, "init": "singular"});
        pet(lora, &vit).blocks.remove(0).lora.unwrap()
    };
    let (fused, third) = (begun(&["qkv", "proj", "fc1", "fc2"]), begun(&["keys"]));
    let block = &vit.blocks[0];
    let qkv = block.attn.qkv.weight.val();
    let dim = qkv.dims()[0];
    for (name, lora, weight) in [
        ("qkv", &fused.qkv, qkv.clone()),
        ("proj", &fused.proj, block.attn.proj.weight.val()),
        ("fc1", &fused.fc1, block.mlp.fc1.weight.val()),
        ("fc2", &fused.fc2, block.mlp.fc2.weight.val()),
        ("keys", &third.thirds[1], qkv.narrow(1, dim, dim)),
    ] {
        let a = lora.as_ref().unwrap().a.val();
        // Orthonormal rows.
        let gram = values(a.clone().matmul(a.clone().transpose()));
        for (place, value) in gram.iter().enumerate() {
            let expected = f32::from(u8::from(place % (rank + 1) == 0));
            assert!((value - expected).abs() < 1e-5, "{name}: {gram:?}");
        }
        // What the weight `[in, out]` makes of each is as long as no orthogonal input's image can be longer: singular
        // values, descending, and none of the rest of the weight lies in them.
        let images = a.clone().matmul(weight.clone());
        let norms = values(images.clone().powi_scalar(2).sum_dim(1).sqrt());
        assert!(norms.windows(2).all(|pair| pair[0] >= pair[1]), "{norms:?}");
        let rest = weight - a.clone().transpose().matmul(images.clone());
        let mixed = values(rest.clone().matmul(images.transpose()));
        assert!(mixed.iter().all(|x| x.abs() < 1e-4), "{name}");
        let mut longest = Tensor::<2>::ones([1, rest.dims()[0]], &cpu());
        for _ in 0..30 {
            let next = longest
                .matmul(rest.clone())
                .matmul(rest.clone().transpose());
            let norm = next.clone().powi_scalar(2).sum().sqrt();
            longest = next / norm.unsqueeze();
        }
        let of_rest = values(longest.matmul(rest).powi_scalar(2).sum_dim(1).sqrt());
        assert!(
            of_rest[0] <= norms[rank - 1] * 1.001,
            "{name}: {of_rest:?}, {norms:?}"
        );
    }
    let too_many = json!({"kind": "lora", "blocks": 1, "rank": 17, "init": "singular"});
    let config: PetConfig = serde_json::from_value(too_many).unwrap();
    let error = Pet::new(&config, &vit, key(1), &cpu()).err().unwrap();
    assert!(error.to_string().contains("pet.rank"), "{error}");
}

#[test]
fn parts_of_the_backbone_train_beside_modules_and_only_they_are_saved() {
    let (images, labels) = (images(6), [0, 1, 0, 1, 0, 1].map(ClassId));
    let recipe = |parts: Vec<BackbonePart>| Recipe {
        pet: Some(serde_json::from_value(json!({"kind": "lora", "blocks": [1]})).unwrap()),
        unfrozen: parts,
        ..Recipe::preset(&Setting {
            preset: Preset::Cpu,
            tuning: Tuning::Pet,
            from_scratch: false,
        })
    };
    let network = |parts: Vec<BackbonePart>| {
        let mut net = recipe(parts).network(frozen(), key(5)).unwrap();
        net.see(&[ClassId(0), ClassId(1)]);
        net
    };
    // Without a stem that stays, tokens before a block cannot be kept.
    assert_eq!(recipe(vec![]).cut(), Some(1));
    assert_eq!(recipe(vec![BackbonePart::Norms]).cut(), None);
    let bytes = |net: &Network| net.footprint().bytes(Kind::Trained);
    for (part, has) in [
        (BackbonePart::Norms, "norm"),
        (BackbonePart::Biases, ".bias"),
        (BackbonePart::ClassToken, "cls_token"),
    ] {
        let mut net = network(vec![part]);
        let before = net.save().unwrap();
        let bare = network(vec![]);
        let same = |a: &Network, b: &Network| {
            let values = |net: &Network| values(net.features(&images).unwrap());
            let pairs = values(a).into_iter().zip(values(b));
            pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5)
        };
        assert!(same(&net, &bare), "{part:?} begin as pre-trained");
        for step in 0..2 {
            net.step(&images, &labels, View::Train, key(step)).unwrap();
        }
        let after = net.save().unwrap();
        let of_backbone = before
            .arrays
            .keys()
            .filter(|path| path.starts_with("trained.backbone."));
        assert!(of_backbone.clone().count() > 0);
        for path in of_backbone {
            assert!(path.contains(has), "{part:?}: {path}");
            assert_ne!(before.arrays[path], after.arrays[path], "{path} learns");
        }
        let trained = after.below("trained").array_bytes();
        assert_eq!(trained, bytes(&net), "{part:?}");
        let mut restored = network(vec![part]);
        restored.restore(&after).unwrap();
        assert_eq!(restored.save().unwrap(), after);
        assert!(same(&restored, &net) && !same(&net, &bare));
        assert!(network(vec![]).restore(&after).is_err(), "{part:?}");
        assert!(net.stem(&images).is_err(), "nothing stays");
    }
    let mut wrong = recipe(vec![BackbonePart::Norms]);
    (wrong.tuning, wrong.pet) = (Tuning::Full, None);
    let error = wrong.network(frozen(), key(5)).err().unwrap().to_string();
    assert!(error.contains("recipe.unfrozen"), "{error}");
}

#[test]
fn blocks_before_the_first_module_are_read_from_the_store() {
    let (images, settings) = (images(5), json!({"kind": "adapter", "blocks": [2]}));
    let cut = || frozen().cut(2).unwrap();
    let row = cut().row();
    assert_eq!(row, 5 * 16);
    // A store that says something else for every token.
    let poisoned = || {
        let frozen = cut().with_store(FeatureStore::in_memory(row)).unwrap();
        frozen
            .store()
            .put(images.keys(), &vec![0.5; images.len() * row])
            .unwrap();
        frozen
    };
    let (none, flip) = (
        Augment::default(),
        Augment {
            flip: true,
            ..Augment::default()
        },
    );
    let labels = [0, 1, 0, 1, 0].map(ClassId);
    let learnt = |frozen, augment, view| {
        let mut net = network(settings.clone(), augment, frozen);
        net.step(&images, &labels, view, key(1)).unwrap();
        net.save().unwrap()
    };
    let reads = |augment, view| learnt(poisoned(), augment, view) != learnt(cut(), augment, view);
    assert!(reads(none, View::Train) && reads(none, View::Test) && reads(flip, View::Test));
    // An augmented step computes anew.
    assert!(!reads(flip, View::Train));
    let predicted = |frozen| {
        let net = network(settings.clone(), none, frozen);
        net.predict(&images).unwrap()
    };
    assert_ne!(predicted(poisoned()), predicted(cut()));

    // What the store would be given is what is computed without one, bit for bit, and in any company.
    let (warm, cold) = (cut(), cut());
    warm.warm(&images, |_, _| true).unwrap();
    let tokens =
        |frozen: &Frozen, images: &Images| to_vec(&frozen.tokens(images).unwrap()).unwrap();
    assert_eq!(tokens(&warm, &images), tokens(&cold, &images));
    let some = images.select(&[3, 1]).unwrap();
    assert_eq!(tokens(&warm, &some), tokens(&cold, &some));
    assert_ne!(warm.extractor("x"), frozen().extractor("x"));
    assert_ne!(warm.extractor("x"), frozen().cut(1).unwrap().extractor("x"));
    let features = |frozen: &Frozen| to_vec(&frozen.features(&images).unwrap()).unwrap();
    for (a, b) in features(&warm).iter().zip(features(&frozen())) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    assert!(frozen().cut(DEPTH).is_err());
}

#[test]
fn a_backbone_that_is_no_vit_is_refused() {
    let backbone = Backbone::resnet18(2, 8, Normalise::HALF, key(1), &cpu()).unwrap();
    let recipe = Recipe::preset(&Setting {
        tuning: Tuning::Pet,
        ..Setting::default()
    });
    let error = recipe
        .network(Frozen::new(backbone, &cpu()), key(1))
        .err()
        .unwrap();
    assert!(error.to_string().contains("Vision Transformer"), "{error}");
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let pet = |blocks: serde_json::Value| json!({"kind": "adapter", "blocks": blocks});
    let later = network(pet(json!([2])), Augment::default(), frozen());
    let earlier = network(pet(json!([0, 2])), Augment::default(), frozen());
    // A state of other modules.
    for (from, mut to) in [
        (
            &earlier,
            network(pet(json!([2])), Augment::default(), frozen()),
        ),
        (
            &later,
            network(
                json!({"kind": "adapter", "blocks": [2], "place": "before"}),
                Augment::default(),
                frozen(),
            ),
        ),
    ] {
        let error = to.restore(&from.save().unwrap()).unwrap_err().to_string();
        assert!(error.contains("pet"), "{error}");
    }
    // Modules that begin before the tokens from which the network goes on.
    let stem = later.stem(&images(2)).unwrap();
    let error = later
        .features_with(&stem, earlier.pet().unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("block 0"), "{error}");
    // Modules of a deeper backbone.
    let mut config = small(&cpu()).config().clone();
    config.depth = DEPTH + 1;
    let deeper = VisionTransformer::new(config, key(1), &cpu()).unwrap();
    let other = crate::pet(pet(json!([2])), &deeper);
    assert!(later.features_with(&stem, &other).is_err());
    assert!(small(&cpu()).merged(&other).is_err());
}

#[test]
fn an_average_of_other_shapes_is_refused() {
    let vit = small(&cpu());
    let of = |bottleneck| {
        pet(
            json!({"kind": "adapter", "blocks": 1, "bottleneck": bottleneck}),
            &vit,
        )
    };
    let error = everburn_backend::ema(of(3), &of(4), 0.5)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[16, 4]") && error.contains("[16, 3]"),
        "{error}"
    );
    assert!(everburn_backend::ema(of(3), &pet(json!({"kind": "ssf"}), &vit), 0.5).is_err());
}
