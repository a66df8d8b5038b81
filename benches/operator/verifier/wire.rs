//! HTTP/1.1 as bytes, so that who asks has less work than who answers.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// More than any answer to a request of ours.
const MAX_ANSWER: usize = 64 * 1024;

/// One connection, kept alive, with one request at a time.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; MAX_ANSWER] })
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if length(&self.buffer[..filled]).is_some_and(|length| filled >= length) {
                return Ok(&self.buffer[..filled]);
            }
        }
    }

    /// The status of the answer to a request.
    pub async fn status(&mut self, request: &[u8]) -> u16 {
        status(self.ask(request).await.unwrap())
    }
}

/// The status of an answer.
pub fn status(answer: &[u8]) -> u16 {
    // HTTP/1.1 200 OK
    answer[9..12].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
}

/// How long the answer will be that begins so; `None` while its headers are not there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let lengths =
        answer[..head].split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"content-length: "));
    let digits = lengths.flatten().filter(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// Who asks, and for what. Every answer must be a 200.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub requests: Arc<Vec<Vec<u8>>>,
    pub connections: usize,
}

impl Load {
    /// Asks for so long, on each connection again as soon as an answer is there; tells how long each took.
    pub async fn flood(&self, lasting: Duration) -> Vec<Duration> {
        let end = Instant::now() + lasting;
        self.run(true, move |_| (Instant::now() < end).then_some(None)).await
    }

    /// Asks so often, on all connections together, as long as somebody holds what `going` points to.
    pub async fn pace(&self, per_second: u32, going: Weak<()>) -> Vec<Duration> {
        let start = Instant::now();
        let every = Duration::from_secs(1) * u32::try_from(self.connections).unwrap() / per_second;
        self.run(false, move |asked| (going.strong_count() > 0).then(|| Some(start + every * asked))).await
    }

    /// In a thread of its own, which has its core `alone` or not. `next` says when the next request is to be sent, by how many were; `None` ends it.
    async fn run(
        &self,
        alone: bool,
        next: impl Fn(u32) -> Option<Option<Instant>> + Clone + Send + 'static,
    ) -> Vec<Duration> {
        let load = self.clone();
        let work = move || {
            let runtime = Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
            runtime.block_on(async {
                let _spinning = alone.then(NeverAsleep::new);
                let mut connections = JoinSet::new();
                for number in 0..load.connections {
                    connections.spawn(one(load.clone(), number, next.clone()));
                }
                connections.join_all().await.concat()
            })
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }
}

/// While it lives, the thread does not wait for answers asleep: to wake it would cost the server more than the answer, and
/// the more the longer its answers take.
struct NeverAsleep(tokio::task::JoinHandle<()>);

impl NeverAsleep {
    fn new() -> Self {
        Self(tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        }))
    }
}

impl Drop for NeverAsleep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn one(load: Load, number: usize, next: impl Fn(u32) -> Option<Option<Instant>>) -> Vec<Duration> {
    let mut connection = Connection::open(load.address).await.unwrap();
    let mut took = Vec::with_capacity(1 << 16);
    // Each connection begins elsewhere, so that they do not all ask for the same.
    let requests = load.requests.iter().cycle().skip(number * load.requests.len() / load.connections);
    for (asked, request) in (0..).zip(requests) {
        match next(asked) {
            None => break,
            Some(Some(at)) if at > Instant::now() => sleep_until(at).await,
            Some(_) => {}
        }
        let sent_at = Instant::now();
        let answer = connection.ask(request).await.unwrap();
        assert!(status(answer) == 200, "{}", String::from_utf8_lossy(answer));
        took.push(sent_at.elapsed());
    }
    took
}
