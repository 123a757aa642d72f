//! The families of `tests/golden/vision` against transformers: pixel values, and the outputs for images and for texts.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::{CLOSE, read_json, worst};
use crate::auto::{
    AutoClass, AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, EncodeOptions, FAMILIES,
    HeadRequest, ModelWithHead, SentenceTransformerConfig, TextInput,
};
use crate::hub::{Snapshot, Weights};
use crate::image::RgbImage;
use crate::models::{Backbone, ModelOutput, Want};
use crate::nn::ModelInputs;
use crate::pipelines::{ImageFeatures, ImageLabels, best};
use crate::sentence_transformers::SentenceTransformer;

struct Golden {
    name: String,
    dir: PathBuf,
    json: Value,
    outputs: Weights,
}

enum Model {
    Base(AutoModel),
    Head(ModelWithHead),
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

impl Golden {
    fn all() -> Vec<Self> {
        let families = FAMILIES.iter().map(|family| root().join("vision").join(family.model_type));
        let mut dirs: Vec<PathBuf> = families
            .filter(|folder| folder.is_dir())
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        dirs.sort();
        assert!(dirs.len() >= 15, "{} goldens", dirs.len());
        dirs.into_iter()
            .map(|dir| Self {
                name: format!(
                    "{} {}",
                    dir.parent().unwrap().file_name().unwrap().to_string_lossy(),
                    dir.file_name().unwrap().to_string_lossy()
                ),
                json: read_json(&dir.join("golden.json")),
                outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
                dir,
            })
            .collect()
    }

    fn class(&self) -> AutoClass {
        AutoClass::find(self.json["auto_class"].as_str().unwrap()).unwrap()
    }

    fn load(&self) -> Model {
        let snapshot = Snapshot::local(&self.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let (dtype, device) = (Some(DType::F32.into()), &Device::Cpu);
        let model = match self.class() {
            AutoClass::Model => {
                AutoModel::load_snapshot(&snapshot, config, dtype, device).map(Model::Base)
            }
            class => ModelWithHead::load_snapshot(class, &snapshot, config, dtype, device, None)
                .map(Model::Head),
        };
        let model = model.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let unused = match &model {
            Model::Base(model) => &model.report().unused,
            Model::Head(model) => &model.report().unused,
        };
        assert_eq!(unused, &[""; 0], "{}", self.name);
        model
    }

    /// The input of each image.
    fn images(&self) -> Vec<Tensor> {
        let Some(images) = self.json["images"].as_array() else { return Vec::new() };
        let processor = AutoImageProcessor::from_pretrained(self.dir.to_str().unwrap()).unwrap();
        assert_eq!(json!(processor.class_name()), self.json["image_processor"], "{}", self.name);
        let read = |image: &Value| {
            let bytes = std::fs::read(root().join(image.as_str().unwrap())).unwrap();
            processor.preprocess(&RgbImage::decode(&bytes).unwrap()).unwrap()
        };
        images.iter().map(read).collect()
    }

    fn texts(&self) -> Vec<Vec<u32>> {
        match &self.json["input_ids"] {
            Value::Null => Vec::new(),
            ids => serde_json::from_value(ids.clone()).unwrap(),
        }
    }

    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }
}

impl Model {
    fn run(&self, inputs: &ModelInputs, want: &Want) -> (ModelOutput, Option<Tensor>) {
        match self {
            Self::Base(model) => (model.forward(inputs, want).unwrap(), None),
            Self::Head(model) => {
                let output = model.forward(inputs, want).unwrap();
                (output.model, Some(output.logits))
            }
        }
    }

    fn backbone(&self) -> &dyn Backbone {
        match self {
            Self::Base(model) => model.backbone(),
            Self::Head(model) => model.backbone(),
        }
    }

    fn images(&self, images: &[Tensor]) -> ModelInputs {
        match self {
            Self::Base(model) => model.image_inputs(images).unwrap(),
            Self::Head(model) => model.image_inputs(images).unwrap(),
        }
    }

    fn texts(&self, texts: &[Vec<u32>]) -> ModelInputs {
        let rows = texts.iter().map(|ids| (&ids[..], &[][..]));
        match self {
            Self::Base(model) => model.inputs(rows).unwrap(),
            Self::Head(model) => model.inputs(rows).unwrap(),
        }
    }
}

/// The outputs of a row, by their names in a golden.
fn outputs_of(
    row: usize,
    named: &str,
    prefix: &str,
    (output, logits): &(ModelOutput, Option<Tensor>),
) -> Vec<(String, Tensor)> {
    let name = |output: &str| format!("{prefix}{output}.{named}");
    let mut found = vec![(name("last_hidden_state"), output.last_hidden_state.row(row).unwrap())];
    if let Some(states) = &output.hidden_states {
        let states: Vec<_> = states.iter().map(|state| state.row(row).unwrap()).collect();
        if states.iter().all(|state| state.dims() == states[0].dims()) {
            found.push((name("hidden_states"), Tensor::stack(&states, 0).unwrap()));
        } else {
            let of_stages = states.into_iter().enumerate();
            found.extend(of_stages.map(|(i, state)| (name(&format!("hidden_states.{i}")), state)));
        }
    }
    if let Some(layers) = output.attentions.as_ref().filter(|layers| !layers.is_empty()) {
        let layers: Vec<_> = layers.iter().map(|layer| layer[row].clone()).collect();
        found.push((name("attentions"), Tensor::stack(&layers, 0).unwrap()));
    }
    if let Some(pooled) = &output.pooler_output {
        found.push((name("pooler_output"), pooled.get(row).unwrap()));
    }
    if let Some(logits) = logits {
        found.push((name("logits"), logits.get(row).unwrap()));
    }
    found
}

/// Compares the rows of a pass with the golden, and with the same rows alone and reversed.
fn check(
    golden: &Golden,
    model: &Model,
    rows: usize,
    prefix: &str,
    inputs: &dyn Fn(&[usize]) -> ModelInputs,
    failures: &mut Vec<String>,
) {
    let pooler_output = model.backbone().has_pooler();
    let all: Vec<usize> = (0..rows).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    let (mut compared, mut off) = (0, 0f32);
    for attentions in [false, true] {
        let want = Want { pooler_output, hidden_states: true, attentions };
        let batched = model.run(&inputs(&all), &want);
        let moved = model.run(&inputs(&reversed), &want);
        for row in 0..rows {
            let named = row.to_string();
            let found = outputs_of(row, &named, prefix, &batched);
            for (name, ours) in &found {
                let Some(expected) = golden.output(name) else { continue };
                let worst = worst(ours, &expected);
                off = if worst > off || worst.is_nan() { worst } else { off };
                compared += 1;
            }
            let alone = model.run(&inputs(&[row]), &want);
            let alone = outputs_of(0, &named, prefix, &alone);
            let moved = outputs_of(rows - 1 - row, &named, prefix, &moved);
            for ((ours, alone), moved) in found.iter().zip(&alone).zip(&moved) {
                let off = worst(&ours.1, &alone.1).max(worst(&ours.1, &moved.1));
                if off.is_nan() || off > 1e-6 {
                    let what = format!("{} {} depends on the batch", golden.name, ours.0);
                    failures.push(format!("{what}: {off:e}"));
                }
            }
        }
    }
    println!("{} {prefix}: {off:e} in {compared}", golden.name);
    if off.is_nan() || off > CLOSE || compared < rows {
        failures.push(format!("{} {prefix}: {off:e} in {compared}", golden.name));
    }
}

#[test]
fn images_and_texts_agree_with_transformers_alone_batched_and_reordered() {
    let mut failures = Vec::new();
    for golden in Golden::all() {
        let (model, images, texts) = (golden.load(), golden.images(), golden.texts());
        for (i, ours) in images.iter().enumerate() {
            let expected = golden.output(&format!("pixel_values.{i}")).unwrap();
            let off = worst(ours, &expected);
            if off != 0.0 {
                failures.push(format!("{} pixel_values.{i}: {off:e}", golden.name));
            }
        }
        if !images.is_empty() {
            let inputs = |rows: &[usize]| {
                let images: Vec<Tensor> = rows.iter().map(|row| images[*row].clone()).collect();
                model.images(&images)
            };
            check(&golden, &model, images.len(), "", &inputs, &mut failures);
        }
        if !texts.is_empty() {
            let inputs = |rows: &[usize]| {
                let texts: Vec<Vec<u32>> = rows.iter().map(|row| texts[*row].clone()).collect();
                model.texts(&texts)
            };
            check(&golden, &model, texts.len(), "text.", &inputs, &mut failures);
        }
        if golden.class() == AutoClass::ZeroShotImageClassification {
            check_similarity(&golden, &model, &images, &texts, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The logits of texts for each image.
fn check_similarity(
    golden: &Golden,
    model: &Model,
    images: &[Tensor],
    texts: &[Vec<u32>],
    failures: &mut Vec<String>,
) {
    let similarity = model.backbone().similarity().unwrap();
    let vectors = |inputs: &ModelInputs| {
        let (_, logits) = model.run(inputs, &Want::default());
        let logits = logits.unwrap();
        let width = logits.dim(1).unwrap();
        let all = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        all.chunks_exact(width).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let (images, texts) = (vectors(&model.images(images)), vectors(&model.texts(texts)));
    for (i, image) in images.iter().enumerate() {
        let logits: Vec<f32> = texts.iter().map(|text| similarity.logit(image, text)).collect();
        let expected = golden.output(&format!("logits_per_image.{i}")).unwrap();
        let off = worst(&Tensor::new(logits, &Device::Cpu).unwrap(), &expected);
        println!("{} logits_per_image.{i}: {off:e}", golden.name);
        if off.is_nan() || off > CLOSE {
            failures.push(format!("{} logits_per_image.{i}: {off:e}", golden.name));
        }
    }
}

#[test]
fn every_class_of_the_families_has_a_golden() {
    let goldens = Golden::all();
    for family in
        FAMILIES.iter().filter(|family| root().join("vision").join(family.model_type).is_dir())
    {
        for class in family.classes() {
            let has = |golden: &Golden| {
                golden.class() == class && golden.dir.parent().unwrap().ends_with(family.model_type)
            };
            assert!(goldens.iter().any(has), "{} {class}", family.model_type);
        }
    }
}

#[test]
fn the_sizes_of_a_checkpoint_are_known_from_its_headers() {
    for golden in Golden::all() {
        let snapshot = Snapshot::local(&golden.dir).unwrap();
        let config = AutoConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let (dtype, device) = (Some(DType::F32.into()), &Device::Cpu);
        let expected = match golden.load() {
            Model::Base(model) => model.report().clone(),
            Model::Head(model) => model.report().clone(),
        };
        let found = match golden.class() {
            AutoClass::Model => AutoModel::weight_report(&snapshot, &config, dtype, device),
            class => ModelWithHead::weight_report(
                HeadRequest::of(class),
                &snapshot,
                config,
                dtype,
                device,
            ),
        };
        assert_eq!(found.unwrap(), expected, "{}", golden.name);
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (config, text) in [
        (json!({"model_type": "clip", "text_config": 3}), "`text_config` in config.json is `3`"),
        (
            json!({"model_type": "clip", "vision_config": {"patch_size": 300}}),
            "`patch_size` in config.json is larger than `image_size`",
        ),
        (
            json!({"model_type": "siglip", "text_config": {"projection_size": 5}}),
            "texts vectors of 5 numbers, and images of 768",
        ),
        (json!({"model_type": "dinov2", "mlp_ratio": 1e30}), "`mlp_ratio`"),
        (json!({"model_type": "dinov2", "hidden_size": 25}), "`hidden_size: 25`"),
        (
            json!({"model_type": "beit", "patch_size": [16, 300]}),
            "`patch_size` in config.json is larger than `image_size`",
        ),
        (json!({"model_type": "data2vec-vision", "num_attention_heads": 5}), "`hidden_size: 768`"),
        (
            json!({"model_type": "swin", "depths": [2, 2]}),
            "`depths` for 2 stages and `num_heads` for 4",
        ),
        (
            json!({"model_type": "swin", "num_heads": [3, 6, 12, 25]}),
            "stage 3 of config.json has hidden states of 768 numbers, not a multiple of its 25 heads",
        ),
        (json!({"model_type": "swin", "mlp_ratio": 1e-30}), "`mlp_ratio: "),
        (json!({"model_type": "swin", "window_size": 91}), "windows of more than 8192 cells"),
        (
            json!({"model_type": "swin", "depths": vec![1; 40], "num_heads": vec![1; 40]}),
            "doubled for each of 40 stages",
        ),
        (json!({"model_type": "swinv2"}), "`swinv2`"),
    ] {
        let config = config.as_object().unwrap().clone();
        let error = AutoConfig::from_json(config, &Map::new()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn images_that_a_window_does_not_fit_in_are_refused() {
    let load = |name: &str| {
        let dir = root().join("vision/swin").join(name);
        AutoModel::from_pretrained(dir.to_str().unwrap()).unwrap()
    };
    let refused = |model: &AutoModel, height, width| {
        let image = Tensor::zeros((3, height, width), DType::F32, &Device::Cpu).unwrap();
        let inputs = model.image_inputs(&[image]).unwrap();
        model.forward(&inputs, &Want::default()).unwrap_err().to_string()
    };
    let model = load("model");
    let text = refused(&model, 20, 16);
    assert!(text.contains("a map of 3 by 2 cells is smaller than a window of 3 by 3"), "{text}");
    let image = model.config().dimensions().image.unwrap();
    assert_eq!((image.tokens_of(20, 16), image.tokens_of(17, 34)), (None, Some(15)));
    let text = refused(&load("model-oblong"), 28, 40);
    assert!(text.contains("have 70 patches, but there are position embeddings of 77"), "{text}");
}

#[test]
fn the_widest_place_of_a_model_is_in_its_memory_estimate() {
    for (model_type, peak) in [("vit", 768), ("swin", 6144), ("convnext", 6144), ("resnet", 16_384)]
    {
        let config = json!({"model_type": model_type}).as_object().unwrap().clone();
        let config = AutoConfig::from_json(config, &Map::new()).unwrap();
        let image = config.dimensions().image.unwrap();
        assert_eq!(image.peak_hidden_size, peak, "{model_type}");
    }
}

/// Tokens and vectors of texts, by transformers and by sentence-transformers.
#[test]
fn texts_have_the_vectors_of_the_references() {
    let folder = root().join("text-vision");
    let golden = read_json(&folder.join("golden.json"));
    let outputs = Weights::open(&[folder.join("golden.safetensors")]).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let model = |name: &str| root().join("tasks").join(name).to_str().unwrap().to_owned();
    let mut problems = Vec::new();
    for (name, length) in [("clip", 24), ("siglip", 64)] {
        let tokenizer = AutoTokenizer::from_pretrained(&model(name)).unwrap();
        let expected: Vec<Vec<u32>> =
            serde_json::from_value(golden[format!("{name}_ids")].clone()).unwrap();
        let pad_to = (name == "siglip").then_some(length);
        let options =
            EncodeOptions { max_length: Some(length), pad_to, ..EncodeOptions::default() };
        for (text, expected) in texts.iter().zip(&expected) {
            let ids = tokenizer.encode(text, &options).unwrap().input_ids;
            if ids != *expected {
                problems.push(format!("{name} {text:?}: {ids:?}, not {expected:?}"));
            }
        }
    }
    for (name, output) in [
        ("clip", "clip"),
        ("clip", "sentence_transformers.clip"),
        ("clip-sentence-transformers", "sentence_transformers.clip-sentence-transformers"),
        ("siglip", "siglip"),
    ] {
        let ours = SentenceTransformer::from_pretrained(&model(name)).unwrap();
        let ours = ours.encode(&texts).unwrap();
        let expected = outputs.tensor(output, DType::F32, &Device::Cpu).unwrap();
        let off = worst(&Tensor::new(ours, &Device::Cpu).unwrap(), &expected);
        println!("{output}: {off:e}");
        if off.is_nan() || off > CLOSE {
            problems.push(format!("{output}: {off:e}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The cases of the tasks over images, by the functions of the library.
#[test]
fn vectors_and_labels_of_images_are_those_of_the_pipelines() {
    let (mut problems, mut compared) = (Vec::new(), 0);
    for task in ["image-feature-extraction", "zero-shot-image-classification"] {
        let folder = root().join("tasks").join(task);
        for file in std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
            let case = read_json(&file);
            let name = format!("{task} {}", file.file_stem().unwrap().to_string_lossy());
            let model = folder.join(case["model"].as_str().unwrap());
            let values = values_of(task, &model, &case);
            let rows = case["expected"].as_array().unwrap().iter().filter(|row| !row.is_null());
            for (row, (ours, expected)) in values.iter().zip(rows).enumerate() {
                compared += 1;
                let off = difference(ours, expected);
                if off.is_nan() || off > f64::from(CLOSE) {
                    problems.push(format!("{name} row {row}: {ours}, not {expected}"));
                }
            }
        }
    }
    assert!(compared > 100, "{compared}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The largest difference of numbers; infinite where something else differs.
fn difference(ours: &Value, expected: &Value) -> f64 {
    match (ours, expected) {
        (Value::Number(a), Value::Number(b)) => (a.as_f64().unwrap() - b.as_f64().unwrap()).abs(),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).map(|(a, b)| difference(a, b)).fold(0.0, f64::max)
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().map(|(key, a)| difference(a, &b[key])).fold(0.0, f64::max)
        }
        (a, b) if a == b => 0.0,
        _ => f64::INFINITY,
    }
}

/// The values of the rows of a case that have an image.
fn values_of(task: &str, dir: &Path, case: &Value) -> Vec<Value> {
    let snapshot = Snapshot::local(dir).unwrap();
    let described = SentenceTransformerConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
    let processor = AutoImageProcessor::from_snapshot(&described.transformer).unwrap();
    let rows = case["rows"].as_array().unwrap().iter();
    let images = rows.filter_map(|row| row["image"].as_str()).map(|image| {
        let path = root().join("tasks").join(task).join(image);
        processor.preprocess(&RgbImage::decode(&std::fs::read(path).unwrap()).unwrap()).unwrap()
    });
    let images: Vec<Tensor> = images.collect();
    let (config, options) = (described.config.clone(), &case["options"]);
    let (dtype, device) = (Some(DType::F32.into()), &Device::Cpu);
    if task == "image-feature-extraction" {
        let pooling = serde_json::from_value(options["pooling"].clone()).unwrap();
        let features = ImageFeatures::resolve(&described, pooling, options["normalize"].as_bool());
        let features = features.unwrap();
        let model =
            AutoModel::load_snapshot(&described.transformer, config, dtype, device).unwrap();
        features.check(&model).unwrap();
        let numbers = features.of(&model, &images).unwrap();
        return numbers.chunks_exact(features.dimension).map(|vector| json!(vector)).collect();
    }
    let class = AutoClass::ZeroShotImageClassification;
    let model =
        ModelWithHead::load_snapshot(class, &described.transformer, config, dtype, device, None);
    let (model, tokenizer) = (model.unwrap(), described.tokenizer().unwrap());
    let max_length = tokenizer.model_max_length().unwrap();
    let input = TextInput {
        name: "",
        config: &described.config,
        tokenizer: &tokenizer,
        max_length,
        truncation: true,
    };
    let template = options["hypothesis_template"].as_str().unwrap_or("This is a photo of {}.");
    let labels: Vec<String> = serde_json::from_value(options["candidate_labels"].clone()).unwrap();
    let encode = |label: &String| input.row(&[&template.replace("{}", label)]).unwrap().input_ids;
    let texts: Vec<Vec<u32>> = labels.iter().map(encode).collect();
    let texts = ImageLabels::new(&model, &texts).unwrap();
    let function = ImageLabels::function(model.config());
    let of_image = |logits: Vec<f32>| {
        let scores = function.apply(&logits);
        let order = best(&scores, scores.len()).into_iter();
        order.map(|i| json!({"score": scores[i], "label": labels[i]})).collect()
    };
    texts.logits(&model, &images).unwrap().into_iter().map(of_image).collect()
}

#[test]
fn settings_of_image_processors_give_the_pixels_of_transformers() {
    let dir = root().join("image-processors");
    let golden = read_json(&dir.join("golden.json"));
    let outputs = Weights::open(&[dir.join("golden.safetensors")]).unwrap();
    let read = |name: &str| outputs.tensor(name, DType::F32, &Device::Cpu).unwrap();
    let picture = |index: usize| {
        let pixels = read(&format!("picture.{index}"));
        let (height, width, _) = pixels.dims3().unwrap();
        let pixels: Vec<f32> = pixels.flatten_all().unwrap().to_vec1().unwrap();
        RgbImage::new(width, height, pixels.into_iter().map(|value| value as u8).collect())
    };
    let (pictures, mut wrong) = ([picture(0), picture(1)], Vec::new());
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 70);
    for (number, settings) in cases.iter().enumerate() {
        let processor = AutoImageProcessor::from_json(settings.as_object().unwrap(), None);
        let processor = processor.unwrap_or_else(|error| panic!("{settings}: {error}"));
        for (index, picture) in pictures.iter().enumerate() {
            let ours = processor.preprocess(picture).unwrap();
            let expected = read(&format!("{number}.{index}"));
            if ours.dims() != expected.dims() {
                let (ours, expected) = (ours.dims(), expected.dims());
                wrong.push(format!("{settings}, {index}: {ours:?} instead of {expected:?}"));
                continue;
            }
            let off = worst(&ours, &expected);
            if off > 1e-5 {
                wrong.push(format!("{settings}, {index}: {off}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
