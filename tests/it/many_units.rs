//! Outputs with very many units are read with little memory. `HFAUTO_UNITS=1000000` runs the long form.

use std::fs;
use std::io::{BufWriter, Write};
use std::process::Stdio;

use serde_json::Value;

use super::support::Fixture;

/// The number of units in the large output.
fn many() -> u64 {
    std::env::var("HFAUTO_UNITS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000)
}

/// An empty output, and a pipeline that writes to it.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.file("in.csv", "id\n1\n");
    fixture.file("copy.yaml", "version: 1\nsource: {path: in.csv}\nsink: {path: out/}\n");
    fs::create_dir_all(fixture.path("out/_hfauto/units")).unwrap();
    fixture
}

fn id(unit: u64) -> String {
    format!("{:032x}", u128::from(unit).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn part(unit: u64) -> String {
    let name = format!("part-{unit:05}-{}.parquet", &id(unit)[..8]);
    format!("{{\"path\":\"{name}\",\"rows\":3,\"bytes\":4096,\"blake3\":\"{unit:064x}\"}}")
}

/// The output's state as reported by `status`, and the peak of its own memory: the pages of the program's file, which are
/// mapped as the linker happens to place the code, do not count.
fn status(fixture: &Fixture) -> (Value, u64) {
    let mut child =
        fixture.command(&["status", "copy.yaml", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    // The output stays in the pipe until the process has ended.
    let (path, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    (serde_json::from_slice(&output.stdout).unwrap(), peak)
}

/// KiB that the program needs for an output of any size, little more than for starting. The names of fifty thousand
/// units, or the text of a manifest of a million files, would exceed it.
const ENOUGH: u64 = 20 << 10;

#[test]
fn units_are_counted_in_little_memory() {
    let fixture = fixture();
    let write = |units: std::ops::Range<u64>| {
        for unit in units {
            let id = id(unit);
            let text = format!(
                "{{\"version\":1,\"unit\":\"{id}\",\"input\":\"/data/in/{unit}.parquet\",\"file\":\"4096 bytes\",\
                 \"plan\":\"00\",\"rows\":3,\"errors\":{{\"rows\":0,\"failed\":0}},\"files\":[{}]}}",
                part(unit)
            );
            fs::write(fixture.path(&format!("out/_hfauto/units/{id}.json")), text).unwrap();
        }
    };
    write(0..100);
    let (few, least) = status(&fixture);
    assert_eq!((few["state"].as_str(), few["done"].as_u64()), (Some("unfinished"), Some(100)));
    write(100..many());
    let (state, most) = status(&fixture);
    assert_eq!((state["done"].as_u64(), state["rows"].as_u64()), (Some(many()), Some(3 * many())));
    eprintln!("status of 100 and {} units: {least} and {most} KiB", many());
    assert!(most < ENOUGH, "{least} and {most} KiB");
}

#[test]
fn a_manifest_of_very_many_files_is_read_as_it_comes() {
    let fixture = fixture();
    let write = |files: u64| {
        let file = fs::File::create(fixture.path("out/_hfauto/MANIFEST.json")).unwrap();
        let mut file = BufWriter::new(file);
        write!(file, "{{\n  \"version\": 1,\n  \"rows\": {},\n  \"files\": [\n", 3 * files)
            .unwrap();
        for unit in 0..files {
            let comma = if unit + 1 < files { "," } else { "" };
            writeln!(file, "    {}{comma}", part(unit)).unwrap();
        }
        file.write_all(b"  ]\n}\n").unwrap();
        file.flush().unwrap();
    };
    fixture.file("out/_SUCCESS", "");
    write(1);
    let (few, least) = status(&fixture);
    assert_eq!((few["state"].as_str(), few["rows"].as_u64()), (Some("published"), Some(3)));
    let files = many().max(1_000_000);
    write(files);
    let (state, most) = status(&fixture);
    assert_eq!(state["rows"].as_u64(), Some(3 * files));
    eprintln!("status of a manifest of 1 and {files} files: {least} and {most} KiB");
    assert!(most < ENOUGH, "{least} and {most} KiB");
}
