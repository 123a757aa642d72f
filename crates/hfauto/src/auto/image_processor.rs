//! `AutoImageProcessor`: a picture to the numbers that a model reads, exactly as the image processors of
//! transformers 4.57 that run on Pillow and numpy give them.
//!
//! It reads `preprocessor_config.json`, in its forms before and after 2022. A checkpoint saved from a
//! "Fast" processor is read in the same way, as transformers does where torchvision is missing. Not here:
//! files and their formats (`crate::image`). The entries are [`AutoImageProcessor::from_pretrained`] and
//! [`AutoImageProcessor::preprocess`].
//!
//! # Source
//! `image_processing_vit.py`, `image_processing_deit.py`, `image_processing_auto.py`,
//! `image_transforms.py` in `src/transformers` at v4.57.

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};

use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Need, Snapshot};
use crate::image::{Resampling, RgbImage};
use crate::limits;

const FILE: &str = "preprocessor_config.json";

/// A class of image processors with its defaults.
#[derive(Debug, PartialEq, Eq)]
struct Class {
    /// Its name without `ImageProcessor`, `ImageProcessorFast` or `FeatureExtractor`.
    name: &'static str,
    model_type: &'static str,
    size: usize,
    /// The side of the part in the middle that is kept, for a class that cuts.
    crop_size: Option<usize>,
    resample: Resampling,
}

static CLASSES: [Class; 2] = [
    Class {
        name: "ViT",
        model_type: "vit",
        size: 224,
        crop_size: None,
        resample: Resampling::Bilinear,
    },
    Class {
        name: "DeiT",
        model_type: "deit",
        size: 256,
        crop_size: Some(224),
        resample: Resampling::Bicubic,
    },
];

/// `IMAGENET_STANDARD_MEAN` and `IMAGENET_STANDARD_STD`.
const STANDARD: f64 = 0.5;
const CHANNELS: usize = 3;

/// The image processor of a checkpoint.
///
/// # Example
/// ```
/// use hfauto::auto::{AutoImageProcessor, AutoModelForImageClassification};
/// use hfauto::image::RgbImage;
/// use hfauto::models::Want;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
/// let id = format!("{golden}/heads/vit/for-image-classification");
/// let processor = AutoImageProcessor::from_pretrained(&id)?;
/// let model = AutoModelForImageClassification::from_pretrained(&id)?;
///
/// let image = RgbImage::decode(&std::fs::read(format!("{golden}/images/0-rgb.jpg"))?)?;
/// let inputs = model.image_inputs(&[processor.preprocess(&image)?])?;
/// let logits = model.forward(&inputs, &Want::default())?.logits;
/// assert_eq!(logits.dims(), [1, model.config().num_labels()]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AutoImageProcessor {
    class: &'static Class,
    /// Height and width, with the filter.
    resize: Option<(Size, Resampling)>,
    center_crop: Option<Size>,
    rescale_factor: Option<f64>,
    /// The mean and the standard deviation of each colour.
    normalize: Option<[[f32; CHANNELS]; 2]>,
    digest: blake3::Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    height: usize,
    width: usize,
}

/// Options of [`AutoImageProcessor::builder`].
#[derive(Clone, Debug)]
pub struct AutoImageProcessorBuilder {
    id: String,
    revision: Option<String>,
    config: Map<String, Value>,
}

impl AutoImageProcessorBuilder {
    /// Branch, tag or commit; without it, `main`.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Overrides of `preprocessor_config.json`, like keyword arguments of `from_pretrained`.
    #[must_use]
    pub fn config(mut self, config: Map<String, Value>) -> Self {
        self.config.extend(config);
        self
    }

    /// Reads the image processor.
    ///
    /// # Errors
    /// As [`AutoImageProcessor::from_snapshot`]; `Hub` when the files cannot be had.
    pub fn load(self) -> Result<AutoImageProcessor> {
        let snapshot = snapshot(&self.id, self.revision.as_deref(), Need::Config)?;
        AutoImageProcessor::with_config(&snapshot, &self.config)
    }
}

impl AutoImageProcessor {
    /// The image processor of a hub id or of a directory.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot); `Hub` when the files cannot be had.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// The same with options.
    pub fn builder(id: impl Into<String>) -> AutoImageProcessorBuilder {
        AutoImageProcessorBuilder { id: id.into(), revision: None, config: Map::new() }
    }

    /// The image processor in a snapshot's files.
    ///
    /// # Errors
    /// `Model` when preprocessor_config.json is missing or damaged, `Unsupported` for a class or a setting
    /// that is not implemented.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self> {
        Self::with_config(snapshot, &Map::new())
    }

    /// The same with `overrides` of `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn with_config(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        let at = |error: Error| error.at(format!("image processor of `{}`", snapshot.name()));
        let json = snapshot.json(FILE).map_err(at)?;
        let object = |json: Value| match json {
            Value::Object(json) => Ok(json),
            _ => Err(at(Error::new(ErrorKind::Model, format!("{FILE} is not a JSON object")))),
        };
        let Some(mut json) = json.map(object).transpose()? else {
            return Err(at(Error::new(ErrorKind::Model, format!("there is no {FILE}")).hint(
                "save the image processor beside the model (`image_processor.save_pretrained(…)` in \
                 transformers)",
            )));
        };
        json.extend(overrides.clone());
        let model_type = match snapshot.json("config.json").map_err(at)? {
            Some(config) => config.get("model_type").and_then(Value::as_str).map(str::to_owned),
            None => None,
        };
        Self::from_json(&json, model_type.as_deref()).map_err(at)
    }

    /// From the parsed preprocessor_config.json; `model_type` decides when it names no class.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn from_json(json: &Map<String, Value>, model_type: Option<&str>) -> Result<Self> {
        let class = class(json, model_type)?;
        let size = size(json, "size", class.size)?;
        let resize = if flag(json, "do_resize", true)? {
            let resample = resample(json, class.resample)?;
            Some((size.fixed("size")?, resample))
        } else {
            None
        };
        let center_crop = match class.crop_size {
            Some(default) => {
                let crop_size = self::size(json, "crop_size", default)?;
                let wanted = flag(json, "do_center_crop", true)?;
                wanted.then(|| crop_size.fixed("crop_size")).transpose()?
            }
            // These classes do not cut, whatever the file says.
            None => None,
        };
        let rescale_factor = match json.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(value) => {
                value.as_f64().ok_or_else(|| wrong("rescale_factor", value, "a number"))?
            }
        };
        let normalize = [numbers(json, "image_mean")?, numbers(json, "image_std")?];
        Ok(Self {
            class,
            resize,
            center_crop,
            rescale_factor: flag(json, "do_rescale", true)?.then_some(rescale_factor),
            normalize: flag(json, "do_normalize", true)?.then_some(normalize),
            digest: blake3::hash(Value::Object(json.clone()).to_string().as_bytes()),
        })
    }

    /// The name of the image processor's class in transformers.
    pub fn class_name(&self) -> String {
        format!("{}ImageProcessor", self.class.name)
    }

    /// Height and width of what [`preprocess`](Self::preprocess) gives; `None` when they are those of the
    /// picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        let size = self.center_crop.or(self.resize.map(|(size, _)| size))?;
        Some((size.height, size.width))
    }

    /// A digest of the settings, for lineage.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// The numbers that a model reads.
    ///
    /// # Shapes
    /// `(3, height, width)`, f32, on the CPU.
    ///
    /// # Errors
    /// `Internal` when there is no memory for a tensor.
    pub fn preprocess(&self, image: &RgbImage) -> Result<Tensor> {
        let confused = confused(image);
        let mut image = confused.as_ref().unwrap_or(image);
        let resized;
        if let Some((size, resample)) = self.resize {
            resized = image.resize(size.width, size.height, resample);
            image = &resized;
        }
        let size =
            self.center_crop.unwrap_or(Size { height: image.height(), width: image.width() });
        let mut values = vec![0.0; CHANNELS * size.height * size.width];
        for (channel, plane) in values.chunks_exact_mut(size.height * size.width).enumerate() {
            // A byte has 256 values: each is computed once, as numpy does it.
            let value_of: Vec<f32> = (0..=u8::MAX).map(|byte| self.value(byte, channel)).collect();
            for (y, row) in plane.chunks_exact_mut(size.width).enumerate() {
                let old_y = place(y, image.height(), size.height);
                for (x, value) in row.iter_mut().enumerate() {
                    let old_x = place(x, image.width(), size.width);
                    // What lies outside is black.
                    let byte = match (old_y, old_x) {
                        (Some(y), Some(x)) => {
                            image.pixels()[(y * image.width() + x) * CHANNELS + channel]
                        }
                        _ => 0,
                    };
                    *value = value_of[usize::from(byte)];
                }
            }
        }
        Tensor::from_vec(values, (CHANNELS, size.height, size.width), &Device::Cpu)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot make a tensor").source(e))
    }

    /// What becomes of a byte of a colour. The factor is applied in 64 bits, the rest in 32.
    fn value(&self, byte: u8, channel: usize) -> f32 {
        let value = match self.rescale_factor {
            Some(factor) => (f64::from(byte) * factor) as f32,
            None => f32::from(byte),
        };
        match self.normalize {
            Some([mean, std]) => (value - mean[channel]) / std[channel],
            None => value,
        }
    }
}

/// For a place along an axis of the part in the middle, that in the picture, if it has one.
fn place(place: usize, from: usize, to: usize) -> Option<usize> {
    if from >= to {
        return Some(place + (from - to) / 2);
    }
    // A picture that is too small gets a border, the larger half of it before the picture.
    place.checked_sub((to - from).div_ceil(2)).filter(|old| *old < from)
}

/// transformers finds the axis of colours by its length: a picture of three rows is taken for one whose
/// rows are colours. (It fails on one of a single row, which is read here like any other.)
fn confused(image: &RgbImage) -> Option<RgbImage> {
    if image.height() != CHANNELS {
        return None;
    }
    let (width, pixels) = (image.width(), image.pixels());
    // From (row, column, colour) to (column, colour, row).
    let swapped = (0..width).flat_map(|x| {
        (0..CHANNELS).flat_map(move |channel| {
            (0..CHANNELS).map(move |y| pixels[(y * width + x) * CHANNELS + channel])
        })
    });
    Some(RgbImage::new(CHANNELS, width, swapped.collect()))
}

fn class(json: &Map<String, Value>, model_type: Option<&str>) -> Result<&'static Class> {
    let has_code = json.get("auto_map").is_some_and(|map| !map.is_null());
    let code = || {
        Error::new(
            ErrorKind::Unsupported,
            "the image processor is Python code of its own repository (`auto_map`), which is not run",
        )
    };
    let name = ["image_processor_type", "feature_extractor_type"]
        .into_iter()
        .find_map(|key| json.get(key).and_then(Value::as_str));
    let Some(name) = name else {
        if has_code {
            return Err(code());
        }
        let class = CLASSES.iter().find(|class| Some(class.model_type) == model_type);
        return class.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("{FILE} names no `image_processor_type`"))
                .hint(known())
        });
    };
    let bare = ["ImageProcessorFast", "ImageProcessor", "FeatureExtractor"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix));
    // As in transformers, a built-in class takes precedence over the repository's code.
    CLASSES.iter().find(|class| Some(class.name) == bare).ok_or_else(|| {
        if has_code {
            return code();
        }
        Error::new(ErrorKind::Unsupported, format!("image processor `{name}` is not implemented"))
            .hint(known())
    })
}

fn known() -> String {
    let names = CLASSES.iter().flat_map(|class| {
        ["ImageProcessor", "ImageProcessorFast", "FeatureExtractor"]
            .map(|suffix| format!("{}{suffix}", class.name))
    });
    format!("implemented are: {}", names.collect::<Vec<_>>().join(", "))
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    Error::new(ErrorKind::Model, format!("`{key}` in {FILE} is `{value}`, not {expected}"))
}

fn flag(json: &Map<String, Value>, key: &str, default: bool) -> Result<bool> {
    match json.get(key) {
        None => Ok(default),
        // Python takes it for false.
        Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
    }
}

fn resample(json: &Map<String, Value>, default: Resampling) -> Result<Resampling> {
    let Some(value) = json.get("resample") else { return Ok(default) };
    let code = value.as_u64().and_then(Resampling::from_code);
    code.ok_or_else(|| wrong("resample", value, "a filter of Pillow, 0 to 7"))
}

/// `size` or `crop_size` as written.
enum Sides<'a> {
    Fixed(Size),
    /// By edges, which these classes cannot use.
    Edges(&'a Value),
}

impl Sides<'_> {
    fn fixed(self, key: &str) -> Result<Size> {
        match self {
            Self::Fixed(size) => Ok(size),
            Self::Edges(value) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{key}: {value}` in {FILE} has no `height` and `width`, which are needed"),
            )),
        }
    }
}

/// A number is a square; a list and an object have height and width.
fn size<'a>(json: &'a Map<String, Value>, key: &str, default: usize) -> Result<Sides<'a>> {
    const EDGES: [&str; 4] = ["shortest_edge", "longest_edge", "max_height", "max_width"];
    let square = |side| Sides::Fixed(Size { height: side, width: side });
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok(square(default));
    };
    let expected = "a size (a number, or `height` and `width`)";
    let side = |value: &Value| {
        let side = value.as_u64().and_then(|side| u16::try_from(side).ok());
        side.filter(|side| *side > 0).map(usize::from)
    };
    let fixed = |height: &Value, width: &Value| {
        side(height).zip(side(width)).map(|(height, width)| Sides::Fixed(Size { height, width }))
    };
    let read = match value {
        Value::Number(_) => side(value).map(square),
        Value::Array(sides) if sides.len() >= 2 => fixed(&sides[0], &sides[1]),
        Value::Object(sides) => match (sides.get("height"), sides.get("width")) {
            (Some(height), Some(width)) if sides.len() == 2 => fixed(height, width),
            (None, None) if sides.keys().any(|key| EDGES.contains(&key.as_str())) => {
                Some(Sides::Edges(value))
            }
            _ => None,
        },
        _ => None,
    };
    match read.ok_or_else(|| wrong(key, value, expected))? {
        Sides::Fixed(size) if size.height * size.width > limits::MODEL_IMAGE_PIXELS => {
            let most = limits::MODEL_IMAGE_PIXELS;
            Err(wrong(key, value, &format!("a size of at most {most} pixels")))
        }
        sides => Ok(sides),
    }
}

/// A number for each colour, or one for all.
fn numbers(json: &Map<String, Value>, key: &str) -> Result<[f32; CHANNELS]> {
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok([STANDARD as f32; CHANNELS]);
    };
    let read = match value {
        Value::Array(list) => {
            let list: Option<Vec<f32>> =
                list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect();
            list.and_then(|list| <[f32; CHANNELS]>::try_from(list).ok())
        }
        value => value.as_f64().map(|number| [number as f32; CHANNELS]),
    };
    read.ok_or_else(|| wrong(key, value, "a number for each of three colours"))
}
