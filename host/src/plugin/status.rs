//! What is known about plugins, for people and programs: published by the supervisor, read by anybody.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use muster_plugin_api::PluginManifest;
use serde::Serialize;
use serde_json::{Value, json};

use super::{handover::Outcome, history::History, lifecycle::State, preflight::Refused, settle::ContentHash};
use crate::{
    ids::Generation,
    modules::{
        calls::Figures,
        metrics::Metrics,
        presence::{Hang, Presence},
    },
    worker,
};

/// One file in the plugin directory.
#[derive(Debug, Clone)]
pub(crate) struct FileStatus {
    /// Name of the file, with `.so`.
    pub(crate) file: Arc<str>,
    pub(crate) state: State,
    pub(crate) since: SystemTime,
    /// Why its content is not served; also set beside a generation that goes on running.
    pub(crate) refused: Option<Refused>,
    /// The handler that does not return.
    pub(crate) hang: Option<Hang>,
    /// No other content is loaded.
    pub(crate) pinned: Option<Pinned>,
    /// What is served is on probation.
    pub(crate) probation: Option<OnProbation>,
    pub(crate) history: History,
    /// What is served.
    pub(crate) serving: Option<Serving>,
    /// What was served last, while something of it is left.
    pub(crate) last: Option<Serving>,
    /// What is about to be served, or was refused after it had been looked into.
    pub(crate) candidate: Option<(Step, Content)>,
    /// The content that was refused.
    pub(crate) refused_content: Option<ContentHash>,
    /// Older generations that have not ended what they had begun.
    pub(crate) draining: Vec<Generation>,
    /// Older generations that are gone, but whose libraries are still mapped.
    pub(crate) still_mapped: Vec<StillMapped>,
}

/// A content of the file, and what it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) generation: Generation,
    pub(crate) hash: ContentHash,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    pub(crate) manifest: Arc<PluginManifest>,
}

/// How far a content has come that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// It is created and started, beside what is served.
    Starting,
    /// It waits for the state of what it replaces.
    HandingOver,
    /// It is not served.
    Refused,
}

/// A generation that is served.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) generation: Generation,
    pub(crate) hash: ContentHash,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    pub(crate) manifest: Arc<PluginManifest>,
    pub(crate) since: SystemTime,
    pub(crate) figures: Arc<Figures>,
    pub(crate) presence: Arc<Presence>,
    /// What its modules measure.
    pub(crate) metrics: Arc<Metrics>,
    /// Of a plugin in a process of its own.
    pub(crate) worker: Option<Arc<worker::Figures>>,
    /// What it was given of the state of the one before.
    pub(crate) handover: Option<Outcome>,
}

/// A content that is not to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) hash: ContentHash,
    /// The file has another by now.
    pub(crate) ignored: bool,
}

/// What is kept while its successor is on probation.
#[derive(Debug, Clone)]
pub(crate) struct OnProbation {
    pub(crate) kept: Generation,
    pub(crate) hash: ContentHash,
    pub(crate) version: String,
    /// How much longer.
    pub(crate) left: Duration,
}

/// A generation that is gone, but whose library is still mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StillMapped {
    pub(crate) generation: Generation,
    pub(crate) reason: String,
    pub(crate) bytes: u64,
    pub(crate) since: SystemTime,
}

impl FileStatus {
    /// The name that configuration and people use: that of the file without `.so`.
    pub(crate) fn name(&self) -> &str {
        self.file.strip_suffix(".so").unwrap_or(&self.file)
    }

    /// Why it is in this state, if that is not as it should be.
    pub(crate) fn reason(&self) -> Option<String> {
        let refused = || self.refused.as_ref().map(|refused| refused.refusal.to_string());
        let ignored = || {
            self.pinned
                .filter(|pinned| pinned.ignored)
                .map(|_| "the file has changed, and is not loaded while the plugin is pinned".to_owned())
        };
        self.hang.as_ref().map(Hang::to_string).or_else(ignored).or_else(refused)
    }

    /// Everything, as `muster plugin list -o json` shows it. Times are seconds since 1970, counters are of this moment.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({
            "name": self.name(),
            "file": &*self.file,
            "state": self.state,
            "since": seconds(self.since),
            "reason": self.reason(),
            "details": self.refused.as_ref().and_then(|refused| refused.details.clone()),
            "pinned": self.pinned.is_some(),
            "pinnedHash": self.pinned.map(|pinned| pinned.hash.to_string()),
            "probation": self.probation.as_ref().map(OnProbation::to_json),
            "history": self.history.to_json(),
            "draining": self.draining.iter().map(|generation| generation.0).collect::<Vec<_>>(),
            "refusedHash": self.refused_content.map(|hash| hash.to_string()),
            "candidate": self.candidate.as_ref().map(|(step, content)| {
                let mut json = content.to_json();
                json["step"] = json!(step);
                json
            }),
            "last": self.last.as_ref().map(Serving::to_json),
            "stillMapped": self.still_mapped.iter().map(StillMapped::to_json).collect::<Vec<_>>(),
        });
        if let (Some(serving), Some(fields)) = (&self.serving, json.as_object_mut()) {
            fields.extend(serving.to_json().as_object().cloned().unwrap_or_default());
        }
        json
    }
}

impl Serving {
    fn to_json(&self) -> Value {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let Serving { generation, hash, size, manifest, .. } = self.clone();
        let mut json = Content { generation, hash, size, manifest }.to_json();
        let of_generation = json!({
            "loadedAt": seconds(self.since),
            "handover": self.handover.as_ref().map(Outcome::to_string),
            "calls": count(&self.figures.calls),
            "handled": count(&self.figures.handled),
            "p50Ms": milliseconds(self.figures.latency.quantile(0.5)),
            "p99Ms": milliseconds(self.figures.latency.quantile(0.99)),
            "errors": count(&self.figures.errors),
            "panics": count(&self.figures.panics),
            "timeouts": count(&self.figures.timeouts),
            "unclaimedReplies": count(&self.figures.unclaimed),
            "ticksSkipped": count(&self.figures.ticks_skipped),
            "metrics": self.metrics.to_json(),
            "isolation": if self.worker.is_some() { "process" } else { "thread" },
            "worker": self.worker.as_ref().map(|worker| json!({
                "pid": worker.pid(),
                "deaths": count(&worker.deaths),
                "restarts": count(&worker.restarts),
                "limits": worker.in_force(),
            })),
            "cpuMs": self.worker.as_ref().map_or_else(|| self.presence.cpu_time(), |worker| worker.cpu_time()).map(|time| time.as_millis() as u64),
            "insideHandlerMs": self.presence.inside_for().map(|time| time.as_millis() as u64),
        });
        if let (Some(fields), Some(more)) = (json.as_object_mut(), of_generation.as_object()) {
            fields.extend(more.clone());
        }
        json
    }
}

impl Content {
    fn to_json(&self) -> Value {
        let Content { generation, hash, size, manifest } = self;
        let modules: Vec<Value> = manifest
            .modules
            .iter()
            .map(|module| {
                json!({ "id": module.id, "aliases": module.aliases, "version": module.version, "roles": module.roles,
                        "needs": module.needs, "stateSchema": module.state })
            })
            .collect();
        json!({
            "generation": generation.0,
            "hash": hash.to_string(),
            "size": size,
            "version": manifest.version,
            "api": manifest.api,
            "compiler": manifest.compiler,
            "modules": modules,
        })
    }
}

impl OnProbation {
    fn to_json(&self) -> Value {
        json!({
            "keptGeneration": self.kept.0,
            "keptHash": self.hash.to_string(),
            "keptVersion": self.version,
            "leftMs": self.left.as_millis() as u64,
        })
    }
}

impl StillMapped {
    fn to_json(&self) -> Value {
        json!({
            "generation": self.generation.0,
            "reason": self.reason,
            "bytes": self.bytes,
            "since": seconds(self.since),
        })
    }
}

/// To a hundredth, as people read them.
fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| (time.as_secs_f64() * 1e5).round() / 100.0)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
