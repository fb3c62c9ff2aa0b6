//! Under systemd: what the service manager is told, and when.

use crate::support::books::audit_stopped;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::gateway::PRICES;
use crate::support::{Account, Client, Gateway, Settings, Simulated, ask, streamed};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The service manager's end of the line.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, folder }
    }

    fn environment(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let socket = self.folder.path().join("notify").to_str().unwrap().to_owned();
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        more.chain([("NOTIFY_SOCKET", socket)]).collect()
    }

    /// The next that is told, but for the watchdog's food.
    fn next(&self) -> Vec<String> {
        loop {
            let told = self.any();
            if told != ["WATCHDOG=1"] {
                return told;
            }
        }
    }

    /// All that was told and not taken yet.
    fn so_far(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let (mut all, mut told) = (Vec::new(), [0; 4096]);
        while let Ok(length) = self.socket.recv(&mut told) {
            all.extend(String::from_utf8_lossy(&told[..length]).lines().map(str::to_owned));
        }
        self.socket.set_nonblocking(false).unwrap();
        all
    }

    fn any(&self) -> Vec<String> {
        let mut told = [0; 4096];
        let length = self.socket.recv(&mut told).expect("told in time");
        String::from_utf8_lossy(&told[..length]).lines().map(str::to_owned).collect()
    }
}

/// It serves, at prices of this version.
#[track_caller]
fn is_ready(told: &[String], version: &str) {
    let [ready, status] = told else { panic!("{told:?}") };
    assert_eq!(ready, "READY=1");
    let fits =
        status.starts_with(&format!("STATUS=prices {version}, ")) && status.ends_with("1 upstream accounts");
    assert!(fits, "{status}");
}

#[tokio::test]
async fn the_service_manager_is_told_what_happens() {
    let (manager, provider) = (Manager::new(), Simulated::start());
    let settings = Settings { environment: manager.environment(&[]), ..Settings::default() };
    let accounts = [Account::of(&provider)];
    let mut gateway = Gateway::start_with(&accounts, &settings);
    is_ready(&manager.next(), "it-1");
    let customer = gateway.customer("1.00");
    let [client, _] = Client::both(&gateway, &customer);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);

    gateway.reload(&accounts, &settings, &PRICES.replace("version: it-1", "version: it-2")).await;
    let reloading = manager.next();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    is_ready(&manager.next(), "it-2");
    gateway.reload(&accounts, &settings, "nonsense").await;
    assert_eq!(manager.next()[0], "RELOADING=1");
    // A faulty reload is over, too, and what ran before runs on.
    is_ready(&manager.next(), "it-2");

    gateway.ask_to_stop();
    assert_eq!(manager.next(), ["STOPPING=1"]);
    assert!(gateway.stopped().success());
}

#[tokio::test]
async fn the_watchdog_is_fed_until_the_last_request_has_ended() {
    let (manager, provider) = (Manager::new(), Simulated::start());
    let environment = manager.environment(&[("WATCHDOG_USEC", "300000")]);
    let settings = Settings { environment, ..Settings::default() };
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    is_ready(&manager.next(), "it-1");
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(manager.any(), ["WATCHDOG=1"]);
        assert!(begun.elapsed() < Duration::from_secs(5), "a third of the time, on a busy machine");
    }
    let customer = gateway.customer("1.00");
    let [client, _] = Client::both(&gateway, &customer);
    let asked = tokio::spawn(async move { client.ask(&streamed(ask(&[("pace_ms", "100")]))).await });
    eventually("the request is under way", || {
        gateway.scrape().contains("tollgate_in_flight 1").then_some(())
    })
    .await;
    gateway.ask_to_stop();
    assert_eq!(manager.next(), ["STOPPING=1"]);
    assert_eq!(manager.any(), ["WATCHDOG=1"]);
    assert_eq!(asked.await.unwrap().status, 200);
    assert!(gateway.stopped().success());
}

#[tokio::test]
async fn a_new_process_is_started_on_request_and_becomes_the_main_one() {
    let (manager, provider) = (Manager::new(), Simulated::start());
    // About the process that was started first, and nobody else.
    let environment = manager.environment(&[("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")]);
    let settings = Settings { environment, ..Settings::default() };
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    is_ready(&manager.next(), "it-1");
    let customer = gateway.customer("1.00");
    let [client, _] = Client::both(&gateway, &customer);
    assert_eq!(client.ask(&ask(&[])).await.status, 200);

    gateway.ask_to_hand_over();
    let main = manager.next();
    let [main] = &*main else { panic!("{main:?}") };
    let main = main.strip_prefix("MAINPID=").and_then(|pid| Pid::from_raw(pid.parse().ok()?)).unwrap();
    is_ready(&manager.next(), "it-1");
    assert_eq!(manager.any(), ["WATCHDOG=1"], "the new one is watched");
    assert_eq!(client.ask(&ask(&[])).await.status, 200);
    drop(client);
    assert!(gateway.stopped().success(), "without a word to the service manager");
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    kill_process(main, Signal::TERM).unwrap();
    assert_eq!(manager.next(), ["STOPPING=1"]);
    eventually("the new one has ended", || test_kill_process(main).err()).await;
    audit_stopped(&gateway, &[&provider]).is_exact(3);
}

/// A service whose main process has ended is over, and all of its processes are. So who takes over is told before
/// that, however little there is left to do.
#[tokio::test]
async fn who_takes_over_is_told_before_the_process_before_it_ends() {
    let (manager, provider) = (Manager::new(), Simulated::start());
    let settings = Settings { environment: manager.environment(&[]), ..Settings::default() };
    let mut gateway = Gateway::start_with(&[Account::of(&provider)], &settings);
    is_ready(&manager.next(), "it-1");
    let customer = gateway.customer("1.00");
    gateway.ask_to_hand_over();
    assert!(gateway.stopped().success());
    let told = manager.so_far();
    let main = told.first().and_then(|told| told.strip_prefix("MAINPID=")?.parse().ok());
    let main = main.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(Client::h1(&gateway, &customer).ask(&ask(&[])).await.status, 200);
    kill_process(main, Signal::TERM).unwrap();
    eventually("the new one has ended", || test_kill_process(main).err()).await;
    audit_stopped(&gateway, &[&provider]).is_exact(1);
}
