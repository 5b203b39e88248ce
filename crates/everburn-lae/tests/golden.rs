//! Golden cases `lae` (its building blocks) and `lae_train` (three small tasks for each kind of module), made by
//! the official repository's own functions.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use everburn_backend::{collect_grads, ema, kernels, save_params, to_vec, track};
use everburn_core::{
    Batch, ClassId, Ctx, Event, Images, Key, Learner, State, Step, TaskId, TaskInfo,
};
use everburn_lae::{Lae, LaeConfig, ensemble};
use everburn_nn::pet::Pet;
use everburn_nn::vit::{VisionTransformer, VitConfig};
use everburn_nn::{PetConfig, cross_entropy, targets};
use everburn_testkit::pet::{GoldenPet, frozen_vit, golden_vit, grads_of, values_of};
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::{Value, json};

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    to_vec(&tensor.without_autodiff()).unwrap()
}

/// Row `row` of a tensor of rows.
fn row(golden: &Golden, name: &str, row: usize) -> Vec<f32> {
    let size: usize = golden.shape(name)[1..].iter().product();
    golden.f32(name)[row * size..(row + 1) * size].to_vec()
}

/// The parameters of one LAE adapter, as the case has them.
#[derive(Module, Debug)]
struct Layers {
    down: Param<Tensor<2>>,
    down_bias: Param<Tensor<1>>,
    up: Param<Tensor<2>>,
    up_bias: Param<Tensor<1>>,
    scale: Param<Tensor<1>>,
}

/// Their names in the case, in the order of the fields.
const LAYERS: [&str; 5] = [
    "layer.0.weight",
    "layer.0.bias",
    "layer.2.weight",
    "layer.2.bias",
    "layer.3.scale",
];

fn layers(golden: &Golden, step: usize, device: &Device) -> Layers {
    let values = |name: &str| {
        let name = format!("ema.online.{name}");
        Tensor::<1>::from_data(row(golden, &name, step).as_slice(), device)
    };
    let [down, down_bias, up, up_bias, scale] = LAYERS.map(values);
    let sides = |name: &str| -> [usize; 2] {
        golden.shape(&format!("ema.online.{name}"))[1..]
            .try_into()
            .unwrap()
    };
    Layers {
        down: Param::from_tensor(down.reshape(sides(LAYERS[0]))),
        down_bias: Param::from_tensor(down_bias),
        up: Param::from_tensor(up.reshape(sides(LAYERS[2]))),
        up_bias: Param::from_tensor(up_bias),
        scale: Param::from_tensor(scale),
    }
}

#[test]
fn the_offline_module_follows_the_online_one() {
    let golden = golden!("lae");
    let decays: Vec<f64> =
        serde_json::from_value(golden.meta("hyper")["ema_decays"].clone()).unwrap();
    for (choice, device) in test_devices() {
        for (k, decay) in decays.iter().enumerate() {
            let mut offline = layers(&golden, 0, &device);
            let mut steps: [Vec<f32>; 5] = Default::default();
            for step in 0..=golden.size("ema_steps") {
                if step > 0 {
                    offline = ema(offline, &layers(&golden, step, &device), *decay).unwrap();
                }
                let Layers {
                    down,
                    down_bias,
                    up,
                    up_bias,
                    scale,
                } = offline.clone();
                let now = [
                    numbers(down.val()),
                    numbers(down_bias.val()),
                    numbers(up.val()),
                    numbers(up_bias.val()),
                    numbers(scale.val()),
                ];
                for (all, now) in steps.iter_mut().zip(now) {
                    all.extend(now);
                }
            }
            for (name, found) in LAYERS.iter().zip(&steps) {
                let name = format!("ema.out.offline.{k}.{name}");
                golden.check(&name, found, slack(choice).forward);
            }
        }
    }
}

#[test]
fn the_ensemble_takes_the_larger_probability() {
    let golden = golden!("lae");
    for (choice, device) in test_devices() {
        let fraction = slack(choice).forward;
        let logits = |name: &str| golden.tensor::<2>(&format!("ens.logits_{name}"), &device);
        let scores = |experts: &[&str]| {
            let scores = ensemble(experts.iter().map(|name| logits(name))).unwrap();
            let classes = scores.dims()[1];
            let best = |row: &[f32]| {
                (0..classes)
                    .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                    .unwrap()
            };
            let scores = numbers(scores);
            let predicted: Vec<usize> = scores.chunks(classes).map(best).collect();
            (scores, predicted)
        };
        for (experts, name, predicted) in [
            (&["online"][..], "prob_online", "pred_online"),
            (&["offline"], "prob_offline", "pred_offline"),
            (&["online", "offline"], "scores", "pred"),
            (&["offline", "online"], "scores", "pred"),
        ] {
            let found = scores(experts);
            golden.check(&format!("ens.out.{name}"), &found.0, fraction);
            assert_eq!(found.1, golden.usize(&format!("ens.out.{predicted}")));
        }
    }
}

#[test]
fn the_loss_is_local() {
    let golden = golden!("lae");
    let old = golden.meta("hyper")["num_old_classes"].as_u64().unwrap() as usize;
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let logits = golden
            .tensor::<2>("local_ce.logits", &device)
            .autodiff()
            .require_grad();
        let classes = logits.dims()[1];
        let labels: Vec<usize> = golden
            .usize("local_ce.labels")
            .iter()
            .map(|y| y - old)
            .collect();
        let columns: Vec<usize> = (old..classes).collect();
        let local = logits.clone().select(1, targets(&columns, &device));
        let loss = cross_entropy(local, targets(&labels, &device));
        golden.check_tensor("local_ce.out.loss", loss.clone(), slack.forward);
        let grad = numbers(logits.grad(&loss.backward()).unwrap());
        golden.check("local_ce.out.grad_logits", &grad, slack.gradient);
        let on_old = grad.chunks(classes).flat_map(|row| &row[..old]);
        assert!(on_old.into_iter().all(|g| *g == 0.0));
    }
}

#[test]
fn the_prefix_is_compensated() {
    let golden = golden!("lae");
    let heads = golden.meta("hyper")["num_heads"].as_u64().unwrap() as usize;
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for (compensate, infix) in [(true, ""), (false, "uncompensated_")] {
            let part = |name: &str| golden.tensor::<3>(&format!("calib.prefix.{name}"), &device);
            let qkv = Tensor::cat(vec![part("q"), part("k"), part("v")], 2);
            let leaf = |name: &str| {
                let tensor = golden.tensor::<2>(&format!("calib.prefix.{name}"), &device);
                tensor.autodiff().require_grad()
            };
            let scale = |name: &str| {
                let tensor = golden.tensor::<1>(&format!("calib.prefix.{name}"), &device);
                tensor.autodiff().require_grad()
            };
            let (keys, values) = (leaf("key_tokens"), leaf("val_tokens"));
            let (key_scale, value_scale) = (scale("key_scale"), scale("val_scale"));
            let out = kernels::prefix_attention(
                qkv,
                keys.clone() * key_scale.clone().unsqueeze(),
                values.clone() * value_scale.clone().unsqueeze(),
                heads,
                compensate,
            );
            let name = |what: &str| format!("calib.prefix.out.{infix}{what}");
            golden.check_tensor(&name("output"), out.clone(), slack.forward);
            let grads = (out * part("probe")).sum().backward();
            for (what, leaf) in [("key.tokens", &keys), ("val.tokens", &values)] {
                let grad = leaf.grad(&grads).unwrap();
                golden.check_tensor(&name(&format!("grad.{what}")), grad, slack.gradient);
            }
            for (what, leaf) in [("key.scaler", &key_scale), ("val.scaler", &value_scale)] {
                let grad = leaf.grad(&grads).unwrap();
                golden.check_tensor(&name(&format!("grad.{what}.scale")), grad, slack.gradient);
            }
        }
    }
}

#[test]
fn the_adapter_stands_beside_before_or_after_the_attention() {
    let golden = golden!("lae");
    let input = |name: &str| format!("calib.adapter.{name}");
    let [_, _, dim] = golden.shape(&input("input"))[..] else {
        panic!()
    };
    let [bottleneck, _] = golden.shape(&input("layer.0.weight"))[..] else {
        panic!()
    };
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let sizes = VitConfig {
            image: 4,
            patch: 4,
            dim,
            depth: 1,
            heads: 1,
            hidden: 4,
        };
        let vit = VisionTransformer::new(sizes, Key::from_seed(0), &device).unwrap();
        let module = |x: Tensor<3>| {
            let weight = golden.tensor::<2>(&input("module_weight"), &device);
            let bias = golden.tensor::<1>(&input("module_bias"), &device);
            kernels::linear(x, weight.transpose(), bias)
        };
        for place in ["parallel", "before", "after"] {
            let config: PetConfig = serde_json::from_value(json!({
                "kind": "adapter", "blocks": 1, "bottleneck": bottleneck, "place": place
            }))
            .unwrap();
            let pet = Pet::new(&config, &vit, Key::from_seed(0), &device).unwrap();
            let mut state = State::default();
            for (path, mut array) in save_params(&pet).unwrap().arrays {
                let (_, rest) = path.split_once("bottleneck.").unwrap();
                let (name, turned) = match rest {
                    "down.weight" => ("layer.0.weight", true),
                    "down.bias" => ("layer.0.bias", false),
                    "up.weight" => ("layer.2.weight", true),
                    "up.bias" => ("layer.2.bias", false),
                    "scaler.scale" => ("layer.3.scale", false),
                    other => panic!("{other}"),
                };
                let tensor = Tensor::<1>::from_data(golden.f32(&input(name)).as_slice(), &device);
                array.values = everburn_core::Values::F32(if turned {
                    let [rows, columns] = [array.shape[1], array.shape[0]];
                    numbers(tensor.reshape([rows, columns]).transpose())
                } else {
                    numbers(tensor)
                });
                state.put(path, array);
            }
            let pet = track(everburn_backend::load_params(pet, &state).unwrap(), |_| {
                true
            });
            let adapter = pet.blocks[0].adapter.as_ref().unwrap();
            let x = golden.tensor::<3>(&input("input"), &device);
            let out = adapter.around(x, module);
            golden.check_tensor(&input(&format!("out.{place}")), out.clone(), slack.forward);
            if place == "parallel" {
                let probe = golden.tensor::<3>(&input("probe"), &device);
                let grads = collect_grads(&pet, (out * probe).sum().backward());
                let of = GoldenPet {
                    golden: &golden,
                    prefix: String::new(),
                    adapted: vec![0],
                };
                for (name, values) in of.by_name(&pet, &grads_of(&grads)) {
                    let (_, name) = name.split_once('.').unwrap();
                    golden.check(&input(&format!("out.grad.{name}")), &values, slack.gradient);
                }
            }
        }
    }
}

/// Pictures that stand for the case's, which are no bytes: the learner finds the tokens of the case's in the store
/// of its backbone.
fn stand_ins(learner: &Lae, vit: &VisionTransformer, images: Tensor<4>, first: usize) -> Images {
    let [count, _, height, width] = images.dims();
    let shape = everburn_core::ImageShape::new(height, width, 3);
    let mut pixels = vec![0; count * shape.bytes()];
    for (image, bytes) in pixels.chunks_mut(shape.bytes()).enumerate() {
        bytes[..8].copy_from_slice(&((first + image) as u64).to_le_bytes());
    }
    let stand_ins = Images::new(shape, pixels).unwrap();
    let rows = numbers(vit.embed(images));
    learner
        .network()
        .store()
        .put(stand_ins.keys(), &rows)
        .unwrap();
    stand_ins
}

/// Changes arrays of a learner's state.
fn edit(learner: &mut Lae, change: impl FnOnce(&mut State)) {
    let mut state = learner.save().unwrap();
    change(&mut state);
    learner.restore(&state).unwrap();
}

fn pet_config(golden: &Golden, kind: &str) -> Value {
    let blocks = golden.meta("hyper")["lae_blocks"].clone();
    match kind {
        "adapter" => {
            json!({"kind": kind, "blocks": blocks, "bottleneck": golden.size("bottleneck")})
        }
        "lora" => json!({"kind": kind, "blocks": blocks, "rank": golden.size("rank")}),
        "prefix" => json!({"kind": kind, "blocks": blocks, "length": golden.size("prefix_length")}),
        other => panic!("the case has a kind that we do not know: {other}"),
    }
}

fn config(golden: &Golden, kind: &str) -> LaeConfig {
    let hyper = golden.meta("hyper");
    let number = |name: &str| hyper[name].as_f64().unwrap();
    let count = |name: &str| hyper[name].as_u64().unwrap() as usize;
    let mut config = LaeConfig::cifar100();
    config.alpha = number("ema_decay");
    config.freeze_epochs = count("freeze_epochs");
    config.recipe.epochs = count("epochs");
    config.recipe.batch = golden.size("train_batch");
    config.recipe.augment = Default::default();
    config.recipe.training.head_rate = number("lr");
    config.recipe.training.backbone_rate = number("lr");
    config.recipe.training.weight_decay = number("weight_decay");
    config.recipe.pet = Some(serde_json::from_value(pet_config(golden, kind)).unwrap());
    config
}

/// Compares a module with step `step` of the case's `out.<kind>.<which>`.
fn check_pet(golden_pet: &GoldenPet, pet: &Pet, which: &str, step: usize, fraction: f64) {
    for (name, values) in golden_pet.by_name(pet, &values_of(pet)) {
        let name = format!("{which}.{name}");
        golden_pet.golden.check_row(&name, step, &values, fraction);
    }
}

#[test]
fn three_tasks_are_learnt_as_by_the_official_code() {
    let golden = golden!("lae_train");
    let hyper = golden.meta("hyper");
    let kinds: Vec<String> = serde_json::from_value(hyper["kinds"].clone()).unwrap();
    let sizes: Vec<usize> = serde_json::from_value(hyper["task_sizes"].clone()).unwrap();
    let adapted: Vec<usize> = serde_json::from_value(hyper["lae_blocks"].clone()).unwrap();
    let per_epoch = hyper["batches_per_epoch"].as_u64().unwrap() as usize;
    let steps = golden.size("steps_per_task");
    for (choice, device) in test_devices() {
        let fraction = match choice.kind {
            everburn_backend::DeviceKind::Cpu => 0.0,
            // What the tanh form of GELU's gradient does to three tasks (README of the golden numbers).
            _ => 2e-3,
        };
        let vit = golden_vit(&golden, &device);
        for kind in &kinds {
            let golden_pet = GoldenPet {
                golden: &golden,
                prefix: format!("pet.{kind}"),
                adapted: adapted.clone(),
            };
            let out = |what: &str| format!("out.{kind}.{what}");
            let config = config(&golden, kind);
            let pet = config.recipe.pet.clone().unwrap();
            let frozen = frozen_vit(&vit, &device);
            let mut learner = Lae::new(config.clone(), frozen, Key::from_seed(0)).unwrap();
            let start = golden_pet.load(&pet, &vit, &device);
            edit(&mut learner, |state| {
                for (path, array) in save_params(&start).unwrap().arrays {
                    state.put(format!("trained.pet.{path}"), array);
                }
            });

            let mut losses = Vec::new();
            for (t, size) in sizes.iter().enumerate() {
                let first: usize = sizes[..t].iter().sum();
                let task = TaskInfo {
                    task: TaskId(t as u32),
                    classes: (first..first + size).map(|c| ClassId(c as u32)).collect(),
                    seen: first + size,
                    samples: per_epoch * config.recipe.batch,
                    single_pass: false,
                };
                let cx = Ctx::new(Key::from_seed(1));
                let before = learner.save().unwrap();
                learner.on(&Event::TaskBegin(task.clone()), &cx).unwrap();
                edit(&mut learner, |state| {
                    for what in ["weight", "bias"] {
                        let path = format!("trained.head.{what}");
                        let new = golden.f32(&format!("train.head_init.{t}.{what}"));
                        let mut array = state.arrays[&path].clone();
                        let everburn_core::Values::F32(values) = &mut array.values else {
                            panic!()
                        };
                        let kept = values.len() - new.len();
                        values[kept..].copy_from_slice(&new);
                        state.put(path, array);
                    }
                });
                // Born as an exact copy: both experts say the same.
                assert_eq!(learner.offline().is_some(), t > 0);
                if t == 1 {
                    let pet = |pet: &Pet| save_params(pet).unwrap();
                    let online = pet(learner.network().pet().unwrap());
                    assert_eq!(pet(learner.offline().unwrap()), online);
                }
                let stages = learner.stages(Some(&task));
                learner
                    .on(&Event::StageBegin(stages[0].clone()), &cx)
                    .unwrap();
                let images = golden.tensor::<5>(&format!("train.images.{t}"), &device);
                let labels = golden.usize(&format!("train.labels.{t}"));
                for (index, labels) in labels.chunks(config.recipe.batch).enumerate() {
                    let images = images.clone().narrow(0, index, 1).squeeze_dim(0);
                    let number = (t * steps + index) * config.recipe.batch;
                    let images = stand_ins(&learner, &vit, images, number);
                    let labels = labels.iter().map(|y| ClassId(*y as u32)).collect();
                    let batch = Batch::new(images, labels, stages[0].view).unwrap();
                    let step = Step {
                        task: Some(task.task),
                        stage: 0,
                        epoch: index / per_epoch,
                        epochs: config.recipe.epochs,
                        index,
                        steps,
                    };
                    let online = learner.network().pet().unwrap().clone();
                    let log = learner.observe(&batch, &step, &cx).unwrap();
                    losses.extend(log.loss);
                    let now = learner.network().pet().unwrap();
                    if t > 0 && step.epoch < config.freeze_epochs {
                        assert_eq!(save_params(now).unwrap(), save_params(&online).unwrap());
                    }
                    check_pet(
                        &golden_pet,
                        now,
                        &out("online"),
                        t * steps + index,
                        fraction,
                    );
                    if let Some(offline) = learner.offline() {
                        let step = (t - 1) * steps + index;
                        check_pet(&golden_pet, offline, &out("offline"), step, fraction);
                    }
                }
                let state = learner.save().unwrap();
                for what in ["weight", "bias"] {
                    let path = format!("trained.head.{what}");
                    let everburn_core::Values::F32(values) = &state.arrays[&path].values else {
                        panic!()
                    };
                    let per_class = values.len() / (first + size);
                    for (u, size) in sizes[..=t].iter().enumerate() {
                        let from = sizes[..u].iter().sum::<usize>() * per_class;
                        let rows = &values[from..from + size * per_class];
                        golden.check(&out(&format!("head.{t}.{u}.{what}")), rows, fraction);
                    }
                    // Old rows do not move by a bit.
                    if let Some(array) = before.arrays.get(&path) {
                        let everburn_core::Values::F32(old) = &array.values else {
                            panic!()
                        };
                        assert_eq!(&values[..old.len()], &old[..]);
                    }
                }
                let test = golden.tensor::<4>("test.images", &device);
                let test = stand_ins(&learner, &vit, test, 1 << 20);
                let eval = |what: &str| out(&format!("eval.{t}.{what}"));
                let output = learner.predict(&test).unwrap();
                golden.check(&eval("scores"), output.scores(), fraction);
                let predicted: Vec<usize> =
                    output.predicted().iter().map(|c| c.0 as usize).collect();
                assert_eq!(predicted, golden.usize(&eval("pred")));
                let net = learner.network();
                let stem = net.stem(&test).unwrap();
                let logits =
                    |pet| numbers(net.logits(net.features_with(&stem, pet).unwrap()).unwrap());
                golden.check(
                    &eval("logits_online"),
                    &logits(net.pet().unwrap()),
                    fraction,
                );
                if let Some(offline) = learner.offline() {
                    golden.check(&eval("logits_offline"), &logits(offline), fraction);
                }
            }
            if losses.len() == sizes.len() * steps {
                golden.check(&out("loss"), &losses, fraction);
            } else {
                // An asynchronous device hands losses over a few at a time.
                assert_ne!(choice, everburn_backend::DeviceChoice::CPU);
            }
        }
    }
}
