//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_lae::METHOD;
use serde_json::{Value, json};

/// Two epochs, in the first of which the module is frozen: both on every device.
fn subject() -> Subject {
    Subject::of(METHOD)
        .set("recipe.epochs", 2)
        .set("freeze_epochs", 1)
}

fn with(pet: Value) -> Subject {
    subject().set("recipe.pet", pet).on_cpu_only()
}

everburn_conformance::suite!(lae: subject());
everburn_conformance::suite!(lae_lora: with(json!({"kind": "lora", "blocks": [1], "rank": 2})));
everburn_conformance::suite!(lae_prefix: with(json!({"kind": "prefix", "blocks": 2, "length": 3})));
// With dropout.
everburn_conformance::suite!(lae_adaptformer: with(json!({"kind": "adaptformer", "bottleneck": 4})));
// Already the patches are changed.
everburn_conformance::suite!(lae_ssf: with(json!({"kind": "ssf"})));
