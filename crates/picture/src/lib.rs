//! Pictures: reading those that come from outside, writing those that were made, comparing two on a region.
//!
//! Knows no worker, no model and no store, and waits for nothing.

mod codec;
mod region;
mod thumbnail;

pub use codec::{PictureLimits, decode, encode_gray, encode_rgb, read_reference, reference_from_bytes};
pub use image::ImageError;
pub use region::{Outside, Region};
pub use thumbnail::thumbnail;
