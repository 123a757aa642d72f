//! `AutoImageProcessor`: converts an image to a model's input, with exactly the results of transformers'
//! image processors on Pillow and numpy (`backend="pil"`).
//!
//! It reads `preprocessor_config.json` in its forms before and after 2022, and `image_processor` of `processor_config.json`,
//! which transformers 5 writes for models of texts and images. A checkpoint saved from a "Fast" processor is read in the same
//! way, as transformers does without torchvision. Not here: image
//! files and their formats (`crate::image`). The entries are [`AutoImageProcessor::from_pretrained`] and
//! [`AutoImageProcessor::preprocess`].
//!
//! # Source
//! `image_processing_backends.py`, `image_processing_utils.py`, `image_transforms.py` and the `image_processing_pil_*.py` of
//! the classes in `src/transformers` at v5.24.

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};

use super::family::Family;
use super::snapshot;
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::hub::{Need, Snapshot};
use crate::image::{Resampling, RgbImage};
use crate::limits;

const FILE: &str = "preprocessor_config.json";

/// The file of a model of texts and images.
const PROCESSOR_FILE: &str = "processor_config.json";

/// An image processor class and its defaults.
#[derive(Debug, PartialEq)]
struct Class {
    /// Its name without `ImageProcessor`, `ImageProcessorFast` or `FeatureExtractor`.
    name: &'static str,
    size: usize,
    /// Whether a size that is one number is a square. Otherwise it is that of the shortest edge.
    default_to_square: bool,
    /// The size of the center crop, unless the file has one.
    crop_size: Option<usize>,
    /// Whether the class crops if the file does not say so.
    do_center_crop: bool,
    resample: Resampling,
    /// The mean and the standard deviation of each colour channel.
    normalize: [[f64; CHANNELS]; 2],
    /// ConvNeXT's resizing: to a larger size by this share, then cut, except for large sizes.
    crop_pct: Option<f64>,
}

static CLASSES: [Class; 7] = [
    VIT,
    Class {
        name: "DeiT",
        size: 256,
        crop_size: Some(224),
        do_center_crop: true,
        resample: Resampling::Bicubic,
        ..VIT
    },
    Class { name: "Beit", crop_size: Some(224), resample: Resampling::Bicubic, ..VIT },
    CLIP,
    Class { name: "Bit", ..CLIP },
    Class { name: "Siglip", crop_size: None, do_center_crop: false, normalize: STANDARD, ..CLIP },
    Class {
        name: "ConvNext",
        size: 384,
        crop_size: None,
        do_center_crop: false,
        normalize: STANDARD,
        crop_pct: Some(224.0 / 256.0),
        ..CLIP
    },
];

const VIT: Class = Class {
    name: "ViT",
    size: 224,
    default_to_square: true,
    crop_size: None,
    do_center_crop: false,
    resample: Resampling::Bilinear,
    normalize: STANDARD,
    crop_pct: None,
};

const CLIP: Class = Class {
    name: "CLIP",
    default_to_square: false,
    crop_size: Some(224),
    do_center_crop: true,
    resample: Resampling::Bicubic,
    normalize: [
        [0.481_454_66, 0.457_827_5, 0.408_210_73],
        [0.268_629_54, 0.261_302_58, 0.275_777_11],
    ],
    ..VIT
};

/// `IMAGENET_STANDARD_MEAN` and `IMAGENET_STANDARD_STD`.
const STANDARD: [[f64; CHANNELS]; 2] = [[0.5; CHANNELS]; 2];

/// From this size on, ConvNeXT's images are not cut.
const CONVNEXT_WHOLE: usize = 384;

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
    /// Target and filter.
    resize: Option<(Sides, Resampling)>,
    /// Center crops, one after the other: ConvNeXT's own, and that of the file.
    center_crops: Vec<Size>,
    rescale_factor: Option<f64>,
    /// The mean and the standard deviation of each colour channel.
    normalize: Option<[[f32; CHANNELS]; 2]>,
    digest: blake3::Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    height: usize,
    width: usize,
}

/// The target size of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sides {
    Fixed(Size),
    /// The length of the shorter side, and the most of the longer side; the longer one follows.
    ShortestEdge(usize, Option<usize>),
}

impl Sides {
    /// The size of a resized image.
    ///
    /// # Errors
    /// `Data` for an image so narrow that the result would be larger than a model's images may be.
    fn of(self, image: &RgbImage) -> Result<Size> {
        let (height, width) = (image.height(), image.width());
        let (edge, longest) = match self {
            Self::Fixed(size) => return Ok(size),
            Self::ShortestEdge(edge, longest) => (edge, longest),
        };
        // The length of the shorter side where the longer one is limited, before it is rounded.
        let (short, long) = (height.min(width) as f64, height.max(width) as f64);
        let limited = longest.filter(|most| long / short * edge as f64 > *most as f64);
        let size = if let Some(most) = limited {
            let exact = most as f64 * short / long;
            let edge = exact.round_ties_even() as usize;
            if height.min(width) == edge {
                Size { height, width }
            } else if width < height {
                let height = (exact * height as f64 / width as f64) as usize;
                Size { height, width: edge }
            } else {
                let width = (exact * width as f64 / height as f64) as usize;
                Size { height: edge, width }
            }
        } else if width <= height {
            Size { height: edge * height / width, width: edge }
        } else {
            Size { height: edge, width: edge * width / height }
        };
        if size.height == 0 || size.width == 0 {
            let message = format!(
                "an image of {height} by {width} pixels would be resized to {} by {}",
                size.height, size.width
            );
            return Err(Error::of_row(RowErrorKind::ImageDecode, message));
        }
        if size.height.saturating_mul(size.width) <= limits::MODEL_IMAGE_PIXELS {
            return Ok(size);
        }
        let message = format!(
            "an image of {height} by {width} pixels would be resized to {} by {}, more than {} pixels",
            size.height,
            size.width,
            limits::MODEL_IMAGE_PIXELS
        );
        Err(Error::of_row(RowErrorKind::ImageDecode, message))
    }
}

/// Options of [`AutoImageProcessor::builder`].
#[derive(Clone, Debug)]
pub struct AutoImageProcessorBuilder {
    id: String,
    revision: Option<String>,
    config: Map<String, Value>,
}

impl AutoImageProcessorBuilder {
    /// The branch, tag or commit; default `main`.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Overrides of `preprocessor_config.json`, as the keyword arguments of `from_pretrained`.
    #[must_use]
    pub fn config(mut self, config: Map<String, Value>) -> Self {
        self.config.extend(config);
        self
    }

    /// Loads the image processor.
    ///
    /// # Errors
    /// As [`AutoImageProcessor::from_snapshot`]; `Hub` if the files cannot be obtained.
    pub fn load(self) -> Result<AutoImageProcessor> {
        let snapshot = snapshot(&self.id, self.revision.as_deref(), Need::Config)?;
        AutoImageProcessor::with_config(&snapshot, &self.config)
    }
}

impl AutoImageProcessor {
    /// Loads the image processor of a hub id or directory.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot); `Hub` if the files cannot be obtained.
    pub fn from_pretrained(id: &str) -> Result<Self> {
        Self::builder(id).load()
    }

    /// As [`from_pretrained`](Self::from_pretrained), with options.
    pub fn builder(id: impl Into<String>) -> AutoImageProcessorBuilder {
        AutoImageProcessorBuilder { id: id.into(), revision: None, config: Map::new() }
    }

    /// Loads the image processor of a snapshot.
    ///
    /// # Errors
    /// `Model` if preprocessor_config.json is missing or damaged; `Unsupported` for a class or a setting
    /// that is not implemented.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self> {
        Self::with_config(snapshot, &Map::new())
    }

    /// As [`from_snapshot`](Self::from_snapshot), with `overrides` of `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn with_config(snapshot: &Snapshot, overrides: &Map<String, Value>) -> Result<Self> {
        let at = |error: Error| error.at(format!("image processor of `{}`", snapshot.name()));
        let nested = snapshot.json(PROCESSOR_FILE).map_err(at)?;
        let nested = nested.and_then(|json| json.get("image_processor").cloned());
        let json = match nested {
            Some(json) => Some(json),
            None => snapshot.json(FILE).map_err(at)?,
        };
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

    /// Builds an image processor from a parsed preprocessor_config.json. `model_type` is used if it names
    /// no class.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn from_json(json: &Map<String, Value>, model_type: Option<&str>) -> Result<Self> {
        let class = class(json, model_type)?;
        refuse_others(json)?;
        let square = flag(json, "default_to_square", class.default_to_square)?;
        let size = size(json, "size", class.size, square)?;
        let mut center_crops = Vec::new();
        let resize = if flag(json, "do_resize", true)? {
            let resample = resample(json, class.resample)?;
            let sides = match class.crop_pct {
                Some(default) => {
                    let (sides, cut) = convnext(json, size, default)?;
                    center_crops.extend(cut);
                    sides
                }
                None => size.sides("size")?,
            };
            Some((sides, resample))
        } else {
            None
        };
        if flag(json, "do_center_crop", class.do_center_crop)? {
            let given = json.get("crop_size").is_some_and(|size| !size.is_null());
            let default = class.crop_size.or(given.then_some(0)).ok_or_else(|| {
                let message = format!("{FILE} has `do_center_crop: true`, but no `crop_size`");
                Error::new(ErrorKind::Model, message)
            })?;
            let crop_size = self::size(json, "crop_size", default, true)?;
            center_crops.push(crop_size.fixed("crop_size")?);
        }
        let rescale_factor = || match json.get("rescale_factor") {
            None => Ok(1.0 / 255.0),
            Some(value) => value.as_f64().ok_or_else(|| wrong("rescale_factor", value, "a number")),
        };
        let [mean, std] = class.normalize;
        let normalize = || {
            Ok::<_, Error>([numbers(json, "image_mean", mean)?, numbers(json, "image_std", std)?])
        };
        Ok(Self {
            class,
            resize,
            center_crops,
            rescale_factor: flag(json, "do_rescale", true)?.then(rescale_factor).transpose()?,
            normalize: flag(json, "do_normalize", true)?.then(normalize).transpose()?,
            digest: blake3::hash(Value::Object(json.clone()).to_string().as_bytes()),
        })
    }

    /// The image processor's class name in transformers.
    pub fn class_name(&self) -> String {
        format!("{}ImageProcessor", self.class.name)
    }

    /// The height and width of the output of [`preprocess`](Self::preprocess); `None` if they are those of
    /// the image.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        let ((Some(&size), _) | (None, Some((Sides::Fixed(size), _)))) =
            (self.center_crops.last(), self.resize)
        else {
            return None;
        };
        Some((size.height, size.width))
    }

    /// A digest of the settings, for lineage.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// Converts an image to a model's input.
    ///
    /// # Shapes
    /// `(3, height, width)`, f32, on the CPU.
    ///
    /// # Errors
    /// `Data` for an image that would become too large; `Internal` if the tensor cannot be allocated.
    pub fn preprocess(&self, image: &RgbImage) -> Result<Tensor> {
        let mut image = image;
        let resized;
        if let Some((sides, resample)) = self.resize {
            let size = sides.of(image)?;
            resized = image.resize(size.width, size.height, resample);
            image = &resized;
        }
        let whole = Size { height: image.height(), width: image.width() };
        let size = self.center_crops.last().copied().unwrap_or(whole);
        let rows = self.places(whole.height, |size| size.height);
        let columns = self.places(whole.width, |size| size.width);
        let mut values = vec![0.0; CHANNELS * size.height * size.width];
        for (channel, plane) in values.chunks_exact_mut(size.height * size.width).enumerate() {
            // A byte has 256 values: each is computed only once, as in numpy.
            let value_of: Vec<f32> = (0..=u8::MAX).map(|byte| self.value(byte, channel)).collect();
            for (row, old_y) in plane.chunks_exact_mut(size.width).zip(&rows) {
                for (value, old_x) in row.iter_mut().zip(&columns) {
                    // Pixels outside the image are black.
                    let byte = match (old_y, old_x) {
                        (Some(y), Some(x)) => {
                            image.pixels()[(y * whole.width + x) * CHANNELS + channel]
                        }
                        _ => 0,
                    };
                    *value = value_of[usize::from(byte)];
                }
            }
        }
        Tensor::from_vec(values, (CHANNELS, size.height, size.width), &Device::Cpu)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot create a tensor").source(e))
    }

    /// For each position along one axis after the center crops, that in the image before them, if it has one. `side` is the
    /// length of the image along the axis, `of` that of a crop.
    fn places(&self, side: usize, of: fn(&Size) -> usize) -> Vec<Option<usize>> {
        let sides: Vec<usize> =
            std::iter::once(side).chain(self.center_crops.iter().map(of)).collect();
        let before = |after: usize| {
            let mut crops = sides.windows(2).rev();
            crops.try_fold(after, |after, crop| place(after, crop[0], crop[1]))
        };
        (0..sides.last().copied().unwrap_or(side)).map(before).collect()
    }

    /// The value of one byte of a channel. The rescale factor is applied in f64, the rest in f32.
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

/// The position in the image for a position in the center crop along one axis, if it has one.
fn place(place: usize, from: usize, to: usize) -> Option<usize> {
    if from >= to {
        return Some(place + (from - to) / 2);
    }
    // A small image gets a border; its larger half precedes the image.
    place.checked_sub((to - from).div_ceil(2)).filter(|old| *old < from)
}

/// Rejects settings that change images and are not implemented.
fn refuse_others(json: &Map<String, Value>) -> Result<()> {
    let pads = flag(json, "do_pad", false)? && json.get("pad_size").is_some_and(|v| !v.is_null());
    for (key, is_on) in
        [("pad_size", pads), ("use_square_size", flag(json, "use_square_size", false)?)]
    {
        if is_on {
            let value = json.get(key).unwrap_or(&Value::Null);
            let message = format!("`{key}: {value}` in {FILE} is not implemented");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    }
    Ok(())
}

fn class(json: &Map<String, Value>, model_type: Option<&str>) -> Result<&'static Class> {
    let has_code = json.get("auto_map").is_some_and(|map| !map.is_null());
    let code = || {
        Error::new(
            ErrorKind::Unsupported,
            "the image processor needs Python code of its repository (`auto_map`), which is not executed",
        )
    };
    let name = ["image_processor_type", "feature_extractor_type"]
        .into_iter()
        .find_map(|key| json.get(key).and_then(Value::as_str));
    let Some(name) = name else {
        if has_code {
            return Err(code());
        }
        let family = model_type.and_then(Family::find);
        return family.and_then(|family| named(family.image_processor_type?)).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("{FILE} names no `image_processor_type`"))
                .hint(known())
        });
    };
    // As in transformers, a built-in class takes precedence over the repository's code.
    named(name).ok_or_else(|| {
        if has_code {
            return code();
        }
        Error::new(ErrorKind::Unsupported, format!("image processor `{name}` is not implemented"))
            .hint(known())
    })
}

/// The suffixes of class names.
const SUFFIXES: [&str; 3] = ["ImageProcessor", "ImageProcessorFast", "FeatureExtractor"];

fn named(name: &str) -> Option<&'static Class> {
    let bare = SUFFIXES.into_iter().find_map(|suffix| name.strip_suffix(suffix))?;
    CLASSES.iter().find(|class| class.name == bare)
}

fn known() -> String {
    let names =
        CLASSES.iter().flat_map(|class| SUFFIXES.map(|suffix| format!("{}{suffix}", class.name)));
    format!("valid values: {}", names.collect::<Vec<_>>().join(", "))
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    Error::new(ErrorKind::Model, format!("`{key}` in {FILE} is `{value}`, not {expected}"))
}

fn flag(json: &Map<String, Value>, key: &str, default: bool) -> Result<bool> {
    match json.get(key) {
        None => Ok(default),
        // Python treats it as false.
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
#[derive(Clone, Copy)]
enum Written<'a> {
    Fixed(Size),
    /// The shortest edge, and the most of the longest one.
    ShortestEdge(usize, Option<usize>, &'a Value),
    /// By other edges, which no class supports.
    Edges(&'a Value),
}

impl Written<'_> {
    /// Height and width.
    fn fixed(self, key: &str) -> Result<Size> {
        match self {
            Self::Fixed(size) => Ok(size),
            Self::ShortestEdge(_, _, value) | Self::Edges(value) => Err(lacks(key, value)),
        }
    }

    /// The target size of a resize.
    fn sides(self, key: &str) -> Result<Sides> {
        match self {
            Self::ShortestEdge(edge, longest, _) => Ok(Sides::ShortestEdge(edge, longest)),
            other => other.fixed(key).map(Sides::Fixed),
        }
    }
}

fn lacks(key: &str, value: &Value) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("`{key}: {value}` in {FILE} lacks `height` and `width`"),
    )
}

/// ConvNeXT's resizing, and the cut that belongs to it.
fn convnext(
    json: &Map<String, Value>,
    size: Written<'_>,
    default: f64,
) -> Result<(Sides, Option<Size>)> {
    let edge = match size {
        Written::ShortestEdge(edge, _, _) => edge,
        Written::Fixed(size) => {
            let message = format!("`size` in {FILE} has a height of {}", size.height);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("ConvNextImageProcessor resizes by `shortest_edge`"));
        }
        Written::Edges(value) => return Err(lacks("size", value)),
    };
    let square = Size { height: edge, width: edge };
    if edge >= CONVNEXT_WHOLE {
        return Ok((Sides::Fixed(square), None));
    }
    let crop_pct = match json.get("crop_pct").filter(|value| !value.is_null()) {
        None => default,
        Some(value) => value
            .as_f64()
            .filter(|share| (0.01..=1.0).contains(share))
            .ok_or_else(|| wrong("crop_pct", value, "a number from 0.01 to 1"))?,
    };
    Ok((Sides::ShortestEdge((edge as f64 / crop_pct) as usize, None), Some(square)))
}

/// Reads a size: a number is a square, or without `square` the shortest edge; a list has height and width.
fn size<'a>(
    json: &'a Map<String, Value>,
    key: &str,
    default: usize,
    square: bool,
) -> Result<Written<'a>> {
    const EDGES: [&str; 4] = ["shortest_edge", "longest_edge", "max_height", "max_width"];
    let number = |side, value| {
        if square {
            Written::Fixed(Size { height: side, width: side })
        } else {
            Written::ShortestEdge(side, None, value)
        }
    };
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok(number(default, &Value::Null));
    };
    let expected = "a size (a number, or `height` and `width`)";
    let side = |value: &Value| {
        let side = value.as_u64().and_then(|side| u16::try_from(side).ok());
        side.filter(|side| *side > 0).map(usize::from)
    };
    let fixed = |height: &Value, width: &Value| {
        side(height).zip(side(width)).map(|(height, width)| Written::Fixed(Size { height, width }))
    };
    let read = match value {
        Value::Number(_) => side(value).map(|side| number(side, value)),
        Value::Array(sides) if sides.len() >= 2 => fixed(&sides[0], &sides[1]),
        Value::Object(sides) => match (sides.get("height"), sides.get("width")) {
            (Some(height), Some(width)) if sides.len() == 2 => fixed(height, width),
            (None, None) if sides.len() == 1 && sides.contains_key("shortest_edge") => {
                side(&sides["shortest_edge"]).map(|edge| Written::ShortestEdge(edge, None, value))
            }
            (None, None)
                if sides.len() == 2
                    && sides.contains_key("shortest_edge")
                    && sides.contains_key("longest_edge") =>
            {
                side(&sides["shortest_edge"])
                    .zip(side(&sides["longest_edge"]))
                    .map(|(edge, longest)| Written::ShortestEdge(edge, Some(longest), value))
            }
            (None, None) if sides.keys().any(|key| EDGES.contains(&key.as_str())) => {
                Some(Written::Edges(value))
            }
            _ => None,
        },
        _ => None,
    };
    match read.ok_or_else(|| wrong(key, value, expected))? {
        Written::Fixed(size) if size.height * size.width > limits::MODEL_IMAGE_PIXELS => {
            let most = limits::MODEL_IMAGE_PIXELS;
            Err(wrong(key, value, &format!("a size of at most {most} pixels")))
        }
        sides => Ok(sides),
    }
}

/// One number per channel, or one for all.
fn numbers(
    json: &Map<String, Value>,
    key: &str,
    default: [f64; CHANNELS],
) -> Result<[f32; CHANNELS]> {
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok(default.map(|number| number as f32));
    };
    let read = match value {
        Value::Array(list) => {
            let list: Option<Vec<f32>> =
                list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect();
            list.and_then(|list| <[f32; CHANNELS]>::try_from(list).ok())
        }
        value => value.as_f64().map(|number| [number as f32; CHANNELS]),
    };
    read.ok_or_else(|| wrong(key, value, "a number for each of three channels"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auto::FAMILIES;

    #[test]
    fn families_name_classes_of_the_table() {
        for name in FAMILIES.iter().filter_map(|family| family.image_processor_type) {
            assert!(named(name).is_some(), "{name}");
        }
    }

    #[test]
    fn classes_have_their_own_defaults() {
        for (name, size) in [("Beit", 224), ("DeiT", 224), ("ViT", 224), ("CLIP", 224)] {
            let name = format!("{name}ImageProcessor");
            let json = serde_json::json!({"image_processor_type": name, "do_reduce_labels": true});
            let processor = AutoImageProcessor::from_json(json.as_object().unwrap(), None).unwrap();
            assert_eq!(processor.output_size(), Some((size, size)), "{name}");
            assert_eq!(
                processor.center_crops.len() == 1,
                matches!(&*name, "DeiTImageProcessor" | "CLIPImageProcessor")
            );
        }
    }
}
