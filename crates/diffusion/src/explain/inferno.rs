//! The colour map Inferno (Smith and van der Walt, CC0): perceptually uniform, dark to light, told apart also by those
//! who see few colours.

/// Every sixteenth of its 256 colours.
const ANCHORS: [[u8; 3]; 17] = [
    [0, 0, 4],
    [11, 7, 36],
    [33, 12, 74],
    [61, 9, 101],
    [87, 16, 110],
    [113, 25, 110],
    [138, 34, 106],
    [163, 44, 97],
    [188, 55, 84],
    [210, 70, 68],
    [228, 90, 49],
    [241, 115, 29],
    [249, 142, 9],
    [252, 172, 17],
    [249, 203, 53],
    [242, 234, 105],
    [252, 255, 164],
];

/// The colour of a value from 0 to 1, as levels from 0 to 255.
pub(super) fn colour(value: f32) -> [f32; 3] {
    let last = ANCHORS.len() - 1;
    let at = value.clamp(0.0, 1.0) * last as f32;
    let below = (at as usize).min(last - 1);
    let share = at - below as f32;
    std::array::from_fn(|c| {
        let (low, high) = (f32::from(ANCHORS[below][c]), f32::from(ANCHORS[below + 1][c]));
        low + (high - low) * share
    })
}
