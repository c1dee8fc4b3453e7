//! A server in Rust with its monitor inside.
//!
//! ```sh
//! cargo run --release --example embedded -- 127.0.0.1:3005 target/plugins
//! ```
//! It registers as `embedded-1`, counts how often it was greeted, and ends when the master orders it to.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to its terminal")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster::{
    config::{MonitorConfig, Sources},
    monitor::{Application, Ask, EmbeddedMonitor, Event, Saying, serve_as_child},
};
use serde_json::json;

/// What the server is about.
#[derive(Default)]
struct Greeter {
    greetings: AtomicU64,
}

impl Application for Greeter {
    fn ask(&self, ask: Ask) -> Saying {
        let said = match ask {
            Ask::Get { key } if key == "greetings" => Some(Ok(json!(self.greetings.load(Ordering::Relaxed)))),
            Ask::Enable { key } if key == "greeting" => {
                self.greetings.fetch_add(1, Ordering::Relaxed);
                Some(Ok(json!(true)))
            }
            Ask::Set { key, .. } if key == "greetings" => Some(Err("greetings are counted, not set".to_owned())),
            // Everything else the monitor keeps.
            Ask::Get { .. } | Ask::Set { .. } | Ask::Enable { .. } | Ask::Disable { .. } => None,
        };
        Box::pin(std::future::ready(said))
    }

    fn on_event(&self, event: &Event) {
        eprintln!("told: {}", serde_json::to_string(event).unwrap_or_default());
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    serve_as_child();
    let mut words = std::env::args().skip(1);
    let sources = Sources::new()
        .flag("the first word", "monitor.master", words.next())
        .flag("the second word", "plugins.dir", words.next())
        .set(vec!["monitor.id=embedded-1".to_owned(), "monitor.type=test".to_owned()])
        .set(words.collect());
    let config = MonitorConfig::load(sources)?;
    let monitor = EmbeddedMonitor::start(config, Arc::new(Greeter::default())).await?;
    monitor.publish_settings(json!({ "language": "en" }).as_object().cloned().unwrap_or_default());
    monitor.publish_connections(json!({ "totalConnCount": 2, "loginedCount": 1 }));
    println!("ready");
    monitor.stopped().await;
    // The server's own clean-up would be here.
    tokio::time::timeout(Duration::from_secs(10), monitor.shutdown()).await?;
    Ok(())
}
