//! Paired differences against scipy, and the bootstrap against what is known of it.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{ClassId, Key};
use everburn_eval::{
    ClassCount, Evaluation, Interval, Paired, RESAMPLES, StreamValue, Summary, Verdict,
    bootstrap_accuracy, format,
};
use proptest::prelude::*;
use rand_distr::{Binomial, Distribution as _};

fn runs(values: &[f64]) -> Vec<StreamValue> {
    let run = |(seed, &value): (u64, &f64)| StreamValue {
        seed,
        manifest_hash: format!("stream {seed}"),
        value,
    };
    (1..).zip(values).map(run).collect()
}

/// `scipy.stats.ttest_rel(a, b)` of scipy 1.17.1: mean of the differences, half the width of
/// `confidence_interval(0.95)`, and whether its p-value is below 0.05.
#[test]
fn paired_differences_are_those_of_scipy() {
    type Case<'a> = (&'a [f64], &'a [f64], f64, f64, bool);
    let cases: [Case; 3] = [
        (
            &[0.7411, 0.7532, 0.7298, 0.746, 0.7505],
            &[0.2915, 0.3049, 0.276, 0.2988, 0.2873],
            0.452_419_999_999_999_93,
            0.008_101_512_674_271_505,
            true,
        ),
        (
            &[0.81, 0.78, 0.84],
            &[0.8, 0.79, 0.8],
            0.013_333_333_333_333_308,
            0.062_516_094_793_757_65,
            false,
        ),
        (
            &[0.5125, 0.4975],
            &[0.5, 0.49],
            0.009_999_999_999_999_981,
            0.031_765_511_840_436_41,
            false,
        ),
    ];
    for (a, b, mean, half_width, significant) in cases {
        let paired = Paired::of(&runs(a), &runs(b));
        let found = paired.differences.unwrap();
        assert_eq!(found.n, a.len());
        assert!((found.mean - mean).abs() < 1e-12, "{found:?}");
        let width = found.half_width.unwrap();
        assert!((width / half_width - 1.0).abs() < 1e-9, "{found:?}");
        let expected = match significant {
            true => Verdict::Differs,
            false => Verdict::NotSignificant,
        };
        assert_eq!(paired.verdict, expected);
    }
}

#[test]
fn runs_on_other_streams_are_no_pair() {
    let (a, mut b) = (runs(&[0.5, 0.6, 0.7]), runs(&[0.4, 0.4, 0.4, 0.4]));
    b[1].manifest_hash = "another".into();
    let paired = Paired::of(&a, &b);
    assert_eq!(paired.differences.unwrap().n, 2);
    assert_eq!(paired.other_streams, 1);
    // A stream that nobody recorded is not known to be the same.
    let unknown = |mut runs: Vec<StreamValue>| {
        runs.iter_mut().for_each(|run| run.manifest_hash.clear());
        runs
    };
    let paired = Paired::of(&unknown(a), &unknown(b));
    assert_eq!(
        (paired.verdict, paired.other_streams),
        (Verdict::NoPairs, 3)
    );
    assert_eq!(paired.differences, None);
}

#[test]
fn differences_without_spread_and_single_seeds_get_no_interval() {
    let verdict = |a: &[f64], b: &[f64]| Paired::of(&runs(a), &runs(b)).verdict;
    // 0.3 - 0.1 and 0.4 - 0.2 differ in the last bit.
    assert_eq!(verdict(&[0.3, 0.4], &[0.1, 0.2]), Verdict::Constant);
    assert_eq!(verdict(&[0.3, 0.4], &[0.3, 0.4]), Verdict::Constant);
    let constant = Paired::of(&runs(&[0.3, 0.4]), &runs(&[0.1, 0.2]));
    let summary = constant.differences.unwrap();
    assert_eq!((summary.std, summary.half_width), (Some(0.0), None));
    assert_eq!(verdict(&[0.3], &[0.1]), Verdict::OneSeed);
    assert_eq!(verdict(&[], &[0.1]), Verdict::NoPairs);
    assert_eq!(verdict(&[f64::NAN], &[0.1]), Verdict::NoPairs);
    let names = [Verdict::Differs, Verdict::NotSignificant, Verdict::NoPairs];
    for verdict in names {
        assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.name());
    }
}

prop_compose! {
    fn pairs()(pairs in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 0..8))
        -> (Vec<f64>, Vec<f64>)
    {
        pairs.into_iter().unzip()
    }
}

proptest! {
    #[test]
    fn the_other_way_round_only_the_sign_changes((a, b) in pairs()) {
        let (there, back) = (Paired::of(&runs(&a), &runs(&b)), Paired::of(&runs(&b), &runs(&a)));
        prop_assert_eq!(there.verdict, back.verdict);
        prop_assert_eq!(there.differences.is_some(), !a.is_empty());
        if let (Some(there), Some(back)) = (there.differences, back.differences) {
            prop_assert!((there.mean + back.mean).abs() < 1e-12);
            let wider = there.half_width.unwrap_or(0.0) - back.half_width.unwrap_or(0.0);
            prop_assert!(wider.abs() < 1e-9);
        }
    }

    /// An easier stream lifts both methods: the difference stays.
    #[test]
    fn what_a_stream_does_to_both_is_taken_out(
        (a, b) in pairs(), lifts in prop::collection::vec(-9.0..9.0_f64, 8),
    ) {
        let lifted = |values: &[f64]| {
            let values: Vec<_> = values.iter().zip(&lifts).map(|(v, lift)| v + lift).collect();
            runs(&values)
        };
        let (plain, lifted) = (Paired::of(&runs(&a), &runs(&b)), Paired::of(&lifted(&a), &lifted(&b)));
        if let (Some(plain), Some(lifted)) = (plain.differences, lifted.differences) {
            prop_assert!((plain.mean - lifted.mean).abs() < 1e-9);
            let wider = plain.half_width.unwrap_or(0.0) - lifted.half_width.unwrap_or(0.0);
            prop_assert!(wider.abs() < 1e-9);
        }
    }

    #[test]
    fn the_order_of_runs_changes_no_bit(
        ((a, b), order) in pairs().prop_flat_map(|(a, b)| {
            let order: Vec<usize> = (0..a.len()).collect();
            (Just((a, b)), Just(order).prop_shuffle())
        }),
    ) {
        let mixed = |values: &[f64]| {
            let runs = runs(values);
            order.iter().map(|&index| runs[index].clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(Paired::of(&runs(&a), &runs(&b)), Paired::of(&mixed(&a), &mixed(&b)));
    }

    #[test]
    fn the_interval_holds_the_accuracy_and_stays_a_fraction(
        counts in prop::collection::vec((0_u32..40, 0.0..=1.0_f64), 1..5), seed in 0_u64..9,
    ) {
        let counts: Vec<_> =
            counts.into_iter().map(|(total, share)| ((f64::from(total) * share) as u32, total)).collect();
        let evaluation = evaluation(&counts);
        let interval = bootstrap_accuracy(&evaluation, 400, Key::from_seed(seed));
        prop_assert_eq!(interval.is_some(), evaluation.accuracy().is_some());
        if let (Some(Interval { low, high }), Some(accuracy)) = (interval, evaluation.accuracy()) {
            prop_assert!(0.0 <= low && low <= accuracy && accuracy <= high && high <= 1.0);
        }
    }
}

fn evaluation(counts: &[(u32, u32)]) -> Evaluation {
    let class = |(class, &(correct, total))| ClassCount {
        class: ClassId(class),
        correct,
        total,
    };
    Evaluation {
        classes: (0..).zip(counts).map(class).collect(),
        ..Evaluation::default()
    }
}

fn interval(counts: &[(u32, u32)]) -> Option<Interval> {
    bootstrap_accuracy(&evaluation(counts), RESAMPLES, Key::from_seed(1))
}

/// Stratified by class, the variance is Σ_c n_c a_c (1 - a_c) / N²: smaller than that of all images
/// in one heap, which would give ±0.0098 here.
#[test]
fn many_images_give_the_normal_interval_of_their_classes() {
    let counts = [(4500, 5000), (500, 5000)];
    let half = 1.959_964 * (2.0 * 5000.0 * 0.9 * 0.1_f64).sqrt() / 10_000.0;
    assert!((half - 0.005_88).abs() < 1e-5);
    let Interval { low, high } = interval(&counts).unwrap();
    assert!((low - (0.5 - half)).abs() < 0.0003, "{low}");
    assert!((high - (0.5 + half)).abs() < 0.0003, "{high}");
}

#[test]
fn borders_of_the_bootstrap() {
    let exactly = |value| {
        Some(Interval {
            low: value,
            high: value,
        })
    };
    assert_eq!(interval(&[(7, 7), (3, 3)]), exactly(1.0));
    assert_eq!(interval(&[(0, 7)]), exactly(0.0));
    assert_eq!(interval(&[(1, 1)]), exactly(1.0));
    // A class without test images is no class to draw from.
    assert_eq!(interval(&[(1, 1), (0, 0)]), exactly(1.0));
    assert_eq!(interval(&[(0, 0)]), None);
    assert_eq!(interval(&[(8, 7)]), None);
    assert_eq!(
        bootstrap_accuracy(&evaluation(&[(1, 2)]), 0, Key::from_seed(1)),
        None
    );
}

#[test]
fn the_same_key_gives_the_same_interval() {
    let counts = evaluation(&[(123, 200), (17, 90)]);
    let at = |seed| bootstrap_accuracy(&counts, 500, Key::from_seed(seed));
    assert_eq!(at(1), at(1));
    assert_ne!(at(1), at(2));
}

/// Images drawn anew many times, each time with their interval.
#[test]
fn intervals_hold_the_truth_about_as_often_as_they_say() {
    let (truth, images, trials) = (0.7, 200, 1000);
    let draw = Binomial::new(images, truth).unwrap();
    let held = (0..trials).filter(|&trial| {
        let key = Key::from_seed(trial);
        let right = draw.sample(&mut key.child("images").rng());
        let counts = evaluation(&[(u32::try_from(right).unwrap(), 200)]);
        let interval = bootstrap_accuracy(&counts, 500, key).unwrap();
        (interval.low..=interval.high).contains(&truth)
    });
    let share = held.count() as f64 / trials as f64;
    assert!((0.92..0.97).contains(&share), "{share}");
}

/// What `docs/comparison.md` prints is what the code gives.
#[test]
fn the_numbers_of_the_page_on_comparing() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/comparison.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (a, b) = ([0.50, 0.60, 0.55], [0.45, 0.56, 0.50]);
    let cell = |summary: Summary, mean: fn(f64) -> String| {
        let half = summary.half_width.unwrap();
        format!("{} ±{}", mean(summary.mean), format::percent(half))
    };
    let paired = Paired::of(&runs(&a), &runs(&b)).differences.unwrap();
    let row = [
        cell(Summary::of(&a).unwrap(), format::percent),
        cell(Summary::of(&b).unwrap(), format::percent),
        cell(paired, format::points),
    ];
    let row = format!("| over seeds | {} |", row.join(" | "));
    assert!(page.contains(&row), "{row}");
    let Interval { low, high } = interval(&[(84, 100); 10]).unwrap();
    let shown = format!("`84.00 [{:.1}, {:.1}]`", low * 100.0, high * 100.0);
    assert!(page.contains(&shown), "{shown}");
}
