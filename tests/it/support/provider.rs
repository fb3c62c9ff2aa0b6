//! The simulated provider, in a thread of its own.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use tokio::sync::oneshot;
use tollgate::simulate::{Options, Provider, Served};

/// A simulated provider that serves until it is dropped.
pub struct Simulated {
    pub address: SocketAddr,
    pub provider: Provider,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Simulated {
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Self {
        Self::listen(Provider::new(options), TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// On another of this machine's addresses.
    pub fn start_at(host: IpAddr) -> Self {
        Self::listen(Provider::new(Options::default()), TcpListener::bind((host, 0)).unwrap())
    }

    /// Dies: connections are cut, and nobody listens any more. Its log stays with the one that
    /// [`Simulated::revive`] makes of it.
    pub fn die(self) -> (Provider, SocketAddr) {
        (self.provider.clone(), self.address)
    }

    /// The same provider on the same address again.
    pub fn revive((provider, address): (Provider, SocketAddr)) -> Self {
        Self::listen(provider, TcpListener::bind(address).unwrap())
    }

    fn listen(provider: Provider, listener: TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = provider.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = served.serve(listener) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Simulated { address, provider, stop: Some(stop), thread: Some(thread) }
    }

    /// What it served for this request of the gateway: one entry for each attempt.
    pub fn served(&self, request: &str) -> Vec<Served> {
        self.provider.log().into_iter().filter(|served| served.request == request).collect()
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
