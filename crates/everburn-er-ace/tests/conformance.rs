//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_er_ace::METHOD;

everburn_conformance::suite!(er_ace: Subject::of(METHOD).set("buffer", 6).set("replay_batch", 3));
