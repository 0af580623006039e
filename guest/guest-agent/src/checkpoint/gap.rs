//! What an artifact lacks: each piece that could not be read, and why. The rest is kept.

use std::fmt::Display;

/// How many pieces are named; more are counted.
const NAMED: usize = 20;

/// The pieces that an artifact lacks.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    named: Vec<String>,
    count: usize,
}

impl Gaps {
    /// A piece, by its path below the artifact's root.
    pub(super) fn add(&mut self, path: &str, reason: impl Display) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{path} is not kept: {reason}"));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// As the job's user is told of them.
    pub(super) fn warnings(&self, artifact: &str) -> Vec<String> {
        let told = |text: &String| format!("artifact {artifact}: {text}");
        let mut warnings: Vec<_> = self.named.iter().map(told).collect();
        let more = self.count - self.named.len();
        if more > 0 {
            warnings.push(format!("artifact {artifact}: {more} more pieces are not kept"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pieces_are_named_and_the_others_counted() {
        let mut gaps = Gaps::default();
        (0..NAMED + 3).for_each(|number| gaps.add(&format!("f{number}"), "no right"));
        let warnings = gaps.warnings("w");
        assert_eq!(warnings[0], "artifact w: f0 is not kept: no right");
        assert_eq!(warnings.last().unwrap(), "artifact w: 3 more pieces are not kept");
        assert_eq!(warnings.len(), NAMED + 1);
    }
}
