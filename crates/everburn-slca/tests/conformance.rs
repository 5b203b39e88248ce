//! The rules that every method keeps.

use everburn_conformance::lab::toy_vit;
use everburn_conformance::{Lab, Subject};
use everburn_core::{Key, Learner};
use everburn_nn::{Covariance, Frozen, Setting, Tuning};
use everburn_slca::{SLCA, SLCA_PLUS, Slca, SlcaConfig};

/// Few samples: the rules ask whether a run can be resumed at each step, not whether it learns much.
fn small(subject: Subject) -> Subject {
    subject
        .set("alignment.epochs", 2)
        .set("alignment.samples_per_class", 6)
}

/// A Vision Transformer tuned as a whole, with a new final norm, and covariances of rank 2.
fn vit() -> Subject {
    let build = |lab: &Lab, key: Key| {
        let mut config = SlcaConfig::preset(&Setting {
            tuning: Tuning::Full,
            ..Setting::default()
        });
        config.new_norm = true;
        config.covariance = Covariance::LowRank { rank: 2 };
        config.alignment.epochs = 1;
        config.alignment.samples_per_class = 6;
        (config.recipe.epochs, config.recipe.batch) = (1, 3);
        config.recipe.online_batch = 3;
        let backbone = toy_vit(8, Key::from_seed(1), lab.device())?;
        let learner = Slca::new(config, Frozen::new(backbone, lab.device()), key)?;
        Ok(Box::new(learner) as Box<dyn Learner>)
    };
    Subject::new("slca", build).only(Tuning::Full).on_cpu_only()
}

everburn_conformance::suite!(slca: small(Subject::of(SLCA)));
everburn_conformance::suite!(slca_vit: vit());
// On other devices its modules are under test in everburn-nn.
everburn_conformance::suite!(slca_plus: small(Subject::of(SLCA_PLUS)).on_cpu_only());
