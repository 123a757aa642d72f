//! What a user sees in a terminal: the prompt of `sql`, tables that fit.

use super::support::{Fixture, mini_embedder, sample_rows};

#[test]
fn the_prompt_continues_statements_and_ends_with_words() {
    let fixture = Fixture::new();
    // The third one is pasted.
    let pasted = "\u{1b}[200~SELECT 'a' AS x;\nSELECT 'b' AS y;\u{1b}[201~";
    let typed = ["SELECT 1 + 1", "AS two;", pasted, "help", "exit"];
    let Some(shown) = fixture.terminal(&["sql"], 80, &typed) else { return };
    for expected in [
        "hfauto> SELECT 1 + 1",
        "     -> AS two;",
        "| two |",
        "|   2 |",
        "1 row, 0.",
        "| x |",
        "| y |",
        "\\h [FUNCTION]",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
}

#[test]
fn a_query_shows_a_table_as_wide_as_the_terminal() {
    let fixture = Fixture::new();
    let (rows, model) = (sample_rows(), mini_embedder());
    let query = format!(
        "SELECT id, text, embed(text, '{}') AS embedding FROM '{}' WHERE id < 4",
        model.display(),
        rows.display()
    );
    for columns in [60, 120] {
        let Some(shown) = fixture.terminal(&["sql", &query], columns, &[]) else { return };
        let lines: Vec<&str> = shown.lines().filter(|line| line.starts_with(['|', '+'])).collect();
        assert!(lines.len() >= 6, "{shown}");
        for line in lines {
            assert!(line.chars().count() <= columns, "{columns}: {line}\n{shown}");
        }
        assert!(shown.contains('…'), "{shown}");
        assert!(shown.contains(" rows, "), "{shown}");
    }
    // A plan keeps its lines.
    let Some(shown) = fixture.terminal(&["sql", "EXPLAIN SELECT 1 AS one"], 60, &[]) else {
        return;
    };
    assert!(shown.contains("physical_plan") && shown.contains("┌───"), "{shown}");
    assert!(shown.contains("PlaceholderRowExec"), "{shown}");
    let indented = fixture.terminal(&["sql", "EXPLAIN FORMAT INDENT SELECT 1 AS one"], 60, &[]);
    assert!(indented.is_some_and(|shown| shown.contains("logical_plan")));
}

#[test]
fn a_preview_fits_and_says_what_the_whole_run_takes() {
    let fixture = Fixture::new();
    let rows = sample_rows();
    let args = ["embed", rows.to_str().unwrap(), "--column", "text"];
    let Some(shown) = fixture.terminal(&args, 70, &[]) else { return };
    // Some letters of other scripts have no width of their own.
    let latin = |line: &&str| line.starts_with(['|', '+']) && !line.contains("| hi ");
    for line in shown.lines().filter(latin) {
        assert!(line.chars().count() <= 70, "{line}\n{shown}");
    }
    for expected in [
        "note: no `--model`",
        "| embedding",
        "5 rows, nothing is written",
        "whole run: 2,745 rows, about ",
        " tokens, about ",
        " of memory",
        "note: `-o PATH`",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
    assert!(fixture.files("out").is_empty());
}

#[test]
fn the_bar_keeps_rows_and_time_left_on_narrow_terminals() {
    let fixture = Fixture::new();
    let rows = sample_rows();
    fixture.embed_yaml(rows.to_str().unwrap());
    for columns in [40, 80] {
        let Some(shown) = fixture.terminal(&["run", "embed.yaml", "--fresh"], columns, &[]) else {
            return;
        };
        assert!(shown.contains("/2,745 rows"), "{shown}");
        assert!(shown.contains("ETA 0:"), "{shown}");
        assert!(shown.contains(" rows/s"), "{shown}");
        assert!(!shown.contains("padding 0%") && !shown.contains("s  padding"), "{shown}");
    }
}

#[test]
fn colours_are_off_where_the_environment_says_so() {
    let fixture = Fixture::new();
    fixture.file("p.yaml", "version: 2\n");
    let shown =
        |variables: &[(&str, &str)]| fixture.run_with(&["validate", "p.yaml"], variables).stderr;
    assert!(!shown(&[]).contains('\u{1b}'), "not on a terminal");
    assert!(shown(&[("CLICOLOR_FORCE", "1")]).contains('\u{1b}'));
    assert!(!shown(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'));
}
