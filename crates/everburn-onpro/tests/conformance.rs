//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_nn::Method;
use everburn_onpro::{ONPRO, ONPRO_SMALL};
use serde_json::json;

/// At toy size: features of 16 numbers, a memory that the toy streams fill.
fn toy(method: Method) -> Subject {
    Subject::of(method)
        .set("buffer", 6)
        .set("replay_batch", 5)
        .set("replay_per_class", 2)
        .set("projection", 8)
}

/// Without borders, with the released code's memory, and sure to mix.
fn borderless() -> Subject {
    toy(ONPRO_SMALL)
        .set("borders", "none")
        .set("reservoir", "batched")
        .set(
            "feedback",
            json!({"kind": "adaptive", "base_rate": 0.4, "mixing": 1.0, "most": 0.6, "alpha": 0.4}),
        )
        .on_cpu_only()
}

/// Replay with OnPro's optimiser and views: states without prototypes.
fn bare() -> Subject {
    toy(ONPRO_SMALL)
        .set("equilibrium", false)
        .set("instance", false)
        .set("feedback", json!({"kind": "none"}))
        .on_cpu_only()
}

// Sixteen copies take minutes on software Vulkan.
everburn_conformance::suite!(onpro: toy(ONPRO).on_cpu_only());
everburn_conformance::suite!(onpro_small: toy(ONPRO_SMALL));
everburn_conformance::suite!(onpro_borderless: borderless());
everburn_conformance::suite!(onpro_bare: bare());
