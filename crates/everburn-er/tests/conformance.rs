//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_er::METHOD;

everburn_conformance::suite!(er: Subject::of(METHOD).set("buffer", 6).set("replay_batch", 3));
everburn_conformance::suite!(er_separate: Subject::of(METHOD)
    .set("buffer", 6)
    .set("replay_batch", 3)
    .set("combine", "separate")
    .set("reservoir", "batched")
    .on_cpu_only());
