//! The trial before own kernels are trusted, on kernels with a mistake each: it notices every one of them.

use std::sync::Arc;

use diorama_diffusion::Result;
use tch::Kind;

use super::host::{Host, Source};

/// File, what stands there, and the mistake.
const MUTANTS: [(&str, &str, &str); 32] = [
    (
        "group_norm.cuh",
        "const int n = blockIdx.y, first = blockIdx.x * chunk, end = min(first + chunk, hw), width",
        "const int n = blockIdx.y, first = blockIdx.x * chunk + 1, end = min(first + chunk, hw), width",
    ),
    (
        "group_norm.cuh",
        "end = min(first + chunk, hw), width = c / groups;",
        "end = min(first + chunk, hw - 1), width = c / groups;",
    ),
    ("group_norm.cuh", "end = min(first + chunk, hw), width = c / groups;", "end = first + chunk, width = c / groups;"),
    ("group_norm.cuh", "end = min(first + chunk, hw);\n", "end = min(first + chunk - 1, hw);\n"),
    ("group_norm.cuh", "end = min(first + chunk, hw);\n", "end = first + chunk;\n"),
    (
        "group_norm.cuh",
        "of_channels[spread.row * c + k + i] = Moments",
        "of_channels[spread.row * c + k + (i + 1) % V] = Moments",
    ),
    ("group_norm.cuh", "e < spread.rows * width; e += LANES", "e < spread.rows * width - 1; e += LANES"),
    ("group_norm.cuh", "for (int e = part % LANES; e <", "for (int e = part % LANES + 1; e <"),
    ("group_norm.cuh", "e / width * c + group * width + e % width", "e / width * c + group * width + e % width + 1"),
    ("group_norm.cuh", "lane < LANES; lane++) {\n      total.sum", "lane < LANES - 1; lane++) {\n      total.sum"),
    ("group_norm.cuh", "of_lanes[part] = total;\n  }\n  __syncthreads();", "of_lanes[part] = total;\n  }"),
    ("group_norm.cuh", "Moments{sum[i], square[i]};\n  }\n  __syncthreads();", "Moments{sum[i], square[i]};\n  }"),
    (
        "group_norm.cuh",
        "* gridDim.x + blockIdx.x) * groups + group] = total",
        "* gridDim.x + blockIdx.x) * groups + (group + 1) % groups] = total",
    ),
    ("group_norm.cuh", "for (int chunk = lane; chunk < chunks;", "for (int chunk = lane; chunk < chunks - 1;"),
    (
        "group_norm.cuh",
        "for (int pack = spread.lane; pack < spread.packs && !spread.idle(); pack += spread.lanes) {\n    const int k = pack * V;\n    Affine",
        "for (int pack = spread.lane; pack < spread.lanes && !spread.idle(); pack += spread.lanes) {\n    const int k = pack * V;\n    Affine",
    ),
    ("group_norm.cuh", "affine[(long long)n * c + k + i];", "affine[(long long)n * c + k + (i ^ 1)];"),
    ("group_norm.cuh", "(time ? widen(time[(long long)n * stride + k]) : 0.0f)", "(time ? widen(time[k]) : 0.0f)"),
    ("group_norm.cuh", "const int head = (k + i) / width * width;", "const int head = (k + i) / width * width + 1;"),
    ("tokens.cuh", "for (int other = 16; other > 0;", "for (int other = 16; other > 1;"),
    ("tokens.cuh", "const float mean = warp_sum(sum) / c;", "const float mean = warp_sum(sum) / (c + 1);"),
    ("tokens.cuh", "if (row >= rows) return;", "if (row >= rows - 1) return;"),
    ("tokens.cuh", "const Pack<T, V> gates = load<V>(from + c);", "const Pack<T, V> gates = load<V>(from + c - V);"),
    ("tokens.cuh", "const int k = pack % (c / V) * V;", "const int k = (pack + 1) % (c / V) * V;"),
    ("tokens.cuh", "if (pack >= packs) return;\n  const int row", "if (pack > packs) return;\n  const int row"),
    ("row_sums.cuh", "if (row >= rows) return 0;", "if (row >= rows - 1) return 0;"),
    ("row_sums.cuh", "(k < inner ? from[0].bits : 0u)", "(k < inner ? from[1].bits : 0u)"),
    ("row_sums.cuh", "row + part % 2 * 8, n, s * 16 + part / 2 * 8", "row + part / 2 * 8, n, s * 16 + part % 2 * 8"),
    ("row_sums.cuh", "min(first + columns, m);", "min(first + columns - 1, m);"),
    ("row_sums.cuh", "if (start + column < end && k < inner)", "if (k < inner)"),
    (
        "row_sums.cuh",
        "store<V>(tile + column * STRIDE + k, values);\n    }\n    __syncthreads();",
        "store<V>(tile + column * STRIDE + k, values);\n    }",
    ),
    ("row_sums.cuh", "multiply(d, a[s], b[0], b[4]);", "multiply(d, a[s], b[0], b[3]);"),
    (
        "row_sums.cuh",
        "if (t == 0 && row + 8 < n) partial[(long long)blockIdx.y * n + row + 8]",
        "if (t == 0 && row + 7 < n) partial[(long long)blockIdx.y * n + row + 7]",
    ),
];

/// The packs of a storage, in kernels.cu.
const F32: &str = "F(float, f32, 4) F(float, f32, 1)";
const BF16: &str = "F(bf16, bf16, 8) F(bf16, bf16, 1)";
const F16: &str = "F(f16, f16, 8) F(f16, f16, 1)";

/// The storage in which the trial tries a file's kernels.
fn kind_of(file: &str) -> Kind {
    if file == "row_sums.cuh" { Kind::BFloat16 } else { Kind::Float }
}

/// Only that storage is compiled, which takes a third of the time.
fn trial(file: &str, change: Option<(&str, &str)>) -> Result<Option<String>> {
    let (source, kind) = (Source::copy(), kind_of(file));
    let packs = if kind == Kind::Float { F32 } else { BF16 };
    source.replace("kernels.cu", &format!("{F32} {BF16} {F16}"), packs);
    if let Some((from, to)) = change {
        source.replace(file, from, to);
    }
    Arc::new(source.host(false)).kernels().disagreement(kind)
}

#[test]
fn the_trial_notices_every_index_that_is_off_by_one() {
    let mut survivors = Vec::new();
    for (file, from, to) in MUTANTS {
        match trial(file, Some((from, to))) {
            Ok(Some(_)) => {}
            Ok(None) => survivors.push(format!("{file}: {from} → {to}")),
            Err(error) => assert!(error.to_string().contains("writes beyond a tensor"), "{from} → {to}: {error}"),
        }
    }
    assert!(survivors.is_empty(), "nobody notices:\n{}", survivors.join("\n"));
}

#[test]
fn the_trial_finds_nothing_in_the_kernels_as_they_are() {
    for file in ["group_norm.cuh", "row_sums.cuh"] {
        assert_eq!(trial(file, None).unwrap(), None, "{file}");
    }
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        assert_eq!(Host::shared().kernels().disagreement(kind).unwrap(), None, "{kind:?}");
    }
}
