//! The networks that measures need, each read from a folder of its own below one that the user names. None is fetched:
//! [`Kind::origin`] says where people get it.

mod clip;
mod dino;
mod inception;
mod judge;
mod layers;
mod lpips;
mod resize;
mod vit;

use std::path::{Path, PathBuf};

pub use clip::Clip;
pub use dino::Dino;
use diorama_diffusion::device::Device;
use diorama_diffusion::error::Error as ModelError;
pub use inception::{Features, Inception, Resize};
pub use judge::{Expected, Judge, Verdict};
pub use lpips::{Lpips, SMALLEST_SIDE, Trunk};
pub use resize::{bilinear, tf1_bilinear};

use crate::error::{Error, Result};

/// A network by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CLIP, both towers.
    Clip,
    /// CLIP's picture tower at 336 pixels.
    Clip336,
    /// InceptionV3 with FID's weights.
    Inception,
    /// LPIPS on a trunk.
    Lpips(Trunk),
    /// DINO ViT-B/8.
    Dino,
    /// The judge of the bundled model's pictures.
    Judge,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Clip,
        Self::Clip336,
        Self::Inception,
        Self::Lpips(Trunk::Alex),
        Self::Lpips(Trunk::Vgg),
        Self::Lpips(Trunk::Squeeze),
        Self::Dino,
        Self::Judge,
    ];

    /// The folder below the networks' folder; also its name in messages.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Clip336 => "clip-336",
            Self::Inception => "inception",
            Self::Lpips(Trunk::Alex) => "lpips-alex",
            Self::Lpips(Trunk::Vgg) => "lpips-vgg",
            Self::Lpips(Trunk::Squeeze) => "lpips-squeeze",
            Self::Dino => "dino",
            Self::Judge => "judge",
        }
    }

    /// The measures that need it.
    pub fn gives(self) -> &'static str {
        match self {
            Self::Clip => "clip, clip_inside",
            Self::Clip336 => "cmmd",
            Self::Inception => "fid, kid, clean_fid, pair_feature_distance_64",
            Self::Lpips(Trunk::Alex) => "lpips_alex",
            Self::Lpips(Trunk::Vgg) => "lpips_vgg",
            Self::Lpips(Trunk::Squeeze) => "lpips_squeeze, pie_lpips",
            Self::Dino => "structure_distance",
            Self::Judge => "judge_object, judge_right, judge_scene, and the region of background measures",
        }
    }

    /// Which files are needed, and where people get them.
    pub fn origin(self) -> &'static str {
        match self {
            Self::Clip => {
                "the Hugging Face folder openai/clip-vit-large-patch14: config.json, model.safetensors, tokenizer.json \
                 (or vocab.json and merges.txt)"
            }
            Self::Clip336 => {
                "the Hugging Face folder openai/clip-vit-large-patch14-336: config.json, model.safetensors"
            }
            Self::Inception => {
                "model.safetensors, written by scripts/evaluation/convert.py inception from \
                 weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases"
            }
            Self::Lpips(Trunk::Alex) => {
                "model.safetensors, written by scripts/evaluation/convert.py lpips-alex from torchvision's \
                 alexnet-owt-7be5be79.pth and the lpips package"
            }
            Self::Lpips(Trunk::Vgg) => {
                "model.safetensors, written by scripts/evaluation/convert.py lpips-vgg from torchvision's \
                 vgg16-397923af.pth and the lpips package"
            }
            Self::Lpips(Trunk::Squeeze) => {
                "model.safetensors, written by scripts/evaluation/convert.py lpips-squeeze from torchvision's \
                 squeezenet1_1-b8a52dc0.pth and the lpips package"
            }
            Self::Dino => "the Hugging Face folder facebook/dino-vitb8: config.json, model.safetensors",
            Self::Judge => "models/eval/judge of this repository; it knows the bundled model's pictures only",
        }
    }

    /// Its folder below the first of `roots` that has one.
    pub fn find(self, roots: &[PathBuf]) -> Option<PathBuf> {
        roots.iter().map(|root| root.join(self.folder())).find(|folder| folder.is_dir())
    }

    pub(crate) fn error(self, source: ModelError) -> Error {
        match source {
            // Out of memory may go away; what is wrong with a file does not.
            ModelError::OutOfMemory(_) | ModelError::Torch(_) => Error::Torch(source),
            source => Error::Network { name: self.folder(), source: shortened(source) },
        }
    }
}

/// The networks that were found.
pub struct Networks {
    /// Both towers of CLIP.
    pub clip: Option<Clip>,
    /// CLIP at 336 pixels.
    pub clip_336: Option<Clip>,
    /// FID's Inception.
    pub inception: Option<Inception>,
    /// LPIPS on each trunk that is there.
    pub lpips: Vec<Lpips>,
    /// DINO.
    pub dino: Option<Dino>,
    /// The judge.
    pub judge: Option<Judge>,
    /// What was loaded, with the digest of its weights.
    pub loaded: Vec<(Kind, [u8; 32])>,
}

impl Networks {
    /// No network: what can be measured without one.
    pub fn none() -> Self {
        Self {
            clip: None,
            clip_336: None,
            inception: None,
            lpips: Vec::new(),
            dino: None,
            judge: None,
            loaded: Vec::new(),
        }
    }

    /// Loads every network that has a folder below one of `roots`, in float32.
    ///
    /// # Errors
    /// [`Error::Input`] where a root is not a folder or holds no network; [`Error::Network`] where a network's files are
    /// damaged, or belong to another.
    pub fn load(roots: &[PathBuf], device: Device) -> Result<Self> {
        Self::load_some(&Kind::ALL, roots, device)
    }

    /// [`Networks::load`] of these networks alone.
    ///
    /// # Errors
    /// As [`Networks::load`].
    pub fn load_some(kinds: &[Kind], roots: &[PathBuf], device: Device) -> Result<Self> {
        for root in roots {
            check_root(root)?;
        }
        let mut networks = Self::none();
        for &kind in kinds {
            let Some(folder) = kind.find(roots) else { continue };
            let digest = networks.add(kind, &folder, device).map_err(|source| kind.error(source))?;
            networks.loaded.push((kind, digest));
        }
        Ok(networks)
    }

    /// Whether a network's folder holds that network.
    ///
    /// # Errors
    /// [`Error::Network`], as [`Networks::load`].
    pub fn load_one(kind: Kind, folder: &Path) -> Result<()> {
        Self::none().add(kind, folder, Device::CPU).map(drop).map_err(|source| kind.error(source))
    }

    fn add(&mut self, kind: Kind, folder: &Path, device: Device) -> Result<[u8; 32], ModelError> {
        Ok(match kind {
            Kind::Clip => self.clip.insert(Clip::load(folder, true, device)?).digest(),
            Kind::Clip336 => self.clip_336.insert(Clip::load(folder, false, device)?).digest(),
            Kind::Inception => self.inception.insert(Inception::load(folder, device)?).digest(),
            Kind::Lpips(trunk) => {
                let lpips = Lpips::load(folder, trunk, device)?;
                let digest = lpips.digest();
                self.lpips.push(lpips);
                digest
            }
            Kind::Dino => self.dino.insert(Dino::load(folder, device)?).digest(),
            Kind::Judge => self.judge.insert(Judge::load(folder, device)?).digest(),
        })
    }
}

fn check_root(root: &Path) -> Result<()> {
    if !root.is_dir() {
        return Err(Error::input(root, "is not a folder; --networks names the folder that holds clip, inception …"));
    }
    if Kind::ALL.iter().all(|kind| !root.join(kind.folder()).is_dir()) {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.folder()).collect();
        return Err(Error::input(root, format!("holds no network; its folders are called {}", names.join(", "))));
    }
    Ok(())
}

/// Another network's weights differ in every name: a few of them say enough.
fn shortened(error: ModelError) -> ModelError {
    const SHOWN: usize = 6;
    let ModelError::Model { path, problem } = error else { return error };
    // Not every network here has a config.json.
    let problem = problem.replace("do not fit config.json", "do not fit this network");
    let lines: Vec<&str> = problem.lines().collect();
    let problem = match lines.len().saturating_sub(SHOWN) {
        0 | 1 => problem,
        rest => {
            format!("{}\n  and {rest} more: the weights probably belong to another network", lines[..SHOWN].join("\n"))
        }
    };
    ModelError::Model { path, problem }
}
