//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_er::METHOD;

everburn_conformance::suite!(Subject::of(METHOD).set("buffer", 6).set("replay_batch", 3));
everburn_conformance::suite!(separate: Subject::of(METHOD)
    .set("buffer", 6)
    .set("replay_batch", 3)
    .set("combine", "separate")
    .set("reservoir", "batched"));
