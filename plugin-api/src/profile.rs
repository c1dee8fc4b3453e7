//! Profiles of the process that is watched, in both roles.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    abi::{ask, tell},
    app::App,
    message::{Answer, Body, RequestError},
};

/// The form of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileFormat {
    /// A flamegraph: an SVG that a browser shows.
    Svg,
    /// What `pprof` reads (`profile.proto`, compressed by gzip), in base64.
    Pprof,
    /// `{"head": …, "bottomUpHead": …}`: trees of `{"functionName", "selfSamplesCount", "totalSamplesCount", "children"}`, as
    /// JSON.
    Tree,
}

/// Where a process spent its processor time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuProfile {
    /// Process id.
    pub pid: u32,
    /// How often a running thread was seen: 99 times a second for each.
    pub samples: u64,
    /// How long was looked, in milliseconds.
    pub duration_ms: u64,
    /// The form of `data`.
    pub format: ProfileFormat,
    /// The profile.
    pub data: String,
}

impl App {
    /// Takes a CPU profile of the process that is watched, for `duration` (at most a minute) or until
    /// [`App::end_profile`]. The host takes one at a time. It is taken from outside, so a plugin may be unloaded meanwhile.
    ///
    /// ```no_run
    /// # use muster_plugin_api::{App, ProfileFormat, RequestError};
    /// # async fn example(app: App) -> Result<String, RequestError> {
    /// let profile = app.profile_cpu(std::time::Duration::from_secs(10), ProfileFormat::Svg).await?;
    /// # Ok(profile.data)
    /// # }
    /// ```
    ///
    /// # Errors
    /// When one is being taken, or the process cannot be looked into; the text says what to do.
    pub async fn profile_cpu(&self, duration: Duration, format: ProfileFormat) -> Result<CpuProfile, RequestError> {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match self.agent().ask(ask::PROFILE, "", "", 0, &json!({ "durationMs": ms, "format": format }).into()).await? {
            Answer::Reply { body, .. } => Ok(body.parse()?),
            Answer::Silence => Err(RequestError::Refused("the host gave no profile".to_owned())),
        }
    }

    /// Ends the profile that is being taken, which is then as long as it is. False if there is none.
    pub fn end_profile(&self) -> bool {
        self.agent().tell(tell::END_PROFILE, "", "", 0, &Body::ABSENT)
    }
}
