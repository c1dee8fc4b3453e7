//! What an old generation holds goes to the new one: asked for when no call changes it any more, then taken or not.
//!
//! The supervisor has routed to the new generation before, whose mailbox holds everything back; it lets go, or gives back,
//! when this is over (`supervisor/handing.rs`). The state is JSON that nobody here looks into.

use std::{fmt, sync::Arc, time::Duration};

use muster_plugin_api::Role;
use tokio::time::timeout;

use super::{generation::Running, refusal::Refusal};
use crate::{
    ids::{Generation, ModuleId},
    modules::{actor::role_name, mailbox::Mailbox},
};

/// What is to be handed over, from which generation to which.
#[derive(Debug)]
pub(crate) struct Handover {
    from: Generation,
    old: Arc<Mailbox>,
    new: Arc<Mailbox>,
    pairs: Vec<Pair>,
    /// See [`Config::handover`](super::Config::handover).
    within: Duration,
    /// See [`Config::state_limit`](super::Config::state_limit).
    limit: usize,
    /// What is known to be lost before anybody is asked.
    lost: Vec<String>,
}

/// A module in a role that both generations have.
#[derive(Debug)]
struct Pair {
    module: ModuleId,
    role: Role,
    /// Numbers of the instances.
    from: u32,
    to: u32,
    /// Of the state that the old one exports.
    schema: u32,
}

/// What became of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    from: Generation,
    /// Instances that go on with what they were given, and how many bytes that was.
    taken: usize,
    bytes: usize,
    /// What was not handed over, a sentence each.
    lost: Vec<String>,
}

// === impl Handover ===

impl Handover {
    /// What two generations of a file have to hand over, by what their modules say of themselves.
    pub(crate) fn between(old: &Running, new: &Running, within: Duration, limit: usize) -> Handover {
        let (mut pairs, mut lost) = (Vec::new(), Vec::new());
        for instance in old.actor.instances.iter() {
            let Some(schema) = old.state_of(&instance.module) else { continue };
            let (module, role) = (instance.module.clone(), instance.role);
            let heir = new.actor.instances.iter().find(|heir| (&heir.module, heir.role) == (&module, role));
            match heir.filter(|_| new.state_of(&module).is_some()) {
                Some(heir) => pairs.push(Pair { module, role, from: instance.number, to: heir.number, schema }),
                None => lost.push(format!("{} takes none in the new version", named(&module, role))),
            }
        }
        let (old, new, from) = (old.actor.mailbox.clone(), new.actor.mailbox.clone(), old.actor.generation);
        Handover { from, old, new, pairs, within, limit, lost }
    }

    /// Whether somebody has to be asked. If not, nobody has to wait.
    pub(crate) fn is_needed(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// What becomes of the state if nobody is asked.
    pub(crate) fn without(self) -> Option<Outcome> {
        let Handover { from, lost, .. } = self;
        (!lost.is_empty()).then_some(Outcome { from, taken: 0, bytes: 0, lost })
    }

    /// Waits until the old generation has ended what it had begun, asks it for its state, and gives that to the new one.
    /// Takes three times [`Config::handover`](super::Config::handover) at most.
    ///
    /// # Errors
    /// When an instance of the new generation does not take it.
    pub(crate) async fn run(self) -> Result<Outcome, Refusal> {
        let Handover { from, old, new, pairs, within, limit, mut lost } = self;
        if let Some(hang) = old.hang() {
            lost.push(hang.to_string());
            return Ok(Outcome { from, taken: 0, bytes: 0, lost });
        }
        let calls = old.calls();
        if timeout(within, calls.idle()).await.is_err() {
            lost.push(match calls.open() {
                1 => "a call goes on in the old generation, and what it changes is not in it".to_owned(),
                open => format!("{open} calls go on in the old generation, and what they change is not in it"),
            });
        }
        // All at once: they share a thread, and so the time.
        let asked: Vec<_> = pairs.iter().map(|pair| old.export(pair.from, within, limit)).collect();
        let mut states = Vec::new();
        for (pair, asked) in pairs.into_iter().zip(asked) {
            match asked.answer().await {
                Ok(Some(state)) => states.push((pair, state)),
                Ok(None) => {}
                Err(why) => lost.push(format!("{} could not export it: {why}", named(&pair.module, pair.role))),
            }
        }
        let given: Vec<_> = states
            .into_iter()
            .map(|(pair, state)| {
                let bytes = state.len();
                (new.import(pair.to, within, pair.schema, state), bytes, pair)
            })
            .collect();
        let (mut taken, mut bytes) = (0, 0);
        for (asked, size, Pair { module, role, schema, .. }) in given {
            match asked.answer().await {
                Ok(Some(_)) => (taken, bytes) = (taken + 1, bytes + size),
                Ok(None) => lost.push(format!("{} starts without it", named(&module, role))),
                Err(reason) => {
                    let (module, role) = (module.to_string(), role_name(role).to_owned());
                    return Err(Refusal::NotImported { module, role, schema, generation: from.0, reason });
                }
            }
        }
        Ok(Outcome { from, taken, bytes, lost })
    }
}

fn named(module: &ModuleId, role: Role) -> String {
    format!("{module} as {}", role_name(role))
}

// === impl Outcome ===

impl Outcome {
    /// What was not handed over; empty if all was.
    pub(crate) fn lost(&self) -> &[String] {
        &self.lost
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { from, taken, bytes, lost } = self;
        match (taken, lost.is_empty()) {
            (0, true) => write!(f, "generation {} had no state to hand over", from.0),
            (0, false) => write!(f, "without the state of generation {}", from.0),
            _ => write!(
                f,
                "with the state of generation {} ({bytes} bytes for {taken} {})",
                from.0,
                if *taken == 1 { "instance" } else { "instances" }
            ),
        }?;
        if lost.is_empty() { Ok(()) } else { write!(f, "; {}", lost.join("; ")) }
    }
}
