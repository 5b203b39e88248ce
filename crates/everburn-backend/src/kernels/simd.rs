//! Loops in the processor's widest vector instructions, spread over its cores.
//!
//! A result never depends on how many cores there are: what is added up is added within pieces of a
//! fixed size, and the pieces in their order. Fused multiply-adds are written out, so that every
//! instruction set rounds alike.

use std::ops::Range;

use rayon::prelude::*;

/// Elements that one core takes at a time: 64 KiB of them.
const PIECE: usize = 16 * 1024;

/// Partial sums that run beside each other: two of the widest vectors.
const LANES: usize = 32;

/// A function whose loops run in the best instruction set of this processor. Its arguments' lifetimes
/// are all `'a`.
///
/// The body becomes a method that is inlined for certain into one copy of the function for each
/// instruction set, which a closure is not; so must be what it calls. A `fmaf` in a profile means that
/// something was not.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<'a>($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        vectorised! { $(#[$meta])* $vis fn $name<'a>($($arg: $type),*) -> () $body }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident<'a>($($arg:ident: $type:ty),* $(,)?) -> $out:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<'a>($($arg: $type),*) -> $out {
            struct Call<'a> {
                $($arg: $type,)*
                lifetime: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> pulp::WithSimd for Call<'a> {
                type Output = $out;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Call { $($arg,)* lifetime: std::marker::PhantomData })
        }
    };
}
pub(crate) use vectorised;

/// How many rows of `width` elements make a piece: a fixed number, at least one.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Works on pieces of `out`, `width` elements at a time or a multiple of it. `work` gets the number of
/// the piece's first element.
pub(crate) fn pieces(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let piece = rows_per_piece(width) * width.max(1);
    if out.len() <= piece {
        work(0, out);
    } else {
        let pieces = out.par_chunks_mut(piece).enumerate();
        pieces.for_each(|(index, out)| work(index * piece, out));
    }
}

/// Works on matching pieces of two outputs: `width` elements of the first go with `other_width` of the
/// second. `work` gets the number of the piece's first row.
pub(crate) fn pieces2(
    [out, other]: [&mut [f32]; 2],
    [width, other_width]: [usize; 2],
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rows_per_piece(width);
    if out.len() <= rows * width {
        work(0, out, other);
    } else {
        let others = other.par_chunks_mut(rows * other_width);
        let pieces = out.par_chunks_mut(rows * width).zip(others).enumerate();
        pieces.for_each(|(index, (out, other))| work(index * rows, out, other));
    }
}

/// Adds up what `work` finds in each piece of the rows, `sums` numbers a piece, in the order of the
/// pieces. `work` gets a range of rows and adds to its sums.
pub(crate) fn sums(
    rows: usize,
    width: usize,
    sums: usize,
    work: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let piece = rows_per_piece(width);
    let count = rows.div_ceil(piece).max(1);
    let mut partial = vec![0.0; count * sums];
    let run = |(index, partial): (usize, &mut [f32])| {
        let first = index * piece;
        work(first..rows.min(first + piece), partial);
    };
    if count == 1 {
        run((0, &mut partial));
        return partial;
    }
    partial
        .par_chunks_mut(sums.max(1))
        .enumerate()
        .for_each(run);
    let (total, others) = partial.split_at_mut(sums);
    others
        .chunks_exact(sums.max(1))
        .for_each(|other| add(total, other));
    partial.truncate(sums);
    partial
}

vectorised! {
    /// total ← total + values.
    pub(crate) fn add<'a>(total: &'a mut [f32], values: &'a [f32]) {
        add_to(total, values);
    }
}

/// total ← total + values.
#[inline(always)]
pub(crate) fn add_to(total: &mut [f32], values: &[f32]) {
    for (total, value) in total.iter_mut().zip(values) {
        *total += value;
    }
}

/// A short copy: a call of `memcpy` costs more than the few vectors that it moves.
#[inline(always)]
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    let (mut to, mut from) = (to.chunks_exact_mut(8), from.chunks_exact(8));
    for (to, from) in (&mut to).zip(&mut from) {
        to.copy_from_slice(from);
    }
    for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
        *to = *from;
    }
}

/// Σ f(x) over a slice, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(*value);
    }
    fold(lanes)
}

/// Σ f(x, y) over two slices, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_of2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut left).zip(&mut right) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    for ((lane, a), b) in (lanes.iter_mut().zip(left.remainder())).zip(right.remainder()) {
        *lane += f(*a, *b);
    }
    fold(lanes)
}

/// The largest value; −∞ of none.
#[inline(always)]
pub(crate) fn max_of(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    let rest = chunks.remainder().iter().copied();
    lanes
        .into_iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, larger)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

/// eˣ within two units in the last place, without a branch; x below −87.3 counts as −87.3, above 88 as 88.
/// Range reduction and polynomial of the Cephes library's `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Added to a small number, leaves its rounded integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.336_54, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// erf(x) within 5e-7, without a branch: the rational approximation that Eigen and XLA use.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_3e-10_f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_4e-5);
    let p = p.mul_add(s, -7.349_906_3e-4);
    let p = p.mul_add(s, -2.954_6e-3);
    let p = p.mul_add(s, -1.609_603_3e-2);
    let q = -1.456_607_2e-5_f32;
    let q = q.mul_add(s, -2.133_740_6e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329_2e-3);
    let q = q.mul_add(s, -1.426_473_9e-2);
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(low: f32, high: f32) -> impl Iterator<Item = f32> {
        let steps = 200_000;
        (0..=steps).map(move |i| low + (high - low) * i as f32 / steps as f32)
    }

    #[test]
    fn exp_is_close_to_the_exact_one() {
        let worst = grid(-87.0, 88.0).map(|x| {
            let exact = f64::from(x).exp();
            ((f64::from(exp(x)) - exact) / exact).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
    }

    #[test]
    fn erf_is_close_to_the_exact_one() {
        // erf by its Maclaurin series, in f64: enough up to 4.
        let exact = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let worst = grid(-3.9, 3.9).map(|x| (f64::from(erf(x)) - exact(f64::from(x))).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 5e-7, "{worst}");
        assert_eq!(
            [erf(0.0), erf(9.0), erf(-9.0)].map(f32::round),
            [0.0, 1.0, -1.0]
        );
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_cores() {
        let (rows, width) = (5000, 33);
        let values: Vec<f32> = (0..rows * width)
            .map(|i| ((i * 7919) % 1013) as f32 * 1e-3)
            .collect();
        let column_sums = || {
            sums(rows, width, width, |rows, sums| {
                for row in rows {
                    add_to(sums, &values[row * width..(row + 1) * width]);
                }
            })
        };
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
        };
        let one = pool(1).install(column_sums);
        assert_eq!(one, pool(4).install(column_sums));
        let exact: f64 = values.iter().step_by(width).map(|v| f64::from(*v)).sum();
        assert!((f64::from(one[0]) - exact).abs() < 1e-3 * exact);
    }

    #[test]
    fn reductions_take_in_every_element() {
        for len in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected = (0..len).map(|i| (i * i) as f32).sum::<f32>();
            assert_eq!(sum_of(&values, |x| x * x), expected);
            assert_eq!(sum_of2(&values, &values, |x, y| x * y), expected);
            assert_eq!(
                max_of(&values),
                if len == 0 {
                    f32::NEG_INFINITY
                } else {
                    len as f32 - 1.0
                }
            );
        }
    }
}
