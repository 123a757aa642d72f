//! Files of torch (tests/data/torch, with the script that made them), damaged files, shards.

use std::collections::HashMap;

use candle_core::{DType, Device};
use proptest::prelude::*;

use super::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/torch").join(name)
}

/// Writes `bytes` as `name` into a new folder.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn open(path: &Path) -> Result<Weights> {
    Weights::open(&[path.to_path_buf()])
}

fn values(weights: &Weights, name: &str) -> Vec<f64> {
    let tensor = weights.tensor(name, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(Some(tensor.dims()), weights.shape(name));
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Opens `bytes` and, on success, reads every tensor.
fn read_all(bytes: &[u8]) -> Result<(), Error> {
    let (_dir, path) = file("model.bin", bytes);
    let weights = open(&path)?;
    for name in weights.names() {
        weights.tensor(name, DType::F32, &Device::Cpu)?;
    }
    Ok(())
}

fn safetensors(tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let bytes: Vec<(String, Vec<u8>, usize)> = tensors
        .iter()
        .map(|(name, values)| {
            let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            ((*name).to_owned(), raw, values.len())
        })
        .collect();
    let views = bytes.iter().map(|(name, raw, len)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![*len], raw).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()
}

#[test]
fn reads_every_form_of_torch_save() {
    let expected = open(&data("expected.safetensors")).unwrap();
    let names: Vec<_> = expected.names().collect();
    assert_eq!(names.len(), 20);
    for form in ["zip.bin", "zip_protocol4.bin", "legacy.bin", "legacy_protocol4.bin", "nested.bin"]
    {
        let weights = open(&data(form)).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), names, "{form}");
        for name in &names {
            assert_eq!(weights.dtype(name), expected.dtype(name), "{form}: {name}");
            assert_eq!(values(&weights, name), values(&expected, name), "{form}: {name}");
        }
    }
}

#[test]
fn reads_known_values() {
    let weights = open(&data("legacy.bin")).unwrap();
    assert_eq!(weights.shape("transposed"), Some(&[6, 4][..]));
    assert_eq!(values(&weights, "transposed")[..3], [-1.0, -0.25, 0.5]);
    assert_eq!(values(&weights, "sliced"), [0.0, 0.125, 0.25, 0.75, 0.875, 1.0]);
    assert_eq!(values(&weights, "scalar"), [-0.375]);
    assert_eq!(values(&weights, "empty"), [0.0; 0]);
    assert_eq!(values(&weights, "parameter"), [0.5, -2.0]);
    assert_eq!(values(&weights, "of_bf16"), [0.0, 1.0, 2.0, 100.0]);
    assert_eq!(values(&weights, "negative"), [-1.0, -128.0]);
    assert_eq!(weights.dtype("of_i64"), Some(DType::I64));
    assert_eq!(weights.dtype("of_bool"), Some(DType::U8));
    assert_eq!(weights.dtype("negative"), None);
    let half = weights.tensor("of_f16", DType::F16, &Device::Cpu).unwrap();
    assert_eq!(half.dtype(), DType::F16);

    let linear = open(&data("linear.bin")).unwrap();
    assert_eq!(linear.names().collect::<Vec<_>>(), ["bias", "weight"]);
}

#[test]
fn refuses_pickles_that_name_more_than_tensors() {
    let error = open(&data("forbidden.bin")).unwrap_err().to_string();
    assert!(error.contains("forbidden.bin") && error.contains("`posix.system`"), "{error}");
    let error = open(&data("module.bin")).unwrap_err().to_string();
    assert!(error.contains("`torch.nn.modules.linear.Linear`"), "{error}");
}

#[test]
fn names_what_is_wrong_with_a_file() {
    let check = |bytes: &[u8], expected: &str| {
        let error = read_all(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        let text = error.to_string();
        assert!(text.contains("model.bin") && text.contains(expected), "{text}");
    };
    check(b"", "is empty");
    check(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull");
    check(b"\n<!DOCTYPE html><html>", "is a web page");
    check(b"{\"error\": \"not found\"}", "begins with");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    check(&tar, "before 0.4");

    let whole = safetensors(&[("a", &[1.0, 2.0])]);
    let (len, less) = (whole.len(), whole.len() - 3);
    check(&whole[..less], &format!("requires {len} bytes, it has {less}"));
    check(&whole[..20], "the file has 20");
    let longer: Vec<u8> = whole.iter().chain(b"x").copied().collect();
    check(&longer, &format!("requires {len} bytes, it has {}", len + 1));
    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        changed
    };
    check(&text("[2]", "[3]"), "damaged header");
    check(&text("[0,8]", "[1,8]"), "damaged header");
    check(&text("F32", "X32"), "damaged header");

    let zip = std::fs::read(data("zip.bin")).unwrap();
    check(&zip[..zip.len() / 2], "is truncated or damaged");
    let legacy = std::fs::read(data("legacy.bin")).unwrap();
    check(&legacy[..legacy.len() - 1], "is truncated");
    check(&legacy[..300], "is truncated");
    check(b"\x80\x02K\x01.", "not one of torch.save");
}

#[test]
fn a_missing_tensor_is_an_error() {
    let error = open(&data("linear.bin")).unwrap().tensor("gamma", DType::F32, &Device::Cpu);
    assert!(error.unwrap_err().to_string().contains("no tensor `gamma`"));
}

#[test]
fn reads_shards_and_checks_them_against_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
    let index = |map: &str| write("model.safetensors.index.json", map.as_bytes());
    write("model-1.safetensors", &safetensors(&[("a", &[1.0])]));
    write("model-2.safetensors", &safetensors(&[("b", &[2.0]), ("c", &[3.0, 4.0])]));
    let fails = |expected: &str| {
        let error = open(&path("model.safetensors.index.json")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains(expected), "{error}");
    };

    index(r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#);
    let weights = open(&path("model.safetensors.index.json")).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(values(&weights, "c"), [3.0, 4.0]);
    let listed = crate::hub::Snapshot::local(dir.path()).unwrap().weight_files().unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(Weights::open(&listed).unwrap().names().count(), 3);

    index(r#"{"weight_map": {"a": "model-2.safetensors", "d": "model-1.safetensors"}}"#);
    fails("places tensor `a` in `model-2.safetensors`, which does not have it (and 1 more)");
    index(r#"{"weight_map": {"a": "model-3.safetensors"}}"#);
    fails("names shard `model-3.safetensors`, which does not exist");
    index(r#"{"weight_map": {"a": "../model-1.safetensors"}}"#);
    fails("no proper file");
    index("{}");
    fails("has no `weight_map`");

    write("model-2.safetensors", &safetensors(&[("a", &[2.0])]));
    let both = Weights::open(&[path("model-1.safetensors"), path("model-2.safetensors")]);
    assert!(both.unwrap_err().to_string().contains("tensor `a` is in"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Damage causes an error or goes unnoticed; it never causes a panic.
    #[test]
    fn damage_never_panics(
        form in prop::sample::select(vec!["zip.bin", "legacy.bin", "legacy_protocol4.bin", "expected.safetensors"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(data(form)).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        drop(read_all(&bytes));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut pickle = vec![0x80, 2];
        pickle.extend(&bytes);
        drop(read_all(&pickle));
        drop(read_all(&bytes));
    }
}
