//! Extracts the uncompressed kernel from a distribution's kernel file.
//!
//! The relevant fields of an x86 bzImage:
//!
//! | offset | bytes | what                                                   |
//! |--------|-------|--------------------------------------------------------|
//! | 0x1f1  | 1     | sectors of real-mode code after the first; 0 means 4   |
//! | 0x202  | 4     | `HdrS`                                                 |
//! | 0x206  | 2     | boot protocol; the fields below exist from 2.08 on     |
//! | 0x248  | 4     | where the payload begins, after the real-mode code     |
//! | 0x24c  | 4     | its length                                             |
//!
//! The payload is a compressed ELF file. Its last four bytes are the length of that file: for gzip
//! as part of the format, for others appended.

use std::io::Read;

use crate::compress::{self, Format};
use crate::error::{Error, PayloadFault, Result};

/// The size limit of a decompressed kernel.
const LIMIT: usize = 512 << 20;

/// The kernel in the form that monitors load: an ELF file on x86, the flat image on Arm.
pub(super) fn extract(file: &[u8]) -> Result<Vec<u8>> {
    extract_payload(file).map_err(|source| Error::BadKernel { source })
}

fn extract_payload(file: &[u8]) -> std::result::Result<Vec<u8>, PayloadFault> {
    if is_kernel(file) {
        return Ok(file.to_vec());
    }
    if compress::detect(file) == Format::Gzip {
        return check(unpack(Format::Gzip, file, LIMIT)?);
    }
    let payload = payload(file).ok_or(PayloadFault::Unknown)?;
    let (stream, length) = payload.split_last_chunk::<4>().ok_or(PayloadFault::Unknown)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > LIMIT {
        return Err(PayloadFault::TooLarge { length });
    }
    let format = compress::detect(stream);
    let stream = if format == Format::Gzip { payload } else { stream };
    let kernel = unpack(format, stream, length)?;
    if kernel.len() != length {
        return Err(PayloadFault::Length { stated: length, found: kernel.len() });
    }
    check(kernel)
}

/// Whether it is an ELF file or an Arm image.
fn is_kernel(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") || bytes.get(56..60) == Some(b"ARM\x64")
}

fn check(kernel: Vec<u8>) -> std::result::Result<Vec<u8>, PayloadFault> {
    if is_kernel(&kernel) { Ok(kernel) } else { Err(PayloadFault::NotAKernel) }
}

/// The payload of a bzImage.
fn payload(file: &[u8]) -> Option<&[u8]> {
    const SECTOR: usize = 512;
    let u32_at = |at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let protocol = u16::from_le_bytes(*file.get(0x206..)?.first_chunk()?);
    if file.get(0x202..0x206)? != b"HdrS" || protocol < 0x208 {
        return None;
    }
    let sectors = match *file.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let begin = ((sectors + 1) * SECTOR).checked_add(u32_at(0x248)?)?;
    file.get(begin..begin.checked_add(u32_at(0x24c)?)?)
}

fn unpack(
    format: Format,
    stream: &[u8],
    limit: usize,
) -> std::result::Result<Vec<u8>, PayloadFault> {
    let reader: Box<dyn Read + '_> = match format {
        Format::Lz4Legacy => return unpack_lz4(stream, limit),
        Format::Gzip => Box::new(flate2::read::GzDecoder::new(stream)),
        Format::Xz => Box::new(liblzma::read::XzDecoder::new(stream)),
        Format::Zstd => {
            let mut decoder = zstd::Decoder::new(stream)?.single_frame();
            decoder.window_log_max(31)?;
            Box::new(decoder)
        }
        Format::Plain | Format::Bzip2 | Format::Lzma => {
            return Err(PayloadFault::Compression { format });
        }
    };
    Ok(compress::read_bounded(reader, limit as u64)?)
}

/// Decompresses lz4 blocks of at most 8 MiB, each after its compressed length.
fn unpack_lz4(stream: &[u8], limit: usize) -> std::result::Result<Vec<u8>, PayloadFault> {
    const BLOCK: usize = 8 << 20;
    let mut kernel = Vec::new();
    let mut block = vec![0; BLOCK];
    let mut rest = stream.get(4..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let compressed = after.get(..length).ok_or(PayloadFault::Truncated)?;
        let count = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|source| PayloadFault::Lz4 { source })?;
        kernel.extend_from_slice(block.get(..count).unwrap_or_default());
        if kernel.len() > limit {
            return Err(PayloadFault::TooLarge { length: kernel.len() });
        }
        rest = after.get(length..).unwrap_or_default();
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend((0..9_000_000_u32).map(|i| (i / 7) as u8));
        kernel
    }

    /// A bzImage around a payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"signature");
        image
    }

    fn with_length(mut stream: Vec<u8>, length: usize) -> Vec<u8> {
        stream.extend_from_slice(&(length as u32).to_le_bytes());
        stream
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut stream = vec![0x02, 0x21, 0x4c, 0x18];
        bytes.chunks(8 << 20).for_each(|chunk| {
            let block = lz4_flex::block::compress(chunk);
            stream.extend_from_slice(&(block.len() as u32).to_le_bytes());
            stream.extend_from_slice(&block);
        });
        stream
    }

    #[test]
    fn lz4_kernel_of_several_blocks_is_extracted() {
        let kernel = kernel();
        let image = image(&with_length(lz4(&kernel), kernel.len()));

        assert!(extract(&image).unwrap() == kernel);
    }

    #[test]
    fn gzip_kernel_is_extracted() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&kernel()).unwrap();

        assert!(extract(&image(&encoder.finish().unwrap())).unwrap() == kernel());
    }

    #[test]
    fn zstd_kernel_is_extracted() {
        let stream = zstd::encode_all(&kernel()[..], 1).unwrap();

        assert!(extract(&image(&with_length(stream, kernel().len()))).unwrap() == kernel());
    }

    #[test]
    fn xz_kernel_is_extracted() {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(b"\x7fELF and so on").unwrap();
        let stream = encoder.finish().unwrap();

        assert_eq!(extract(&image(&with_length(stream, 14))).unwrap(), b"\x7fELF and so on");
    }

    #[test]
    fn an_uncompressed_kernel_is_copied_unchanged() {
        assert_eq!(extract(b"\x7fELF").unwrap(), b"\x7fELF");
    }

    #[test]
    fn a_length_outside_of_the_file_is_an_error() {
        let image = image(&with_length(lz4(b"\x7fELF"), 5));

        assert!(matches!(
            extract_payload(&image),
            Err(PayloadFault::Length { stated: 5, found: 4 })
        ));
    }

    #[test]
    fn a_payload_longer_than_its_stated_length_is_an_error() {
        let image = image(&with_length(lz4(&vec![0; 1 << 20]), 100));

        assert!(matches!(extract_payload(&image), Err(PayloadFault::TooLarge { .. })));
    }

    #[test]
    fn kernel_larger_than_the_limit_is_refused_before_unpacking() {
        let image = image(&with_length(lz4(b"\x7fELF"), LIMIT + 1));

        assert!(matches!(extract_payload(&image), Err(PayloadFault::TooLarge { .. })));
    }

    #[test]
    fn a_truncated_kernel_is_an_error() {
        let kernel = kernel();
        let image = image(&with_length(lz4(&kernel), kernel.len()));

        assert!(matches!(extract_payload(&image[..5_000]), Err(PayloadFault::Unknown)));
        assert!(matches!(extract_payload(&image[..300]), Err(PayloadFault::Unknown)));
    }

    #[test]
    fn payload_that_is_no_kernel_is_an_error() {
        let image = image(&with_length(lz4(b"text"), 4));

        assert!(matches!(extract_payload(&image), Err(PayloadFault::NotAKernel)));
    }
}
