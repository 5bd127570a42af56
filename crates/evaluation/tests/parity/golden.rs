//! The golden data, and weights that need not be stored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use diorama_core::picture::{Gray8, Rgb8};
use serde_json::Value;
use tch::{Kind, Tensor};

fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR");
    here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from).join("tests/golden")
}

pub(crate) struct Golden {
    tensors: HashMap<String, Tensor>,
    pub(crate) facts: Value,
}

impl Golden {
    pub(crate) fn read() -> Self {
        let tensors = Tensor::read_safetensors(root().join("golden.safetensors")).unwrap();
        let facts = std::fs::read(root().join("golden.json")).unwrap();
        Self { tensors: tensors.into_iter().collect(), facts: serde_json::from_slice(&facts).unwrap() }
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the golden data has no {name}"))
    }

    pub(crate) fn number(&self, pointer: &str) -> f64 {
        self.facts
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("the golden data has no {pointer}"))
    }

    pub(crate) fn picture(&self, n: usize) -> Rgb8 {
        let tensor = self.get(&format!("picture.{n}"));
        let (height, width, _) = tensor.size3().unwrap();
        let data = Vec::try_from(tensor.view([-1])).unwrap();
        Rgb8 { width: width as u32, height: height as u32, data }
    }

    /// `[1, 3, h, w]` in [0, 255].
    pub(crate) fn planes(&self, n: usize) -> Tensor {
        diorama_evaluation::measures::tensor(&self.picture(n)).unwrap().unsqueeze(0)
    }

    pub(crate) fn mask(&self, name: &str) -> Gray8 {
        let tensor = self.get(name);
        let (height, width) = tensor.size2().unwrap();
        Gray8 { width: width as u32, height: height as u32, data: Vec::try_from(tensor.view([-1])).unwrap() }
    }

    /// A network's folder with the random weights that the golden data was made of, and its configuration.
    pub(crate) fn folder(&self, network: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tensors = self.facts[network]["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
            let shape: Vec<i64> = shape.as_array().unwrap().iter().map(|side| side.as_i64().unwrap()).collect();
            (name.clone(), random(name, &shape))
        });
        write(folder.path(), &tensors.collect::<Vec<_>>());
        if let Some(config) = self.facts[network].get("config") {
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        }
        folder
    }
}

pub(crate) fn write(folder: &Path, tensors: &[(String, Tensor)]) {
    Tensor::write_safetensors(tensors, folder.join("model.safetensors")).unwrap();
}

/// `scripts/evaluation/weights.py` in Rust.
pub(crate) fn random(name: &str, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    let uniform = |at: u64| {
        let mut z = seed.wrapping_add(at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let fan_in = shape.iter().skip(1).product::<i64>() as f64;
    let scale = 2.0_f64.powf((0.5 * (6.0 / fan_in).log2()).round_ties_even()) as f32;
    let value = |u: f32| match shape.len() {
        0 | 1 if name.ends_with("running_var") => u + 0.5,
        0 | 1 if name.ends_with("weight") => u / 2.0 + 0.75,
        0 | 1 => (u * 2.0 - 1.0) / 8.0,
        _ if name.starts_with("lin") => u / 64.0,
        _ => (u * 2.0 - 1.0) * scale,
    };
    let values: Vec<f32> = (1..=count as u64).map(|at| value(uniform(at))).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Fails unless every element is within `relative` of the largest expected value.
#[track_caller]
pub(crate) fn assert_close(actual: &Tensor, expected: &Tensor, relative: f64, what: &str) {
    assert_eq!(actual.size(), expected.size(), "{what}: shape");
    let (actual, expected) = (actual.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let scale = expected.abs().max().double_value(&[]);
    let error = (actual - &expected).abs().max().double_value(&[]) / scale;
    assert!(error <= relative, "{what}: differs by {error:.2e} of the largest value; {relative:.0e} is allowed");
}

#[track_caller]
pub(crate) fn assert_near(actual: f64, expected: f64, relative: f64, what: &str) {
    let error = (actual - expected).abs() / expected.abs();
    assert!(error <= relative, "{what}: {actual} is not {expected}: {error:.2e} away, {relative:.0e} is allowed");
}
