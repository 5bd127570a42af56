//! The score that the paper's author published, in closed form: of random mixtures of neighbours' derivatives.
//!
//! The latent elements `[O, h, w]`, row by row, are taken in strips of eight. With a Gaussian matrix `R` `[8, 8]` of each
//! strip, element r of the strip scores `Σ_{h,q} A·max(Σ_k R[r,k] J[k,h,q], 0)`. A mixture of rows of `P` takes the place
//! of each row, and a mixture of eight stencils that of each stencil; what the strips' neighbourhoods are is worked out
//! once a score.

use tch::{Kind, Tensor};

use super::closed_form::{Factors, absolute_row_sums};
use crate::error::Result;

/// Elements that are mixed.
pub(super) const STRIP: i64 = 8;

/// Numbers in the gathered pieces that correct the neighbours.
const PIECE: i64 = 8 << 20;

/// The score `[O, h, w]` of one of the rows, with the `mixtures` `[⌈O·h·w / 8⌉, 8, 8]` of its strips.
pub(super) fn score(f: &Factors, row: i64, mixtures: &Tensor) -> Result<Tensor> {
    let (positions, elements) = (f.height * f.width, f.outputs * f.height * f.width);
    let (spread, moments, local) = (f.spread.f_get(row)?, f.moments.f_get(row)?, f.local.f_get(row)?);
    let strips = mixtures.size()[0];
    let features = moments.size2()?.1;
    let spread = spread.f_constant_pad_nd([0, 0, 0, STRIP * strips - elements])?;
    let mixed = mixtures.f_bmm(&spread.f_view([strips, STRIP, features])?)?;

    // max(d, 0) = (|d| + d) / 2, d = −(mixed P) Yᵀ, as if there were no stencil.
    let rows = mixed.f_view([strips * STRIP, features])?;
    let sums = moments.f_sum_dim_intlist(0, false, Kind::Float)?;
    let far =
        absolute_row_sums(&f.kernels, &rows, &moments, f.dense_kind)?.f_sub(&rows.f_mv(&sums)?)?.f_mul_scalar(0.5)?;

    // Near a strip the mixed stencil is added to d.
    let neighbours = Neighbours::of(f.outputs, f.height, f.width, strips);
    let moments = moments.f_view([f.heads, positions, features])?.f_transpose(0, 1)?.f_contiguous()?;
    let stencils = local.f_permute([1, 2, 3, 0])?.f_constant_pad_nd([0, 0, 0, 1])?;
    let stencils = stencils.f_reshape([positions * f.outputs * STENCIL, f.heads])?;
    let most = neighbours.most;
    let at_once = (PIECE / (most * f.heads * features.max(STRIP))).max(1);
    let mut corrections = Vec::new();
    for first in (0..strips).step_by(at_once as usize) {
        let count = at_once.min(strips - first);
        let part = |x: &[i64], each: i64| {
            let part = &x[(first * each) as usize..((first + count) * each) as usize];
            Ok::<_, crate::error::Error>(Tensor::f_from_slice(part)?.f_to_device(moments.device())?)
        };
        let (mixtures, mixed) = (mixtures.f_narrow(0, first, count)?, mixed.f_narrow(0, first, count)?);
        let there = moments.f_index_select(0, &part(&neighbours.positions, most)?)?;
        let dense = mixed.f_bmm(&there.f_view([count, most * f.heads, features])?.f_transpose(1, 2)?)?;
        let near = stencils.f_index_select(0, &part(&neighbours.stencils, most * STRIP)?)?;
        let near = near.f_view([count, most, STRIP, f.heads])?.f_transpose(1, 2)?;
        let near = mixtures.f_bmm(&near.f_reshape([count, STRIP, most * f.heads])?)?;
        let correction = near.f_sub(&dense)?.f_relu()?.f_sub(&dense.f_neg()?.f_relu()?)?;
        let used = part(&neighbours.used, most)?.f_to_kind(Kind::Float)?.f_view([count, 1, most, 1])?;
        let correction = correction.f_view([count, STRIP, most, f.heads])?.f_mul(&used)?;
        corrections.push(correction.f_sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float)?);
    }
    let near = Tensor::f_cat(&corrections, 0)?.f_view([-1])?;
    Ok(far.f_add(&near)?.f_narrow(0, 0, elements)?.f_reshape([f.outputs, f.height, f.width])?)
}

/// Numbers of a padded stencil: 3×3, and a zero for positions that a stencil does not reach.
const STENCIL: i64 = 10;

/// The positions next to each strip's elements, in rows of `most`.
struct Neighbours {
    most: i64,
    /// Which position, `[strips, most]`.
    positions: Vec<i64>,
    /// Whether there is one: 1 or 0.
    used: Vec<i64>,
    /// Which number of the stencils `[positions, outputs, STENCIL]` each element of the strip takes there,
    /// `[strips, most, 8]`.
    stencils: Vec<i64>,
}

impl Neighbours {
    fn of(outputs: i64, height: i64, width: i64, strips: i64) -> Self {
        let elements = outputs * height * width;
        let of_strip: Vec<Vec<(i64, [i64; STRIP as usize])>> = (0..strips)
            .map(|strip| {
                let mut near: Vec<(i64, [i64; STRIP as usize])> = Vec::new();
                for place in (0..STRIP).filter(|place| strip * STRIP + place < elements) {
                    let element = strip * STRIP + place;
                    let (output, position) = (element / (height * width), element % (height * width));
                    for (direction, (dy, dx)) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx))).enumerate() {
                        let (y, x) = (position / width + dy, position % width + dx);
                        if !(0..height).contains(&y) || !(0..width).contains(&x) {
                            continue;
                        }
                        let neighbour = y * width + x;
                        let at = near.iter().position(|(known, _)| *known == neighbour).unwrap_or_else(|| {
                            near.push((neighbour, [STENCIL - 1; STRIP as usize]));
                            near.len() - 1
                        });
                        near[at].1[place as usize] = (neighbour * outputs + output) * STENCIL + direction as i64;
                    }
                }
                near
            })
            .collect();
        let most = of_strip.iter().map(Vec::len).max().unwrap_or(0);
        let mut all = Self { most: most as i64, positions: Vec::new(), used: Vec::new(), stencils: Vec::new() };
        for near in &of_strip {
            for slot in 0..most {
                let (position, stencils) = near.get(slot).copied().unwrap_or((0, [STENCIL - 1; STRIP as usize]));
                all.positions.push(position);
                all.used.push(i64::from(slot < near.len()));
                all.stencils.extend(stencils);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_in_the_middle_has_thirty_neighbours_and_one_at_the_edge_fewer() {
        let neighbours = Neighbours::of(1, 3, 24, 9);
        let used: Vec<i64> = neighbours.used.chunks(neighbours.most as usize).map(|strip| strip.iter().sum()).collect();
        assert_eq!(used, [18, 20, 18, 27, 30, 27, 18, 20, 18]);
        // The first element of the middle strip, position 32, reaches its upper left neighbour by the stencil's first number.
        let strip = 4 * neighbours.most as usize;
        assert_eq!(neighbours.positions[strip], 7);
        assert_eq!(neighbours.stencils[strip * STRIP as usize], 7 * STENCIL);
    }
}
