//! Plain decoded pictures, as they pass between decoding, the model and encoding.

/// 8-bit RGB, row by row from the top: `data.len() == width * height * 3`.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// R, G, B of each pixel.
    pub data: Vec<u8>,
}

/// 8-bit grey, row by row from the top: `data.len() == width * height`. Masks hold 0 or 255.
#[derive(Clone, PartialEq, Eq)]
pub struct Gray8 {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One value a pixel.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8({}x{})", self.width, self.height)
    }
}

impl std::fmt::Debug for Gray8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gray8({}x{})", self.width, self.height)
    }
}
