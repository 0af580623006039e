//! What is inside of the compression, which the first bytes tell.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::{Error, Result};

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// The largest window that a zstd stream may ask for: 128 MiB, what the format's own tools allow.
const LARGEST_WINDOW_LOG: u32 = 27;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LONGEST_MAGIC: usize = ZSTD.len();

/// The decompressed bytes of `source`.
pub(crate) fn open<'a>(mut source: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let read_error = |source| Error::Read { source };
    let mut magic = Vec::with_capacity(LONGEST_MAGIC);
    source.by_ref().take(LONGEST_MAGIC as u64).read_to_end(&mut magic).map_err(read_error)?;
    let whole = io::Cursor::new(magic.clone()).chain(source);
    if magic.starts_with(&GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))));
    }
    if magic.starts_with(&ZSTD) {
        let input = BufReader::with_capacity(BUFFER, whole);
        return Ok(Box::new(zstd_decoder(input).map_err(read_error)?));
    }
    match magic.len() {
        LONGEST_MAGIC => Err(Error::Broken { reason: "it is neither gzip nor zstd" }),
        _ => Err(Error::Read { source: io::ErrorKind::UnexpectedEof.into() }),
    }
}

fn zstd_decoder<'a, R: BufRead + 'a>(input: R) -> io::Result<ZstdDecoder<'a, R>> {
    let mut decoder = ZstdDecoder::with_buffer(input)?;
    decoder.window_log_max(LARGEST_WINDOW_LOG)?;
    Ok(decoder)
}
