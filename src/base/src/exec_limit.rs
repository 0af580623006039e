//! What the kernel takes of a program's arguments and environment: execve(2), "Limits on size".

use std::fmt;

/// The longest argument, or variable with its name, in bytes, with the zero at its end.
const STRING: usize = 128 << 10;

/// All arguments and variables together, with a pointer for each: a quarter of the usual stack limit.
pub const TOTAL: usize = 2 << 20;

/// Arguments or variables that no program can be started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    /// One of them is too long.
    String {
        /// Which.
        what: Name,
        /// Its bytes, with the zero at its end.
        bytes: usize,
    },
    /// They are too many, or too long, together.
    Total {
        /// The bytes of all, with their pointers.
        bytes: usize,
        /// How many there may be.
        limit: usize,
        /// The longest.
        longest: Name,
    },
}

/// An argument or a variable, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The argument at this position; 0 is the program.
    Argument(usize),
    /// The variable of this name.
    Variable(String),
}

/// Checks that a program can be started with these arguments and variables, `limit` bytes together,
/// which is [`TOTAL`] unless others join them.
pub fn check<'a>(
    arguments: impl IntoIterator<Item = &'a [u8]>,
    variables: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    limit: usize,
) -> Result<(), Excess> {
    let arguments = arguments.into_iter().enumerate();
    let arguments = arguments.map(|(at, text)| (Source::Argument(at), text.len() + 1));
    let variables = variables.into_iter();
    // `NAME=value` and its zero.
    let variables =
        variables.map(|(name, value)| (Source::Variable(name), name.len() + value.len() + 2));
    let (mut total, mut longest) = (0, (Source::Argument(0), 0));
    for (source, bytes) in arguments.chain(variables) {
        if bytes > STRING {
            return Err(Excess::String { what: source.name(), bytes });
        }
        total += bytes + size_of::<usize>();
        if bytes > longest.1 {
            longest = (source, bytes);
        }
    }
    if total > limit {
        return Err(Excess::Total { bytes: total, limit, longest: longest.0.name() });
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Argument(usize),
    Variable(&'a [u8]),
}

impl Source<'_> {
    fn name(self) -> Name {
        match self {
            Self::Argument(at) => Name::Argument(at),
            Self::Variable(name) => Name::Variable(String::from_utf8_lossy(name).into_owned()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(0) => f.write_str("the program's name"),
            Self::Argument(at) => write!(f, "argument {at}"),
            Self::Variable(name) => write!(f, "variable `{name}`"),
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String { what, bytes } => {
                write!(f, "{what} has {bytes} bytes: Linux takes {STRING} at most")
            }
            Self::Total { bytes, limit, longest } => write!(
                f,
                "arguments and variables have {bytes} bytes: {limit} are possible; the longest is {longest}"
            ),
        }
    }
}

impl std::error::Error for Excess {}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(count: usize, length: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..count).map(|at| (format!("V{at:02}").into_bytes(), vec![b'x'; length])).collect()
    }

    fn check_variables(variables: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Excess> {
        let variables = variables.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        check([b"true".as_slice()], variables, TOTAL)
    }

    #[test]
    fn the_longest_allowed_string_passes_and_a_longer_one_names_its_variable() {
        check_variables(&variables(1, STRING - 5)).unwrap();
        let excess = check_variables(&variables(1, STRING - 4)).unwrap_err();
        assert_eq!(
            excess.to_string(),
            "variable `V00` has 131073 bytes: Linux takes 131072 at most"
        );
    }

    #[test]
    fn an_excessive_total_names_the_longest_string() {
        check_variables(&variables(18, 100_000)).unwrap();
        let mut all = variables(21, 100_000);
        all[7].1.push(b'x');
        let excess = check_variables(&all).unwrap_err();
        assert_eq!(
            excess.to_string(),
            "arguments and variables have 2100287 bytes: 2097152 are possible; the longest is \
             variable `V07`"
        );
    }

    #[test]
    fn an_argument_is_named_by_its_position_and_never_shown() {
        let long = vec![b'x'; STRING];
        let excess = check([b"echo".as_slice(), &long], [], TOTAL).unwrap_err();
        assert_eq!(excess.to_string(), "argument 1 has 131073 bytes: Linux takes 131072 at most");
    }
}
