//! The parts of OnPro by themselves: closed forms and symmetries of the losses, copies, feedback.
#![allow(clippy::unwrap_used, missing_docs)]

mod toy;

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use everburn_backend::to_vec;
use everburn_core::Key;
use everburn_nn::layers::unit_rows;
use everburn_nn::{cross_entropy, targets};
use everburn_onpro::{
    ClassAverage, Draws, Means, Mix, copied_labels, copies, equilibrium, instance_memory,
    instance_stream, mixed_cross_entropy, pair_counts, similarities,
};
use toy::{adaptive, device, near, number_of};

fn rows(values: Vec<f32>, width: usize) -> Tensor<2> {
    let shape = [values.len() / width, width];
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn random(rows: usize, width: usize, seed: u64) -> Tensor<2> {
    everburn_backend::random::normal(Key::from_seed(seed), [rows, width], 1.0, &device())
}

/// Unit vectors of which each two have the cosine −1/(K − 1): the corners of a simplex, in K dimensions.
fn simplex(corners: usize) -> Tensor<2> {
    let mean = 1.0 / corners as f32;
    let value = |i: usize| {
        if i / corners == i % corners {
            1.0 - mean
        } else {
            -mean
        }
    };
    rows((0..corners * corners).map(value).collect(), corners)
}

#[test]
fn equilibrium_has_its_closed_forms() {
    let (classes, tau) = (6, 0.5);
    let many = 2.0 * (classes as f64 - 1.0);
    let same = |prototypes: Tensor<2>| number_of(equilibrium(prototypes.clone(), prototypes, tau));
    let orthogonal = same(Tensor::eye(classes, &device()));
    near(orthogonal, (1.0 + many * (-1.0 / tau).exp()).ln(), 1e-5);
    near(orthogonal, 0.8558, 1e-4);
    let apart = classes as f64 / (classes as f64 - 1.0);
    let best = same(simplex(classes));
    near(best, (1.0 + many * (-apart / tau).exp()).ln(), 1e-5);
    near(best, 0.6456, 1e-4);
    let collapsed = same(rows([0.6, 0.8].repeat(classes), 2));
    near(collapsed, (2.0 * classes as f64 - 1.0).ln(), 1e-5);
    // A single class has nothing to be told apart from.
    near(
        number_of(equilibrium(random(1, 4, 1), random(1, 4, 2), tau)),
        0.0,
        1e-6,
    );
    // No prototypes of six classes are better placed than a simplex whose views agree.
    for seed in 0..20 {
        assert!(
            number_of(equilibrium(
                random(6, 8, seed),
                random(6, 8, seed + 99),
                tau
            )) > best
        );
    }
}

#[test]
fn equilibrium_has_its_symmetries() {
    let (first, second) = (random(5, 8, 1), random(5, 8, 2));
    let loss = |first: &Tensor<2>, second: &Tensor<2>| {
        number_of(equilibrium(first.clone(), second.clone(), 0.5))
    };
    let plain = loss(&first, &second);
    near(loss(&second, &first), plain, 1e-5);
    near(
        loss(&(first.clone() * 3.0), &(second.clone() * 0.2)),
        plain,
        1e-5,
    );
    let order = |rows: &Tensor<2>| rows.clone().select(0, targets(&[3, 0, 4, 1, 2], &device()));
    near(loss(&order(&first), &order(&second)), plain, 1e-5);
}

#[test]
fn prototypes_are_means_of_their_class() {
    let labels = [4, 1, 4, 9, 1, 4];
    let average = ClassAverage::new(&labels, &device());
    assert_eq!(average.classes, [1, 4, 9]);
    let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
    let means = to_vec(&average.of(rows(values, 2))).unwrap();
    for (found, expected) in means
        .iter()
        .zip([5.0, 6.0, 14.0 / 3.0, 17.0 / 3.0, 6.0, 7.0])
    {
        near(f64::from(*found), expected, 1e-5);
    }
}

#[test]
fn constants_of_a_row_change_no_instance_loss() {
    let similarity = random(8, 8, 3);
    let labels = [0.0, 1.0, 0.0, 2.5];
    let shift = rows((0..8).map(|row| row as f32 / 4.0 - 1.0).collect(), 1);
    for loss in [instance_stream, instance_memory] {
        let plain = number_of(loss(similarity.clone(), &labels, 0.5));
        near(
            number_of(loss(similarity.clone() + shift.clone(), &labels, 0.5)),
            plain,
            1e-4,
        );
    }
}

/// The losses by their formulas, entry by entry.
#[test]
fn instance_losses_are_their_sums() {
    let (n, tau, eps) = (3, 0.3, 1e-8);
    let labels = [0.0_f32, 1.0, 0.0];
    let z = unit_rows(random(2 * n, 4, 5));
    let f = unit_rows(random(2 * n, 9, 6));
    let s = similarities(z.clone(), f.clone(), 2, 0.5);
    let s: Vec<f64> = to_vec(&s).unwrap().into_iter().map(f64::from).collect();
    let (z, f) = (to_vec(&z).unwrap(), to_vec(&f).unwrap());
    let dot = |i: usize, other: &dyn Fn(usize) -> f32| -> f64 {
        (0..4).map(|d| f64::from(z[i * 4 + d] * other(d))).sum()
    };
    let at = |i: usize, j: usize| s[i * 2 * n + j];
    for i in 0..2 * n {
        for j in 0..2 * n {
            let own = dot(i, &|d| z[j * 4 + d]);
            let features = dot(i, &|d| f[j * 9 + 2 + d]);
            near(at(i, j), 0.5 * (own + features), 1e-5);
        }
    }
    let same = |i: usize, j: usize| labels[i % n] == labels[j % n];
    let positives = |i: usize| (0..2 * n).filter(|j| same(i, *j)).count() as f64 + eps;
    for stream in [true, false] {
        let counts = |i: usize, j: usize| !stream || i != j;
        let largest = |i: usize| (0..2 * n).map(|j| at(i, j)).fold(f64::MIN, f64::max);
        let e = |i: usize, j: usize| match counts(i, j) {
            true => ((at(i, j) - largest(i)) / tau).exp(),
            false => 0.0,
        };
        let l = |i: usize, j: usize| {
            let sum: f64 = (0..2 * n).map(|k| e(i, k)).sum();
            -(e(i, j) / (sum + eps) + eps).ln()
        };
        let mut expected = 0.0;
        for i in 0..2 * n {
            let supervised = (0..2 * n).filter(|j| same(i, *j)).map(|j| l(i, j));
            let supervised: f64 = supervised.sum::<f64>() / positives(i);
            expected += match stream {
                true => 2.0 * supervised + l(i, (i + n) % (2 * n)),
                false => supervised,
            };
        }
        let loss = if stream {
            instance_stream
        } else {
            instance_memory
        };
        let similarity = rows(s.iter().map(|s| *s as f32).collect(), 2 * n);
        let found = number_of(loss(similarity, &labels, tau));
        near(found, expected / (2.0 * n as f64), 1e-4);
    }
}

#[test]
fn without_shares_mixed_cross_entropy_is_the_plain_one() {
    let logits = random(5, 4, 7);
    let (first, second) = ([0, 3, 1, 1, 2], [2, 2, 2, 0, 0]);
    let plain =
        |classes: &[usize]| number_of(cross_entropy(logits.clone(), targets(classes, &device())));
    let mixed = |share: f32| {
        number_of(mixed_cross_entropy(
            logits.clone(),
            &first,
            &second,
            &[share; 5],
        ))
    };
    near(mixed(0.0), plain(&first), 1e-6);
    near(mixed(1.0), plain(&second), 1e-6);
    near(
        mixed(0.25),
        0.75 * plain(&first) + 0.25 * plain(&second),
        1e-5,
    );
}

fn pictures(count: usize, side: usize) -> Tensor<4> {
    let values: Vec<f32> = (0..count * 3 * side * side)
        .map(|value| value as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, [count, 3, side, side]), &device())
}

#[test]
fn sixteen_copies_are_all_different_and_hold_the_same_pixels() {
    let images = pictures(2, 6);
    let pixels = to_vec(&copies(images.clone(), 16).unwrap()).unwrap();
    let (bits, size) = (pixels.chunks_exact(3 * 36).enumerate(), 3 * 36);
    let originals = to_vec(&images).unwrap();
    let mut distinct = BTreeSet::new();
    for (place, copy) in bits {
        let mut sorted: Vec<i64> = copy.iter().map(|value| *value as i64).collect();
        assert!(distinct.insert(sorted.clone()), "copy {place} is another's");
        sorted.sort_unstable();
        let original = &originals[place % 2 * size..(place % 2 + 1) * size];
        let mut expected: Vec<i64> = original.iter().map(|value| *value as i64).collect();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }
    // Four copies are the rotations alone, in the same order.
    let four = to_vec(&copies(images.clone(), 4).unwrap()).unwrap();
    for (rotation, copy) in four.chunks_exact(2 * size).enumerate() {
        let place = rotation * 4 * 2 * size;
        assert_eq!(copy, &pixels[place..place + 2 * size]);
    }
    assert_eq!(to_vec(&copies(images, 1).unwrap()).unwrap(), originals);
}

#[test]
fn turning_twice_is_the_identity_and_both_halves_turn_by_themselves() {
    let images = pictures(1, 4);
    let all = copies(images.clone(), 16).unwrap();
    let copy = |number: usize| all.clone().narrow(0, number, 1);
    let same = |a: Tensor<4>, b: Tensor<4>| assert_eq!(to_vec(&a).unwrap(), to_vec(&b).unwrap());
    let turned = copies(copy(4), 4).unwrap().narrow(0, 1, 1);
    same(turned, images.clone());
    let halves = [0, 2].map(|first| images.clone().narrow(3, first, 2).flip([2, 3]));
    same(copy(2), Tensor::cat(halves.to_vec(), 3));
    // Turned back, the left half alone has changed.
    same(copy(1).narrow(3, 2, 2), images.clone().narrow(3, 2, 2));
    same(copy(3).narrow(3, 0, 2), images.narrow(3, 0, 2));
}

#[test]
fn labels_of_copies_cover_all_pseudo_classes() {
    let labels = copied_labels(&[0.0, 1.0, 2.0], 3, 16);
    let expected: Vec<f32> = (0..48).map(|label| label as f32).collect();
    assert_eq!(labels, expected);
}

#[test]
fn images_that_cannot_be_turned_are_refused() {
    let wide = Tensor::<4>::zeros([1, 3, 4, 6], &device());
    assert!(
        copies(wide.clone(), 4)
            .unwrap_err()
            .to_string()
            .contains("4×6")
    );
    assert!(copies(wide, 1).is_ok());
    assert!(copies(pictures(1, 5), 16).is_err());
    assert!(copies(pictures(1, 5), 4).is_ok());
    assert!(
        copies(pictures(1, 4), 8)
            .unwrap_err()
            .to_string()
            .contains("8")
    );
}

/// Slots 0 to 19 of four classes in turn, without class 3, whose prototype is still known.
fn slots() -> Vec<usize> {
    (0..20).map(|slot| slot % 3).collect()
}

#[test]
fn feedback_draws_more_of_classes_whose_prototypes_are_close() {
    // Classes 0 and 1 are near each other, 2 is far from both.
    let means = Means {
        classes: &[0, 1, 2],
        rows: &[0.0, 0.0, 0.2, 0.0, 0.0, 3.0],
    };
    let probabilities = means.probabilities();
    assert!(probabilities[0] > 10.0 * probabilities[1] && probabilities[1] > probabilities[2]);
    near(probabilities.iter().sum(), 1.0, 1e-12);
    let (d, far) = (0.2_f64, 3.0_f64);
    let third = (far * far + d * d).sqrt();
    let weights = [1.0 / d, 1.0 / far, 1.0 / third].map(f64::exp);
    for (found, weight) in probabilities.iter().zip(weights) {
        near(*found, weight / weights.iter().sum::<f64>(), 1e-6);
    }

    let slots = slots();
    let (mut close, mut all, mut runs) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = Key::from_seed(seed).rng();
        let drawn: Vec<usize> = (0..12).collect();
        let plan = adaptive(0.5, 0.5).plan(&drawn, &slots, means, &mut rng);
        assert_eq!(plan.len(), drawn.len());
        for mix in &plan {
            assert!((0.0..=1.0).contains(&mix.share));
            assert!(mix.first < slots.len() && mix.second < slots.len());
        }
        for mix in &plan[6..] {
            let pair = [mix.first, mix.second].map(|slot| slots[slot]);
            close += usize::from(pair == [0, 1]);
            all += 1;
        }
        runs += usize::from(plan[..6].iter().any(|mix| mix.share > 0.0));
        assert!(plan[..6].iter().all(|mix| mix.share <= 0.6));
    }
    assert!(close as f64 > 0.9 * f64::from(all), "{close} of {all}");
    // Half of the draws are mixed: 99.9 % of Binomial(200, 1/2).
    assert!((77..=123).contains(&runs), "{runs}");
}

#[test]
fn equal_distances_share_alike_and_equal_means_are_no_accident() {
    let rows = to_vec(&simplex(4)).unwrap();
    let means = Means {
        classes: &[0, 1, 2, 3],
        rows: &rows,
    };
    for probability in means.probabilities() {
        near(probability, 1.0 / 6.0, 1e-6);
    }
    let means = Means {
        classes: &[0, 1, 2],
        rows: &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    };
    assert_eq!(means.probabilities(), [1.0, 0.0, 0.0]);
}

#[test]
fn counts_sum_to_what_is_wanted() {
    for seed in 0..300 {
        let mut rng = Key::from_seed(seed).rng();
        let pairs = 1 + (seed as usize % 45);
        let weights = Draws::uniform(&mut rng, pairs);
        let sum: f64 = weights.iter().sum();
        let probabilities: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let count = seed as usize % 17;
        let counts = pair_counts(&probabilities, count, &mut rng);
        assert_eq!(counts.iter().sum::<usize>(), count);
        for (found, probability) in counts.iter().zip(&probabilities) {
            near(*found as f64, probability * count as f64, 1.5 + 1e-9);
        }
    }
}

#[test]
fn a_class_that_the_memory_lost_is_replaced() {
    let means = Means {
        classes: &[0, 3],
        rows: &[0.0, 0.0, 1.0, 0.0],
    };
    let slots = slots();
    let drawn: Vec<usize> = (0..8).collect();
    let plan = adaptive(0.25, 0.0).plan(&drawn, &slots, means, &mut Key::from_seed(1).rng());
    assert_eq!(plan.len(), 8);
    for mix in &plan[2..] {
        assert_eq!([mix.first, mix.second].map(|slot| slots[slot]), [0, 0]);
        assert_eq!(mix.share, 0.0, "nothing is mixed");
    }
}

#[test]
fn without_a_pair_of_classes_all_is_of_the_draw() {
    let drawn = [4, 7, 9];
    let slots = slots();
    for (classes, rows) in [(vec![], vec![]), (vec![1], vec![0.5, 0.5])] {
        let means = Means {
            classes: &classes,
            rows: &rows,
        };
        let mut plan = adaptive(0.5, 0.0).plan(&drawn, &slots, means, &mut Key::from_seed(2).rng());
        plan.sort_by_key(|mix| mix.first);
        assert_eq!(plan, drawn.map(Mix::plain));
    }
}
