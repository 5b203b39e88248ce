//! The rules that every method keeps.

use everburn_conformance::Subject;

everburn_conformance::suite!(my_method: Subject::of(everburn_my_method::METHOD));
