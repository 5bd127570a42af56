//! The judge: a small network that finds the object in pictures of the bundled model and names shape, colour and scene.
//! It was trained on drawn pictures only, and says nothing about any other pictures. `scripts/demo-model/judge.py` is it.

use std::path::Path;

use diorama_core::picture::Gray8;
use diorama_diffusion::device::Device;
use diorama_diffusion::error::Result;
use diorama_diffusion::model::config::Config;
use diorama_diffusion::model::nn::Linear;
use diorama_diffusion::model::weights::Weights;
use tch::{Kind, Tensor};

use super::layers::{Conv, ConvNormRelu, Shape};

const EPS: f64 = 1e-5;
/// The side that it sees, in pixels.
pub(super) const SIDE: u32 = 64;
/// Pixels below which an object is none.
const SMALLEST_OBJECT: i64 = 60;

/// The network.
pub struct Judge {
    at32: [ConvNormRelu; 2],
    at16: [ConvNormRelu; 2],
    at8: [ConvNormRelu; 2],
    up16: ConvNormRelu,
    up32: ConvNormRelu,
    mask: Conv,
    names: (ConvNormRelu, Linear, Linear),
    outline: ([ConvNormRelu; 4], Linear, Linear),
    words: Words,
    device: tch::Device,
    digest: [u8; 32],
}

/// What its classes are called; the last shape and the last colour are "no object".
struct Words {
    shapes: Vec<String>,
    colours: Vec<String>,
    /// As a prompt says it: `on a beach`.
    places: Vec<String>,
}

/// What a prompt asks for, as class indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The shape.
    pub shape: usize,
    /// The colour.
    pub colour: usize,
    /// The scene; `None` where the prompt names none.
    pub scene: Option<usize>,
}

/// What the judge sees in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// White where the object is, in the picture's size.
    pub mask: Gray8,
    /// Whether there is an object.
    pub is_present: bool,
    /// The class of the shape.
    pub shape: usize,
    /// The class of the colour.
    pub colour: usize,
    /// The class of the scene.
    pub scene: usize,
}

impl Judge {
    /// Reads `config.json` and `model.safetensors` of a folder.
    pub fn load(folder: &Path, device: Device) -> Result<Self> {
        let mut config = Config::read(&folder.join("config.json"))?;
        config.expect("model_type", &["diorama_judge".into()])?;
        let mut list = |key: &str| config.take::<Vec<String>>(key, Vec::new());
        let words = Words { shapes: list("shapes")?, colours: list("colours")?, places: list("places")? };
        let weights = Weights::open(folder, "model", None, Kind::Float, device.torch())?;
        let digest = weights.digest();
        let conv = |name: &str, inputs: i64, outputs: i64, stride: i64| {
            let shape = Shape::square(inputs, outputs, 3, stride, 1);
            ConvNormRelu::load(&weights, &format!("{name}.0"), &format!("{name}.1"), shape, EPS)
        };
        let linear = |name: &str, inputs: i64, outputs: i64| Linear::load(&weights, name, inputs, outputs, true);
        let shapes = words.shapes.len() as i64 + 1;
        let named = words.colours.len() as i64 + 1 + words.places.len() as i64;
        let judge = Self {
            at32: [conv("at32.0", 3, 24, 2)?, conv("at32.1", 24, 32, 1)?],
            at16: [conv("at16.0", 32, 48, 2)?, conv("at16.1", 48, 48, 1)?],
            at8: [conv("at8.0", 48, 96, 2)?, conv("at8.1", 96, 96, 1)?],
            up16: conv("up16", 96, 48, 1)?,
            up32: conv("up32", 48, 32, 1)?,
            mask: Conv::load(&weights, "mask", Shape::square(32, 4, 3, 1, 1), true)?,
            names: (conv("names.0", 96, 128, 2)?, linear("names.2", 2048, 128)?, linear("names.4", 128, named)?),
            outline: (
                [
                    conv("outline.0", 4, 48, 2)?,
                    conv("outline.1", 48, 96, 2)?,
                    conv("outline.2", 96, 96, 2)?,
                    conv("outline.3", 96, 96, 2)?,
                ],
                linear("outline.5", 1536, 128)?,
                linear("outline.7", 128, shapes)?,
            ),
            words,
            device: device.torch(),
            digest,
        };
        weights.finish()?;
        Ok(judge)
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether it can look at pictures of this size.
    pub fn knows(&self, width: u32, height: u32) -> bool {
        (width, height) == (SIDE, SIDE)
    }

    /// What a prompt asks for; `None` where it names no shape and colour of those that the judge knows.
    pub fn expected(&self, prompt: &str) -> Option<Expected> {
        let prompt = prompt.to_lowercase();
        let words: Vec<&str> = prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let one = |known: &[String]| known.iter().position(|name| words.contains(&name.as_str()));
        Some(Expected {
            shape: one(&self.words.shapes)?,
            colour: one(&self.words.colours)?,
            scene: self.words.places.iter().position(|place| prompt.contains(place.as_str())),
        })
    }

    /// Looks at pictures `[b, 3, 64, 64]` in [0, 255].
    pub fn look(&self, pictures: &Tensor) -> Result<Vec<Verdict>> {
        let x = pictures.f_to_device(self.device)?.f_to_kind(Kind::Float)?.f_div_scalar(127.5)?.f_sub_scalar(1.0)?;
        let a = chain(&self.at32, &x)?;
        let b = chain(&self.at16, &a)?;
        let c = chain(&self.at8, &b)?;
        let up = double(&self.up16.forward(&c)?)?.f_add(&b)?;
        let up = double(&self.up32.forward(&up)?)?.f_add(&a)?;
        let mask = self.mask.forward(&up)?.f_pixel_shuffle(2)?;
        let (conv, inner, last) = &self.names;
        let names = last.forward(&inner.forward(&conv.forward(&c)?.f_flatten(1, 3)?)?.f_relu()?)?;
        let (convs, inner, last) = &self.outline;
        let outline = chain(convs, &Tensor::f_cat(&[&x, &mask.f_sigmoid()?], 1)?)?;
        let shapes = last.forward(&inner.forward(&outline.f_flatten(1, 3)?)?.f_relu()?)?;
        let colours = self.words.colours.len() as i64 + 1;
        let class = |logits: &Tensor| -> Result<Vec<i64>> {
            Ok(Vec::try_from(logits.f_argmax(1, false)?.f_to_device(tch::Device::Cpu)?)?)
        };
        let shape = class(&shapes)?;
        let colour = class(&names.f_narrow(1, 0, colours)?)?;
        let scene = class(&names.f_narrow(1, colours, names.size()[1] - colours)?)?;
        let masks = mask.f_gt(0.0)?.f_to_kind(Kind::Uint8)?.f_mul_scalar(255)?.f_to_device(tch::Device::Cpu)?;
        (0..pictures.size()[0])
            .map(|at| {
                let data = Vec::<u8>::try_from(masks.f_get(at)?.f_contiguous()?.f_view([-1])?)?;
                let pixels = data.iter().filter(|value| **value > 0).count() as i64;
                let index = |classes: &[i64]| classes[at as usize] as usize;
                Ok(Verdict {
                    mask: Gray8 { width: SIDE, height: SIDE, data },
                    is_present: pixels >= SMALLEST_OBJECT,
                    shape: index(&shape),
                    colour: index(&colour),
                    scene: index(&scene),
                })
            })
            .collect()
    }
}

fn chain(convs: &[ConvNormRelu], x: &Tensor) -> Result<Tensor> {
    convs.iter().try_fold(x.shallow_clone(), |x, conv| conv.forward(&x))
}

/// Twice the size, each pixel four times.
fn double(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    Ok(x.f_upsample_nearest2d([height * 2, width * 2], None, None)?)
}
