//! Everything that is printed. Standard output for what was asked for, standard error for the rest.

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Table, presets};
use serde_json::Value;

use super::CliError;

/// What stands where there is nothing.
pub(super) const NOTHING: &str = "-";

/// Prints the result of a command.
pub(super) fn output(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !text.is_empty() {
        writeln!(out, "{text}")?;
    }
    out.flush()
}

/// Prints the line by which others know that a daemon is ready. A daemon whose standard output is closed goes on.
pub(super) fn ready(line: &str) {
    drop(output(line));
}

/// Prints a line, or several, of a command that goes on.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    output(text).map_err(CliError::Output)
}

/// Prints a table anew: on a terminal in place of the one before.
pub(super) fn screen(title: &str, table: &str) -> Result<(), CliError> {
    let terminal = io::stdout().is_terminal();
    let (clear, title) = if terminal { ("\u{1b}[H\u{1b}[2J", format!("{title}\n\n")) } else { ("", String::new()) };
    output(&format!("{clear}{title}{table}")).map_err(CliError::Output)
}

/// Asks a question, and returns the answer.
pub(super) fn ask(question: &str) -> io::Result<String> {
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Says what is waited for, on a terminal only, and wipes it away in the end.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { terminal: io::stderr().is_terminal() }
    }

    /// Nobody misses what cannot be shown.
    pub(super) fn show(&self, what: &str) {
        if self.terminal {
            drop(write!(io::stderr(), "\r\u{1b}[K{} …", printable(what)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            drop(write!(io::stderr(), "\r\u{1b}[K"));
        }
    }
}

/// For what prints as it goes.
pub(super) fn stdout() -> impl Write + Send {
    io::stdout()
}

/// Whether colours may be used on standard error.
pub(super) fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a picture of what is wrong, as it was drawn, and what to do about it.
pub(super) fn picture(picture: &str, hint: Option<&str>) -> io::Result<()> {
    let mut err = io::stderr().lock();
    writeln!(err, "{picture}")?;
    hint.map_or(Ok(()), |hint| writeln!(err, "\nhint: {hint}"))
}

/// Prints why a command failed, down to the first cause, and what to do about it.
pub(super) fn error(error: &dyn Error, hint: Option<&str>) -> io::Result<()> {
    let mut err = io::stderr().lock();
    let (red, bold, off) = if colours() { ("\u{1b}[31m", "\u{1b}[1m", "\u{1b}[0m") } else { ("", "", "") };
    writeln!(err, "{red}error:{off} {}", chain(error))?;
    match hint {
        Some(hint) => writeln!(err, "{bold}hint:{off} {hint}"),
        None => Ok(()),
    }
}

/// An error and its causes, in one sentence.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Columns of text, without lines around them: easy to read, and to cut.
pub(super) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows.map(|row| row.iter().map(|text| printable(text)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A value in a table.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON for people.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}")
}

/// Text that came from elsewhere, with everything escaped that would command the terminal.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { out.extend(letter.escape_default()) } else { out.push(letter) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes_and_cannot_command_the_terminal() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reach \u{1b}[2Jh:1")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("refused"));
        assert_eq!(chain(&error), "cannot reach \\u{1b}[2Jh:1: refused");
    }
}
