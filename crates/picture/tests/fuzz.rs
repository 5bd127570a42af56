//! Whatever a picture claims and holds: it is decoded or refused, within bounds of time and memory.

use diorama_fuzz::fuzz;
use diorama_picture::{PictureLimits, decode, thumbnail};

#[test]
fn whatever_a_picture_holds_it_is_decoded_or_refused() {
    let limits = PictureLimits { max_pixels: 1 << 20, ..PictureLimits::default() };
    fuzz("picture", |bytes| {
        if let Ok(picture) = decode(bytes, &limits) {
            assert!(u64::from(picture.width) * u64::from(picture.height) <= limits.max_pixels);
            assert_eq!(picture.data.len(), picture.width as usize * picture.height as usize * 3);
        }
        drop(thumbnail(bytes, 64, &limits));
    });
}
