//! The addon for mitmproxy, which is embedded in this program.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::error::file;

/// The script for mitmdump.
pub(crate) const MAIN: &str = "main.py";

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../proxy/", $name)))),*]
    };
}

const FILES: [(&str, &str); 17] = files![
    "main.py",
    "egress/__init__.py",
    "egress/addon.py",
    "egress/body.py",
    "egress/control.py",
    "egress/credential.py",
    "egress/host.py",
    "egress/layer.py",
    "egress/mask.py",
    "egress/override.py",
    "egress/path.py",
    "egress/policy.py",
    "egress/record.py",
    "egress/registry.py",
    "egress/route.py",
    "egress/unescape.py",
    "egress/websocket.py",
];

/// Writes the addon to a folder.
pub(crate) fn unpack(folder: &Path) -> Result<()> {
    let package = folder.join("egress");
    fs::create_dir(&package).map_err(file("create", &package))?;
    for (name, text) in FILES {
        let path = folder.join(name);
        fs::write(&path, text).map_err(file("write to", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_addon_is_embedded() {
        let folder = tempfile::tempdir().unwrap();
        unpack(folder.path()).unwrap();
        let names = |of: &Path| {
            let mut names: Vec<_> = fs::read_dir(of.join("egress"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .filter(|name| name.to_string_lossy().ends_with(".py"))
                .collect();
            names.sort();
            names
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy");
        assert_eq!(names(folder.path()), names(&source));
    }
}
