//! Content encodings: a compressed body back to its bytes, as they come.

use brotli::DecompressorWriter;
use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use std::fmt;
use std::io::{self, Write};
use std::mem;

/// The most bytes that one body decodes to: four times the longest plain answer, and more than a
/// stream carries in an hour. Stops a small body that unfolds without end.
pub const DECODED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Window of the brotli decoder's output, in bytes; it is emptied after each.
const BROTLI_BUFFER_BYTES: usize = 16 * 1024;

/// Decodes one body. After an error nothing more comes out of it.
pub struct Decoder {
    codec: Codec,
    failed: Option<DecodeError>,
}

enum Codec {
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zlib(Box<ZlibDecoder<Sink>>),
    Brotli(Box<DecompressorWriter<Sink>>),
}

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// It is not in its encoding, or goes on after its end.
    Corrupt,
    /// It ended before its encoding did, or its checksum is wrong.
    Incomplete,
    /// It decodes to more than [`DECODED_BYTES_MAX`].
    TooLarge,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::Corrupt => "the body is not in its content encoding",
            DecodeError::Incomplete => "the body ended before its content encoding did",
            DecodeError::TooLarge => "the body decodes to more than is allowed",
        })
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Decoder {
    /// The decoder of a `content-encoding`, whatever its case: `gzip` or `x-gzip`, `deflate` (zlib),
    /// `br`. `None` for any other, a list of several, and `identity`, which needs none.
    pub fn for_encoding(encoding: &str) -> Option<Decoder> {
        let encoding = encoding.trim();
        let is = |name: &str| encoding.eq_ignore_ascii_case(name);
        let sink = Sink { out: Vec::new(), left: DECODED_BYTES_MAX };
        let codec = if is("gzip") || is("x-gzip") {
            Codec::Gzip(Box::new(MultiGzDecoder::new(sink)))
        } else if is("deflate") {
            Codec::Zlib(Box::new(ZlibDecoder::new(sink)))
        } else if is("br") {
            Codec::Brotli(Box::new(DecompressorWriter::new(sink, BROTLI_BUFFER_BYTES)))
        } else {
            return None;
        };
        Some(Decoder { codec, failed: None })
    }

    /// Decodes a piece; gives all that can be known by now, which may be nothing.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`] or [`DecodeError::TooLarge`], and the same again on each later call.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Bytes, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let written = match &mut self.codec {
            Codec::Gzip(codec) => codec.write_all(piece).and_then(|()| codec.flush()),
            Codec::Zlib(codec) => codec.write_all(piece).and_then(|()| codec.flush()),
            Codec::Brotli(codec) => codec.write_all(piece),
        };
        self.take(written, DecodeError::Corrupt)
    }

    /// The body has ended: gives what is left.
    ///
    /// # Errors
    /// [`DecodeError::Incomplete`] when the encoding has not ended, and as [`Decoder::feed`].
    pub fn finish(mut self) -> Result<Bytes, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let written = match &mut self.codec {
            Codec::Gzip(codec) => codec.try_finish(),
            Codec::Zlib(codec) => codec.try_finish(),
            Codec::Brotli(codec) => codec.close(),
        };
        self.take(written, DecodeError::Incomplete)
    }

    fn take(&mut self, written: io::Result<()>, otherwise: DecodeError) -> Result<Bytes, DecodeError> {
        let sink = match &mut self.codec {
            Codec::Gzip(codec) => codec.get_mut(),
            Codec::Zlib(codec) => codec.get_mut(),
            Codec::Brotli(codec) => codec.get_mut(),
        };
        let out = Bytes::from(mem::take(&mut sink.out));
        match written {
            Ok(()) => Ok(out),
            Err(error) => {
                let too_large = error.kind() == io::ErrorKind::QuotaExceeded;
                let error = if too_large { DecodeError::TooLarge } else { otherwise };
                self.failed = Some(error);
                Err(error)
            }
        }
    }
}

/// Takes decoded bytes up to a bound.
struct Sink {
    out: Vec<u8>,
    left: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::QuotaExceeded)?;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    const ENCODINGS: [&str; 3] = ["gzip", "deflate", "br"];
    const EVENTS: [&str; 3] = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"grüezi\"}}]}\n\n",
        "data: {}\n\n",
        "data: [DONE]\n\n",
    ];

    /// Compresses parts, flushed after each, and gives where each ends.
    fn encode(encoding: &str, parts: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        fn drive<W: Write>(mut encoder: W, parts: &[&[u8]], len: fn(&W) -> usize) -> (W, Vec<usize>) {
            let mut ends = Vec::new();
            for part in parts {
                encoder.write_all(part).expect("in memory");
                encoder.flush().expect("in memory");
                ends.push(len(&encoder));
            }
            (encoder, ends)
        }
        match encoding {
            "gzip" => {
                let encoder = GzEncoder::new(Vec::new(), Compression::default());
                let (encoder, ends) = drive(encoder, parts, |e| e.get_ref().len());
                (encoder.finish().expect("in memory"), ends)
            }
            "deflate" => {
                let encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                let (encoder, ends) = drive(encoder, parts, |e| e.get_ref().len());
                (encoder.finish().expect("in memory"), ends)
            }
            _ => {
                let encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                let (encoder, ends) = drive(encoder, parts, |e| e.get_ref().len());
                (encoder.into_inner(), ends)
            }
        }
    }

    fn decode<'a>(
        encoding: &str,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::for_encoding(encoding).expect("known");
        let mut all = Vec::new();
        for piece in pieces {
            all.extend_from_slice(&decoder.feed(piece)?);
        }
        all.extend_from_slice(&decoder.finish()?);
        Ok(all)
    }

    /// Every split gives the parts back, and each as soon as it was flushed.
    fn check(encoding: &str) {
        let parts = EVENTS.map(str::as_bytes);
        let (encoded, ends) = encode(encoding, &parts);
        let plain = parts.concat();
        assert_eq!(decode(encoding, [encoded.as_slice()]).as_deref(), Ok(plain.as_slice()));
        assert_eq!(decode(encoding, encoded.chunks(1)).as_deref(), Ok(plain.as_slice()));
        for at in 0..encoded.len() {
            let (head, tail) = encoded.split_at(at);
            assert_eq!(decode(encoding, [head, tail]).as_deref(), Ok(plain.as_slice()));
            assert_eq!(decode(encoding, [head]), Err(DecodeError::Incomplete), "{encoding} cut at {at}");
        }
        let mut decoder = Decoder::for_encoding(encoding).expect("known");
        let mut start = 0;
        for (part, end) in parts.iter().zip(ends) {
            assert_eq!(decoder.feed(&encoded[start..end]).as_deref(), Ok(*part), "{encoding}");
            start = end;
        }
    }

    #[test]
    fn round_trips() {
        ENCODINGS.iter().for_each(|encoding| check(encoding));
    }

    #[test]
    fn corruption_is_an_error_and_stays_one() {
        for encoding in ENCODINGS {
            let (encoded, _) = encode(encoding, &EVENTS.map(str::as_bytes));
            let mut decoder = Decoder::for_encoding(encoding).expect("known");
            assert_eq!(decoder.feed(b"<html>not compressed</html>"), Err(DecodeError::Corrupt), "{encoding}");
            assert_eq!(decoder.feed(&encoded), Err(DecodeError::Corrupt));
            assert_eq!(decoder.finish(), Err(DecodeError::Corrupt));
            for at in 0..encoded.len() {
                let mut flipped = encoded.clone();
                flipped[at] ^= 0x55;
                // Either an error or other bytes, but no panic.
                drop(decode(encoding, flipped.chunks(7)));
            }
        }
    }

    #[test]
    fn output_is_bounded() {
        let zeros = vec![0; DECODED_BYTES_MAX / 256];
        let (encoded, _) = encode("gzip", &[&zeros]);
        let mut decoder = Decoder::for_encoding("gzip").expect("known");
        // Members of a gzip body follow each other.
        for _ in 0..256 {
            assert_eq!(decoder.feed(&encoded).map(|out| out.len()), Ok(zeros.len()));
        }
        assert_eq!(decoder.feed(&encoded), Err(DecodeError::TooLarge));
    }

    #[test]
    fn names() {
        for known in ["gzip", "GZIP", " x-gzip", "deflate", "br"] {
            assert!(Decoder::for_encoding(known).is_some(), "{known}");
        }
        for unknown in ["", "identity", "zstd", "gzip, br"] {
            assert!(Decoder::for_encoding(unknown).is_none(), "{unknown}");
        }
    }
}
