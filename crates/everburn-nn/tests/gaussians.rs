//! Gaussians of classes: what is kept, and that samples have it.
#![allow(clippy::unwrap_used, missing_docs)]

use everburn_core::{ClassId, Footprint, Key, Kind, State};
use everburn_nn::{ClassGaussians, Covariance};
use rand::RngExt as _;
use rand_distr::{Distribution, StandardNormal};

const DIM: usize = 5;
const CLASS: [ClassId; 1] = [ClassId(3)];

/// Features `[count, DIM]` with unlike variances that depend on each other, far from 0.
fn features(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Key::from_seed(seed).rng();
    let mut rows = Vec::new();
    for _ in 0..count {
        let z: [f64; DIM] = std::array::from_fn(|_| StandardNormal.sample(&mut rng));
        let row = [
            z[0],
            2.0 * z[0] + 0.5 * z[1],
            z[2] - z[1],
            0.1 * z[3],
            3.0 * z[4] + z[0],
        ];
        rows.extend(row.iter().enumerate().map(|(d, x)| (x + d as f64) as f32));
    }
    rows
}

fn of(covariance: Covariance, features: &[f32]) -> ClassGaussians {
    let mut gaussians = ClassGaussians::new(DIM, covariance, 1e-4).unwrap();
    let labels = vec![CLASS[0]; features.len() / DIM];
    gaussians.add(features, &labels).unwrap();
    gaussians.close().unwrap();
    gaussians
}

/// Mean and unbiased covariance, by the book.
fn moments(features: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let rows: Vec<&[f32]> = features.chunks_exact(DIM).collect();
    let n = rows.len() as f64;
    let mean: Vec<f64> = (0..DIM)
        .map(|d| rows.iter().map(|row| f64::from(row[d])).sum::<f64>() / n)
        .collect();
    let entry = |a: usize, b: usize| {
        let products = rows
            .iter()
            .map(|row| (f64::from(row[a]) - mean[a]) * (f64::from(row[b]) - mean[b]));
        products.sum::<f64>() / (n - 1.0)
    };
    let places = (0..DIM * DIM).map(|place| entry(place / DIM, place % DIM));
    let covariance = places.collect();
    (mean, covariance)
}

/// Whether samples can be of a Gaussian: mean and covariance within five standard errors of the given ones.
fn fits(samples: &[f32], mean: &[f64], covariance: &[f64]) -> bool {
    let n = (samples.len() / DIM) as f64;
    let (found_mean, found) = moments(samples);
    let means = (0..DIM).all(|d| {
        let error = (covariance[d * DIM + d] / n).sqrt();
        (found_mean[d] - mean[d]).abs() < 5.0 * error
    });
    let covariances = (0..DIM * DIM).all(|place| {
        let (a, b) = (place / DIM, place % DIM);
        let of_both = covariance[a * DIM + a] * covariance[b * DIM + b];
        let error = ((of_both + covariance[place].powi(2)) / n).sqrt();
        (found[place] - covariance[place]).abs() < 5.0 * error
    });
    means && covariances
}

const DRAWS: usize = 100_000;

fn drawn(gaussians: &ClassGaussians, mean_scale: f64) -> Vec<f32> {
    let mut samples = vec![0.0; DRAWS * DIM];
    let key = Key::from_seed(9);
    for (number, sample) in samples.chunks_exact_mut(DIM).enumerate() {
        gaussians.sample(0, mean_scale, &mut key.at(number as u64).rng(), sample);
    }
    samples
}

#[test]
fn samples_have_the_stored_mean_and_covariance() {
    let features = features(40, 1);
    for covariance in [
        Covariance::Full,
        Covariance::Diagonal,
        Covariance::LowRank { rank: 2 },
    ] {
        let gaussians = of(covariance, &features);
        let (mean, kept) = (gaussians.mean(0), gaussians.covariance(0));
        let scaled: Vec<f64> = mean.iter().map(|x| 0.92 * x).collect();
        assert!(fits(&drawn(&gaussians, 1.0), mean, &kept), "{covariance:?}");
        let samples = drawn(&gaussians, 0.92);
        assert!(fits(&samples, &scaled, &kept), "{covariance:?}, scaled");
        // The test sees a mean that is off by 2 % of the way, and a covariance that is scaled with it.
        assert!(!fits(&samples, mean, &kept), "{covariance:?}");
        let with_square: Vec<f64> = kept.iter().map(|x| x * 0.92 * 0.92).collect();
        assert!(!fits(&samples, &scaled, &with_square), "{covariance:?}");
    }
}

#[test]
fn the_test_of_samples_fails_for_a_wrong_factor() {
    let features = features(40, 1);
    let gaussians = of(Covariance::Full, &features);
    let (mean, kept) = (gaussians.mean(0), gaussians.covariance(0));
    // L, read off the samples of unit vectors.
    let column = |k: usize| {
        let (mut z, mut sample) = ([0.0; DIM], [0.0; DIM]);
        z[k] = 1.0;
        gaussians.sample_from_noise(0, 0.0, &z, &mut sample);
        sample
    };
    let factor: Vec<[f32; DIM]> = (0..DIM).map(column).collect();
    assert!(factor[1][0] == 0.0 && factor[0][1] != 0.0, "lower triangle");
    let with = |entry: &dyn Fn(usize, usize) -> f32| {
        let mut rng = Key::from_seed(5).rng();
        let mut samples = Vec::new();
        for _ in 0..DRAWS {
            let z: [f64; DIM] = std::array::from_fn(|_| StandardNormal.sample(&mut rng));
            for (row, mean) in mean.iter().enumerate() {
                let noise: f64 = (0..DIM).map(|k| f64::from(entry(row, k)) * z[k]).sum();
                samples.push((mean + noise) as f32);
            }
        }
        fits(&samples, mean, &kept)
    };
    assert!(with(&|row, k| factor[k][row]));
    assert!(!with(&|row, k| factor[row][k]), "the transpose");
    let variances_alone = |row: usize, k: usize| if row == k { factor[k][k] } else { 0.0 };
    assert!(!with(&variances_alone), "its diagonal");
    assert!(!with(&|row, k| 1.02 * factor[k][row]), "2 % too large");
    let covariance = |row: usize, k: usize| kept[row * DIM + k] as f32;
    assert!(!with(&covariance), "the covariance itself");
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    let scale = b.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() < tolerance * scale)
}

fn without_jitter(gaussians: &ClassGaussians) -> Vec<f64> {
    let covariance = gaussians.covariance(0).into_iter().enumerate();
    covariance
        .map(
            |(place, x)| {
                if place % (DIM + 1) == 0 { x - 1e-4 } else { x }
            },
        )
        .collect()
}

#[test]
fn covariances_are_unbiased_however_features_are_cut_into_batches() {
    let all = features(23, 2);
    let (mean, covariance) = moments(&all);
    for batch in [1, 2, 5, 23] {
        let mut gaussians = ClassGaussians::new(DIM, Covariance::Full, 1e-4).unwrap();
        for part in all.chunks(batch * DIM) {
            let labels = vec![CLASS[0]; part.len() / DIM];
            gaussians.close_but(&labels).unwrap();
            gaussians.add(part, &labels).unwrap();
        }
        assert!(gaussians.seen().is_empty(), "it is still open");
        gaussians.close().unwrap();
        assert!(close(gaussians.mean(0), &mean, 1e-12), "{batch}");
        let found = without_jitter(&gaussians);
        assert!(close(&found, &covariance, 1e-6), "{batch}");
        assert_eq!(gaussians.count(0), 23);
    }
}

#[test]
fn a_class_that_comes_again_is_pooled() {
    let (first, second) = (features(9, 2), features(14, 3));
    let all: Vec<f32> = first.iter().chain(&second).copied().collect();
    for covariance in [
        Covariance::Full,
        Covariance::Diagonal,
        Covariance::LowRank { rank: DIM },
    ] {
        let mut pooled = of(covariance, &first);
        pooled.add(&second, &[CLASS[0]; 14]).unwrap();
        pooled.close().unwrap();
        let whole = of(covariance, &all);
        assert_eq!((pooled.count(0), pooled.seen().len()), (23, 1));
        assert!(close(pooled.mean(0), whole.mean(0), 1e-12));
        assert!(close(&pooled.covariance(0), &whole.covariance(0), 1e-5));
    }
}

#[test]
fn classes_are_kept_apart_and_in_the_order_of_their_completion() {
    let (a, b) = (features(4, 1), features(4, 2));
    let mut mixed = ClassGaussians::new(DIM, Covariance::Full, 1e-4).unwrap();
    let rows = a.chunks(DIM).zip(b.chunks(DIM));
    let features: Vec<f32> = rows.flat_map(|(a, b)| [a, b].concat()).collect();
    mixed
        .add(&features, &[ClassId(8), ClassId(3)].repeat(4))
        .unwrap();
    mixed.close_but(&[ClassId(3)]).unwrap();
    assert_eq!(mixed.seen().as_slice(), [ClassId(8)]);
    mixed.close().unwrap();
    assert_eq!(mixed.seen().as_slice(), [ClassId(8), ClassId(3)]);
    let means: Vec<f64> = [moments(&a).0, moments(&b).0].concat();
    let found = [mixed.mean(0), mixed.mean(1)].concat();
    assert!(close(&found, &means, 1e-12));
}

#[test]
fn low_rank_has_all_variances_and_comes_nearer_with_the_rank() {
    let features = features(60, 4);
    let full = of(Covariance::Full, &features).covariance(0);
    let diagonal = of(Covariance::Diagonal, &features).covariance(0);
    let apart = |found: &[f64]| {
        let squares = found.iter().zip(&full).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let mut last = apart(&diagonal);
    for rank in 1..=DIM {
        let found = of(Covariance::LowRank { rank }, &features).covariance(0);
        for d in 0..DIM {
            let place = d * (DIM + 1);
            assert!((found[place] / full[place] - 1.0).abs() < 1e-4, "{rank}");
            assert!((diagonal[place] / full[place] - 1.0).abs() < 1e-4);
        }
        let next = apart(&found);
        assert!(next < last, "rank {rank}: {next}, before {last}");
        last = next;
    }
    assert!(last < 1e-4, "{last}");
}

#[test]
fn singular_covariances_are_sampled_all_the_same() {
    let one = features(1, 5);
    let (two, equal) = (features(2, 5), one.repeat(30));
    let large: Vec<f32> = features(3, 5).iter().map(|x| x * 1e9).collect();
    for (what, features) in [
        ("one", one),
        ("two", two),
        ("equal", equal),
        ("large", large),
    ] {
        for covariance in [
            Covariance::Full,
            Covariance::Diagonal,
            Covariance::LowRank { rank: 3 },
        ] {
            let gaussians = of(covariance, &features);
            let (mean, kept) = (gaussians.mean(0), gaussians.covariance(0));
            let mut sample = [0.0; DIM];
            gaussians.sample(0, 1.0, &mut Key::from_seed(1).rng(), &mut sample);
            assert!(sample.iter().all(|x| x.is_finite()), "{what}");
            if what == "one" || what == "equal" {
                let jitter: Vec<f64> = (0..DIM * DIM)
                    .map(|place| if place % (DIM + 1) == 0 { 1e-4 } else { 0.0 })
                    .collect();
                assert!(close(&kept, &jitter, 1e-8), "{what}");
                let near = mean.iter().zip(sample);
                assert!(
                    near.into_iter()
                        .all(|(m, x)| (m - f64::from(x)).abs() < 0.06)
                );
            }
        }
    }
    // Even without regularisation.
    let mut gaussians = ClassGaussians::new(DIM, Covariance::Full, 0.0).unwrap();
    gaussians.add(&features(2, 1), &[CLASS[0]; 2]).unwrap();
    gaussians.close().unwrap();
}

#[test]
fn a_saved_state_goes_on_to_the_bit() {
    let mut rng = Key::from_seed(7).rng();
    for covariance in [
        Covariance::Full,
        Covariance::Diagonal,
        Covariance::LowRank { rank: 2 },
    ] {
        let mut straight = of(covariance, &features(8, 1));
        straight.add(&features(3, 2), &[ClassId(9); 3]).unwrap();
        let fresh = ClassGaussians::new(DIM, covariance, 1e-4).unwrap();
        let mut resumed = fresh.restored(&straight.save().unwrap()).unwrap();
        for gaussians in [&mut straight, &mut resumed] {
            gaussians.add(&features(4, 3), &[ClassId(9); 4]).unwrap();
            gaussians.close().unwrap();
        }
        assert_eq!(straight.save().unwrap(), resumed.save().unwrap());
        let seed = rng.random::<u64>();
        let sample = |gaussians: &ClassGaussians| {
            let mut sample = [0.0; DIM];
            gaussians.sample(1, 1.0, &mut Key::from_seed(seed).rng(), &mut sample);
            sample
        };
        assert_eq!(sample(&straight), sample(&resumed));
    }
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let mut gaussians = of(Covariance::Full, &features(8, 1));
    gaussians.add(&features(3, 2), &[ClassId(9); 3]).unwrap();
    let state = gaussians.save().unwrap();
    let refused = |into: &ClassGaussians, state: &State| into.restored(state).err().is_some();
    let other = |dim, covariance| ClassGaussians::new(dim, covariance, 1e-4).unwrap();
    assert!(!refused(&gaussians, &state));
    assert!(refused(&other(DIM, Covariance::Diagonal), &state));
    assert!(refused(
        &other(DIM, Covariance::LowRank { rank: 2 }),
        &state
    ));
    assert!(refused(&other(DIM + 1, Covariance::Full), &state));
    for name in state.arrays.keys() {
        let mut short = state.clone();
        short.arrays.remove(name);
        assert!(refused(&gaussians, &short), "without {name}");
        let mut halved = state.clone();
        halved.arrays.get_mut(name).unwrap().shape[0] += 1;
        assert!(refused(&gaussians, &halved), "{name} of another shape");
    }
}

#[test]
fn what_is_no_feature_is_refused_and_says_why() {
    let mut gaussians = of(Covariance::Full, &features(8, 1));
    let error = gaussians.add(&[1.0; 4], &CLASS).unwrap_err().to_string();
    assert!(
        error.contains("features: found 4, expected 1 × 5"),
        "{error}"
    );
    let error = gaussians.add(&[f32::NAN; 5], &CLASS).unwrap_err();
    assert!(error.to_string().contains("diverged"), "{error}");
    let error = |covariance, jitter| {
        let refused = ClassGaussians::new(DIM, covariance, jitter);
        refused.err().unwrap().to_string()
    };
    assert!(error(Covariance::LowRank { rank: 6 }, 0.0).contains("rank"));
    assert!(error(Covariance::LowRank { rank: 0 }, 0.0).contains("rank"));
    assert!(ClassGaussians::new(0, Covariance::Full, 0.0).is_err());
    assert!(error(Covariance::Full, -1.0).contains("jitter"));
    assert!(error(Covariance::Full, f64::NAN).contains("jitter"));
}

#[test]
fn memory_is_what_the_documentation_says() {
    for (covariance, bytes) in [
        (Covariance::Full, 2 * DIM * (DIM + 1)),
        (Covariance::Diagonal, 4 * DIM),
        (Covariance::LowRank { rank: 2 }, 4 * DIM * 3),
    ] {
        let gaussians = of(covariance, &features(8, 1));
        let mut footprint = Footprint::default();
        gaussians.account(&mut footprint);
        // Mean, count and regularisation.
        let means = 8 * DIM + 16;
        assert_eq!(
            footprint.bytes(Kind::Statistics),
            (bytes + means) as u64,
            "{covariance:?}"
        );
        assert_eq!(gaussians.save().unwrap().array_bytes(), footprint.total());
        // And the moments of a class that is not complete.
        let mut gaussians = gaussians;
        gaussians.add(&features(3, 2), &[ClassId(9); 3]).unwrap();
        let mut footprint = Footprint::default();
        gaussians.account(&mut footprint);
        let scatter = if covariance == Covariance::Diagonal {
            DIM
        } else {
            DIM * DIM
        };
        let open = 8 * (1 + DIM + scatter);
        assert_eq!(footprint.total(), (bytes + means + open) as u64);
        assert_eq!(gaussians.save().unwrap().array_bytes(), footprint.total());
    }
}
