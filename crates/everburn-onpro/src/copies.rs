//! The copies of an image that the instance loss tells apart: OCM's label expansion by rotation.

use burn::tensor::Tensor;
use everburn_core::{Error, Result};

/// Turned by 180°.
fn half_turn(images: Tensor<4>) -> Tensor<4> {
    images.flip([2, 3])
}

/// Of square images `[batch, 3, side, side]`, one after the other: as they are; the left half turned by 180°; both
/// halves; the right half. `[4·batch, 3, side, side]`.
fn turned_halves(images: Tensor<4>) -> Tensor<4> {
    let half = images.dims()[3] / 2;
    let left = images.clone().narrow(3, 0, half);
    let right = images.clone().narrow(3, half, half);
    let beside = |left: Tensor<4>, right: Tensor<4>| Tensor::cat(vec![left, right], 3);
    let (left_turned, right_turned) = (half_turn(left.clone()), half_turn(right.clone()));
    let versions = vec![
        images,
        beside(left_turned.clone(), right),
        beside(left_turned, right_turned.clone()),
        beside(left, right_turned),
    ];
    Tensor::cat(versions, 0)
}

/// Square images `[batch, 3, side, side]` turned counterclockwise by 0°, 180°, 90° and 270°, one after the other.
fn rotations(images: Tensor<4>) -> Tensor<4> {
    let quarter = |images: Tensor<4>, first: usize| images.flip([first as isize]).swap_dims(2, 3);
    let turned = vec![
        images.clone(),
        half_turn(images.clone()),
        quarter(images.clone(), 3),
        quarter(images, 2),
    ];
    Tensor::cat(turned, 0)
}

/// The copies of square images `[batch, 3, side, side]`, copy after copy, the images themselves first:
/// `[copies·batch, 3, side, side]`.
///
/// # Errors
/// If there are other than 1, 4 or 16, or the images are not square or, for 16, their halves unequal.
pub fn copies(images: Tensor<4>, copies: usize) -> Result<Tensor<4>> {
    let [_, _, height, width] = images.dims();
    check_size(height, width, copies)?;
    match copies {
        1 => Ok(images),
        4 => Ok(rotations(images)),
        16 => Ok(rotations(turned_halves(images))),
        other => Err(Error::input("copies", other, "1, 4 or 16")),
    }
}

/// Checks that images of a size have so many copies of the same size.
pub(crate) fn check_size(height: usize, width: usize, copies: usize) -> Result<()> {
    let fits = match copies {
        1 => true,
        16 => height == width && width.is_multiple_of(2),
        _ => height == width,
    };
    if fits {
        return Ok(());
    }
    let found = format!("{height}×{width}");
    let expected = "square, and for 16 copies of an even number of pixels a side";
    Err(Error::input(
        format!("images with {copies} copies"),
        found,
        expected,
    ))
}

/// Labels of the copies: label + classes·i of copy i. `[copies·batch]`.
pub fn copied_labels(labels: &[f32], classes: usize, copies: usize) -> Vec<f32> {
    let of_copy = |copy: usize| {
        labels
            .iter()
            .map(move |label| label + (classes * copy) as f32)
    };
    (0..copies).flat_map(of_copy).collect()
}
