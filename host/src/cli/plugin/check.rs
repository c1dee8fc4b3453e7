//! `muster plugin check`: what a daemon would say to a file, without a daemon.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::found::Unfit;
use crate::{
    cli::{CliError, render, shown::Shown},
    plugin::{
        Checker,
        preflight::Refused,
        refusal::Refusal,
        survey::{self, Survey},
    },
};

/// Arguments of `muster plugin check`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The library
    file: PathBuf,
    /// Also show everything that is known about a difference of interfaces
    #[arg(long)]
    verbose: bool,
}

impl Check {
    /// Vets the file, and shows what is in it.
    pub(super) async fn run(self) -> Result<Shown, CliError> {
        let Check { file, verbose } = self;
        let survey = vetted(&file, verbose).await?;
        Ok(Shown::Sentence(described(&survey), survey.to_json(&file)))
    }
}

/// Looks at a file, which a daemon would load.
pub(super) async fn vetted(file: &Path, verbose: bool) -> Result<Survey, Unfit> {
    let headline = |reason: &Refusal| format!("{} would not be loaded: {reason}", file.display());
    let survey = Survey::of(file, &Checker::default()).await.map_err(|refusal| Unfit {
        headline: headline(&refusal),
        details: None,
        report: json!({ "file": file, "loadable": false, "reason": refusal.to_string() }),
    })?;
    match &survey.verdict {
        Ok(_) => Ok(survey),
        Err(Refused { refusal, details }) => Err(Unfit {
            headline: headline(refusal),
            details: details.clone().filter(|_| verbose),
            report: survey.to_json(file),
        }),
    }
}

/// A plugin that is loaded, for people.
fn described(survey: &Survey) -> String {
    let Ok(plugin) = &survey.verdict else { return String::new() };
    let or_nothing = |items: &[String]| if items.is_empty() { render::NOTHING.to_owned() } else { items.join(", ") };
    let needed = survey.facts.as_ref().map(|facts| or_nothing(&facts.needed)).unwrap_or_default();
    let rows = [
        ("plugin", format!("{} {}", plugin.name, plugin.version)),
        ("interface", format!("muster-plugin-api {}, of which this host has {}", plugin.api, survey::host_version())),
        ("compiler", plugin.compiler.clone()),
        ("size", format!("{} bytes", survey.size)),
        ("sha256", survey.hash.to_string()),
        ("needs", needed),
        ("exports", or_nothing(&survey.exports)),
    ];
    let mut text = render::table(&["", ""], rows.into_iter().map(|(title, text)| vec![title.to_owned(), text]));
    text = text.trim_start().to_owned();
    let header = ["MODULE", "VERSION", "ROLES", "SCHEDULE", "DEADLINE", "ALIASES", "NEEDS"];
    let modules = plugin.modules.iter().map(|module| {
        let roles: Vec<String> = module.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
        let deadline = module.deadline_ms.map(|ms| format!("{:?}", std::time::Duration::from_millis(ms)));
        vec![
            module.id.clone(),
            module.version.clone(),
            roles.join(","),
            survey::schedule(module).unwrap_or_else(|| render::NOTHING.to_owned()),
            deadline.unwrap_or_else(|| render::NOTHING.to_owned()),
            or_nothing(&module.aliases),
            or_nothing(&module.needs),
        ]
    });
    text.push_str(&format!("\n\n{}\n", render::table(&header, modules)));
    for concern in &survey.concerns {
        text.push_str(&format!("\nwarning: {concern}"));
    }
    text.push_str(match survey.concerns.is_empty() {
        true => "\nA daemon loads it, and nothing was found that would keep it in memory afterwards.",
        false => "\nA daemon loads it.",
    });
    text
}
