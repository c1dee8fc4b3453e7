//! One generation from staged file to unloaded library: the steps, in order, each bounded in time.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use muster_plugin_api::{Manifest, PluginManifest, Role, Schedule};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Config,
    elf::Facts,
    handover::Outcome,
    preflight::Refused,
    refusal::Refusal,
    settle::ContentHash,
    status::{Content, Serving},
    unload::{Leftover, unload},
};
use crate::{
    ids::{Generation, ModuleId},
    modules::{
        Modules, Offer,
        actor::{Actor, Instance, Place, options_json, role_name},
    },
    worker::{self, Plan},
};

/// How long the `stop` of all instances may take. They have been idle, or were given [`Config::drain`], before.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A file that has passed: staged, and not loaded yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) stem: String,
    pub(crate) generation: Generation,
    /// The staged copy.
    pub(crate) path: PathBuf,
    pub(crate) hash: ContentHash,
    pub(crate) size: u64,
    pub(crate) manifest: Arc<PluginManifest>,
    pub(crate) facts: Facts,
    /// It runs in a worker, whatever the configuration says: too much of the ones before is still mapped.
    pub(crate) moved: bool,
}

/// A generation whose instances have started.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) actor: Actor,
    pub(crate) hash: ContentHash,
    size: u64,
    since: SystemTime,
    manifest: Arc<PluginManifest>,
    facts: Facts,
    schedules: Vec<Option<Schedule>>,
    /// See [`Candidate::moved`].
    pub(crate) moved: bool,
    /// What it was given of the state of the one before.
    pub(crate) handover: Option<Outcome>,
}

/// A generation that did not start, and what is left of it.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) refused: Refused,
    pub(crate) leftover: Option<Box<Leftover>>,
}

impl Candidate {
    /// Opens the library on a thread of its own, creates the plugin, and starts its instances, one after the other.
    ///
    /// # Errors
    /// When one of them does not start; what was begun is undone.
    pub(crate) async fn start(
        self,
        config: &Config,
        modules: &Modules,
        created: impl FnOnce(),
    ) -> Result<Running, NotStarted> {
        let deadline = Instant::now() + config.start;
        let too_late = || Refused::from(Refusal::StartTimeout(config.start));
        let (instances, options) = self.instances(config);
        let schedules = instances
            .iter()
            .zip(&options)
            .map(|(instance, options)| Schedule::effective(self.described(&instance.module)?.schedule, options))
            .collect();
        let limits = (config.isolation)(&self.stem).or(self.moved.then(worker::Limits::default));
        let place = limits.map_or(Place::Thread, |limits| {
            Place::Process(Plan {
                launcher: config.launcher.clone(),
                limits,
                patience: config.turn,
                hash: self.hash,
                quarantine: config.quarantine.clone(),
            })
        });
        let spawned = Actor::spawn(&self.stem, self.generation, self.path.clone(), instances, place);
        let (actor, ready) = spawned.map_err(|error| NotStarted {
            refused: Refusal::NotCreated(format!("there can be no further thread ({error})")).into(),
            leftover: None,
        })?;
        modules.watch(&actor.mailbox);
        let outcome = match timeout_at(deadline, ready).await {
            Ok(Ok(Ok(()))) => {
                created();
                timeout_at(deadline, start_instances(&actor, &options)).await.unwrap_or_else(|_| Err(too_late()))
            }
            Ok(Ok(Err(reason))) => Err(Refusal::NotCreated(reason).into()),
            Ok(Err(_)) => Err(Refusal::NotCreated("its thread ended".to_owned()).into()),
            Err(_) => Err(too_late()),
        };
        match outcome {
            Ok(()) => Ok(Running {
                actor,
                hash: self.hash,
                size: self.size,
                since: SystemTime::now(),
                manifest: self.manifest,
                facts: self.facts,
                schedules,
                moved: self.moved,
                handover: None,
            }),
            Err(refused) => {
                let leftover = end(actor, self.facts, Duration::ZERO, "it was not started").await.err();
                Err(NotStarted { refused, leftover })
            }
        }
    }

    /// What is told about it.
    pub(crate) fn content(&self) -> Content {
        let Candidate { generation, hash, size, ref manifest, .. } = *self;
        Content { generation, hash, size, manifest: manifest.clone() }
    }

    /// The modules it would serve in these roles.
    pub(crate) fn served(&self, roles: impl Iterator<Item = Role>) -> impl Iterator<Item = (Role, &Manifest)> {
        roles.flat_map(|role| {
            let modules = self.manifest.modules.iter().filter(move |module| module.roles.contains(&role));
            modules.map(move |module| (role, module))
        })
    }

    fn instances(&self, config: &Config) -> (Arc<[Instance]>, Vec<serde_json::Value>) {
        let wanted = config.roles.iter().flat_map(|(role, services)| {
            let modules = self.manifest.modules.iter().filter(|module| module.roles.contains(role));
            modules.map(move |module| (module, *role, services))
        });
        let instances: Arc<[Instance]> = wanted
            .zip(1..)
            .map(|((module, role, services), number)| Instance {
                number,
                module: ModuleId::from(module.id.as_str()),
                role,
                deadline: module.deadline_ms.map(Duration::from_millis),
                services: services.clone(),
            })
            .collect();
        let options = instances.iter().map(|instance| (config.options)(&self.stem, instance.module.as_str())).collect();
        (instances, options)
    }

    fn described(&self, id: &ModuleId) -> Option<&Manifest> {
        self.manifest.modules.iter().find(|module| module.id == id.as_str())
    }
}

async fn start_instances(actor: &Actor, options: &[serde_json::Value]) -> Result<(), Refused> {
    for (instance, options) in actor.instances.iter().zip(options) {
        let started = actor.mailbox.start(instance.number, options_json(options)).await;
        let started = started.unwrap_or_else(|_| Err("its thread ended".to_owned()));
        started.map_err(|reason| Refusal::NotStarted {
            module: instance.module.to_string(),
            role: role_name(instance.role).to_owned(),
            reason,
        })?;
    }
    Ok(())
}

impl Running {
    /// What the registry is to serve.
    pub(crate) fn offer(&self, owner: &Arc<str>, place: u64) -> Offer {
        let described = |instance: &Instance| -> Option<(Role, Arc<Manifest>)> {
            let manifest = self.manifest.modules.iter().find(|module| module.id == instance.module.as_str())?;
            Some((instance.role, Arc::new(manifest.clone())))
        };
        let modules = self.actor.instances.iter().zip(&self.schedules).filter_map(|(instance, schedule)| {
            let (role, manifest) = described(instance)?;
            Some((instance.number, role, manifest, *schedule))
        });
        Offer { owner: owner.clone(), place, mailbox: self.actor.mailbox.clone(), modules: modules.collect() }
    }

    /// The schema version of the state that a module of it hands over, if it does.
    pub(crate) fn state_of(&self, id: &ModuleId) -> Option<u32> {
        self.manifest.modules.iter().find(|module| module.id == id.as_str())?.state
    }

    /// What the library says of itself.
    pub(crate) fn manifest(&self) -> Arc<PluginManifest> {
        self.manifest.clone()
    }

    /// Of its package.
    pub(crate) fn version(&self) -> String {
        self.manifest.version.clone()
    }

    /// What is told about it.
    pub(crate) fn status(&self) -> Serving {
        Serving {
            generation: self.actor.generation,
            hash: self.hash,
            size: self.size,
            manifest: self.manifest.clone(),
            since: self.since,
            figures: self.actor.mailbox.calls().figures().clone(),
            presence: self.actor.presence.clone(),
            worker: self.actor.worker.clone(),
            metrics: self.actor.metrics.clone(),
            handover: self.handover.clone(),
        }
    }

    /// Gives what waits for this one, and is not routed to any more, to the generation that is: first of all, if that one
    /// holds back what comes. What is for a module that only this one has stays.
    pub(crate) fn give_back(&self, to: &Running) {
        self.actor.mailbox.drain();
        let back = self.actor.mailbox.take_back(|number| {
            let from = Instance::of(&self.actor.instances, number)?;
            let to = to.actor.instances.iter().find(|to| (&to.module, to.role) == (&from.module, from.role))?;
            Some(to.number)
        });
        to.actor.mailbox.resume(back);
    }

    /// Ends a generation that is not routed to any more: it finishes what it has begun, within `drain`, and is unloaded.
    ///
    /// # Errors
    /// What is left of it.
    pub(crate) async fn retire(self, drain: Duration, why: &str) -> Result<(), Box<Leftover>> {
        end(self.actor, self.facts, drain, why).await
    }
}

async fn end(actor: Actor, facts: Facts, drain: Duration, why: &str) -> Result<(), Box<Leftover>> {
    actor.mailbox.drain();
    let calls = actor.mailbox.calls().clone();
    if !drain.is_zero() && timeout(drain, calls.idle()).await.is_err() {
        tracing::warn!(generation = actor.generation.0, open = calls.open(), "calls are cut off: their time is up");
    }
    calls.end_all(why);
    let stops: Vec<_> = actor.instances.iter().map(|instance| actor.mailbox.stop(instance.number)).collect();
    let stopped = timeout(STOP_TIMEOUT, async {
        for stop in stops {
            // Lost or failed, it is dropped next.
            drop(stop.await);
        }
    });
    if stopped.await.is_err() {
        tracing::warn!(generation = actor.generation.0, "a module did not stop in time");
    }
    let outcome = unload(actor, facts).await;
    calls.end_all(why);
    outcome
}
