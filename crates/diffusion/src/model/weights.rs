//! A component's weights, whole or sharded, given out by name while account is kept: what is missing, what has another
//! shape, what nobody asked for. All of it is reported at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::tensor_files::{StoredTensor, read_tensors};
use crate::error::{Result, broken};
use crate::kernels::Kernels;

/// The tensors of one component of a model.
pub struct Weights {
    folder: PathBuf,
    tensors: RefCell<BTreeMap<String, Tensor>>,
    problems: RefCell<Vec<String>>,
    kind: Kind,
    device: Device,
    digest: [u8; 32],
    parameters: usize,
    kernels: Kernels,
}

impl Weights {
    /// Reads `folder/{stem}[.variant].safetensors`, or the shards that `folder/{stem}.safetensors.index[.variant].json`
    /// lists, and checks that every number is finite. Tensors will be given out as `kind` on `device`.
    pub fn open(folder: &Path, stem: &str, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        let mut digests = BTreeMap::new();
        for file in find_files(folder, stem, variant)? {
            for StoredTensor { name, tensor, digest } in read_tensors(&file)? {
                if digests.insert(name.clone(), digest).is_some() {
                    return Err(broken(&file, format!("holds {name:?} a second time")));
                }
                tensors.insert(name, tensor);
            }
        }
        let mut whole = Sha256::new();
        for (name, digest) in &digests {
            whole.update((name.len() as u64).to_le_bytes());
            whole.update(name);
            whole.update(digest);
        }
        let parameters = tensors.values().map(Tensor::numel).sum();
        Ok(Self {
            folder: folder.to_owned(),
            tensors: RefCell::new(tensors),
            problems: RefCell::default(),
            kind,
            device,
            digest: whole.finalize().into(),
            parameters,
            kernels: Kernels::none(),
        })
    }

    /// Layers that are loaded from here will use these kernels.
    pub fn with_kernels(self, kernels: &Kernels) -> Self {
        Self { kernels: kernels.clone(), ..self }
    }

    /// What the layers run on.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Numbers in all tensors together.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// SHA-256 over names, types, shapes and bytes: the same however the tensors are spread over files.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The type that tensors are given out in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where tensors are given out.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Renames tensors, for folders written by other versions of diffusers and transformers.
    pub fn rename(&self, new_name: impl Fn(&str) -> Option<String>) {
        let mut tensors = self.tensors.borrow_mut();
        *tensors = std::mem::take(&mut *tensors)
            .into_iter()
            .map(|(name, tensor)| (new_name(&name).unwrap_or(name), tensor))
            .collect();
    }

    /// Whether a tensor of this name is still there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.borrow().contains_key(name)
    }

    /// Drops a tensor that the network does not need, such as a buffer that other versions store.
    pub fn ignore(&self, name: &str) {
        self.tensors.borrow_mut().remove(name);
    }

    /// The tensor, which must have `shape`. What is wrong is kept for [`Weights::finish`]; zeros stand in until then.
    pub fn take(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let found = self.tensors.borrow_mut().remove(name);
        let problem = match found {
            Some(tensor) if tensor.size() == shape => {
                return Ok(tensor.f_to_device(self.device)?.f_to_kind(self.kind)?);
            }
            Some(tensor) => format!("{name} has shape {:?}, but the configuration needs {shape:?}", tensor.size()),
            None => format!("{name} is missing (shape {shape:?})"),
        };
        self.problems.borrow_mut().push(problem);
        // Without memory for them: a wrong configuration may name shapes that no machine holds.
        Ok(Tensor::f_zeros([1], (self.kind, self.device))?.f_expand(shape, false)?)
    }

    /// Ends the account: an error lists every missing, misshapen and surplus tensor by name.
    pub fn finish(self) -> Result<()> {
        let mut problems = self.problems.into_inner();
        problems.extend(self.tensors.into_inner().into_keys().map(|name| format!("{name} is surplus")));
        if problems.is_empty() {
            return Ok(());
        }
        let list = problems.join("\n  ");
        Err(broken(
            &self.folder,
            format!("the weights do not fit config.json ({} problems):\n  {list}", problems.len()),
        ))
    }
}

/// The variant to read, such as `fp16`: none where `folder` has plain files, else the only one that it has.
pub fn detect_variant(folder: &Path, stem: &str) -> Option<String> {
    if folder.join(format!("{stem}.safetensors")).is_file()
        || folder.join(format!("{stem}.safetensors.index.json")).is_file()
    {
        return None;
    }
    let variants: BTreeSet<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
            let index = rest.strip_prefix("safetensors.index.").and_then(|rest| rest.strip_suffix(".json"));
            let variant = index.or_else(|| rest.strip_suffix(".safetensors"))?;
            // Not the shards of a file, such as `fp16-00001-of-00002`.
            (!variant.contains("-of-")).then(|| variant.to_owned())
        })
        .collect();
    if variants.len() == 1 { variants.into_iter().next() } else { None }
}

/// Which files hold the weights.
fn find_files(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    let (single, index) = match variant {
        None => (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")),
        Some(v) => (format!("{stem}.{v}.safetensors"), format!("{stem}.safetensors.index.{v}.json")),
    };
    let single = folder.join(single);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(index);
    if index.is_file() {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read_to_string(&index).map_err(|e| broken(&index, format!("cannot be read: {e}")))?;
        let parsed: Index =
            serde_json::from_str(&text).map_err(|e| broken(&index, format!("is not a weights index: {e}")))?;
        let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
        return names
            .into_iter()
            .map(|name| {
                let is_plain = Path::new(&name).file_name().is_some_and(|plain| plain == name.as_str());
                if is_plain {
                    Ok(folder.join(name))
                } else {
                    Err(broken(&index, format!("names a file outside: {name:?}")))
                }
            })
            .collect();
    }
    if !folder.is_dir() {
        return Err(broken(folder, "is missing"));
    }
    let others = std::fs::read_dir(folder).map_err(|e| broken(folder, format!("cannot be read: {e}")))?;
    let others: Vec<String> =
        others.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    let pickle = others.iter().find(|n| [".bin", ".pt", ".ckpt", ".pth"].iter().any(|end| n.ends_with(end)));
    Err(match pickle {
        Some(name) => broken(
            &folder.join(name),
            "is a pickle, which can run code when it is read; convert the model to safetensors (in diffusers: \
             pipe.save_pretrained(folder, safe_serialization=True))",
        ),
        None => {
            let found: Vec<_> = others.iter().filter(|n| n.ends_with(".safetensors")).cloned().collect();
            let hint =
                if found.is_empty() { String::new() } else { format!("; the folder holds {}", found.join(", ")) };
            broken(&single, format!("is missing{hint}"))
        }
    })
}
