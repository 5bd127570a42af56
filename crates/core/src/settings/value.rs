//! Settings with a notation of their own: layers and sizes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most layers that a list names: several times as many as the largest model has.
const MOST_LAYERS: usize = 64;

/// Which cross-attention layers the score is taken from. Written `auto`, `last`, or diffusers paths joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Layers {
    /// The layers measured best for this model (`diorama.json` beside it), else the last.
    Auto,
    /// The last cross-attention layer, as the paper has it.
    Last,
    /// By diffusers path, such as `up_blocks.3.attentions.2.transformer_blocks.0.attn2`.
    Paths(Vec<String>),
}

impl Layers {
    /// Refuses a list without an entry.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Paths(paths) if paths.is_empty() => {
                Err("names no layer; write 'auto', 'last' or layer paths joined by commas".to_owned())
            }
            Self::Paths(paths) if paths.len() > MOST_LAYERS => {
                Err(format!("names {} layers; at most {MOST_LAYERS} are allowed", paths.len()))
            }
            Self::Auto | Self::Last | Self::Paths(_) => Ok(()),
        }
    }
}

impl From<String> for Layers {
    fn from(text: String) -> Self {
        match text.trim() {
            "auto" => Self::Auto,
            "last" => Self::Last,
            paths => Self::Paths(paths.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()),
        }
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> String {
        match layers {
            Layers::Auto => "auto".to_owned(),
            Layers::Last => "last".to_owned(),
            Layers::Paths(paths) => paths.join(","),
        }
    }
}

/// The size of a picture in pixels. Written `WxH`, or `reference`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    /// This one.
    Pixels {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// That of its reference: [`size_like`](crate::fit::size_like).
    Reference,
}

impl Size {
    /// The largest that any model makes.
    pub const LARGEST: Self = Self::Pixels { width: 4096, height: 4096 };

    /// Pixels in all; none where the reference decides, within what the model has room for.
    pub fn pixels(self) -> Option<u64> {
        match self {
            Self::Pixels { width, height } => Some(u64::from(width) * u64::from(height)),
            Self::Reference => None,
        }
    }

    /// Refuses what no model makes.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self::Pixels { width, height } = *self else { return Ok(()) };
        let wrong = |side: u32| !(8..=4096).contains(&side) || !side.is_multiple_of(8);
        if wrong(width) || wrong(height) {
            return Err(format!("{self} is out of range; each side must be 8 to 4096 and a multiple of 8"));
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixels { width, height } => write!(f, "{width}x{height}"),
            Self::Reference => f.write_str("reference"),
        }
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "reference" {
            return Ok(Self::Reference);
        }
        let parse = || {
            let (width, height) = text.split_once(['x', 'X'])?;
            Some(Self::Pixels { width: width.trim().parse().ok()?, height: height.trim().parse().ok()? })
        };
        parse().ok_or_else(|| {
            format!("{text:?} is not a size; write it as WIDTHxHEIGHT, such as 512x512, or as reference")
        })
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}
