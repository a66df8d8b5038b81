//! A client that sends bytes, and reads what is answered.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::draw::Drawn;

/// Longer than any answer takes; who waits longer was forgotten.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A client with one connection, which it opens anew when it has to.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    /// A client of that server.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: vec![0; 64 * 1024] }
    }

    /// Sends a request, and reads its answer; where it is none or more than one, all that is answered.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not answer a whole request.
    pub async fn send(&mut self, drawn: &Drawn) -> io::Result<&[u8]> {
        let answered = async {
            if !drawn.whole {
                return self.rest(&drawn.bytes).await;
            }
            // The server may have ended a connection after its answer; then the request was not read.
            if self.stream.is_some()
                && let Ok(length) = self.one(&drawn.bytes).await
            {
                return Ok(length);
            }
            self.stream = None;
            self.one(&drawn.bytes).await
        };
        let length = timeout(ANSWER_WITHIN, answered).await??;
        Ok(&self.buffer[..length])
    }

    async fn one(&mut self, request: &[u8]) -> io::Result<usize> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(open(self.address).await?),
        };
        stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            match stream.read(&mut self.buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
            if length(&self.buffer[..filled]).is_some_and(|length| filled >= length) {
                return Ok(filled);
            }
        }
    }

    /// On a connection of its own, whose end says that no more is sent.
    async fn rest(&mut self, request: &[u8]) -> io::Result<usize> {
        let mut stream = open(self.address).await?;
        // The server may refuse to read on.
        if stream.write_all(request).await.is_ok() {
            let _ = stream.shutdown().await;
        }
        let mut filled = 0;
        while let Ok(read) = stream.read(&mut self.buffer[filled..]).await
            && read > 0
        {
            filled += read;
        }
        Ok(filled)
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How long the answer will be that begins so; `None` while its headers are not there.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = str::from_utf8(&answer[..head]).ok()?;
    let lengths = text.lines().filter_map(|line| line.strip_prefix("content-length: "));
    Some(head + lengths.filter_map(|length| length.parse::<usize>().ok()).sum::<usize>())
}
