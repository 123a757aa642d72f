use super::*;

#[test]
fn a_report_reads_what_it_writes() {
    let report = Report::running("reviews", "2026-01-02T03:04:05Z");
    let error = Error::new(ErrorKind::Terminated, "stopped").at("here").hint("again");
    let report = report.ended("2026-01-02T03:05:05Z", Some(&error));
    assert_eq!((report.status, report.exit_code), (Status::Interrupted, Some(143)));
    let json = report.to_json().unwrap();
    assert_eq!(Report::from_json(&json).unwrap(), report);
    let newer = json.replace("\"version\": 1", "\"version\": 2");
    assert!(Report::from_json(&newer).unwrap_err().to_string().contains("version 2"));
    for no_report in ["", "[]", "{}", "{\"version\": 1}", "{\"version\": 1, \"status\": \"x\"}"] {
        assert_eq!(Report::from_json(no_report).unwrap_err().kind(), ErrorKind::Data);
    }
    // Fields that other versions omit or add do not matter.
    let least = Report::from_json("{\"version\": 1, \"status\": \"done\", \"new\": 3}").unwrap();
    assert_eq!((least.status, least.run), (Status::Done, None));
}

#[test]
fn an_error_comes_back_as_it_was() {
    let error = Error::new(ErrorKind::Sink, "cannot write").at("a").at("b").hint("c");
    let back = ErrorReport::from(&error).into_error();
    assert_eq!((back.kind(), back.to_string()), (ErrorKind::Sink, error.to_string()));
}

#[test]
fn the_slowest_units_are_named() {
    let mut units = UnitCounts::default();
    for number in 0..100u32 {
        let seconds = f64::from(number * 37 % 100);
        units.add(UnitTime { unit: number.to_string(), rows: 1, seconds });
    }
    let seconds: Vec<f64> = units.slowest.iter().map(|unit| unit.seconds).collect();
    assert_eq!(seconds, (90..100).rev().map(f64::from).collect::<Vec<_>>());
    assert_eq!(units.computed, 100);
}

#[test]
fn the_bottleneck_is_the_longest_wait() {
    let counts = |input, tokenizer, results, output| StepCounts {
        input_seconds: input,
        tokenize_seconds: tokenizer,
        results_seconds: results,
        output_seconds: output,
        ..StepCounts::default()
    };
    for (counts, expected) in [
        (counts(0.0, 0.0, 0.0, 0.0), None),
        (counts(3.0, 1.0, 2.0, 0.0), Some("input")),
        (counts(1.0, 3.0, 2.0, 0.0), Some("tokenizer")),
        (counts(1.0, 1.0, 9.0, 2.0), Some("model")),
        (counts(1.0, 1.0, 2.0, 8.5), Some("output")),
    ] {
        assert_eq!(counts.bottleneck(), expected, "{counts:?}");
    }
}

#[test]
fn a_step_over_images_tells_pictures_per_second() {
    let counts = StepCounts {
        images: 1,
        computed_tokens: 17,
        image_seconds: 0.25,
        model_seconds: 1.5,
        ..StepCounts::default()
    };
    let mut step = StepReport { counts, images_per_second: 12.34, ..StepReport::default() };
    let shown = |step: &StepReport| {
        let run = RunReport { steps: vec![step.clone()], ..RunReport::default() };
        let text = run.to_string();
        let report = Report { run: Some(run), ..Report::running("photos", "2026-01-02T03:04:05Z") };
        (text, page(&report).unwrap())
    };
    let (text, page) = shown(&step);
    let line = "    pictures 1 computed, 12.3 pictures/s; reading and decoding took 250 ms of the workers' 1.5 s\n";
    assert!(text.contains(line), "{text}");
    assert!(page.contains("1 picture, 12.3 pictures/s"), "{page}");
    assert!(page.contains("took 250 ms of the workers’ 1.5 s."), "{page}");
    step.counts.images = 0;
    let (text, page) = shown(&step);
    assert!(!text.contains("pictures") && !page.contains("pictures"), "{text}{page}");
}

#[test]
fn a_page_shows_foreign_text_as_text() {
    let hostile = "</title><script>{{ report }}</script>";
    let page = page(&Report::running(hostile, "\"<b>")).unwrap();
    assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
    let shown = "&lt;/title&gt;&lt;script&gt;{{ report }}&lt;/script&gt;";
    assert!(page.contains(&format!("<bdi>{shown}</bdi>")), "{page}");
    assert!(page.contains(&format!("<title>{shown}: running</title>")), "{page}");
}
