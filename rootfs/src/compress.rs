//! Decompression, with the format found by its first bytes.

use std::io::{self, BufReader, Cursor, Read};

use liblzma::stream::Stream;

use crate::error::{Error, Result};

/// The most memory that an xz stream may ask for, in bytes: twice what `xz -9` needs. A few bytes
/// of a stream can ask for 4 GiB.
const XZ_MEMORY: u64 = 128 << 20;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
    /// The frame of `lz4 -l`, which kernels use.
    Lz4Legacy,
    /// bzip2; known, not read.
    Bzip2,
    /// LZMA without a container; known, not read.
    Lzma,
}

/// The format of a stream that begins with `head`.
pub(crate) fn detect(head: &[u8]) -> Format {
    const MAGICS: [(&[u8], Format); 6] = [
        (&[0x1f, 0x8b], Format::Gzip),
        (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
        (&[0x02, 0x21, 0x4c, 0x18], Format::Lz4Legacy),
        (b"BZh", Format::Bzip2),
        (&[0x5d, 0, 0], Format::Lzma),
    ];
    MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map_or(Format::Plain, |(_, format)| *format)
}

/// A reader of what `inner` holds once decompressed. `name` is for errors.
pub fn reader<'a>(inner: impl Read + 'a, name: &str) -> Result<Box<dyn Read + 'a>> {
    const HEAD: u64 = 6;
    let fail = |source| Error::ReadArchive { archive: name.to_owned(), source };
    let mut inner = BufReader::with_capacity(1 << 16, inner);
    let mut head = Vec::new();
    inner.by_ref().take(HEAD).read_to_end(&mut head).map_err(fail)?;
    let format = detect(&head);
    let whole = Cursor::new(head).chain(inner);
    Ok(match format {
        Format::Plain => Box::new(whole),
        Format::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        Format::Zstd => Box::new(zstd::Decoder::new(whole).map_err(fail)?),
        Format::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = Stream::new_stream_decoder(XZ_MEMORY, flags);
            let stream = stream.map_err(|error| fail(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(whole, stream))
        }
        Format::Lz4Legacy | Format::Bzip2 | Format::Lzma => {
            return Err(Error::UnknownCompression { archive: name.to_owned(), format });
        }
    })
}

/// All that `reader` has, unless that is more than `limit` bytes.
pub(crate) fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_all(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        reader(bytes, "test").unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn reader_passes_plain_bytes_through() {
        assert_eq!(read_all(b"abc"), b"abc");
    }

    #[test]
    fn reader_of_nothing_is_empty() {
        assert_eq!(read_all(b""), b"");
    }

    #[test]
    fn reader_decompresses_gzip() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"hello").unwrap();

        assert_eq!(read_all(&encoder.finish().unwrap()), b"hello");
    }

    #[test]
    fn reader_decompresses_zstd() {
        assert_eq!(read_all(&zstd::encode_all(&b"hello"[..], 1).unwrap()), b"hello");
    }

    #[test]
    fn reader_decompresses_xz() {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(b"hello").unwrap();

        assert_eq!(read_all(&encoder.finish().unwrap()), b"hello");
    }

    #[test]
    fn xz_stream_that_asks_for_all_memory_is_an_error() {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(b"hello").unwrap();
        let mut bytes = encoder.finish().unwrap();
        // The block's header: its size, flags, the filter's id and property, padding, checksum.
        const DICTIONARY: usize = 16;
        const HEADER: std::ops::Range<usize> = 12..20;
        const OF_4_GIB: u8 = 40;
        bytes[DICTIONARY] = OF_4_GIB;
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes[HEADER]);
        bytes[HEADER.end..HEADER.end + 4].copy_from_slice(&checksum.sum().to_le_bytes());

        let result = reader(&bytes[..], "test").unwrap().read_to_end(&mut Vec::new());

        assert!(result.unwrap_err().to_string().contains("memory"), "refused for another reason");
    }

    #[test]
    fn reader_names_a_format_that_it_cannot_read() {
        let error = reader(&b"BZh91AY"[..], "a.tar.bz2").err().unwrap();

        assert_eq!(error.to_string(), "cannot read a.tar.bz2: Bzip2 compression is not supported");
    }

    #[test]
    fn read_bounded_refuses_more_than_its_limit() {
        assert_eq!(read_bounded(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(read_bounded(&b"abcd"[..], 3).is_err());
    }
}
