//! The rules that every method keeps.

use everburn_baselines::{FINETUNE, FINETUNE_LOCAL, JOINT};
use everburn_conformance::Subject;
use everburn_nn::Tuning;

everburn_conformance::suite!(finetune: Subject::of(FINETUNE));
everburn_conformance::suite!(finetune_pet: Subject::of(FINETUNE).only(Tuning::Pet).on_cpu_only());
everburn_conformance::suite!(finetune_local: Subject::of(FINETUNE_LOCAL).on_cpu_only());
everburn_conformance::suite!(finetune_local_pet: Subject::of(FINETUNE_LOCAL).only(Tuning::Pet).on_cpu_only());
everburn_conformance::suite!(joint: Subject::of(JOINT));
everburn_conformance::suite!(joint_pet: Subject::of(JOINT).only(Tuning::Pet).on_cpu_only());
