//! A control group for each worker, where the daemon's own group may be divided: its limits hold for the worker and all that
//! it starts, and all of that goes when it goes.
//!
//! ```text
//!   …/muster.service          given to the daemon: cgroup v2, by `Delegate=yes` of systemd or by whoever made it
//!     ├── daemon              the daemon, and whatever else it starts: no group has both processes and controllers
//!     └── worker-4711-1       memory.max, cpu.max, pids.max
//! ```
//! Where anything of this is missing, a worker has its rlimits alone.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use procfs::process::Process;

use super::Limits;

/// Where the daemon itself is, in the group that it was given.
const LEAF: &str = "daemon";
/// Of the names of the workers' groups; the pid of the daemon and a number follow.
const WORKER: &str = "worker-";
/// There where systemd is, and nowhere else (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// `cpu.max` is a time in each such period, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;
const SWAP: &str = "memory.swap.max";
/// How long processes that were killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks at a group that is about to be empty.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A group that the daemon may divide.
#[derive(Debug)]
pub(crate) struct Delegation {
    group: PathBuf,
    controllers: Controllers,
    /// Of the group of the next worker.
    next: AtomicU64,
}

/// What can be limited in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Controllers {
    pub(crate) memory: bool,
    pub(crate) cpu: bool,
    pub(crate) pids: bool,
}

/// The group of one worker.
#[derive(Debug)]
pub(super) struct Group(Grouped);

/// What is told of it.
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    pub(super) directory: PathBuf,
    pub(super) controllers: Controllers,
}

/// Why there are no groups for workers.
#[derive(Debug, thiserror::Error)]
enum Absent {
    #[error("the daemon is in no group of a unified hierarchy (cgroup v2)")]
    Hierarchy,
    #[error("the daemon is in the root of the hierarchy, which is nobody's to divide")]
    Root,
    #[error("{} was not given to the daemon (in its unit: Delegate=yes)", .0.display())]
    NotGiven(PathBuf),
    #[error("there are other processes in {}: start the daemon in a group of its own, which has no others", .0.display())]
    NotAlone(PathBuf),
    #[error("{} cannot be divided: {error}", group.display())]
    Refused { group: PathBuf, error: io::Error },
}

/// What workers get their groups from, if they get any; else that is told, once. `needed`: limits are configured that nothing
/// but a group has. To be called before anything is started from here: this process moves into a group below its own, in which
/// it has to be the only one.
pub(crate) fn for_workers(needed: bool) -> Option<Arc<Delegation>> {
    match Delegation::take() {
        Ok(delegation) => {
            let Delegation { group, controllers, next: _ } = &delegation;
            tracing::info!(group = %group.display(), ?controllers, "each worker gets a control group of its own");
            return Some(Arc::new(delegation));
        }
        Err(absent) if needed => {
            tracing::warn!("limits.cpu_percent and limits.tasks have no effect, there are no control groups: {absent}");
        }
        // Somebody meant it to be.
        Err(absent @ Absent::NotAlone(_)) => tracing::info!("workers have rlimits and no control groups: {absent}"),
        Err(absent) => tracing::debug!("workers have rlimits and no control groups: {absent}"),
    }
    None
}

// === impl Delegation ===

impl Delegation {
    /// Takes over the group that this process is in, if it may be divided.
    fn take() -> Result<Delegation, Absent> {
        let own = own_group().ok_or(Absent::Hierarchy)?;
        // Every group but the root has one.
        if !own.join("cgroup.type").exists() {
            return Err(Absent::Root);
        }
        if !Path::new(SYSTEMD).exists() {
            return Delegation::of(own);
        }
        // Its own, or the one above (`DelegateSubgroup=`).
        let given = own.ancestors().take(2).find(|group| is_marked(group)).map(Path::to_owned);
        Delegation::of(given.ok_or(Absent::NotGiven(own))?)
    }

    fn of(group: PathBuf) -> Result<Delegation, Absent> {
        let refused = |error| Absent::Refused { group: group.clone(), error };
        let controllers = Controllers::of(&fs::read_to_string(group.join("cgroup.controllers")).map_err(refused)?);
        let me = std::process::id().to_string();
        let inside = fs::read_to_string(group.join("cgroup.procs")).map_err(refused)?;
        if inside.lines().any(|other| other != me) {
            return Err(Absent::NotAlone(group));
        }
        if !inside.is_empty() {
            let leaf = group.join(LEAF);
            make(&leaf).and_then(|()| put(&leaf, "cgroup.procs", &me)).map_err(refused)?;
        }
        put(&group, "cgroup.subtree_control", &controllers.enable()).map_err(refused)?;
        let delegation = Delegation { group, controllers, next: AtomicU64::new(1) };
        delegation.sweep();
        Ok(delegation)
    }

    /// Makes the group of another worker, with its limits. The worker itself enters it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn divide(&self, limits: &Limits) -> io::Result<Group> {
        let name = format!("{WORKER}{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let group = Group(Grouped { directory: self.group.join(name), controllers: self.controllers });
        make(group.directory())?;
        for (file, value) in settings(limits, self.controllers) {
            match put(group.directory(), file, &value) {
                // There is no such file where swap is not counted.
                Err(error) if error.kind() == ErrorKind::NotFound && file == SWAP => {}
                other => other?,
            }
        }
        Ok(group)
    }

    /// Removes what daemons that were killed have left: their workers went with them.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.group).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(WORKER)) {
                // One that is not empty stays.
                fs::remove_dir(entry.path()).unwrap_or(());
            }
        }
    }
}

// === impl Controllers ===

impl Controllers {
    /// Those of a list as the kernel writes it.
    fn of(list: &str) -> Controllers {
        let has = |name| list.split_whitespace().any(|word| word == name);
        Controllers { memory: has("memory"), cpu: has("cpu"), pids: has("pids") }
    }

    /// What has the groups below have them.
    fn enable(self) -> String {
        let names = [("+memory", self.memory), ("+cpu", self.cpu), ("+pids", self.pids)];
        names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    }
}

// === impl Group ===

impl Group {
    pub(super) fn directory(&self) -> &Path {
        &self.0.directory
    }

    pub(super) fn shown(&self) -> Grouped {
        self.0.clone()
    }

    /// Why the worker died, if that was because of its memory.
    pub(super) fn fate(&self) -> Option<String> {
        let events = fs::read_to_string(self.directory().join("memory.events")).unwrap_or_default();
        let starved = events.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|kills| kills != "0");
        starved.then(|| "its worker was killed: it had taken more memory than its control group may have".to_owned())
    }
}

impl Drop for Group {
    /// Ends what is left in it, and removes it.
    fn drop(&mut self) {
        // Kernels before 5.14 have no such file; then only what is of the worker's process group has been killed.
        put(self.directory(), "cgroup.kill", "1").unwrap_or(());
        let until = Instant::now() + GONE_WITHIN;
        while let Err(error) = fs::remove_dir(self.directory()) {
            if error.kind() != ErrorKind::ResourceBusy || Instant::now() >= until {
                tracing::warn!(group = %self.directory().display(), %error, "the control group of a worker stays behind");
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Puts this process into the group.
///
/// # Errors
/// Those of the file system.
pub(super) fn enter(group: &Path) -> io::Result<()> {
    put(group, "cgroup.procs", "0")
}

/// The directory of the group that this process is in.
fn own_group() -> Option<PathBuf> {
    let me = Process::myself().ok()?;
    let group = me.cgroups().ok()?.into_iter().find(|group| group.hierarchy == 0)?;
    let mounts = me.mountinfo().ok()?;
    let mount = mounts.iter().find(|mount| mount.fs_type == "cgroup2")?;
    below(&mount.mount_point, &mount.root, &group.pathname)
}

/// Where a group is, if what is mounted is the part of the hierarchy that it is in.
fn below(mount_point: &Path, root: &str, group: &str) -> Option<PathBuf> {
    let inner = Path::new(group).strip_prefix(root).ok()?;
    Some(mount_point.join(inner))
}

/// What is written to which file, for these limits and whatever of it is there.
fn settings(limits: &Limits, controllers: Controllers) -> Vec<(&'static str, String)> {
    let Limits { memory, cpu_percent, tasks, cpu_seconds: _, files: _ } = *limits;
    let mut settings = Vec::new();
    if let Some(memory) = memory.filter(|_| controllers.memory) {
        settings.push(("memory.max", memory.to_string()));
        // Or it would go on in there.
        settings.push((SWAP, "0".to_owned()));
        // With one process of a plugin, the others are of no use.
        settings.push(("memory.oom.group", "1".to_owned()));
    }
    if let Some(percent) = cpu_percent.filter(|_| controllers.cpu) {
        settings.push(("cpu.max", format!("{} {PERIOD}", percent.saturating_mul(PERIOD / 100))));
    }
    if let Some(tasks) = tasks.filter(|_| controllers.pids) {
        settings.push(("pids.max", tasks.to_string()));
    }
    settings
}

/// Whether systemd says that the group was given away.
fn is_marked(group: &Path) -> bool {
    let mut value = [0; 1];
    ["trusted.delegate", "user.delegate"]
        .into_iter()
        .any(|name| rustix::fs::getxattr(group, name, &mut value[..]).is_ok() && value == *b"1")
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Writes to a file that the kernel has made.
fn put(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    let written = fs::File::options()
        .write(true)
        .open(directory.join(file))
        .and_then(|mut open| open.write_all(value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files that the kernel would make in a group.
    fn group(below: &Path, controllers: &str, inside: &str) -> PathBuf {
        let group = below.join("given");
        fs::create_dir_all(group.join(LEAF)).unwrap();
        for (file, content) in [
            ("cgroup.controllers", controllers),
            ("cgroup.procs", inside),
            ("cgroup.subtree_control", ""),
            ("daemon/cgroup.procs", ""),
        ] {
            fs::write(group.join(file), content).unwrap();
        }
        group
    }

    #[test]
    fn a_group_is_found_below_the_part_of_the_hierarchy_that_is_mounted() {
        let at = |root, group| below(Path::new("/sys/fs/cgroup"), root, group);
        assert_eq!(at("/", "/"), Some("/sys/fs/cgroup".into()));
        assert_eq!(at("/", "/system.slice/muster.service"), Some("/sys/fs/cgroup/system.slice/muster.service".into()));
        assert_eq!(at("/kubepods/pod1", "/kubepods/pod1/a"), Some("/sys/fs/cgroup/a".into()));
        assert_eq!(at("/kubepods/pod1", "/system.slice"), None, "somewhere else");
    }

    #[test]
    fn limits_are_set_as_far_as_there_are_controllers() {
        let limits = Limits { memory: Some(1 << 20), cpu_percent: Some(150), tasks: Some(7), ..Limits::default() };
        let all = Controllers::of("cpuset cpu io memory hugetlb pids");
        assert_eq!(all.enable(), "+memory +cpu +pids");
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("cpu.max", "150000 100000"),
            ("pids.max", "7"),
        ];
        assert_eq!(settings(&limits, all), expected.map(|(file, value)| (file, value.to_owned())));
        assert_eq!(settings(&limits, Controllers::of("cpuset pids")), [("pids.max", "7".to_owned())]);
        assert_eq!(settings(&Limits::default(), all), []);
    }

    #[test]
    fn a_group_is_divided_by_the_one_process_in_it_which_moves_out_of_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let me = std::process::id().to_string();
        let given = group(directory.path(), "cpu pids", &me);
        fs::create_dir(given.join("worker-1-1")).unwrap();
        let delegation = Delegation::of(given.clone()).unwrap();
        assert_eq!(fs::read_to_string(given.join("daemon/cgroup.procs")).unwrap(), me);
        assert_eq!(fs::read_to_string(given.join("cgroup.subtree_control")).unwrap(), "+cpu +pids");
        assert!(!given.join("worker-1-1").exists(), "of a daemon that is no more");
        let group = delegation.divide(&Limits { memory: Some(1), ..Limits::default() }).unwrap();
        assert!(group.directory().starts_with(&given) && group.directory().exists());
        let (directory, events) = (group.directory().to_owned(), group.directory().join("memory.events"));
        assert_eq!(group.fate(), None);
        fs::write(&events, "low 0\noom 1\noom_kill 2\n").unwrap();
        assert!(group.fate().is_some_and(|why| why.contains("more memory")));
        // The kernel does that.
        fs::remove_file(events).unwrap();
        drop(group);
        assert!(!directory.exists());
    }

    #[test]
    fn a_group_with_others_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let crowded = group(directory.path(), "memory", &format!("1\n{}\n", std::process::id()));
        let absent = Delegation::of(crowded.clone()).unwrap_err();
        assert!(matches!(absent, Absent::NotAlone(_)), "{absent}");
        assert_eq!(fs::read_to_string(crowded.join("cgroup.subtree_control")).unwrap(), "");
    }
}
