//! HTTP/1.1 in bytes: just enough for both ends of this benchmark, and cheap.

use memchr::memmem;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Larger than any head or any piece that is read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// One end of a connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// How long a body is.
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

/// The head of a message.
pub struct Head {
    /// Of an answer; 0 for a request.
    pub status: u16,
    framing: Framing,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Wire { stream, buffer: vec![0; BUFFER_BYTES].into(), start: 0, end: 0 })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads a head; `None` when the other side has closed.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = memmem::find(unread, b"\r\n\r\n") {
                let head = Head::read(&unread[..length])?;
                self.start += length + 4;
                return Ok(Some(head));
            }
            if !self.fill().await? {
                return if self.start == self.end { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// Reads a small body whole.
    pub async fn small_body(&mut self, head: &Head) -> io::Result<&[u8]> {
        let Framing::Length(length) = head.framing else { return Err(malformed("a chunked request")) };
        while self.end - self.start < length {
            if !self.fill().await? {
                return Err(cut());
            }
        }
        let begin = self.start;
        self.start += length;
        Ok(&self.buffer[begin..self.start])
    }

    /// Reads a body to its end and gives its size.
    pub async fn skip_body(&mut self, head: &Head) -> io::Result<usize> {
        match head.framing {
            Framing::Length(length) => self.skip(length).await,
            Framing::Chunked => {
                let mut total = 0;
                loop {
                    let size = self.chunk_size().await?;
                    total += size;
                    self.skip(size + 2).await?;
                    if size == 0 {
                        return Ok(total);
                    }
                }
            }
        }
    }

    async fn chunk_size(&mut self) -> io::Result<usize> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = memchr::memchr(b'\n', unread) {
                let line = std::str::from_utf8(&unread[..length]).map_err(|_| malformed("a chunk"))?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| malformed("a chunk"))?;
                self.start += length + 1;
                return Ok(size);
            }
            if !self.fill().await? {
                return Err(cut());
            }
        }
    }

    async fn skip(&mut self, length: usize) -> io::Result<usize> {
        let mut left = length;
        loop {
            let here = left.min(self.end - self.start);
            self.start += here;
            left -= here;
            if left == 0 {
                return Ok(length);
            }
            if !self.fill().await? {
                return Err(cut());
            }
        }
    }

    /// Reads more behind what is unread; tells whether the other side may send more.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        Ok(read > 0)
    }
}

impl Head {
    fn read(bytes: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("a head"))?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut framing = Framing::Length(0);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                framing = Framing::Length(value.trim().parse().map_err(|_| malformed("a length"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            }
        }
        Ok(Head { status: status.unwrap_or_default(), framing })
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection closed in the middle of a message")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read"))
}
