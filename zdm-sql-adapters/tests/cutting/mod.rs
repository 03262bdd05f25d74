//! A proxy that lets a number of bytes through and then cuts the connection, so that a test can lose it at
//! every byte of a conversation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Which way the bytes go that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// Stands between a client and a server on this machine.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// How many bytes may pass each way until everything is cut; below zero: as many as like.
    left: [AtomicI64; 2],
    cut: Notify,
}

impl Shared {
    /// How many of these bytes may pass, and whether the connection ends after them.
    fn pass(&self, way: Way, bytes: usize) -> (usize, bool) {
        let left = &self.left[way as usize];
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left >= 0).then(|| (left - bytes as i64).max(0))
        });
        match before {
            Ok(before) if before < bytes as i64 => (usize::try_from(before).unwrap(), true),
            _ => (bytes, false),
        }
    }
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { left: [AtomicI64::new(-1), AtomicI64::new(-1)], cut: Notify::new() });
        let state = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let Ok(server) = TcpStream::connect(server).await else { return };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let ended = state.cut.notified();
                    tokio::select! {
                        () = relay(&state, Way::ToServer, &mut from_client, &mut to_server) => {}
                        () = relay(&state, Way::ToClient, &mut from_server, &mut to_client) => {}
                        () = ended => {}
                    }
                });
            }
        });
        Self { port, shared }
    }

    /// From now on so many bytes pass, and then every connection that is open is cut.
    pub(crate) fn allow(&self, way: Way, bytes: i64) {
        self.shared.left[way as usize].store(bytes, Ordering::Relaxed);
    }

    /// Lets everything pass again. Returns whether it was cut.
    pub(crate) fn calm(&self, way: Way) -> bool {
        self.shared.left[way as usize].swap(-1, Ordering::Relaxed) < 0
    }
}

async fn relay(
    state: &Shared,
    way: Way,
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let (passed, cut) = state.pass(way, read);
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if cut {
            // The next connection is another one, and passes whole.
            state.left[way as usize].store(-1, Ordering::Relaxed);
            state.cut.notify_waiters();
            return;
        }
    }
}
