//! Numerical parity with transformers and sentence-transformers, for every golden.
//!
//! `HFAUTO_TEST_DEVICE=cuda` computes on the first GPU, in the dtype `HFAUTO_TEST_DTYPE` (`f32`, `f16` or `bf16`): the
//! same tests with their own tolerances (`just test-cuda`).

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hfauto_pipe::auto::{AutoModel, FAMILIES, ModelDtype, SentenceTransformerConfig, cuda_device};
use hfauto_pipe::hub::{Snapshot, Weights};
use hfauto_pipe::models::Want;
use hfauto_pipe::nn::to_host;
use serde_json::{Map, Value};

/// The named tolerances; tests never contain a literal one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tolerance {
    /// Bit for bit.
    Exact,
    /// The same formula with another order of summation: 5·10⁻⁶ for numbers of order 1.
    Reordered,
    /// Another library's f32, after a few layers: 10⁻⁵ for numbers of order 1.
    Close,
    /// f32 on a GPU: 10⁻⁴ for numbers of order 1.
    CudaF32,
    /// Weights, states and probabilities with 11 significant bits, after a few layers: 2·10⁻² for numbers of order 1.
    CudaF16,
    /// The same with 8 significant bits: 1.5·10⁻¹.
    CudaBf16,
}

/// The device of the tests.
pub(crate) fn device() -> Device {
    match std::env::var("HFAUTO_TEST_DEVICE").as_deref() {
        Ok("cuda") => cuda_device(0).unwrap(),
        _ => Device::Cpu,
    }
}

/// The dtype of the tests.
pub(crate) fn dtype() -> ModelDtype {
    match std::env::var("HFAUTO_TEST_DTYPE").as_deref() {
        Ok("f16") => DType::F16.into(),
        Ok("bf16") => DType::BF16.into(),
        _ => DType::F32.into(),
    }
}

impl Tolerance {
    fn absolute(self) -> f32 {
        match self {
            Self::Exact => 0.0,
            Self::Reordered => 5e-6,
            Self::Close => 1e-5,
            Self::CudaF32 => 1e-4,
            Self::CudaF16 => 2e-2,
            Self::CudaBf16 => 1.5e-1,
        }
    }

    /// The tolerance on the device of the tests.
    fn here(self) -> Self {
        match (self, dtype()) {
            (Self::Exact, _) => self,
            _ if device().is_cpu() => self,
            (_, ModelDtype::Float(DType::F16)) => Self::CudaF16,
            (_, ModelDtype::Float(DType::BF16)) => Self::CudaBf16,
            _ => Self::CudaF32,
        }
    }

    /// Compares two tensors. On failure, reports the first outlier with its index, the worst one, and their number.
    pub(crate) fn check(self, ours: &Tensor, expected: &Tensor) -> Result<(), String> {
        self.here().check_here(ours, expected)
    }

    fn check_here(self, ours: &Tensor, expected: &Tensor) -> Result<(), String> {
        if ours.dims() != expected.dims() {
            return Err(format!("shape {:?} instead of {:?}", ours.dims(), expected.dims()));
        }
        let (ours, theirs) = (to_host(ours).unwrap(), to_host(expected).unwrap());
        let mut outliers = ours.iter().zip(&theirs).enumerate().filter_map(|(index, (a, b))| {
            let off = (a - b).abs();
            // Written so that NaN counts as an outlier.
            let near = off <= self.absolute();
            (!near).then_some((index, *a, *b, off))
        });
        let Some((first, a, b, off)) = outliers.next() else { return Ok(()) };
        let (count, worst) =
            outliers.fold((1, off), |(n, worst), outlier| (n + 1, outlier.3.max(worst)));
        let mut index = Vec::new();
        let mut rest = first;
        for dim in expected.dims().iter().rev() {
            index.insert(0, rest % dim);
            rest /= dim;
        }
        Err(format!(
            "{a} instead of {b} at {index:?}; {count} of {} are more than {self:?} apart, worst {worst:e}",
            ours.len()
        ))
    }
}

/// A golden: a model directory, its input rows, and the reference outputs.
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) input_ids: Vec<Vec<u32>>,
    pub(crate) token_type_ids: Vec<Vec<u32>>,
    outputs: Weights,
}

impl fmt::Display for Golden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        write!(f, "{}", self.dir.strip_prefix(root).unwrap_or(&self.dir).display())
    }
}

impl Golden {
    fn read(dir: &Path) -> Self {
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let ids = |key: &str| -> Option<Vec<Vec<u32>>> {
            serde_json::from_value(json.get(key)?.clone()).ok()
        };
        let input_ids = ids("input_ids").unwrap();
        let zeros = || input_ids.iter().map(|row| vec![0; row.len()]).collect();
        Self {
            dir: dir.to_path_buf(),
            token_type_ids: ids("token_type_ids").unwrap_or_else(zeros),
            outputs: Weights::open(&[dir.join("golden.safetensors")]).unwrap(),
            input_ids,
        }
    }

    /// All goldens of text models without a head, by name. Encoder-decoders and image models are compared in their own
    /// files.
    pub(crate) fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut dirs: Vec<PathBuf> = [root.clone(), root.join("heads/gpt2")]
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|dir| dir.join("golden.json").is_file() && dir.join("config.json").is_file())
            .filter(|dir| !dir.file_name().unwrap().to_string_lossy().starts_with("for-"))
            .collect();
        dirs.sort();
        dirs.iter().map(|dir| Self::read(dir)).collect()
    }

    /// The golden called `name`.
    pub(crate) fn named(name: &str) -> Self {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name))
    }

    /// The golden of a family's base architecture; `None` for architectures without token inputs.
    pub(crate) fn of_family(model_type: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let folders = ["heads", "modern"].map(|folder| root.join(folder).join(model_type));
        let dirs = [root.join(model_type), folders[0].join("model"), folders[1].join("model")];
        let dir = dirs.iter().find(|dir| dir.join("golden.json").is_file())?;
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        json.get("input_ids")?;
        Some(Self::read(dir))
    }

    pub(crate) fn model(&self) -> AutoModel {
        load(&self.dir)
    }

    pub(crate) fn rows(&self) -> Vec<(&[u32], &[u32])> {
        let rows = self.input_ids.iter().zip(&self.token_type_ids);
        rows.map(|(ids, types)| (&ids[..], &types[..])).collect()
    }

    /// A reference output, if the golden has it.
    fn output(&self, name: &str) -> Option<Tensor> {
        self.outputs.shape(name)?;
        Some(self.outputs.tensor(name, DType::F32, &Device::Cpu).unwrap())
    }

    fn is_sentence_transformer(&self) -> bool {
        self.dir.join("modules.json").is_file()
    }
}

/// The model of a directory, on the device of the tests.
pub(crate) fn load(dir: &Path) -> AutoModel {
    let model = AutoModel::builder(dir.to_str().unwrap()).dtype(dtype()).device(device());
    model.load().unwrap()
}

/// Collects all differences, so that one run reports them together.
#[derive(Default)]
pub(crate) struct Differences(Vec<String>);

impl Differences {
    pub(crate) fn check(&mut self, what: impl fmt::Display, result: Result<(), String>) {
        if let Err(text) = result {
            self.0.push(format!("{what}: {text}"));
        }
    }

    pub(crate) fn assert_none(self) {
        assert!(self.0.is_empty(), "{} differences:\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[test]
fn encoders_agree_with_transformers() {
    let mut differences = Differences::default();
    let mut model_types = Vec::new();
    for golden in Golden::all().iter().filter(|golden| !golden.is_sentence_transformer()) {
        let model = golden.model();
        model_types.push(model.config().model_type());
        let has_pooler = golden.output("pooler_output").is_some();
        assert_eq!(model.backbone().has_pooler(), has_pooler, "{golden}");
        assert!(model.report().unused.is_empty(), "{golden}: {:?}", model.report().unused);
        let inputs = model.inputs(golden.rows()).unwrap();
        // With attentions, the eager kernel runs; without them, the fused one.
        for attentions in [false, true] {
            let want = Want { pooler_output: has_pooler, hidden_states: true, attentions };
            let output = model.forward(&inputs, &want).unwrap();
            let mut compared = 0;
            let mut check = |name: String, ours: &Tensor| {
                // Larger goldens contain only some rows.
                let Some(expected) = golden.output(&name) else { return };
                compared += 1;
                let result = Tolerance::Close.check(ours, &expected);
                differences.check(format!("{golden} {name} (attentions: {attentions})"), result);
            };
            for row in 0..golden.input_ids.len() {
                let last = output.last_hidden_state.row(row).unwrap();
                check(format!("last_hidden_state.{row}"), &last);
                let states: Vec<Tensor> = output
                    .hidden_states
                    .iter()
                    .flatten()
                    .map(|state| state.row(row).unwrap())
                    .collect();
                check(format!("hidden_states.{row}"), &Tensor::stack(&states, 0).unwrap());
                let name = format!("attentions.{row}");
                if attentions && golden.output(&name).is_some() {
                    let layers: Vec<Tensor> = output
                        .attentions
                        .iter()
                        .flatten()
                        .map(|layer| layer[row].clone())
                        .collect();
                    check(name, &Tensor::stack(&layers, 0).unwrap());
                }
            }
            if let Some(pooled) = &output.pooler_output {
                check("pooler_output".to_owned(), pooled);
            }
            assert!(compared > golden.input_ids.len() / 2, "{golden} compares {compared}");
        }
    }
    // Other architectures have goldens with heads, or of decoders, which are compared elsewhere.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for family in &FAMILIES {
        let elsewhere = ["heads", "modern", "vision"].iter().any(|folder| {
            root.join(folder).join(family.model_type).join("model/golden.json").is_file()
        });
        let here = model_types.contains(&family.model_type);
        assert!(here || elsewhere, "no golden of {}", family.model_type);
    }
    differences.assert_none();
}

#[test]
fn embeddings_agree_with_sentence_transformers() {
    let mut differences = Differences::default();
    let mut count = 0;
    for golden in Golden::all().iter().filter(|golden| golden.is_sentence_transformer()) {
        let snapshot = Snapshot::local(&golden.dir).unwrap();
        let description = SentenceTransformerConfig::from_snapshot(&snapshot, &Map::new()).unwrap();
        let model = AutoModel::load_snapshot(
            &description.transformer,
            description.config.clone(),
            Some(dtype()),
            &device(),
        )
        .unwrap();
        let head = description.load(&snapshot, &device()).unwrap();
        let inputs = model.inputs(golden.rows()).unwrap();
        let output = model.forward(&inputs, &Want::default()).unwrap();
        let embeddings = head.forward(&output.last_hidden_state, 0).unwrap();
        assert_eq!(embeddings.dims()[1], description.embedding_dimension(), "{golden}");
        let expected = golden.output("sentence_embedding").unwrap();
        differences.check(golden, Tolerance::Close.check(&embeddings, &expected));
        count += 1;
    }
    assert!(count > 0, "no golden of sentence-transformers");
    differences.assert_none();
}

#[test]
fn a_wanted_pooler_that_is_not_there_is_an_error_by_name() {
    for name in ["roberta", "distilbert"] {
        let golden = Golden::named(name);
        let model = golden.model();
        let inputs = model.inputs(golden.rows()).unwrap();
        let want = Want { pooler_output: true, ..Want::default() };
        let error = model.forward(&inputs, &want).unwrap_err();
        assert!(error.to_string().contains("`pooler_output`"), "{error}");
    }
}

#[test]
fn overrides_reach_the_model_and_contradictions_are_shape_errors() {
    let golden = Golden::named("bert");
    let load = |overrides: Value| {
        let overrides = overrides.as_object().unwrap().clone();
        AutoModel::builder(golden.dir.to_str().unwrap()).config(overrides).load()
    };
    let model =
        load(serde_json::json!({"output_attentions": true, "num_hidden_layers": 1})).unwrap();
    let inputs = model.inputs(golden.rows()).unwrap();
    let output = model.forward(&inputs, &Want::default()).unwrap();
    assert_eq!(output.attentions.unwrap().len(), 1);
    // The first layer's output must equal the golden's state after the first layer.
    let expected = golden.output("hidden_states.3").unwrap().get(1).unwrap();
    Tolerance::Close.check(&output.last_hidden_state.row(3).unwrap(), &expected).unwrap();

    let error = load(serde_json::json!({"hidden_size": 64, "max_position_embeddings": 99}));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("`embeddings.position_embeddings.weight`: expected [99, 64]"), "{text}");
    assert!(text.contains("more") && text.contains("tensors of the checkpoint"), "{text}");
}

#[test]
fn the_tolerance_tells_the_first_outlier() {
    let tensor = |numbers: [[f32; 2]; 2]| Tensor::new(&numbers, &Device::Cpu).unwrap();
    let (a, b) = (tensor([[1.0, 2.0], [3.0, f32::NAN]]), tensor([[1.0, 2.5], [3.0, 4.0]]));
    let text = Tolerance::Close.check(&a, &b).unwrap_err();
    assert!(text.starts_with("2 instead of 2.5 at [0, 1]; 2 of 4"), "{text}");
    assert!(Tolerance::Exact.check(&b, &b).is_ok());
}
