//! Recipes: images that the runner builds by name, such as `runner image build claude`.
//!
//! Debian packages have the mirror's current versions, as in every image. Programs of the npm
//! registry are pinned by version and hash, for each architecture.

use std::fmt;

use crate::account;
use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::source::npm::Package;
use crate::store::Defaults;

/// A Debian system with programs of the npm registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    name: &'static str,
    pub(super) suite: &'static str,
    /// Packages besides those of every Debian image.
    pub(super) packages: &'static [&'static str],
    programs: &'static [Program],
    /// `NAME=VALUE` each: the programs' settings for a VM.
    env: &'static [&'static str],
}

/// A program with a package for each architecture.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    x86_64: Package,
    aarch64: Package,
}

const ALL: [&Recipe; 2] = [&BASE, &CLAUDE];

/// What programs and people expect of a sandbox: Python, git, and an SSH server for editors.
static BASE: Recipe = Recipe {
    name: "base",
    suite: "bookworm",
    packages: &[
        "ca-certificates",
        "curl",
        "git",
        "ncurses-bin",
        "openssh-server",
        "openssh-sftp-server",
        "python-is-python3",
        "python3",
        "rsync",
    ],
    programs: &[],
    env: &[],
};

/// Claude Code, and the tools that agents expect. The command is a native program, so the older
/// node of Debian does not matter.
static CLAUDE: Recipe = Recipe {
    name: "claude",
    suite: "bookworm",
    packages: &["ca-certificates", "git", "nodejs", "python3", "ripgrep"],
    programs: &[Program {
        x86_64: Package {
            name: "@anthropic-ai/claude-code-linux-x64",
            version: "2.1.330",
            integrity: "sha512-9Gn+V7DtJ8M1nztP9CeDVl9g3RtrepI7rOFTyPRRnZe8D6zebIHKmC7OvBauucuAP0X0k85SDN/LPVZyjsGezQ==",
            file: "claude",
            command: "claude",
        },
        aarch64: Package {
            name: "@anthropic-ai/claude-code-linux-arm64",
            version: "2.1.330",
            integrity: "sha512-V4yanAY5EA5UpwwRPtjSfqDbNqAlUJeVn3NYZw2AgmRHjdpSsLtHAzbxRXfkAnbjwTXzE0uedjQxUY02ARPcsA==",
            file: "claude",
            command: "claude",
        },
    }],
    // It cannot update itself: its files belong to root and are read-only.
    env: &["DISABLE_AUTOUPDATER=1"],
};

impl Recipe {
    /// The recipe for images of that name, if there is one.
    pub(super) fn find(name: &str) -> Option<&'static Recipe> {
        ALL.into_iter().find(|recipe| recipe.name == name)
    }

    /// The recipe of a name, or an error with all names.
    pub(super) fn named(name: &str) -> Result<&'static Recipe> {
        Recipe::find(name).ok_or_else(|| Error::NoRecipe {
            name: name.to_owned(),
            known: ALL.map(|recipe| recipe.name).join(", "),
        })
    }

    /// The defaults for commands: as `user`, in the workspace folder if there is an agent, else at home. Claude Code does
    /// not skip its permission prompts for root.
    pub(super) fn defaults(&self) -> Defaults {
        let has_agent = !self.programs.is_empty();
        let workdir = if has_agent { account::WORKSPACE } else { account::HOME };
        Defaults {
            env: self.env.iter().map(|pair| (*pair).to_owned()).collect(),
            workdir: Some(workdir.to_owned()),
            user: Some(account::NAME.to_owned()),
            ..Defaults::default()
        }
    }

    /// The npm packages for an architecture.
    pub(super) fn programs(&self, arch: Arch) -> impl Iterator<Item = &'static Package> + use<> {
        self.programs.iter().map(move |program| match arch {
            Arch::X86_64 => &program.x86_64,
            Arch::Aarch64 => &program.aarch64,
        })
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recipe:{}", self.name)?;
        self.programs.iter().try_for_each(|program| write!(f, " {}", program.x86_64.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_found_by_its_exact_name() {
        assert_eq!(Recipe::find("claude").unwrap().name, "claude");
        assert_eq!(Recipe::find("default"), None);
    }

    #[test]
    fn unknown_recipe_is_an_error_that_lists_the_recipes() {
        let error = Recipe::named("clade").unwrap_err();

        assert_eq!(error.to_string(), "no recipe named clade: the recipes are base, claude");
    }

    #[test]
    fn every_architecture_gets_its_own_package_of_one_version() {
        let [x86, arm] = [Arch::X86_64, Arch::Aarch64].map(|arch| CLAUDE.programs(arch).next());
        let (x86, arm) = (x86.unwrap(), arm.unwrap());

        assert_ne!(x86.name, arm.name);
        assert_ne!(x86.integrity, arm.integrity);
        assert_eq!((x86.version, x86.command), (arm.version, arm.command));
    }

    #[test]
    fn pins_are_whole_sha512_hashes() {
        let pins = CLAUDE.programs.iter().flat_map(|one| [&one.x86_64, &one.aarch64]);
        // 64 bytes in Base64.
        let length = "sha512-".len() + 88;
        let bad = pins
            .filter(|pin| !pin.integrity.starts_with("sha512-") || pin.integrity.len() != length);

        assert_eq!(bad.count(), 0);
    }

    #[test]
    fn commands_in_the_image_claude_run_as_user_in_the_workspace() {
        let defaults = CLAUDE.defaults();

        assert_eq!(defaults.user.as_deref(), Some("user"));
        assert_eq!(defaults.workdir.as_deref(), Some("/home/user/workspace"));
        assert_eq!(defaults.env, ["DISABLE_AUTOUPDATER=1"]);
    }

    #[test]
    fn a_recipe_is_displayed_with_its_pinned_versions() {
        assert_eq!(CLAUDE.to_string(), "recipe:claude 2.1.330");
    }
}
