//! `top`: how a gateway does, live.
//!
//! A thread looks at it every so often: at its metrics, its pool and its last failures. Rates are of what
//! came between the newest look and one some seconds before it. Looks of a process that was replaced are
//! forgotten, so that a restart or a hand-over is a gap, not a wrong figure.

mod screen;
mod scrape;
mod terminal;
mod view;

use super::client::Client;
use super::table::{print, print_json};
use super::{Done, Failed};
use clap::Args;
use scrape::Scrape;
use screen::{Shown, Size};
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use terminal::{Terminal, Wish};
use view::{Look, View};

/// What is looked at, and how.
#[derive(Args)]
pub struct Options {
    /// Where the metrics of the gateway are
    #[arg(long, env = "TOLLGATE_METRICS_URL", default_value = "http://127.0.0.1:9190")]
    metrics: String,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// Print one view, of what came between two looks, and end
    #[arg(long)]
    once: bool,
}

/// Rates are taken over this, or over one look to the next where that is longer.
const WINDOW: Duration = Duration::from_secs(10);
/// A gateway that answers later than this is not reached.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest scrape that is read.
const SCRAPE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Where there is no terminal to ask.
const PRINTED: Size = Size { columns: 140, rows: 1_000 };

/// `top`
pub fn run(client: Client, options: Options) -> Done {
    let json = client.json;
    let gateway = client.gateway().to_owned();
    if !options.once && !json && !io::stdout().is_terminal() {
        return Err(Failed::Usage("standard output is no terminal: use --once or --json".into()));
    }
    let once = options.once;
    let looks = looker(client, options)?;
    match (once, json) {
        (true, _) => print_one(&looks, json, &gateway),
        (false, true) => print_all(&looks),
        (false, false) => {
            live(&looks, &gateway).map_err(|why| Failed::Failed(format!("the terminal: {why}")))
        }
    }
}

/// A look, or why there was none.
type Looked = Result<Look, String>;

/// Begins to look, on a thread of its own: a gateway that hangs does not hang the screen.
fn looker(client: Client, options: Options) -> Result<Receiver<Looked>, Failed> {
    let (looked, looks) = sync_channel(0);
    let client = client.within(ANSWER_TIMEOUT);
    let looker = thread::Builder::new().name("looker".into());
    let spawned = looker.spawn(move || look_on(&client, &options, &looked));
    spawned.map_err(|why| Failed::Failed(format!("no thread to look from: {why}")))?;
    Ok(looks)
}

/// Until nobody wants to know any more.
fn look_on(client: &Client, options: &Options, looked: &SyncSender<Looked>) {
    let every = Duration::from_secs(options.every);
    loop {
        let begun = Instant::now();
        let look = look(client, &options.metrics).map_err(|failed| failed.to_string());
        if looked.send(look).is_err() {
            return;
        }
        thread::sleep(every.saturating_sub(begun.elapsed()));
    }
}

fn look(client: &Client, metrics: &str) -> Result<Look, Failed> {
    let text = client.text(&format!("{}/metrics", metrics.trim_end_matches('/')), SCRAPE_BYTES_MAX)?;
    let (upstreams, failures) = (client.get("/upstreams")?, client.get("/failures")?);
    Ok(Look {
        taken: Instant::now(),
        at: crate::clock::Timestamp::now(),
        scrape: Scrape::read(&text),
        upstreams,
        failures,
    })
}

/// What was seen of one process.
#[derive(Default)]
struct Seen(VecDeque<Look>);

impl Seen {
    /// The view that a new look gives, if there was one before it.
    fn add(&mut self, look: Look) -> Option<View> {
        if self.0.back().is_some_and(|last| !look.follows(last)) {
            self.0.clear();
        }
        // The oldest that is still needed is the last one that is older than the window.
        while self.0.get(1).is_some_and(|second| look.taken.duration_since(second.taken) >= WINDOW) {
            self.0.pop_front();
        }
        let view = self.0.front().map(|before| View::between(before, &look));
        self.0.push_back(look);
        view
    }
}

/// The first view.
fn print_one(looks: &Receiver<Looked>, json: bool, gateway: &str) -> Done {
    let view = views(looks).next().ok_or_else(ended)??;
    if json {
        return print_json(&view);
    }
    let columns = Terminal::size().map_or(PRINTED.columns, |size| size.columns);
    let shown = Shown { gateway, view: Some(&view), keys: "", lost: None };
    let lines = screen::draw(&shown, Size { columns, ..PRINTED }).into_iter();
    let line = |line: screen::Line| line.into_iter().map(|(_, text)| text).collect::<String>();
    print(&lines.map(|pieces| format!("{}\n", line(pieces).trim_end())).collect::<String>())
}

/// One view a line, to the end of the reader or of the gateway.
fn print_all(looks: &Receiver<Looked>) -> Done {
    views(looks).try_for_each(|view| print_json(&view?))
}

/// Views, up to the first look that failed.
fn views(looks: &Receiver<Looked>) -> impl Iterator<Item = Result<View, Failed>> {
    let mut seen = Seen::default();
    looks.iter().filter_map(move |looked| match looked {
        Ok(look) => seen.add(look).map(Ok),
        Err(why) => Some(Err(Failed::Failed(why))),
    })
}

fn ended() -> Failed {
    Failed::Failed("nobody looks any more".into())
}

/// On the screen, until it is enough.
fn live(looks: &Receiver<Looked>, gateway: &str) -> io::Result<()> {
    let mut terminal = Terminal::take()?;
    let mut seen = Seen::default();
    let (mut view, mut lost): (Option<View>, Option<(String, Instant)>) = (None, None);
    let mut changed = true;
    loop {
        match looks.try_recv() {
            Ok(Ok(look)) => {
                (view, lost, changed) = (seen.add(look).or(view), None, true);
            }
            Ok(Err(why)) => {
                let since = lost.map_or_else(Instant::now, |(_, since)| since);
                (lost, changed) = (Some((why, since)), true);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("nobody looks any more")),
        }
        if changed {
            let lost = lost.as_ref().map(|(why, since)| (&**why, since.elapsed()));
            let shown = Shown { gateway, view: view.as_ref(), keys: screen::KEYS, lost };
            terminal.show(&screen::draw(&shown, Terminal::size()?))?;
        }
        changed = match terminal.wish()? {
            Wish::Look => false,
            Wish::Redraw => true,
            Wish::Quit => return Ok(()),
        };
    }
}
