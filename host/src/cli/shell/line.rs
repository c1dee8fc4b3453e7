//! A line of the shell: its words, what they mean, and how they may go on.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use rustyline::{
    Context, Helper,
    completion::{Completer, Pair},
    highlight::Highlighter,
    hint::Hinter,
    validate::Validator,
};

use crate::cli::{
    ask::{Ask, Output},
    complete::server_ids,
};

/// A line.
#[derive(Debug, Parser)]
#[command(
    name = "",
    no_binary_name = true,
    disable_version_flag = true,
    help_template = "{subcommands}\n\n`help COMMAND` tells more of one."
)]
pub(super) struct Line {
    /// How to show the answer
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(super) output: Option<Output>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What a line wants: a command that asks the master, or something of the shell's own.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[command(flatten)]
    Ask(Ask),
    /// Mean this server from now on, or `all`
    Use {
        /// The server
        #[arg(add = server_ids())]
        server: String,
    },
    /// Leave
    #[command(alias = "exit")]
    Quit,
}

impl Line {
    /// Reads a line; what is hidden on the command line because it is there twice is shown here.
    pub(super) fn try_read(words: &[String]) -> Result<Line, clap::Error> {
        let mut command = Line::command();
        let hidden: Vec<String> = command
            .get_subcommands()
            .filter(|verb| verb.is_hide_set())
            .map(|verb| verb.get_name().to_owned())
            .collect();
        for name in hidden {
            command = command.mut_subcommand(name, |verb| verb.hide(false));
        }
        let words = if words == ["?"] { &["help".to_owned()][..] } else { words };
        let matches = command.try_get_matches_from(words)?;
        clap::FromArgMatches::from_arg_matches(&matches)
    }
}

/// The words of a line; `None` if a quote is not closed. An expression to `run` stays as it is, quotes included.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let line = line.trim();
    match line.strip_prefix("run ") {
        Some(expression) if !expression.trim_start().starts_with('-') => {
            Some(vec!["run".to_owned(), "--".to_owned(), expression.trim().to_owned()])
        }
        _ => shlex::split(line),
    }
}

/// Completes by the same definition that reads the line.
#[derive(Debug)]
pub(super) struct Completion;

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let begun = &line[..at];
        let start = begun.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let mut words: Vec<OsString> = begun[..start].split_whitespace().map(OsString::from).collect();
        let index = words.len();
        words.push(begun[start..].into());
        // What cannot be completed is typed.
        let candidates = clap_complete::engine::complete(&mut Line::command(), words, index, None).unwrap_or_default();
        let pair = |candidate: &clap_complete::CompletionCandidate| {
            let word = candidate.get_value().to_string_lossy().into_owned();
            Pair { display: word.clone(), replacement: word }
        };
        Ok((start, candidates.iter().filter(|candidate| !candidate.is_hide_set()).map(pair).collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;
    use crate::cli::complete::Known;

    fn completed(line: &str) -> Vec<String> {
        let history = DefaultHistory::new();
        let (_, pairs) = Completion.complete(line, line.len(), &Context::new(&history)).unwrap();
        pairs.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn the_verbs_of_pomelo_cli_are_understood() {
        for line in [
            "show servers",
            "show connections",
            "show logins",
            "show modules",
            "show status",
            "show config connector",
            "show proxy",
            "show handler",
            "show components",
            "show settings",
            "use chat-server-1",
            "use all",
            "get name",
            "set name value",
            "enable module systemInfo",
            "enable app systemMonitor",
            "disable module systemInfo",
            "disable app systemMonitor",
            "run app.get(\"sessionService\").getSessionsCount()",
            "exec xxx.js",
            "stop area-server-1 area-server-2",
            "stop all",
            "add host=127.0.0.1 port=3451 serverType=chat id=chat-server-2",
            "addCron id=8 serverId=chat-server-1 'time=0 30 10 * * *' action=chatCron.send",
            "removeCron id=8 serverType=chat",
            "blacklist 192.168.10.120 192.168.18.60",
            "dump cpu /home/xxx/test 5 --force",
            "dump memory /home/xxx/test",
            "kill",
            "quit",
        ] {
            if let Err(error) = Line::try_read(&words(line).unwrap()) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn an_expression_keeps_its_quotes_and_other_words_lose_theirs() {
        assert_eq!(words("run app.get(\"a b\")").unwrap(), ["run", "--", "app.get(\"a b\")"]);
        assert_eq!(words("addCron 'time=0 * *' id=8").unwrap(), ["addCron", "time=0 * *", "id=8"]);
        assert_eq!(words("get 'open"), None);
    }

    #[test]
    fn commands_and_what_the_fleet_has_are_completed() {
        Known { servers: vec!["chat-server-1".into(), "gate-server-1".into()], ..Known::default() }.publish();
        assert!(completed("sh").contains(&"show".to_owned()));
        assert!(completed("show s").contains(&"servers".to_owned()));
        assert_eq!(completed("use ch"), ["chat-server-1"]);
        assert_eq!(completed("server stop gate-server-1 ch"), ["chat-server-1"]);
        assert_eq!(completed("show status --server g"), ["gate-server-1"]);
    }
}
