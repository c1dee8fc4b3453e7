//! Real programs, as small as they can be.

use std::{fs, path::Path};

use procfs::process::Process;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Other programs share the machine.
const WITHIN: Duration = Duration::from_secs(30);

struct Stage {
    dir: TempDir,
    store: Arc<Store>,
    care: Care,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let patience = Patience {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
            long_life: WITHIN,
            deaths: 3,
            window: WITHIN,
        };
        let logs = Logs { dir: dir.path().join("logs"), size: 1 << 20, files: 1 };
        let care = Care { restart: Restart::OnFailure, patience, grace: WITHIN, orphans: Orphans::Adopt, logs };
        Stage { dir, store: Arc::default(), care }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn shell(&self, script: &str) -> Program {
        let command = ["sh", "-c", script].map(str::to_owned).into();
        let launch = Launch { command, dir: Some(self.dir.path().to_owned()), ..Launch::default() };
        self.start(launch).await.unwrap()
    }

    async fn start(&self, launch: Launch) -> io::Result<Program> {
        Program::start("chat-1", launch, self.care.clone(), self.store.clone(), self.dir.path()).await
    }

    /// The text of a file, once a program has written a whole line to it.
    async fn line(&self, name: &str) -> String {
        let path = self.path(name);
        let line = || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'));
        eventually(line).await.trim_end().to_owned()
    }
}

async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WITHIN, found).await.expect("it came in time")
}

async fn until(program: &Program, wanted: impl FnMut(&Status) -> bool) -> Status {
    let mut status = program.status();
    let found = timeout(WITHIN, status.wait_for(wanted)).await;
    found.expect("it came in time").expect("the keeper lives").clone()
}

/// Whether a process runs. One that ended and was not waited for does not.
fn runs(pid: &str) -> bool {
    let process = Process::new(pid.parse().unwrap());
    process.and_then(|process| process.stat()).is_ok_and(|stat| stat.state != 'Z')
}

fn is_up(path: &Path) -> bool {
    path.exists()
}

#[tokio::test]
async fn a_program_that_fails_is_started_again_and_its_last_words_are_kept() {
    let stage = Stage::new();
    let script = "echo begin; if [ -e once ]; then exec sleep 600; fi; touch once; echo 'out of eggs' >&2; exit 3";
    let program = stage.shell(script).await;
    let status = until(&program, |status| status.starts == 2).await;
    let end = status.last_end.expect("it ended once");
    assert_eq!((end.how, end.stderr), (How::Exit(3), vec!["out of eggs".to_owned()]));
    assert!(is_up(&stage.path("logs/chat-1.stdout.log")));
    program.end(None).await;
}

#[tokio::test]
async fn a_program_that_ends_well_is_not_started_again() {
    let stage = Stage::new();
    let program = stage.shell("exit 0").await;
    let status = until(&program, |status| status.state == State::Ended { ordered: false }).await;
    assert_eq!((status.starts, status.last_end.map(|end| end.how)), (1, Some(How::Exit(0))));
}

#[tokio::test]
async fn a_crash_loop_is_given_up_until_somebody_orders_a_restart() {
    let stage = Stage::new();
    let program = stage.shell("if [ -e healed ]; then exec sleep 600; fi; kill -SEGV $$").await;
    let status = until(&program, |status| matches!(status.state, State::GivenUp { .. })).await;
    assert_eq!(status.starts, 4, "three deaths are forgiven");
    assert_eq!(status.last_end.as_ref().map(|end| end.how), Some(How::Signal(11)));
    let json = status.to_json();
    assert_eq!((&json["state"], &json["lastEnd"]["signal"]), (&"given up".into(), &11.into()));
    assert!(json["why"].as_str().unwrap().contains("SIGSEGV"), "{json}");

    fs::write(stage.path("healed"), "").unwrap();
    let pid = program.restart().await.unwrap();
    assert_eq!(program.status().borrow().pid(), Some(pid));
    program.end(None).await;
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_the_grace() {
    let stage = Stage::new();
    let program = stage.shell("trap '' TERM; echo $$ > up; while :; do sleep 0.05; done").await;
    let pid = stage.line("up").await;
    program.end(Some(Duration::from_millis(50))).await;
    assert!(!runs(&pid));
    let status = program.status().borrow().clone();
    assert_eq!(status.last_end.map(|end| end.how), Some(How::Signal(9)));
    assert_eq!(status.state, State::Ended { ordered: true });
}

#[tokio::test]
async fn who_obeys_sigterm_has_its_grace_to_clean_up() {
    let stage = Stage::new();
    let program = stage.shell("trap 'echo clean > cleaned; exit 7' TERM; touch up; while :; do sleep 0.05; done").await;
    eventually(|| is_up(&stage.path("up")).then_some(())).await;
    program.end(Some(WITHIN)).await;
    assert_eq!(stage.line("cleaned").await, "clean");
    assert_eq!(program.status().borrow().last_end.as_ref().map(|end| end.how), Some(How::Exit(7)));
}

#[tokio::test]
async fn grandchildren_end_with_their_program_also_those_that_left_its_group() {
    let stage = Stage::new();
    let script = "sh -c 'echo $$ > near; exec sleep 600' & setsid sh -c 'echo $$ > far; exec sleep 600' & wait";
    let program = stage.shell(script).await;
    let (near, far) = (stage.line("near").await, stage.line("far").await);
    assert!(runs(&near) && runs(&far));
    program.end(Some(WITHIN)).await;
    assert!(!runs(&near) && !runs(&far));
}

#[tokio::test]
async fn what_a_crashed_program_left_is_ended_before_the_next_one_starts() {
    let stage = Stage::new();
    let script = "if [ -e left ]; then exec sleep 600; fi; sh -c 'echo $$ > left; exec sleep 600' &
        while [ ! -s left ]; do sleep 0.01; done; exit 1";
    let program = stage.shell(script).await;
    until(&program, |status| status.starts == 2).await;
    assert!(!runs(&stage.line("left").await));
    program.end(None).await;
}

#[tokio::test]
async fn a_program_whose_supervisor_is_gone_is_found_and_adopted() {
    let stage = Stage::new();
    let script = "echo $$ >> started; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let first = stage.shell(script).await;
    let pid = stage.line("started").await;
    drop(first);
    let second = stage.shell(script).await;
    let status = second.status().borrow().clone();
    assert_eq!(status.pid().map(|pid| pid.to_string()), Some(pid.clone()));
    assert!(matches!(status.state, State::Running { adopted: true, .. }));
    second.end(Some(WITHIN)).await;
    assert!(!runs(&pid));
    assert_eq!(stage.line("started").await, pid, "it was started once");
    assert_eq!(second.status().borrow().last_end.as_ref().map(|end| end.how), Some(How::Unknown));
}

#[tokio::test]
async fn a_program_whose_supervisor_is_gone_is_ended_if_so_configured() {
    let mut stage = Stage::new();
    let first = stage.shell("echo $$ > first; exec sleep 600").await;
    let pid = stage.line("first").await;
    drop(first);
    stage.care.orphans = Orphans::End;
    let second = stage.shell("exec sleep 600").await;
    assert!(!runs(&pid));
    assert_ne!(second.status().borrow().pid().map(|pid| pid.to_string()), Some(pid));
    second.end(None).await;
}

#[tokio::test]
async fn what_was_started_and_not_written_down_is_found_by_its_mark_and_ended() {
    let mut stage = Stage::new();
    let first = stage.shell("echo $$ > first; exec sleep 600").await;
    let pid = stage.line("first").await;
    drop(first);
    // As if it had been killed in between.
    stage.store = Arc::default();
    let second = stage.shell("exec sleep 600").await;
    assert!(!runs(&pid));
    second.end(None).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let stage = Stage::new();
    let launch = Launch { command: vec!["/nonexistent/server".into()], ..Launch::default() };
    assert_eq!(stage.start(launch).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_program_is_bound_to_its_processors_and_this_thread_is_not() {
    let stage = Stage::new();
    let before = rustix::thread::sched_getaffinity(None).unwrap();
    let script = "grep Cpus_allowed_list /proc/self/status > cpus; exec sleep 600";
    let command = ["sh", "-c", script].map(str::to_owned).into();
    let cpus = Some("0".parse().unwrap());
    let launch = Launch { command, dir: Some(stage.dir.path().to_owned()), cpus, ..Launch::default() };
    let program = stage.start(launch).await.unwrap();
    assert_eq!(stage.line("cpus").await.split_whitespace().last(), Some("0"));
    assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    program.end(None).await;
}

#[tokio::test]
async fn a_signal_is_passed_on() {
    let stage = Stage::new();
    let program = stage.shell("trap 'echo yes > told' USR1; touch up; while :; do sleep 0.05; done").await;
    eventually(|| is_up(&stage.path("up")).then_some(())).await;
    program.signal(Signal::USR1).await;
    assert_eq!(stage.line("told").await, "yes");
    program.end(None).await;
}
