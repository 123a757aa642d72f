//! Resolves `tests`: input rows, and expectations of the output rows.

use super::{Cursor, Resolver};
use crate::config::pipeline::{Check, Expectation, TestSpec};
use crate::config::raw::{RawExpectation, RawTest};
use crate::document::Diagnostic;

/// The default tolerance of numbers.
const TOLERANCE: f64 = 1e-4;

/// The kinds of expectation, as written.
const KINDS: [&str; 4] = ["equals", "length", "contains", "is_null"];

impl Resolver<'_> {
    pub(super) fn tests(&mut self, raw: Option<&[RawTest]>, at: Cursor<'_>) -> Vec<TestSpec> {
        let raw = raw.unwrap_or_default();
        let mut tests: Vec<TestSpec> = Vec::new();
        for (index, test) in raw.iter().enumerate() {
            let here = at.item(index);
            self.not_empty(&test.name, here.key("name"), "name");
            if let Some(first) = raw[..index].iter().position(|other| other.name == test.name) {
                let message = format!("two tests are named `{}`", test.name);
                self.report.push(
                    Diagnostic::new(here.key("name").value, message)
                        .related(at.item(first).key("name").value, "the other"),
                );
            }
            if test.rows.is_empty() {
                self.report.push(Diagnostic::new(here.key("rows").value, "a test has no rows"));
            }
            if test.expect.is_empty() {
                let message = "a test expects nothing";
                self.report.push(Diagnostic::new(here.key("expect").value, message));
            }
            let expect = test.expect.iter().enumerate().flat_map(|(index, expectation)| {
                self.expectation(expectation, here.key("expect").item(index))
            });
            let expect = expect.collect();
            tests.push(TestSpec {
                name: test.name.clone(),
                rows: test.rows.clone(),
                expect,
                location: self.report.location(here.value),
            });
        }
        tests
    }

    /// The checks of an expectation as written, which may have several.
    fn expectation(&mut self, raw: &RawExpectation, at: Cursor<'_>) -> Vec<Expectation> {
        self.not_empty(&raw.column, at.key("column"), "column");
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let checks = [
            raw.equals
                .clone()
                .map(|value| Check::Equals(value, raw.tolerance.unwrap_or(TOLERANCE))),
            raw.length.map(|length| Check::Length(count(length))),
            raw.contains.clone().map(Check::Contains),
            raw.is_null.map(Check::IsNull),
        ];
        let checks: Vec<Check> = checks.into_iter().flatten().collect();
        if checks.is_empty() {
            self.report.push(
                Diagnostic::new(at.value, format!("nothing is expected of `{}`", raw.column))
                    .choices("expectations", KINDS),
            );
        }
        if raw.tolerance.is_some() && raw.equals.is_none() {
            let message = "`tolerance` needs `equals`";
            self.report.push(Diagnostic::new(at.key("tolerance").key, message));
        }
        let expectation =
            |check| Expectation { column: raw.column.clone(), row: raw.row.map(count), check };
        checks.into_iter().map(expectation).collect()
    }
}
