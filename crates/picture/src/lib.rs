//! Pictures: reading those that come from outside, writing those that were made, comparing two on a region.
//!
//! Knows no worker, no model and no store, and waits for nothing but memory that other pictures are decoded in.

mod codec;
mod jpeg;
mod kind;
mod limits;
mod png_rows;
mod problem;
mod region;
mod shrink;
mod thumbnail;
mod tiff;
mod used;
pub mod whole;

pub use codec::{decode, encode_gray, encode_rgb, read_reference, reference_from_bytes};
pub use image::ImageError;
pub use limits::PictureLimits;
pub use region::{Outside, Region};
pub use thumbnail::thumbnail;
pub use used::as_used;
