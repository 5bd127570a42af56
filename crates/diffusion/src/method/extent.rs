//! What a mask shows without the truth being known: its extent, and which subjects' masks are alike. Masks on the CPU.

use tch::{Kind, Tensor};

use crate::error::Result;

/// What tells of a mask, without knowing the truth, whether it can be right. All of the mask's union over channels, which is
/// what the picture of the mask shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The share of positions that are set, 0 to 1.
    pub covered: f64,
    /// The share of the outermost rows and columns that is set, 0 to 1.
    pub border: f64,
}

impl Extent {
    /// Of a mask `[c, h, w]`.
    pub fn of(mask: &Tensor) -> Result<Self> {
        let flat = mask.f_any_dim(0, false)?;
        let (height, width) = flat.size2()?;
        let (inner_height, inner_width) = ((height - 2).max(0), (width - 2).max(0));
        let count = |x: &Tensor| -> Result<i64> { Ok(x.f_sum(Kind::Int64)?.f_int64_value(&[])?) };
        let all = count(&flat)?;
        let has_inner = inner_height > 0 && inner_width > 0;
        let inner = match has_inner {
            true => count(&flat.f_narrow(0, 1, inner_height)?.f_narrow(1, 1, inner_width)?)?,
            false => 0,
        };
        let edge = height * width - if has_inner { inner_height * inner_width } else { 0 };
        let share = |some: i64, of: i64| some as f64 / of.max(1) as f64;
        Ok(Self { covered: share(all, height * width), border: share(all - inner, edge) })
    }
}

/// The two masks `[c, h, w]` that have most in common, with the IoU of their unions over channels; `None` of fewer than
/// two. Two that are empty have nothing in common.
pub fn most_alike(masks: &[Tensor]) -> Result<Option<(usize, usize, f64)>> {
    let flat = masks.iter().map(|mask| Ok(mask.f_any_dim(0, false)?.f_flatten(0, -1)?)).collect::<Result<Vec<_>>>()?;
    if flat.len() < 2 {
        return Ok(None);
    }
    let flat = Tensor::f_stack(&flat, 0)?.f_to_kind(Kind::Float)?;
    let shared = flat.f_matmul(&flat.f_transpose(0, 1)?)?;
    let areas = shared.f_diagonal(0, 0, 1)?;
    let either = areas.f_unsqueeze(0)?.f_add(&areas.f_unsqueeze(1)?)?.f_sub(&shared)?;
    let pairs = shared.f_div(&either.f_clamp_min(1.0)?)?.f_triu(1)?;
    let at = pairs.f_argmax(None, false)?.f_int64_value(&[])?;
    let (a, b) = (at / masks.len() as i64, at % masks.len() as i64);
    Ok(Some((a as usize, b as usize, pairs.f_double_value(&[a, b])?)))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_extent_of_a_mask_is_that_of_its_union_and_tells_the_border_apart() {
        let mask = Tensor::zeros([2, 4, 5], (Kind::Bool, Device::Cpu));
        let _ = mask.get(0).get(1).get(1).fill_(1);
        let _ = mask.get(1).get(1).get(1).fill_(1);
        let _ = mask.get(1).get(0).fill_(1);
        // Six of twenty positions, five of the fourteen at the border.
        assert_eq!(Extent::of(&mask).unwrap(), Extent { covered: 0.3, border: 5.0 / 14.0 });
        let line = Tensor::ones([1, 1, 5], (Kind::Bool, Device::Cpu));
        assert_eq!(Extent::of(&line).unwrap(), Extent { covered: 1.0, border: 1.0 });
    }

    #[test]
    fn the_masks_that_have_most_in_common_are_found_and_empty_ones_have_nothing() {
        let mask = |set: &[i64]| {
            let mask = Tensor::zeros([1, 2, 3], (Kind::Bool, Device::Cpu));
            set.iter().for_each(|at| drop(mask.view([-1]).get(*at).fill_(1)));
            mask
        };
        let masks = [mask(&[0, 1]), mask(&[]), mask(&[3, 4]), mask(&[1, 0, 5]), mask(&[])];
        assert_eq!(most_alike(&masks).unwrap(), Some((0, 3, f64::from(2.0_f32 / 3.0))));
        assert_eq!(most_alike(&[mask(&[]), mask(&[])]).unwrap().map(|(.., alike)| alike), Some(0.0));
        assert_eq!(most_alike(&masks[..1]).unwrap(), None);
    }
}
