//! The differences between the SQL of the two stores.

/// The SQL of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
}

impl Dialect {
    /// A subquery with the texts of a JSON array.
    pub(super) fn items(self, parameter: &str) -> String {
        match self {
            Self::Sqlite => format!("SELECT value FROM json_each({parameter})"),
        }
    }
}
