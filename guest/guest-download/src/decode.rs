//! Decompresses gzip or zstd, whichever the magic number says.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::{Error, Result};

const BUFFER: usize = 256 << 10;

/// The largest window of a zstd stream: 128 MiB, the limit of the `zstd` program.
const MAX_WINDOW_LOG: u32 = 27;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const MAGIC_LENGTH: usize = ZSTD.len();

/// The decompressed bytes of `source`.
pub(crate) fn open<'a>(mut source: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let read_error = |source| Error::Read { source };
    let mut magic = Vec::with_capacity(MAGIC_LENGTH);
    source.by_ref().take(MAGIC_LENGTH as u64).read_to_end(&mut magic).map_err(read_error)?;
    let whole = io::Cursor::new(magic.clone()).chain(source);
    if magic.starts_with(&GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))));
    }
    if magic.starts_with(&ZSTD) {
        let input = BufReader::with_capacity(BUFFER, whole);
        return Ok(Box::new(zstd_decoder(input).map_err(read_error)?));
    }
    match magic.len() {
        MAGIC_LENGTH => Err(Error::Format),
        _ => Err(Error::Read { source: io::ErrorKind::UnexpectedEof.into() }),
    }
}

fn zstd_decoder<'a, R: BufRead + 'a>(input: R) -> io::Result<ZstdDecoder<'a, R>> {
    let mut decoder = ZstdDecoder::with_buffer(input)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}
