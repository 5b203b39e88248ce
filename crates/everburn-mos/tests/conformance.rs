//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_mos::METHOD;

/// Few samples: the rules ask whether a run can be resumed at each step, not whether it learns much.
fn small() -> Subject {
    Subject::of(METHOD)
        .set("alignment.epochs", 2)
        .set("alignment.samples_per_class", 6)
}

/// As the released code merges.
fn released() -> Subject {
    small()
        .set(
            "merging",
            serde_json::json!({"kind": "released", "alpha": 0.1}),
        )
        .set("covariance", serde_json::json!({"kind": "diagonal"}))
        .on_cpu_only()
}

/// Adapters and a head with nothing else: states without prototypes, statistics and mean.
fn finetune() -> Subject {
    small()
        .set("merging", serde_json::json!({"kind": "none"}))
        .set("retrieval", serde_json::json!({"kind": "latest"}))
        .set("classifiers", "head")
        .set("alignment.epochs", 0)
        .set("orthogonality", 0.0)
        .on_cpu_only()
}

everburn_conformance::suite!(mos: small());
everburn_conformance::suite!(mos_finetune: finetune());
everburn_conformance::suite!(mos_released: released());
