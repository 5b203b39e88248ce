//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_lae::METHOD;
use serde_json::json;

everburn_conformance::suite!(lae: Subject::of(METHOD).set("freeze_epochs", 1));
everburn_conformance::suite!(lae_lora: Subject::of(METHOD)
    .set("freeze_epochs", 1)
    .set("recipe.pet", json!({"kind": "lora", "blocks": [1], "rank": 2}))
    .on_cpu_only());
everburn_conformance::suite!(lae_prefix: Subject::of(METHOD)
    .set("freeze_epochs", 1)
    .set("recipe.pet", json!({"kind": "prefix", "blocks": 2, "length": 3}))
    .on_cpu_only());
