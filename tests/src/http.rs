//! Requests to a service on loopback, one by one and as a load.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port that nobody listens on at the moment.
///
/// # Errors
///
/// Fails when there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Asks for a page and gives its body.
///
/// # Errors
///
/// Fails when there is no answer, or one that is not `200`.
pub fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path}: {head}");
    }
    Ok(body.to_owned())
}

/// Clients that ask for one page again and again, until this is dropped.
#[derive(Debug)]
pub struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    is_over: AtomicBool,
    is_paused: AtomicBool,
    busy: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Starts so many clients.
    #[must_use]
    pub fn start(port: u16, path: &'static str, clients: usize) -> Self {
        let state = Arc::new(State::default());
        let client = |_| {
            let state = state.clone();
            thread::spawn(move || state.run(port, path))
        };
        Self {
            clients: (0..clients).map(client).collect(),
            state,
        }
    }

    /// Stops asking, and waits until everything is answered.
    pub fn pause(&self) {
        self.state.is_paused.store(true, Ordering::SeqCst);
        while self.state.busy.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks again.
    pub fn resume(&self) {
        self.state.is_paused.store(false, Ordering::SeqCst);
    }

    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::SeqCst)
    }

    /// Requests that were not: while a server starts anew, some.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state.failed.load(Ordering::SeqCst)
    }
}

impl State {
    fn run(&self, port: u16, path: &str) {
        while !self.is_over.load(Ordering::SeqCst) {
            // Busy first: whoever pauses sees either this client's request or none.
            self.busy.fetch_add(1, Ordering::SeqCst);
            let asks = !self.is_paused.load(Ordering::SeqCst);
            if asks {
                let counter = match get(port, path) {
                    Ok(_) => &self.answered,
                    Err(_) => &self.failed,
                };
                counter.fetch_add(1, Ordering::SeqCst);
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            if !asks {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            // A client does not panic.
            let _ = client.join();
        }
    }
}
