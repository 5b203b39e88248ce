//! The rules that every method keeps.

use everburn_conformance::Subject;

everburn_conformance::suite!(er_ace: Subject::of(everburn_er_ace::METHOD).set("buffer", 6).set("replay_batch", 3));
