//! The rules that every method keeps.

use everburn_conformance::Subject;
use everburn_my_method::METHOD;

everburn_conformance::suite!(my_method: Subject::of(METHOD));
