//! The rules that every method keeps.

use everburn_baselines::{FINETUNE, JOINT};
use everburn_conformance::Subject;

everburn_conformance::suite!(finetune: Subject::of(FINETUNE));
everburn_conformance::suite!(joint: Subject::of(JOINT));
