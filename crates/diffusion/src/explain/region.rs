//! Distances to a region of a picture.

/// For each pixel the Euclidean distance in pixels to the nearest pixel `inside`, 0 inside. Exact up to `limit`;
/// infinite beyond. The picture has rows of `width` pixels.
pub(super) fn distances(inside: &[bool], width: usize, limit: f32) -> Vec<f32> {
    let reach = limit.ceil().max(0.0) as usize;
    let along_rows: Vec<usize> = inside.chunks(width).flat_map(|row| row_distances(row, reach)).collect();
    let height = inside.len() / width;
    let mut all = Vec::with_capacity(inside.len());
    for y in 0..height {
        let rows = y.saturating_sub(reach)..(y + reach + 1).min(height);
        for x in 0..width {
            let nearest = rows
                .clone()
                .filter_map(|row| {
                    let (dx, dy) = (along_rows[row * width + x], row.abs_diff(y));
                    (dx <= reach).then_some(dx * dx + dy * dy)
                })
                .min();
            let distance = nearest.map_or(f32::INFINITY, |square| (square as f32).sqrt());
            all.push(if distance <= limit { distance } else { f32::INFINITY });
        }
    }
    all
}

/// The same within one row; more than `reach` where there is none so near.
fn row_distances(row: &[bool], reach: usize) -> Vec<usize> {
    let none = reach + 1;
    let mut distances = vec![none; row.len()];
    let sweep = |since: &mut usize, inside: bool| {
        *since = if inside { 0 } else { (*since + 1).min(none) };
        *since
    };
    let mut since = none;
    for (distance, &inside) in distances.iter_mut().zip(row) {
        *distance = sweep(&mut since, inside);
    }
    since = none;
    for (distance, &inside) in distances.iter_mut().zip(row).rev() {
        *distance = sweep(&mut since, inside).min(*distance);
    }
    distances
}
