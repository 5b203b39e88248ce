//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_simplecil::{NMC, SIMPLECIL};

everburn_conformance::suite!(simplecil: Subject::of(SIMPLECIL));
everburn_conformance::suite!(nmc: Subject::of(NMC).on_cpu_only());
