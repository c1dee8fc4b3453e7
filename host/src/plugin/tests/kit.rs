//! A supervisor over a directory of its own, and what one does with it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_plugin_api::{RequestError, Role};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    ids::{ConnId, ModuleId},
    modules::{
        Modules, Rejected,
        call::{Call, ClientIdentity, OwnedOutcome, Responder, Source},
        services::{Asker, Operation, Services},
    },
    plugin::{Checker, Config, FileStatus, Supervisor, lifecycle::State},
};

/// By this name the test harness finds the child's body.
pub(super) const CHILD: &str = "plugin::tests::preflight_child";

/// Nothing that is waited for takes this long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Kit {
    pub(super) modules: Arc<Modules>,
    pub(super) supervisor: Supervisor,
    pub(super) services: Arc<Recorder>,
    pub(super) config: Config,
    root: TempDir,
}

/// Services that note who told them something.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<(Role, String)>>);

struct AsRole(Role, Arc<Recorder>);

impl Kit {
    /// With these files: name and fixture. Everything is settled.
    pub(super) async fn start(files: &[(&str, &str)]) -> Kit {
        Kit::with(files, |_| {}).await
    }

    pub(super) async fn with_options(files: &[(&str, &str)], options: Value) -> Kit {
        Kit::with(files, |config| config.options = Arc::new(move |_, _| options.clone())).await
    }

    pub(super) async fn in_a_directory_that_is_missing() -> Kit {
        let kit = Kit::unsettled(&[], |_| {}, false);
        kit.supervisor.settled().await;
        kit
    }

    pub(super) async fn with(files: &[(&str, &str)], adjust: impl FnOnce(&mut Config)) -> Kit {
        let kit = Kit::unsettled(files, adjust, true);
        kit.supervisor.settled().await;
        kit
    }

    /// With another time after which a request is overdue.
    pub(super) async fn with_deadline(files: &[(&str, &str)], deadline: Duration) -> Kit {
        let kit = Kit::made(files, |_| {}, true, deadline);
        kit.supervisor.settled().await;
        kit
    }

    pub(super) fn unsettled(files: &[(&str, &str)], adjust: impl FnOnce(&mut Config), make: bool) -> Kit {
        Kit::made(files, adjust, make, crate::config::defaults::REQUEST_DEADLINE)
    }

    fn made(files: &[(&str, &str)], adjust: impl FnOnce(&mut Config), make: bool, deadline: Duration) -> Kit {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("plugins");
        if make {
            fs::create_dir(&directory).unwrap();
        }
        for (name, content) in files {
            fs::copy(fixture(content), directory.join(name)).unwrap();
        }
        let services: Arc<Recorder> = Arc::default();
        let roles = [Role::Master, Role::Monitor];
        let mut config = Config {
            directory: Some(directory),
            checker: checker(),
            gone: Duration::from_millis(500),
            rescan: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            // Tests of unloading want to see it at once; those of probation set it.
            probation: Duration::ZERO,
            roles: roles.map(|role| (role, Arc::new(AsRole(role, services.clone())) as Arc<dyn Services>)).to_vec(),
            ..Config::new(root.path().join("state"))
        };
        adjust(&mut config);
        let modules = Arc::new(Modules::new(&[crate::plugin::MODULE], deadline));
        let supervisor = Supervisor::start(config.clone(), modules.clone()).unwrap();
        Kit { modules, supervisor, services, config, root }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.root.path().join("plugins")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Puts a fixture into the directory as careful people do: whole, by a rename.
    pub(super) fn put(&self, name: &str, content: &str) {
        let aside = self.directory().join(format!(".{name}.new"));
        fs::copy(fixture(content), &aside).unwrap();
        fs::rename(aside, self.path(name)).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Lets time pass in which something must *not* happen.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(super) fn status(&self) -> Arc<[FileStatus]> {
        self.supervisor.status().borrow().clone()
    }

    /// Waits for a published state.
    pub(super) async fn until(&self, what: &str, reached: impl Fn(&[FileStatus]) -> bool) -> Arc<[FileStatus]> {
        let mut status = self.supervisor.status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(|files| reached(files))).await;
        match waited {
            Ok(files) => files.unwrap().clone(),
            Err(_) => panic!("not reached: {what}\n{:#?}", self.status()),
        }
    }

    pub(super) async fn until_running(&self, name: &str) {
        self.until(&format!("{name} runs"), |files| file(files, name).is_some_and(|file| file.state == State::Running))
            .await;
    }

    /// Waits until a generation with such a version is served, and no other is left.
    pub(super) async fn until_version(&self, name: &str, version: &str) -> Arc<[FileStatus]> {
        self.until(&format!("{name} has version {version}"), |files| {
            let serving =
                file(files, name).filter(|file| file.draining.is_empty()).and_then(|file| file.serving.as_ref());
            serving.is_some_and(|serving| serving.manifest.version.starts_with(version))
        })
        .await
    }

    /// Waits until the file is refused for a reason with these words in it.
    pub(super) async fn until_refused(&self, name: &str, words: &str) {
        self.until(&format!("{name} is refused: {words}"), |files| {
            file(files, name).is_some_and(|file| reason(file).contains(words) && file.draining.is_empty())
        })
        .await;
    }

    pub(super) async fn ask(&self, module: &str, body: Value) -> OwnedOutcome {
        self.try_ask(module, body).await.unwrap_or_else(|why| panic!("{module} is {why}"))
    }

    pub(super) async fn try_ask(&self, module: &str, body: Value) -> Result<OwnedOutcome, &'static str> {
        let end = self.send(module, body, Duration::from_secs(15))?;
        Ok(tokio::time::timeout(PATIENCE, end).await.expect("every call ends").expect("none is dropped"))
    }

    /// Sends a request, and returns where its end will come.
    pub(super) fn send(
        &self,
        module: &str,
        body: Value,
        within: Duration,
    ) -> Result<oneshot::Receiver<OwnedOutcome>, &'static str> {
        let (responder, end) = oneshot::channel();
        let client = ClientIdentity {
            connection: ConnId(1),
            address: ([127, 0, 0, 1], 1).into(),
            id: "c-1".into(),
            user: "admin".to_owned(),
            level: 1,
        };
        let call = Call {
            source: Source::Client(Arc::new(client)),
            body: Bytes::from(body.to_string()),
            arrived: Instant::now(),
            patience_ms: Some(u32::try_from(within.as_millis()).expect("a short time")),
            responder: Some(Responder::Channel(responder)),
        };
        match self.modules.route(Role::Master, module, call, |_| Ok(())) {
            Ok(()) => Ok(end),
            Err(Rejected::Unknown(_)) => Err("unknown"),
            Err(Rejected::Disabled(_)) => Err("disabled"),
            Err(Rejected::Forbidden(..)) => Err("forbidden"),
            Err(Rejected::Full(_)) => Err("busy"),
            Err(Rejected::Unfit(..)) => Err("unfit"),
        }
    }

    /// The private copy of what `stem` is served from.
    pub(super) fn staged(&self, stem: &str) -> PathBuf {
        let mut found = self.all_staged();
        found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{stem}-")));
        assert_eq!(found.len(), 1, "one copy of {stem}: {found:?}");
        found.remove(0)
    }

    pub(super) fn all_staged(&self) -> Vec<PathBuf> {
        let stages = fs::read_dir(&self.config.stage_parent).unwrap();
        stages.flat_map(|stage| fs::read_dir(stage.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect()
    }

    /// Shuts down; nothing may be left.
    pub(super) async fn end(self) {
        let left = self.supervisor.shutdown(PATIENCE).await;
        assert_eq!(left, Vec::<String>::new());
        let stages = fs::read_dir(&self.config.stage_parent).unwrap().count();
        assert_eq!(stages, 0, "no staging directory stays");
    }
}

pub(super) fn file<'a>(files: &'a [FileStatus], name: &str) -> Option<&'a FileStatus> {
    files.iter().find(|file| &*file.file == name)
}

pub(super) fn reason(file: &FileStatus) -> String {
    file.refused.as_ref().map(|refused| refused.refusal.to_string()).unwrap_or_default()
}

/// An answer without an error.
pub(super) fn served(body: Value) -> OwnedOutcome {
    OwnedOutcome::Answer { error: Bytes::from_static(b"null"), body: Bytes::from(body.to_string()) }
}

/// A library that `make fixtures` has built.
pub(super) fn fixture(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(3).unwrap().join("fixtures").join(format!("{name}.so"));
    assert!(path.exists(), "{} is missing: run `make fixtures` first", path.display());
    path
}

pub(super) fn checker() -> Checker {
    let arguments = ["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"];
    Checker {
        program: std::env::current_exe().unwrap(),
        arguments: arguments.map(Into::into).to_vec(),
        ..Checker::default()
    }
}

pub(super) fn is_mapped(path: &Path) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap())
}

impl Recorder {
    pub(super) fn told(&self) -> Vec<(Role, String)> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(super) async fn told_within(&self, time: Duration, at_least: usize) -> Vec<(Role, String)> {
        let until = Instant::now() + time;
        while self.told().len() < at_least && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let told = self.told();
        assert!(told.len() >= at_least, "only {} in {time:?}", told.len());
        told
    }
}

impl Services for AsRole {
    fn ask(&self, _: &ModuleId, asker: Asker, _: Operation<'_>) {
        asker.fail(RequestError::Refused("not in this test".to_owned()));
    }

    fn tell(&self, module: &ModuleId, _: Operation<'_>) -> i64 {
        self.1.0.lock().unwrap().push((self.0, module.to_string()));
        1
    }

    fn query(&self, _: &ModuleId, _: u32, _: &str, _: &str) -> Vec<u8> {
        Vec::new()
    }
}
