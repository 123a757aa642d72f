//! Any bytes as the manifests of an output folder and of its units. They may be refused, but nothing outside the folder
//! may be touched.
#![no_main]

use std::fs;

use hfauto_pipe::config::pipeline::{FileFormat, SinkSpec};
use hfauto_pipe::sink::{OutputState, Sink, UnitKey, UnitOutput};
use hfauto_pipe_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let folder = folder();
    let out = folder.join("out");
    let _ = fs::remove_dir_all(&out);
    let name = match kind % 4 {
        0 => "_hfauto/MANIFEST.json",
        1 => "_hfauto/units/00112233445566778899aabbccddeeff.json",
        2 => "_hfauto/tmp/run-1/plan.json",
        _ => "_hfauto/tmp/run-1/started.json",
    };
    let path = out.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::write(out.join("_SUCCESS"), "").unwrap();
    fs::write(folder.join("outside"), "kept").unwrap();
    let spec = SinkSpec {
        delta: None,
        path: out,
        format: FileFormat::Parquet,
        compression: None,
        partition_by: Vec::new(),
        target_file_size_bytes: 1 << 20,
        location: "fuzz".to_owned(),
    };
    let unit = UnitKey {
        id: "00112233445566778899aabbccddeeff".into(),
        sequence: 0,
        input: "in".into(),
        file: "file".into(),
        plan: "plan".into(),
    };
    let _ = Sink::check(&spec, true);
    let _ = OutputState::of(&spec);
    let _ = UnitOutput::status(&spec, &[unit]);
    assert_eq!(fs::read(folder.join("outside")).unwrap(), b"kept");
});
