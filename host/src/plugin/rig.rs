//! What `benches/` measure: generations of a plugin, without a daemon around them. No part of the interface.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use muster_plugin_api::{RequestError, Role};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot};

use super::{
    Checker, Config, ContentHash,
    generation::{Candidate, Running},
};
use crate::{
    batch,
    ids::{ConnId, Generation, ModuleId},
    modules::{
        Modules,
        call::{Call, ClientIdentity, OwnedOutcome, Responder, Source},
        services::{Asker, Operation, Services},
    },
    worker,
};

/// Two generations of one file, one of which is served.
#[derive(Debug)]
pub struct Rig {
    runtime: Runtime,
    modules: Modules,
    generations: Vec<Running>,
    served: usize,
    module: String,
    client: Arc<ClientIdentity>,
    _copies: TempDir,
}

/// Where the plugin of a [`Rig`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// In this process.
    Thread,
    /// In a worker.
    Process,
}

/// A role that does nothing for its modules.
struct Nothing;

impl Rig {
    /// Starts two generations of a library that has one module. `program` is the daemon's.
    ///
    /// # Errors
    /// When there is no such library, or it is refused.
    pub fn start(program: &Path, library: &Path, isolation: Isolation) -> io::Result<Rig> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let copies = tempfile::tempdir()?;
        let mut config = Config::new(copies.path().to_owned());
        config.roles = vec![(Role::Master, Arc::new(Nothing))];
        config.checker.program = program.to_owned();
        config.launcher.program = program.to_owned();
        config.isolation = Arc::new(move |_| (isolation == Isolation::Process).then(worker::Limits::default));
        let modules = Modules::new(&[], config.turn);
        let start = |number: u64| -> io::Result<Running> {
            let path = copies.path().join(format!("bench-{number}.so"));
            fs::copy(library, &path)?;
            runtime.block_on(async {
                let checked = config.checker.check(&path).await.map_err(|refused| refusal(&refused.refusal))?;
                let candidate = Candidate {
                    stem: "bench".to_owned(),
                    generation: Generation(number),
                    hash: ContentHash::of_file(&path)?,
                    size: fs::metadata(&path)?.len(),
                    path,
                    manifest: Arc::new(checked.manifest),
                    facts: checked.facts,
                    moved: false,
                };
                let started = candidate.start(&config, &modules, || {}).await;
                started.map_err(|not_started| refusal(&not_started.refused.refusal))
            })
        };
        let generations = vec![start(1)?, start(2)?];
        let module = generations[0].actor.instances[0].module.to_string();
        let client = ClientIdentity {
            connection: ConnId(1),
            address: ([127, 0, 0, 1], 1).into(),
            id: "bench".into(),
            user: "admin".to_owned(),
            level: 1,
        };
        let client = Arc::new(client);
        let mut rig = Rig { runtime, modules, generations, served: 1, module, client, _copies: copies };
        rig.swap("{}");
        Ok(rig)
    }

    /// Sends so many requests at once, and waits until all are answered.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn call(&self, body: &str, in_flight: usize) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut ends = Vec::with_capacity(in_flight);
        {
            // As a session does that has read them in one go.
            let _batch = (in_flight > 1).then(batch::begin);
            for _ in 0..in_flight {
                let (responder, end) = oneshot::channel();
                let call = Call {
                    source: Source::Client(self.client.clone()),
                    body: body.clone(),
                    arrived: Instant::now(),
                    patience_ms: None,
                    responder: Some(Responder::Channel(responder)),
                };
                let routed = self.modules.route(Role::Master, &self.module, call, |_| Ok(()));
                assert!(routed.is_ok(), "the module is served: {routed:?}");
                ends.push(end);
            }
        }
        self.runtime.block_on(async {
            for end in ends {
                let outcome = end.await;
                assert!(matches!(outcome, Ok(OwnedOutcome::Answer { .. })), "it answers: {outcome:?}");
            }
        });
    }

    /// Serves the other generation, and has it answer one request.
    ///
    /// # Panics
    /// When it does not.
    pub fn swap(&mut self, body: &str) {
        let next = 1 - self.served;
        self.generations[next].actor.mailbox.reopen();
        let installed = self.modules.install(self.generations[next].offer(&"bench.so".into(), 0));
        assert!(installed.is_ok(), "its ids are its own: {installed:?}");
        self.generations[self.served].actor.mailbox.drain();
        self.served = next;
        self.call(body, 1);
    }
}

/// Looks at libraries before they are loaded.
#[derive(Debug)]
pub struct Preflight {
    runtime: Runtime,
    checker: Checker,
    library: PathBuf,
}

impl Preflight {
    /// Of one library. `program` is the daemon's.
    ///
    /// # Errors
    /// When there is no runtime.
    pub fn of(program: &Path, library: &Path) -> io::Result<Preflight> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let checker = Checker { program: program.to_owned(), ..Checker::default() };
        Ok(Preflight { runtime, checker, library: library.to_owned() })
    }

    /// Looks once.
    ///
    /// # Panics
    /// When the library is refused.
    pub fn check(&self) {
        let checked = self.runtime.block_on(self.checker.check(&self.library));
        assert!(checked.is_ok(), "it is a good one: {checked:?}");
    }
}

fn refusal(refusal: &super::refusal::Refusal) -> io::Error {
    io::Error::other(refusal.to_string())
}

impl Services for Nothing {
    fn ask(&self, _: &ModuleId, asker: Asker, _: Operation<'_>) {
        asker.fail(RequestError::Refused("nobody is there".to_owned()));
    }

    fn tell(&self, _: &ModuleId, _: Operation<'_>) -> i64 {
        -1
    }

    fn query(&self, _: &ModuleId, _: u32, _: &str, _: &str) -> Vec<u8> {
        Vec::new()
    }
}
