//! Why a picture cannot be decoded.

use diorama_core::outcome::{ErrorCode, TaskError};

use crate::limits::PictureLimits;

/// Why not, in words that continue a sentence which begins with the picture's name.
#[derive(Debug)]
pub(crate) enum Problem {
    /// What the file is, which is none of the formats that are read.
    NotRead(String),
    /// What of its format the decoder does not know.
    Unsupported(String),
    /// What the decoder says.
    Damaged(String),
    /// Where it ends too early.
    CutOff(String),
    /// What is too much of it.
    Limits(String),
    /// It took longer than is allowed.
    TooSlow,
}

impl Problem {
    /// That it claims more pixels than its length allows.
    pub(crate) fn claims(width: u32, height: u32, bytes: usize) -> Self {
        Self::Limits(format!(
            "claims {width}x{height} pixels in {bytes} bytes, which takes more memory to decode than a file of its \
             length is allowed; make it smaller, or save it as a less compressed PNG or JPEG"
        ))
    }

    /// As a task's error.
    pub(crate) fn into_error(self, limits: &PictureLimits) -> TaskError {
        let undecodable = |message: String| TaskError::permanent(ErrorCode::ReferenceUndecodable, message);
        match self {
            Self::Unsupported(what) => undecodable(format!(
                "is of a kind that is not supported ({what}), though complete; save it as 8-bit RGB, for example as PNG"
            )),
            Self::NotRead(is) => undecodable(format!("{is}; PNG, JPEG, WebP, BMP, GIF and TIFF are supported")),
            Self::Damaged(why) => undecodable(format!("cannot be decoded; it is damaged: {why}")),
            Self::CutOff(at) => {
                undecodable(format!("is truncated: {at}; perhaps its download was interrupted: fetch it again"))
            }
            Self::Limits(message) => TaskError::permanent(ErrorCode::ReferenceTooLarge, message),
            Self::TooSlow => TaskError::transient(
                ErrorCode::ReferenceTooLarge,
                format!("takes longer to decode than {} s; make it smaller", limits.max_time.as_secs_f64()),
            ),
        }
    }
}
