//! Writes cpio archives in the `newc` format, which the kernel unpacks as its
//! initramfs. All in memory: an initramfs is a few MiB.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;

/// An archive that is being written; `finish` returns it.
#[derive(Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub(crate) fn character_device(&mut self, path: &str, mode: u32, device: (u32, u32)) {
        self.entry(path, CHARACTER | mode, device, &[]);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        // Files that the kernel could take for links of each other need different
        // inode numbers; the trailer has none.
        let inode = self.inode;
        self.inode += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let fields = [
            inode,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents end at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn empty_archive_is_the_trailer() {
        let bytes = Cpio::default().finish();

        assert_eq!(bytes.len(), 124);
        assert_eq!(&bytes[..14], b"07070100000000");
        assert_eq!(&bytes[110..121], b"TRAILER!!!\0");
    }

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut cpio = Cpio::default();
        cpio.file("a", 0o644, b"12345");
        let bytes = cpio.finish();

        assert_eq!(&bytes[112..117], b"12345");
        assert_eq!(&bytes[120..126], MAGIC.as_bytes());
    }

    #[test]
    fn the_cpio_program_lists_the_written_files() {
        let mut cpio = Cpio::default();
        cpio.directory("dev");
        cpio.character_device("dev/console", 0o600, (5, 1));
        cpio.file("init", 0o755, b"#!");
        let Ok(mut child) = Command::new("cpio")
            .args(["-t", "-v", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return host_test::skip("no cpio: apt-get install cpio");
        };
        child.stdin.take().unwrap().write_all(&cpio.finish()).unwrap();

        let output = child.wait_with_output().unwrap();

        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x   2") && lines[0].ends_with("dev"));
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"));
        assert!(lines[2].starts_with("-rwxr-xr-x   1") && lines[2].ends_with("init"));
    }
}
