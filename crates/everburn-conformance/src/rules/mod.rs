//! The rules. Each file has those about one thing.

mod input;
mod learning;
mod memory;
mod prediction;
mod resume;
mod streams;

use crate::Rule;

/// Lists the rules once: as data, and as the tests that [`suite!`](crate::suite) writes.
macro_rules! rules {
    (($d:tt) $($(#[doc = $says:literal])+ $name:ident = $check:path;)+) => {
        /// All rules, in the order of reports.
        pub static RULES: &[Rule] = &[$(Rule {
            name: stringify!($name),
            says: concat!($($says),+).trim_ascii(),
            check: $check,
        }),+];

        /// Runs every rule on a [`Subject`](crate::Subject), each as a test of its own, in a module
        /// `conformance` or of another name.
        ///
        /// ```ignore
        /// everburn_conformance::suite!(Subject::of(METHOD).set("buffer", 6));
        /// everburn_conformance::suite!(separate: Subject::of(METHOD).set("combine", "separate"));
        /// ```
        #[macro_export]
        macro_rules! suite {
            ($d subject:expr) => { $d crate::suite!(conformance: $d subject); };
            ($d module:ident: $d subject:expr) => {
                mod $d module {
                    #[allow(unused_imports)]
                    use super::*;
                    $(
                        $(#[doc = $says])+
                        #[test]
                        fn $name() {
                            $d crate::assert_rule(&$d subject, stringify!($name));
                        }
                    )+
                }
            };
        }
    };
}

rules! { ($)
    /// An image's scores are the same alone, twice, and among others in any order.
    prediction_depends_on_the_image_alone = prediction::image_alone;
    /// An image's scores are the same among images of its own task as among all, whatever was asked
    /// before.
    task_identity_has_no_influence = prediction::task_identity;
    /// Scores are finite and cover exactly the classes seen, at every moment.
    scores_are_finite_and_cover_the_classes_seen = streams::scores;
    /// Class numbers are names: under other numbers the same stream gives the same scores.
    labels_are_names = streams::labels_are_names;
    /// Reading changes nothing, and neither does the border of a task: learning happens in `observe`
    /// and at the borders of stages.
    nothing_learns_outside_observe_and_stage_events = learning::outside;
    /// The same seed gives the same result; another seed another, unless the learner says that it
    /// draws nothing.
    the_seed_decides_the_result = learning::seeds;
    /// A run that is killed between any two steps goes on as if nothing had happened: to the byte on
    /// the CPU.
    a_killed_run_goes_on_to_the_byte = resume::anywhere;
    /// The bytes of the footprint are the bytes of the saved state, at every moment.
    the_footprint_is_the_bytes_of_the_state = memory::footprint;
    /// Stored images are counted, and never more than the budget that the footprint states.
    memories_keep_their_budget = memory::budget;
    /// A batch of one image is learnt from.
    a_batch_of_one_image = streams::one_image;
    /// A batch of one class is learnt from.
    a_batch_of_one_class = streams::one_class;
    /// A class that nobody announced may appear in mid-stream.
    an_unseen_class_in_mid_stream = streams::unseen_class;
    /// A class may have a single sample.
    a_class_with_a_single_sample = streams::single_sample;
    /// Classes may come in any order, and their numbers may have gaps.
    labels_out_of_order = streams::out_of_order;
    /// A task may be empty.
    an_empty_task = streams::empty_task;
    /// A stream may end at any moment: what was learnt can be used, saved and restored.
    a_stream_that_ends_early = streams::ends_early;
    /// A stream that lacks what the learner needs is refused before it starts, with the reason; on all
    /// others the learner comes to the end.
    what_a_stream_lacks_is_refused_before_it_starts = streams::refusals;
    /// Images and labels that do not fit are refused with an error that says why.
    bad_input_is_an_error_that_says_why = input::bad_input;
    /// A saved state that is damaged or another's is refused, and changes nothing.
    a_state_that_does_not_fit_is_refused = input::foreign_state;
}
