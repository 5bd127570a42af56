//! What a file is that is no picture which is read, in words: its sender may not know what lies behind the name.

/// A beginning of files, and what they are.
const BEGINNINGS: [(&[u8], &str); 24] = [
    (b"\xFF\x0A", "a JPEG XL picture (JXL)"),
    (b"\0\0\0\x0CJXL \r\n\x87\n", "a JPEG XL picture (JXL)"),
    (b"\0\0\0\x0CjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"DDS ", "a texture (DDS)"),
    (b"qoif", "a QOI picture"),
    (b"farbfeld", "a farbfeld picture"),
    (b"#?RADIANCE", "a Radiance picture (HDR)"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"FUJIFILM", "a camera's raw file (RAF)"),
    (b"\x1A\x45\xDF\xA3", "a video (Matroska or WebM)"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1F\x8B", "a gzip archive"),
    (b"\x28\xB5\x2F\xFD", "a zstd archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet file"),
    (b"P3\n", "a PNM picture"),
    (b"P5\n", "a PNM picture"),
    (b"P6\n", "a PNM picture"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` brings the file itself)"),
];

/// How much of a text is looked at.
const LOOKED_AT: usize = 4096;

/// What a file is that no picture decoder knows: "is …"; what follows says which pictures are read.
pub(crate) fn describe(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "is empty".to_owned();
    }
    if bytes.iter().take(LOOKED_AT).all(|byte| *byte == 0) {
        return "contains nothing but zeros, as after an interrupted download or a disk failure".to_owned();
    }
    let known = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, kind)| *kind);
    match known.or_else(|| container(bytes)).or_else(|| text(bytes)) {
        Some(kind) => format!("is {kind}"),
        None => "is not a picture".to_owned(),
    }
}

/// What an ISO base media file is: its brands say it, the major one and the compatible ones.
fn container(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes.get(..12).filter(|head| &head[4..8] == b"ftyp")?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let brands = bytes[8..length.clamp(12, bytes.len())].chunks_exact(4).take(32);
    let has = |wanted: &[&[u8]]| brands.clone().any(|brand| wanted.contains(&brand));
    Some(if has(&[b"avif", b"avis"]) {
        "an AVIF picture"
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        "a HEIC picture (HEIF), as taken by iPhones"
    } else if has(&[b"crx "]) {
        "a camera's raw file (CR3)"
    } else {
        "a video (MP4 or QuickTime)"
    })
}

fn text(bytes: &[u8]) -> Option<&'static str> {
    let start: String = String::from_utf8_lossy(&bytes[..bytes.len().min(LOOKED_AT)]).to_ascii_lowercase();
    let start = start.trim_start_matches('\u{FEFF}').trim_start();
    let is_markup = start.starts_with('<');
    if is_markup && start.contains("<svg") {
        Some("an SVG drawing")
    } else if is_markup && (start.contains("<html") || start.starts_with("<!doctype html") || start.contains("<body")) {
        Some("a web page (HTML), perhaps a login or not-found page")
    } else if is_markup {
        Some("an XML text, perhaps an error of an object store")
    } else if start.starts_with('{') || start.starts_with('[') {
        Some("a JSON text")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_take_for_pictures_is_called_by_its_name() {
        let ftyp = |brands: &[u8]| [&(8 + brands.len() as u32).to_be_bytes()[..], b"ftyp", brands, b"meta"].concat();
        for (bytes, name) in [
            (b"".to_vec(), "is empty"),
            (vec![0; 5000], "nothing but zeros"),
            (ftyp(b"heic\0\0\0\0mif1heic"), "HEIC"),
            (ftyp(b"mif1\0\0\0\0mif1avif"), "AVIF"),
            (ftyp(b"avif\0\0\0\0"), "AVIF"),
            (ftyp(b"isom\0\0\0\0"), "a video"),
            (b"\0\0\0\x0CJXL \r\n\x87\n".to_vec(), "JXL"),
            (b"\xFF\x0A\xFA\x1F".to_vec(), "JXL"),
            (b"\xEF\xBB\xBF<?xml version='1.0'?><!-- a --> <svg xmlns='x'/>".to_vec(), "SVG"),
            (b"\n<!DOCTYPE HTML><title>Sign in</title>".to_vec(), "HTML"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>".to_vec(), "XML"),
            (b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), "git lfs pull"),
            (b"a poem about a picture".to_vec(), "is not a picture"),
            (b"\0\0\0\x08ftyp".to_vec(), "is not a picture"),
        ] {
            let said = describe(&bytes);
            assert!(said.contains(name), "{said} for {name}");
        }
    }
}
