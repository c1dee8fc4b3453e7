//! Faults shown where they are in the file.

use std::fs;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::{Fault, Origin};
use crate::{
    cli::render,
    config::{Faults, Place, Problem},
};

/// All faults, one below the other, in the order of the file; those that are in none come last.
pub(super) fn all(faults: &Faults) -> String {
    let mut ordered: Vec<&Fault> = faults.iter().collect();
    ordered.sort_by_key(|fault| match &fault.origin {
        Some(Origin::File { line: Some(line), .. }) => *line,
        _ => usize::MAX,
    });
    ordered.into_iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// A fault for programs.
pub(super) fn json(fault: &Fault) -> Value {
    let (path, position) = match &fault.origin {
        Some(Origin::File { path, line, place }) => {
            let text = fs::read_to_string(path).unwrap_or_default();
            let at = place.as_ref().map(|place| position(&text, span(fault, place).start));
            (Some(path.display().to_string()), at.or(line.map(|line| (line, 1))))
        }
        _ => (None, None),
    };
    json!({
        "key": fault.key, "file": path, "line": position.map(|(line, _)| line), "column": position.map(|(_, column)| column),
        "text": fault.to_string(), "meant": fault.meant(),
    })
}

fn one(fault: &Fault) -> String {
    if let Some(Origin::File { path, place: Some(place), .. }) = &fault.origin
        && let Ok(text) = fs::read_to_string(path)
        // The file may have changed since it was read.
        && text.get(span(fault, place)).is_some()
    {
        let title = match &fault.key {
            Some(key) => format!("{}: {}", render::printable(key), what(fault)),
            None => what(fault),
        };
        let path = path.display().to_string();
        let label = fault.meant().map(|meant| format!("did you mean `{meant}`?"));
        let annotation = AnnotationKind::Primary.span(span(fault, place)).label(label);
        let snippet = Snippet::source(&text).path(&path).annotation(annotation);
        let renderer = if render::colours() { Renderer::styled() } else { Renderer::plain() };
        return renderer.render(&[Level::ERROR.primary_title(&title).element(snippet)]);
    }
    format!("error: {fault}")
}

fn what(fault: &Fault) -> String {
    match &fault.problem {
        Problem::Expected { expected, found } => format!("expected {expected}, found {found}"),
        Problem::Unknown { known } if known.is_empty() => "no such setting".to_owned(),
        Problem::Unknown { known } => format!("no such setting; there are: {}", known.join(", ")),
        Problem::Missing { give } => format!("missing; give it as {give}"),
        Problem::Unreadable(reason) => reason.clone(),
    }
}

/// What is wrong: a name that nobody knows, or a value.
fn span(fault: &Fault, place: &Place) -> std::ops::Range<usize> {
    match fault.problem {
        Problem::Unknown { .. } => place.key.clone(),
        Problem::Expected { .. } | Problem::Missing { .. } | Problem::Unreadable(_) => place.value.clone(),
    }
}

/// Line and column, counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count())
}
