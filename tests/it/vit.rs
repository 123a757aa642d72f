//! Image models: pixel values, hidden states and logits against transformers.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{
    AutoClass, AutoConfig, AutoImageProcessor, AutoModel, FAMILIES, ModelWithHead,
};
use hfauto_pipe::error::ErrorKind;
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::image::RgbImage;
use hfauto_pipe::models::{ModelOutput, Want};
use serde_json::{Map, Value, json};

use crate::parity::{Differences, Tolerance, device, dtype, load};

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn read_image(path: &Path) -> RgbImage {
    RgbImage::decode(&std::fs::read(path).unwrap()).unwrap()
}

/// A golden of an image model.
struct ImageGolden {
    dir: PathBuf,
    name: String,
    json: Value,
    outputs: Weights,
}

impl ImageGolden {
    fn all() -> Vec<Self> {
        let mut goldens = Vec::new();
        for family in FAMILIES.iter().filter(|family| family.has(AutoClass::ImageClassification)) {
            let folder = golden_folder().join("heads").join(family.model_type);
            // Those of other families are compared beside the models.
            if !folder.is_dir() {
                continue;
            }
            let mut dirs: Vec<PathBuf> =
                std::fs::read_dir(folder).unwrap().map(|dir| dir.unwrap().path()).collect();
            dirs.sort();
            goldens.extend(dirs.into_iter().map(|dir| Self {
                name: format!(
                    "{}/{}",
                    family.model_type,
                    dir.file_name().unwrap().to_str().unwrap()
                ),
                json: read_json(&dir.join("golden.json")),
                outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
                dir,
            }));
        }
        assert!(goldens.len() >= 11);
        goldens
    }

    fn named(name: &str) -> Self {
        Self::all().into_iter().find(|golden| golden.name == name).unwrap()
    }

    fn class(&self) -> AutoClass {
        AutoClass::find(self.json["auto_class"].as_str().unwrap()).unwrap()
    }

    fn processor(&self) -> AutoImageProcessor {
        AutoImageProcessor::from_pretrained(self.dir.to_str().unwrap()).unwrap()
    }

    fn images(&self) -> Vec<RgbImage> {
        let images = self.json["images"].as_array().unwrap().iter();
        images.map(|image| read_image(&golden_folder().join(image.as_str().unwrap()))).collect()
    }

    fn pixel_values(&self) -> Vec<Tensor> {
        let processor = self.processor();
        self.images().iter().map(|image| processor.preprocess(image).unwrap()).collect()
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }

    fn model(&self) -> Model {
        if self.class() == AutoClass::Model {
            return Model::Bare(load(&self.dir));
        }
        let snapshot = Snapshot::local(&self.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let class = self.class();
        let model =
            ModelWithHead::load_snapshot(class, &snapshot, config, Some(dtype()), &device(), None);
        Model::Head(model.unwrap())
    }
}

enum Model {
    Bare(AutoModel),
    Head(ModelWithHead),
}

impl Model {
    fn run(&self, images: &[Tensor], want: &Want) -> (ModelOutput, Option<Tensor>) {
        match self {
            Self::Bare(model) => {
                let inputs = model.image_inputs(images).unwrap();
                (model.forward(&inputs, want).unwrap(), None)
            }
            Self::Head(model) => {
                let inputs = model.image_inputs(images).unwrap();
                let output = model.forward(&inputs, want).unwrap();
                (output.model, Some(output.logits))
            }
        }
    }
}

#[test]
fn pixels_and_models_agree_with_transformers() {
    let mut differences = Differences::default();
    for golden in ImageGolden::all() {
        let processor = golden.processor();
        assert_eq!(
            json!(processor.class_name()),
            golden.json["image_processor"],
            "{}",
            golden.name
        );
        let images = golden.pixel_values();
        for (i, ours) in images.iter().enumerate() {
            let expected = golden.output(&format!("pixel_values.{i}")).unwrap();
            let what = format!("{} pixel_values.{i}", golden.name);
            differences.check(what, Tolerance::Exact.check(ours, &expected));
        }
        let model = golden.model();
        let has_pooler = golden.output("pooler_output.0").is_some();
        for attentions in [false, true] {
            let want = Want { pooler_output: has_pooler, hidden_states: true, attentions };
            let (output, logits) = model.run(&images, &want);
            let mut compared = 0;
            let mut check = |name: String, ours: &Tensor| {
                let Some(expected) = golden.output(&name) else { return };
                let what = format!("{} {name} (attentions: {attentions})", golden.name);
                differences.check(what, Tolerance::Close.check(ours, &expected));
                compared += 1;
            };
            for row in 0..images.len() {
                check(
                    format!("last_hidden_state.{row}"),
                    &output.last_hidden_state.row(row).unwrap(),
                );
                let states = output.hidden_states.iter().flatten();
                let states: Vec<Tensor> = states.map(|state| state.row(row).unwrap()).collect();
                check(format!("hidden_states.{row}"), &Tensor::stack(&states, 0).unwrap());
                if let Some(logits) = &logits {
                    check(format!("logits.{row}"), &logits.get(row).unwrap());
                }
                if let Some(pooled) = &output.pooler_output {
                    check(format!("pooler_output.{row}"), &pooled.get(row).unwrap());
                }
                if attentions {
                    let layers = output.attentions.iter().flatten();
                    let layers: Vec<Tensor> = layers.map(|layer| layer[row].clone()).collect();
                    check(format!("attentions.{row}"), &Tensor::stack(&layers, 0).unwrap());
                }
            }
            assert!(compared >= images.len(), "{} compares little", golden.name);
        }
    }
    differences.assert_none();
}

#[test]
fn an_image_does_not_depend_on_its_neighbours() {
    let mut differences = Differences::default();
    for golden in ImageGolden::all() {
        let (model, images) = (golden.model(), golden.pixel_values());
        let run = |images: &[Tensor]| model.run(images, &Want::default()).0.last_hidden_state;
        let batched = run(&images);
        let reversed = run(&images.iter().rev().cloned().collect::<Vec<_>>());
        for i in 0..images.len() {
            let expected = batched.row(i).unwrap();
            let alone = run(&images[i..=i]).row(0).unwrap();
            let shuffled = reversed.row(images.len() - 1 - i).unwrap();
            for (how, ours) in [("alone", alone), ("reversed", shuffled)] {
                let result = Tolerance::Reordered.check(&ours, &expected);
                differences.check(format!("{} image {i} {how}", golden.name), result);
            }
        }
    }
    differences.assert_none();
}

/// The settings of the cases in `tasks/image-classification`, with their pixel values for every image.
#[test]
fn every_setting_of_an_image_processor_agrees_with_transformers() {
    let folder = golden_folder().join("tasks/image-classification");
    let mut differences = Differences::default();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    cases.sort();
    for case in cases {
        let name = case.file_stem().unwrap().to_str().unwrap().to_owned();
        let golden = read_json(&case);
        let settings = golden["preprocessor_config"].as_object().cloned().unwrap_or_else(|| {
            let model = folder.join(golden["model"].as_str().unwrap());
            read_json(&model.join("preprocessor_config.json")).as_object().unwrap().clone()
        });
        let processor = AutoImageProcessor::from_json(&settings, None).unwrap();
        assert_eq!(json!(processor.class_name()), golden["image_processor"], "{name}");
        let tensors = case.with_extension("safetensors");
        if !tensors.is_file() {
            continue;
        }
        let tensors = Weights::open(&[tensors]).unwrap();
        let mut compared = 0;
        for row in golden["rows"].as_array().unwrap() {
            let Some(image) = row["image"].as_str() else { continue };
            let file = image.rsplit('/').next().unwrap();
            let Some(tensor) = tensors.names().find(|name| name.ends_with(file)) else { continue };
            let bytes = std::fs::read(folder.join(image)).unwrap();
            let ours = processor.preprocess(&RgbImage::decode(&bytes).unwrap()).unwrap();
            let expected = tensors.tensor(tensor, DType::F32, &Device::Cpu).unwrap();
            let result = Tolerance::Exact.check(&ours, &expected);
            differences.check(format!("{name} {file}"), result);
            compared += 1;
        }
        assert!(compared > 0, "{name} compares nothing");
    }
    differences.assert_none();
}

#[test]
fn files_of_the_goldens_decode_to_their_pixels() {
    let folder = golden_folder().join("tasks/images");
    let decoded = Weights::open(&[folder.join("decoded.safetensors")]).unwrap();
    let mut compared = 0;
    for name in decoded.names().filter(|name| !name.ends_with(".gif") && !name.ends_with(".bmp")) {
        let ours = read_image(&folder.join(name));
        let expected = decoded.tensor(name, DType::F32, &Device::Cpu).unwrap();
        let shape = (ours.height(), ours.width(), 3);
        let ours = Tensor::from_slice(ours.pixels(), shape, &Device::Cpu).unwrap();
        Tolerance::Exact.check(&ours, &expected).unwrap_or_else(|e| panic!("{name}: {e}"));
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn settings_that_do_not_work_are_refused_by_name() {
    let refused = |settings: Value| {
        let error = AutoImageProcessor::from_json(settings.as_object().unwrap(), Some("vit"));
        error.map(drop).unwrap_err()
    };
    let check = |settings: Value, kind: ErrorKind, parts: &[&str]| {
        let error = refused(settings);
        assert_eq!(error.kind(), kind, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    };
    let unsupported = ErrorKind::Unsupported;
    check(
        json!({"image_processor_type": "DPTImageProcessor"}),
        unsupported,
        &["image processor `DPTImageProcessor` is not implemented", "DeiTFeatureExtractor"],
    );
    check(
        json!({"image_processor_type": "SegformerImageProcessor"}),
        unsupported,
        &["image processor `SegformerImageProcessor` is not implemented"],
    );
    let convnext =
        |size: Value| json!({"image_processor_type": "ConvNextImageProcessor", "size": size});
    check(convnext(json!({"height": 9, "width": 9})), unsupported, &["`shortest_edge`"]);
    check(convnext(json!({"longest_edge": 9})), unsupported, &["lacks `height` and `width`"]);
    let whole = convnext(json!(384));
    let whole = AutoImageProcessor::from_json(whole.as_object().unwrap(), None).unwrap();
    assert_eq!(whole.output_size(), Some((384, 384)));
    let by_edge = json!({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false});
    let by_edge = AutoImageProcessor::from_json(by_edge.as_object().unwrap(), None).unwrap();
    assert_eq!(by_edge.output_size(), None);
    let narrow = RgbImage::new(1, 1000, vec![0; 3000]);
    let error = by_edge.preprocess(&narrow).unwrap_err();
    assert!(error.to_string().contains("would be resized to 224000 by 224"), "{error}");
    check(json!({"auto_map": {"AutoImageProcessor": "x.Y"}}), unsupported, &["auto_map"]);
    let code = json!({"auto_map": {"AutoImageProcessor": "x.Y"}, "image_processor_type": "Y"});
    check(code, unsupported, &["auto_map"]);
    // A built-in class takes precedence, as in transformers without `trust_remote_code`.
    let built_in = json!({"auto_map": {"AutoImageProcessor": "x.Y"}, "image_processor_type": "ViTImageProcessor"});
    AutoImageProcessor::from_json(built_in.as_object().unwrap(), Some("vit")).unwrap();
    check(json!({"size": {"longest_edge": 224}}), unsupported, &["longest_edge", "`height`"]);
    let pads = json!({"do_pad": true, "pad_size": {"height": 300, "width": 300}});
    check(pads, unsupported, &["`pad_size: ", "is not implemented"]);
    check(json!({"use_square_size": true}), unsupported, &["`use_square_size: true`"]);
    check(json!({"do_center_crop": true}), ErrorKind::Model, &["but no `crop_size`"]);
    check(json!({"size": {"height": 224}}), ErrorKind::Model, &["`size`", "a size"]);
    check(json!({"size": 0}), ErrorKind::Model, &["`size`"]);
    check(json!({"resample": 8}), ErrorKind::Model, &["`resample`", "0 to 7"]);
    check(json!({"image_mean": [0.5, 0.5]}), ErrorKind::Model, &["`image_mean`"]);
    check(json!({"do_resize": "yes"}), ErrorKind::Model, &["`do_resize`"]);
    let nameless = AutoImageProcessor::from_json(&Map::new(), Some("bert")).unwrap_err();
    assert!(nameless.to_string().contains("names no `image_processor_type`"), "{nameless}");

    let object = |value: Value| value.as_object().unwrap().clone();
    // Nothing is cropped, resized or normalized.
    let settings = object(json!({"do_center_crop": false, "crop_size": 9, "do_resize": false,
        "size": {"shortest_edge": 5}, "do_normalize": false, "image_mean": [0.5]}));
    let processor = AutoImageProcessor::from_json(&settings, Some("vit")).unwrap();
    assert_eq!(processor.output_size(), None);
    let processor = AutoImageProcessor::from_json(&Map::new(), Some("deit")).unwrap();
    assert_eq!(processor.output_size(), Some((224, 224)));
}

#[test]
fn images_of_another_size_and_texts_are_refused_by_name() {
    let golden = ImageGolden::named("vit/for-image-classification-oblong");
    let Model::Head(model) = golden.model() else { panic!("a head") };
    let image = Tensor::zeros((3, 24, 16), DType::F32, &Device::Cpu).unwrap();
    let inputs = model.image_inputs(&[image]).unwrap();
    let text = model.forward(&inputs, &Want::default()).unwrap_err().to_string();
    assert!(text.contains("24 by 16 pixels") && text.contains("`image_size` 16 by 24"), "{text}");
    let inputs = model.inputs([(&[1u32, 2][..], &[][..])]).unwrap();
    let text = model.forward(&inputs, &Want::default()).unwrap_err().to_string();
    assert!(text.contains("`pixel_values` are missing"), "{text}");

    let bert = load(&golden_folder().join("bert"));
    let image = Tensor::zeros((3, 16, 24), DType::F32, &Device::Cpu).unwrap();
    let text = bert.image_inputs(&[image]).unwrap_err().to_string();
    assert!(text.contains("reads text, not images"), "{text}");
    let text = bert.forward(&inputs, &Want::default());
    assert!(text.is_ok());
}
