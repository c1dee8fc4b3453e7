//! Programs as a person uses them: on a terminal.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::Child;

use crate::deadline::ANSWER;
use crate::output::Output;

/// A program on a terminal of its own. It is killed when dropped.
pub struct Terminal {
    terminal: File,
    screen: Output,
    /// How much of the screen earlier steps have looked at.
    seen: usize,
    child: Child,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.screen.show_if_panicking();
    }
}

/// pomelo-cli.
#[derive(Debug)]
pub struct PomeloCli;

impl PomeloCli {
    /// Logs in as a user whose password is the user's name, and waits for the prompt.
    ///
    /// `context` is the server that commands apply to, `all` at first. A person chooses it with `use`, which
    /// needs the module watchServer on the master.
    pub async fn start(master: SocketAddr, user: &str, context: &str) -> Terminal {
        let mut cli = PomeloCli::open(master, user, user, context);
        cli.wait_for(&format!("{user}@pomelo : {context}>")).await;
        cli
    }

    /// Starts it and does not wait for anything.
    pub fn open(master: SocketAddr, user: &str, password: &str, context: &str) -> Terminal {
        let mut command = crate::node::command(&crate::node::script("pomelo-cli.js"));
        command.arg(context).args(["-h", &master.ip().to_string(), "-P", &master.port().to_string()]);
        command.args(["-u", user, "-p", password]);
        Terminal::open("pomelo-cli", command)
    }
}

impl Terminal {
    /// Starts a program and does not wait for anything.
    pub fn open(name: &str, mut command: tokio::process::Command) -> Terminal {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("the system has pseudo terminals");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a new pseudo terminal can be unlocked");
        let path = ptsname(&controller, Vec::new()).expect("a pseudo terminal has a name");
        let side = rustix::fs::open(path.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let side = side.expect("the other side of a pseudo terminal can be opened");
        let size = Winsize { ws_row: 50, ws_col: 250, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).expect("a pseudo terminal has a size");
        let another = || side.try_clone().expect("a descriptor can be duplicated");

        command.env("TERM", "xterm").kill_on_drop(true);
        command.stdin(another()).stdout(another()).stderr(another());
        let child = command.spawn().expect("the program can be started");
        // Else the terminal would outlive the program, and the reader below with it.
        drop((command, side));

        let screen = Output::new(name);
        let sink = screen.clone();
        let terminal = File::from(controller);
        let mut reader = terminal.try_clone().expect("a descriptor can be duplicated");
        // A thread, since a terminal cannot be polled like a socket; it ends with the program.
        std::thread::spawn(move || {
            let mut pending = Vec::new();
            let mut chunk = [0_u8; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                pending.extend_from_slice(&chunk[..count]);
                sink.push(&mut pending);
            }
        });
        Terminal { terminal, screen, seen: 0, child }
    }

    /// Waits for the program to end by itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let status = crate::deadline::within("the end of the program", ANSWER, self.child.wait()).await;
        status.expect("a child can be waited for")
    }

    /// Types without pressing return.
    pub fn type_text(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("a terminal can be typed on");
    }

    /// Types a line and presses return.
    pub fn type_line(&mut self, line: &str) {
        self.type_text(&format!("{line}\r"));
    }

    /// Waits until `needle` has appeared after what earlier calls have seen; returns what stood before it.
    pub async fn wait_for(&mut self, needle: &str) -> String {
        let from = self.seen;
        let find = |text: &str| {
            let place = text[from..].find(needle)?;
            Some((text[from..from + place].to_owned(), from + place + needle.len()))
        };
        let (before, seen) = self.screen.find(&format!("`{needle}` (after byte {from})"), ANSWER, find).await;
        self.seen = seen;
        before
    }

    /// Types a line, and `yes` if `question` is asked, and waits for `answer`.
    pub async fn run(&mut self, line: &str, question: Option<&str>, answer: &str) -> String {
        self.type_line(line);
        if let Some(question) = question {
            self.wait_for(question).await;
            self.type_line("yes");
        }
        self.wait_for(answer).await
    }
}
