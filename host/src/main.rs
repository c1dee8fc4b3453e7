//! The one binary.
use muster::config::{MasterConfig, MonitorConfig, Sources};
use std::path::Path;
fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let cmd = arguments.remove(0);
    if cmd == "preflight" {
        muster::preflight_child(Path::new(&arguments[0]));
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("debug").with_ansi(false).init();
    let mut s = Sources::new();
    let mut sets = vec![];
    let mut infos = vec![];
    let mut it = arguments.into_iter();
    while let Some(f) = it.next() {
        let v = it.next();
        s = match f.as_str() {
            "--listen" => s.flag("--listen", "master.listen", v),
            "--config-dir" => s.flag("--config-dir", "config_dir", v),
            "--state-dir" => s.flag("--state-dir", "state_dir", v),
            "--env" => s.flag("--env", "env", v),
            "--plugins" => s.flag("--plugins", "plugins.dir", v),
            "--master" => s.flag("--master", "monitor.master", v),
            "--id" => s.flag("--id", "monitor.id", v),
            "--type" => s.flag("--type", "monitor.type", v),
            "--config" => s.file(v.map(Into::into)),
            "--token" => s.flag("--token", "monitor.token", v),
            "--set" => {
                sets.extend(v);
                s
            }
            "--info" => {
                infos.extend(v);
                s
            }
            _ => panic!("{f}"),
        };
    }
    let s = s.set(sets).info(infos);
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let r = rt.block_on(async {
        if cmd == "master" {
            muster::daemon::run_master(MasterConfig::load(s).map_err(|e| println!("{e}")).unwrap(), |a| {
                println!("muster master listening on {a}")
            })
            .await
        } else {
            let c = MonitorConfig::load(s).unwrap();
            let id = c.id.to_string();
            muster::daemon::run_monitor(c, move || println!("muster monitor {id}")).await
        }
    });
    if let Err(e) = r {
        eprintln!("error: {e}");
        std::process::exit(1);
    }
}
