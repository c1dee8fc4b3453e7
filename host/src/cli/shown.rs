//! What a command has to show, and the five ways to show it.

use serde_json::Value;

use super::{
    ask::Output,
    outcome::{self, Outcome},
    render::{self, cell},
};

/// What came of a command.
#[derive(Debug)]
pub(super) enum Shown {
    /// Text as it is, however it is to be shown.
    Text(String),
    /// A sentence, and the same for programs.
    Sentence(String, Value),
    /// Any JSON.
    Body(Value),
    /// Things of a kind.
    Listing(Listing),
    /// What became of each server.
    Outcomes(Vec<Outcome>),
}

/// Things of a kind, each a row.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Titles; the first column is the name.
    pub(super) header: Vec<&'static str>,
    /// Titles of further columns for wide terminals.
    pub(super) wide: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
    /// What programs get, if it is not the list of the items.
    pub(super) json: Option<Value>,
    /// What stands below the table.
    pub(super) below: String,
}

/// A thing, and its cells.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) item: Value,
    pub(super) cells: Vec<String>,
}

impl Shown {
    /// The text to print; empty for nothing.
    pub(super) fn render(&self, output: Output) -> String {
        match self {
            Shown::Text(text) => text.clone(),
            Shown::Sentence(text, json) => match output {
                Output::Json | Output::Jsonl => json.to_string(),
                Output::Table | Output::Wide | Output::Name => text.clone(),
            },
            Shown::Body(body) => of_body(body, output),
            Shown::Listing(listing) => listing.render(output),
            Shown::Outcomes(outcomes) => outcome::listing(outcomes).render(output),
        }
    }

    /// 0 if all that was ordered came about.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Shown::Outcomes(outcomes) => outcome::exit_code(outcomes),
            Shown::Text(_) | Shown::Sentence(..) | Shown::Body(_) | Shown::Listing(_) => 0,
        }
    }
}

fn of_body(body: &Value, output: Output) -> String {
    let items = |one: &dyn Fn(&Value) -> String| match body {
        Value::Array(items) => items.iter().map(one).collect::<Vec<_>>().join("\n"),
        other => one(other),
    };
    match output {
        Output::Table | Output::Wide => match body {
            Value::String(text) => text.lines().map(render::printable).collect::<Vec<_>>().join("\n"),
            other => render::json(other),
        },
        Output::Json => body.to_string(),
        Output::Jsonl => items(&Value::to_string),
        Output::Name => match body {
            Value::Object(fields) => fields.keys().map(|key| render::printable(key)).collect::<Vec<_>>().join("\n"),
            _ => items(&|item| render::printable(&cell(item))),
        },
    }
}

impl Listing {
    fn render(&self, output: Output) -> String {
        let titles = self.header.len();
        let cells = |count: usize| self.rows.iter().map(move |row| row.cells.iter().take(count).cloned().collect());
        match output {
            Output::Table => format!("{}{}", render::table(&self.header, cells(titles)), self.below),
            Output::Wide => {
                let header: Vec<_> = self.header.iter().chain(&self.wide).copied().collect();
                format!("{}{}", render::table(&header, cells(header.len())), self.below)
            }
            Output::Json => match &self.json {
                Some(json) => json.to_string(),
                None => Value::Array(self.rows.iter().map(|row| row.item.clone()).collect()).to_string(),
            },
            Output::Jsonl => self.rows.iter().map(|row| row.item.to_string()).collect::<Vec<_>>().join("\n"),
            Output::Name => {
                let name = |row: &Row| row.cells.first().map(|name| render::printable(name)).unwrap_or_default();
                self.rows.iter().map(name).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listing_is_shown_in_five_ways() {
        let row = |name: &str| Row {
            item: json!({ "id": name }),
            cells: vec![name.to_owned(), "x".to_owned(), "y".to_owned()],
        };
        let listing =
            Listing { header: vec!["ID", "A"], wide: vec!["B"], rows: vec![row("a"), row("b")], ..Listing::default() };
        let shown = Shown::Listing(listing);
        for (output, expected) in [
            (Output::Table, "ID  A\na   x\nb   x"),
            (Output::Wide, "ID  A  B\na   x  y\nb   x  y"),
            (Output::Json, r#"[{"id":"a"},{"id":"b"}]"#),
            (Output::Jsonl, "{\"id\":\"a\"}\n{\"id\":\"b\"}"),
            (Output::Name, "a\nb"),
        ] {
            assert_eq!(shown.render(output), expected);
        }
    }

    #[test]
    fn texts_of_servers_cannot_command_the_terminal() {
        let body = Shown::Body(json!("a\u{1b}[2J\nb"));
        assert_eq!(body.render(Output::Table), "a\\u{1b}[2J\nb");
        assert_eq!(body.render(Output::Name), "a\\u{1b}[2J\\nb");
    }
}
