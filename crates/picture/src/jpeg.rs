//! What a JPEG's markers say about it before it is decoded.

/// Facts about a JPEG.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct JpegFacts {
    /// Whether it goes on to its end-of-image marker. The decoder fills what is missing with grey and says nothing, and
    /// a grey half would spoil a picture unnoticed.
    pub(crate) is_complete: bool,
    /// Bytes a pixel of coefficients that are kept until the end: those of a picture that comes in several scans.
    pub(crate) coefficients: f64,
}

/// Reads the markers of a JPEG.
pub(crate) fn facts(bytes: &[u8]) -> JpegFacts {
    let (mut at, mut scans, mut is_progressive, mut samples) = (2, 0, false, 0.0);
    let facts = |is_complete, scans: u32, is_progressive: bool, samples: f64| JpegFacts {
        is_complete,
        // Two bytes a coefficient, as many as there are samples.
        coefficients: if is_progressive || scans > 1 { 2.0 * samples } else { 0.0 },
    };
    while at + 1 < bytes.len() {
        if bytes[at] != 0xFF {
            // Inside a scan, or between segments of a sloppy writer.
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            0xD9 => return facts(true, scans, is_progressive, samples),
            0xFF => at += 1,
            // A stuffed byte, a restart marker, TEM: no length follows.
            0x00 | 0x01 | 0xD0..=0xD8 => at += 2,
            marker => match bytes.get(at + 2..at + 4) {
                Some(length) => {
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                    let segment = bytes.get(at + 4..at + 2 + length).unwrap_or_default();
                    scans += u32::from(marker == 0xDA);
                    if matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF) {
                        is_progressive |= matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE);
                        samples = samples_a_pixel(segment);
                    }
                    at += 2 + length;
                }
                None => break,
            },
        }
    }
    facts(false, scans, is_progressive, samples)
}

/// Samples a pixel, of all components, from a frame's header: 3 where none is subsampled, 1.5 at 4:2:0.
fn samples_a_pixel(frame: &[u8]) -> f64 {
    let components = frame.get(6..).unwrap_or_default().chunks_exact(3).take(4);
    let factors = components.map(|component| (f64::from(component[1] >> 4), f64::from(component[1] & 15)));
    let largest = factors.clone().fold((1.0_f64, 1.0_f64), |most, (h, v)| (most.0.max(h), most.1.max(v)));
    factors.map(|(h, v)| h * v / (largest.0 * largest.1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progressive_picture_keeps_its_coefficients_and_a_baseline_one_none() {
        let frame = |marker: u8, luma: u8| {
            let header = [0xFF, marker, 0, 17, 8, 0, 16, 0, 16, 3, 1, luma, 0, 2, 0x11, 1, 3, 0x11, 1];
            [&[0xFF, 0xD8][..], &header, &[0xFF, 0xDA, 0, 2, 1, 2, 3, 0xFF, 0xD9]].concat()
        };
        assert_eq!(facts(&frame(0xC0, 0x22)), JpegFacts { is_complete: true, coefficients: 0.0 });
        assert_eq!(facts(&frame(0xC2, 0x22)), JpegFacts { is_complete: true, coefficients: 3.0 });
        assert_eq!(facts(&frame(0xC2, 0x11)), JpegFacts { is_complete: true, coefficients: 6.0 });
        let cut = &frame(0xC0, 0x22)[..25];
        assert!(!facts(cut).is_complete);
    }
}
