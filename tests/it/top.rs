//! `tollgate top`: what it shows, to people and to scripts, and how it leaves the terminal.

use crate::support::eventually::eventually_blocking;
use crate::support::gateway::{TOKEN, command, json_of, stdout, text};
use crate::support::scene::scene;
use crate::support::{Account, Client, Gateway, Simulated, ask, eventually, streamed};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use tokio::sync::watch;

/// Runs it against a gateway.
fn top(gateway: &Gateway, arguments: &[&str]) -> std::process::Command {
    let mut command = command(&[&["top"], arguments].concat());
    command
        .env("TOLLGATE_ADMIN_URL", format!("http://{}", gateway.admin))
        .env("TOLLGATE_METRICS_URL", format!("http://{}", gateway.metrics))
        .env("TOLLGATE_ADMIN_TOKEN", TOKEN);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_get_what_people_see() {
    let provider = Simulated::start();
    let gateway = Gateway::start(&[Account::of(&provider).with("limits: { concurrency: 100 }")]);
    let customer = gateway.customer("1.00");
    let client = Client::h1(&gateway, &customer);
    let failed = client.ask(&ask(&[("status", "500")])).await;
    assert_eq!(failed.status, 503);
    let listed = async |count: usize| {
        let is = || (gateway.admin_get("/failures").1.as_array().unwrap().len() == count).then_some(());
        eventually("failures are listed", is).await;
    };
    listed(1).await;
    client.with_key("tg_live_nobody").ask(&ask(&[])).await.is_error(401, Some("invalid_api_key"));
    listed(2).await;

    let (stop, stopped) = watch::channel(false);
    let load = tokio::spawn(async move {
        while !*stopped.borrow() {
            assert_eq!(client.ask(&streamed(ask(&[("pace_ms", "5")]))).await.status, 200);
        }
    });
    let run = |arguments: &[&str]| -> Output {
        tokio::task::block_in_place(|| top(&gateway, arguments).output().unwrap())
    };
    let seen = json_of(&run(&["--once", "--json"]));
    let shown = stdout(&run(&["--once"]));
    stop.send(true).unwrap();
    load.await.unwrap();

    let positive = |value: &Value| assert!(value.as_f64().is_some_and(|value| value > 0.0), "{seen:#}");
    positive(&seen["requests_per_second"]["ok"]);
    positive(&seen["charged_usd_per_minute"]);
    positive(&seen["tokens_per_second"]["output"]);
    positive(&seen["request"]["p99_seconds"]);
    positive(&seen["models"][0]["requests_per_second"]);
    positive(&seen["upstreams"][0]["ok_per_second"]);
    positive(&seen["window_seconds"]);
    assert_eq!(
        (&seen["upstreams"][0]["name"], &seen["upstreams"][0]["status"]),
        (&"first".into(), &"open".into())
    );
    assert_eq!(seen["in_flight"], 1.0);
    let [refused, last] = [&seen["failures"][0], &seen["failures"][1]];
    assert_eq!((&refused["status"], &refused["reason"]), (&401.into(), &"invalid_api_key".into()));
    assert_eq!((&last["request_id"], &last["upstream"]), (&failed.id().into(), &"first".into()));
    assert_eq!((&last["customer"], &last["model"]), (&customer.id.into(), &"gpt-4o-mini".into()));
    for word in ["first", "open", "USD/min", "gpt-4o-mini", &failed.id(), "upstream_unavailable"] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
}

#[test]
fn without_a_terminal_or_a_gateway_it_says_so() {
    let provider = Simulated::start();
    let mut gateway = Gateway::start(&[Account::of(&provider)]);
    let output = top(&gateway, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("use --once or --json"), "{output:?}");
    assert!(gateway.stop().success());
    let output = top(&gateway, &["--once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("http://{}/metrics cannot be reached", gateway.metrics)), "{said}");
}

/// It runs in a terminal of its own.
struct Screen {
    child: Child,
    keys: File,
    /// Kept open, so that what it does to the terminal can be seen after its end.
    terminal: File,
    before: Termios,
    came: Arc<Mutex<String>>,
}

impl Screen {
    fn open(gateway: &Gateway) -> Self {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        let name = text(&ptsname(&pty, Vec::new()).unwrap().to_str().unwrap().into());
        let terminal = OpenOptions::new().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let given = || terminal.try_clone().unwrap();
        let asked = top(gateway, &[]);
        // Who runs the tests may be out of reach of a terminal's signal, and hands that on.
        let mut command = std::process::Command::new("env");
        command.arg("--default-signal=HUP").arg(asked.get_program()).args(asked.get_args());
        command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = command.env("TERM", "xterm").stdin(given()).stdout(given()).stderr(given()).spawn();
        let (keys, came) = (File::from(pty), Arc::<Mutex<String>>::default());
        let (mut screen, kept) = (keys.try_clone().unwrap(), Arc::clone(&came));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Screen { child: child.unwrap(), keys, terminal, before, came }
    }

    /// Waits until it shows this after all that it showed before.
    fn shows(&self, what: &str) {
        let begun = self.came.lock().unwrap().len();
        eventually_blocking(&format!("the screen shows {what}"), || {
            self.came.lock().unwrap()[begun..].contains(what).then_some(())
        });
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).unwrap();
    }

    /// Waits for its end; the terminal is then as it was.
    fn ended(mut self) -> ExitStatus {
        let status = eventually_blocking("it ends", || self.child.try_wait().unwrap());
        let now = tcgetattr(&self.terminal).unwrap();
        assert!(now.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON), "it echoes and reads lines");
        assert_eq!((now.local_modes, now.input_modes, now.output_modes), {
            (self.before.local_modes, self.before.input_modes, self.before.output_modes)
        });
        // The cursor is shown, and what stood there before.
        eventually_blocking("the screen is given back", || {
            let came = self.came.lock().unwrap();
            let [taken, back] = ["\x1b[?1049h", "\x1b[?1049l"].map(|code| came.matches(code).count());
            (taken == 1 && back == 1 && came.ends_with("\x1b[?25h\x1b[?1049l")).then_some(())
        });
        status
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn however_it_ends_the_terminal_is_as_it_was() {
    let scene = scene();
    for end in ["q", "\x03", "\x1b", "SIGTERM"] {
        let mut screen = Screen::open(&scene.gateway);
        screen.shows("LEAST FREE");
        match end {
            "SIGTERM" => kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap(),
            key => screen.press(key),
        }
        assert!(screen.ended().success(), "{end:?}");
    }
}

/// A terminal that is closed tells by a signal; what looks for keys in it would never end.
#[test]
fn a_terminal_that_is_closed_ends_it() {
    let scene = scene();
    let mut screen = Screen::open(&scene.gateway);
    screen.shows("LEAST FREE");
    kill_process(Pid::from_child(&screen.child), Signal::HUP).unwrap();
    let status = eventually_blocking("it ends", || screen.child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(Signal::HUP.as_raw()));
}

#[test]
fn it_goes_on_when_the_gateway_is_replaced_and_when_it_is_gone() {
    let scene = scene();
    let mut screen = Screen::open(&scene.gateway);
    screen.shows("LEAST FREE");
    let mut old = scene.gateway;
    let mut next = old.upgrade();
    assert!(old.stopped().success());
    screen.shows("LEAST FREE");
    next.kill();
    screen.shows("not reached for");
    // What was known last is shown on.
    screen.shows("LEAST FREE");
    screen.press("q");
    assert!(screen.ended().success());
}
