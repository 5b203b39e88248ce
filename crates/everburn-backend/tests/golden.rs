//! Golden case `optimisers`: PyTorch's update rules and schedules.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use everburn_backend::{Clipping, Grads, Group, Optimiser, Rule, Schedule, to_vec};
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::Value;

#[derive(Module, Debug)]
struct Weights {
    w: Param<Tensor<1>>,
}

fn optimiser(settings: &Value, hyper: &Value) -> Option<Optimiser> {
    if settings["nesterov"] == true {
        return None; // no method of the field uses it
    }
    let betas = &hyper["adam"]["betas"];
    let adam = everburn_backend::AdamSettings {
        beta1: betas[0].as_f64().unwrap() as f32,
        beta2: betas[1].as_f64().unwrap() as f32,
        epsilon: hyper["adam"]["eps"].as_f64().unwrap() as f32,
    };
    let rule = match settings["algorithm"].as_str().unwrap() {
        "SGD" => Rule::sgd(settings["momentum"].as_f64().unwrap_or(0.0)),
        "Adam" => Rule::Adam(adam),
        "AdamW" => Rule::AdamW(adam),
        other => panic!("{other}"),
    };
    let decay = settings["weight_decay"].as_f64().unwrap_or(0.0);
    let group = Group::all(settings["lr"].as_f64().unwrap(), decay);
    Some(Optimiser::new(rule, vec![group]).unwrap())
}

/// Runs the steps and gathers the trajectory `[steps + 1, n]`.
fn trajectory(
    golden: &Golden,
    mut optimiser: Optimiser,
    device: &Device,
    gradient: impl Fn(usize, &[f32]) -> Vec<f32>,
) -> Vec<f32> {
    let mut module = Weights {
        w: Param::from_tensor(golden.tensor("input.w0", device)),
    };
    let mut points = golden.f32("input.w0");
    for step in 0..golden.size("steps") {
        let w = to_vec(&module.w.val()).unwrap();
        let grad = gradient(step, &w);
        let grad = Tensor::from_data(TensorData::new(grad, [w.len()]), device);
        module = optimiser
            .step(module, Grads::from([("w".to_owned(), grad)]))
            .unwrap();
        points.extend(to_vec(&module.w.val()).unwrap());
    }
    points
}

#[test]
fn update_rules() {
    let golden = golden!("optimisers");
    let (n, hyper) = (golden.size("n"), golden.meta("hyper"));
    let (a, b) = (golden.f32("input.a"), golden.f32("input.b"));
    let fixed = golden.f32("input.fixed_grads");
    let mut checked = 0;
    for (choice, device) in test_devices() {
        let slack = slack(choice).forward;
        for (name, settings) in hyper["optimisers"].as_object().unwrap() {
            let Some(rule) = optimiser(settings, &hyper) else {
                continue;
            };
            let quadratic = |_: usize, w: &[f32]| -> Vec<f32> {
                let row = |i: usize| (0..n).map(|j| a[i * n + j] * w[j]).sum::<f32>() - b[i];
                (0..n).map(row).collect()
            };
            let found = trajectory(&golden, rule.clone(), &device, quadratic);
            golden.check(&format!("out.quad.{name}.w"), &found, slack);
            let given = |step: usize, _: &[f32]| fixed[step * n..(step + 1) * n].to_vec();
            let found = trajectory(&golden, rule, &device, given);
            golden.check(&format!("out.fixed.{name}.w"), &found, slack);
            checked += 1;
        }
    }
    assert!(checked >= 7, "{checked}");
}

#[test]
fn clipping() {
    let golden = golden!("optimisers");
    let (n, fixed) = (golden.size("n"), golden.f32("input.fixed_grads"));
    let max_norm = golden.meta("hyper")["clip_max_norm"].as_f64().unwrap();
    for (choice, device) in test_devices() {
        let grad = |row: usize| -> Tensor<1> {
            let values = fixed[row * n..(row + 1) * n].to_vec();
            Tensor::from_data(TensorData::new(values, [n]), &device)
        };
        let mut grads = Grads::from([("0".to_owned(), grad(0)), ("1".to_owned(), grad(1))]);
        let norm = Clipping { max_norm }.apply(&mut grads).unwrap();
        let slack = slack(choice).forward;
        golden.check_tensor("out.clip.total_norm", norm, slack);
        golden.check_tensor("out.clip.grad0", grads["0"].clone(), slack);
        golden.check_tensor("out.clip.grad1", grads["1"].clone(), slack);
    }
}

#[test]
fn schedules() {
    let golden = golden!("optimisers");
    let hyper = golden.meta("hyper");
    let settings = &hyper["schedule"];
    let number = |key: &str| settings[key].as_f64().unwrap();
    let (base, period) = (number("lr"), number("t_max") as usize);
    let (steps, min) = (
        number("warmup_steps") as usize,
        number("eta_min_of_cosine_min"),
    );
    let start_factor = hyper["warmup_start_factor"].as_f64().unwrap();
    let scale_min = hyper["lae_scale_min"].as_f64().unwrap();
    let milestones = settings["milestones"].as_array().unwrap();
    let milestones = milestones
        .iter()
        .map(|m| m.as_u64().unwrap() as usize)
        .collect();
    let schedules = [
        ("constant", Schedule::Constant),
        ("cosine", Schedule::Cosine { min: 0.0 }),
        ("cosine_min", Schedule::Cosine { min }),
        (
            "multistep",
            Schedule::MultiStep {
                milestones,
                gamma: number("gamma"),
            },
        ),
        (
            "warmup_linear",
            Schedule::WarmUp {
                steps,
                start_factor,
            },
        ),
        (
            "warmup_then_cosine",
            Schedule::WarmUpCosine {
                steps,
                start_factor,
                min: 0.0,
            },
        ),
        ("lae_linear", Schedule::LaeLinear { scale_min }),
        ("lae_cosine", Schedule::LaeCosine { scale_min }),
        ("lae_cosine_pi", Schedule::LaeCosinePi { scale_min }),
    ];
    for (name, schedule) in schedules {
        let expected = golden.f64(&format!("lr.{name}"));
        for (t, expected) in expected.iter().enumerate() {
            let found = schedule.rate(base, t, period);
            assert!(
                (found - expected).abs() < 1e-9,
                "{name}[{t}]: {found}, expected {expected}"
            );
        }
    }
}
