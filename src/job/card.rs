//! The card of a dataset, `README.md`: what an output is made of, between two markers. Everything outside of the markers
//! belongs to the owner of the dataset. Not here: the commit (`push`).

use std::path::Path;

use super::{Job, bytes, count, counted, duration};
use crate::hub_store;
use crate::report::RunReport;
use crate::secret;
use crate::sink::Published;

/// The text about an output, without its markers.
pub(super) fn section(job: &Job, folder: &str, output: &Published, report: &RunReport) -> String {
    let size: u64 = output.files.iter().map(|(_, bytes)| bytes).sum();
    let mut text = format!(
        "## Output in `{folder}/`\n\nMade by hfauto-pipe {} with the pipeline {}.\n\n| | |\n|---|---|\n",
        report.version,
        cell(&report.pipeline)
    );
    let mut row = |name: &str, value: &str| text += &format!("| {name} | {value} |\n");
    for path in &job.pipeline().source.paths {
        row("source", &source(path));
    }
    row(
        "source files",
        &format!("{}, {}", count(report.input_files as u64), bytes(report.input_bytes)),
    );
    row("rows", &count(output.rows()));
    row("files", &format!("{}, {}", count(output.files.len() as u64), bytes(size)));
    if let Some(units) = &report.units {
        row("units", &count(units.total as u64));
    }
    if let Some(errors) = report.row_errors.filter(|errors| errors.failed > 0) {
        row("rows that failed", &count(errors.failed));
    }
    if !report.steps.is_empty() {
        text += "\n| column | task | model | revision | dtype |\n|---|---|---|---|---|\n";
    }
    for step in &report.steps {
        let model = &step.model;
        let revision = model.commit.as_deref().map_or_else(|| "local".to_owned(), cell);
        text += &format!(
            "| {} | {} | {} | {revision} | {} |\n",
            cell(&step.output),
            model.task,
            repo(&model.repo, model.commit.is_some()),
            model.dtype
        );
    }
    let computed: u64 = report.steps.iter().map(|step| step.counts.computed_tokens).sum();
    text += &format!(
        "\nThe run that finished it wrote {} in {}",
        counted(report.rows_written, "row"),
        duration(report.wall_seconds)
    );
    if computed > 0 {
        text += &format!(" and computed {}", counted(computed, "token"));
    }
    text += ".\n";
    secret::hide(&text).into_owned()
}

/// A source for readers of the card: a path of this machine means nothing to them, and may say too much.
fn source(path: &str) -> String {
    if let Some((url, commit)) = hub_store::pinned(path) {
        return format!("{} at {}", cell(&url), cell(&commit));
    }
    if crate::store::is_url(path) {
        return cell(path);
    }
    cell(&Path::new(path).file_name().unwrap_or_default().to_string_lossy())
}

fn repo(repo: &str, is_on_hub: bool) -> String {
    if is_on_hub {
        return cell(repo);
    }
    cell(&Path::new(repo).file_name().unwrap_or_default().to_string_lossy())
}

/// A value as code in a cell of a table.
fn cell(value: &str) -> String {
    let plain = |c: char| if c.is_control() || c == '`' || c == '|' { ' ' } else { c };
    format!("`{}`", value.chars().map(plain).collect::<String>().trim())
}

/// The card with the text about the output in `folder`. A new card also says where the data files are.
pub(super) fn merged(
    card: Option<&str>,
    title: &str,
    folder: &str,
    files: &str,
    text: &str,
) -> String {
    let (begin, end) =
        (format!("<!-- hfauto-pipe: {folder} -->"), format!("<!-- /hfauto-pipe: {folder} -->"));
    let section = format!("{begin}\n{text}{end}");
    let Some(card) = card.filter(|card| !card.trim().is_empty()) else {
        return format!(
            "---\nconfigs:\n- config_name: default\n  data_files: \"{files}\"\nlibrary_name: hfauto-pipe\ntags:\n- \
             hfauto-pipe\n---\n\n# {title}\n\n{section}\n"
        );
    };
    let inside = card.find(&begin).and_then(|start| {
        let length = card[start..].find(&end)? + end.len();
        Some(start..start + length)
    });
    match inside {
        Some(inside) => format!("{}{section}{}", &card[..inside.start], &card[inside.end..]),
        None => format!("{}\n\n{section}\n", card.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let new = merged(None, "reviews", "data", "data/*.parquet", "one\n");
        assert!(new.starts_with(
            "---\nconfigs:\n- config_name: default\n  data_files: \"data/*.parquet\"\n"
        ));
        assert!(new.contains(
            "# reviews\n\n<!-- hfauto-pipe: data -->\none\n<!-- /hfauto-pipe: data -->\n"
        ));
        let again = merged(Some(&new), "x", "data", "y", "two\n");
        assert_eq!(again, new.replace("one\n", "two\n"));
        let foreign = "---\nlicense: mit\n---\n# Mine\n\nText.\n";
        let with = merged(Some(foreign), "x", "data", "y", "one\n");
        assert_eq!(
            with,
            format!("{foreign}\n<!-- hfauto-pipe: data -->\none\n<!-- /hfauto-pipe: data -->\n")
        );
        let other = merged(Some(&with), "x", "more", "y", "three\n");
        assert!(
            other.starts_with(&with) && other.ends_with("three\n<!-- /hfauto-pipe: more -->\n")
        );
        // A marker without its end is text of the owner.
        let cut = "<!-- hfauto-pipe: data -->\nlost";
        assert!(merged(Some(cut), "x", "data", "y", "one\n").starts_with(cut));
    }

    #[test]
    fn a_cell_stays_a_cell() {
        assert_eq!(cell("a|b`c\nd"), "`a b c d`");
    }
}
