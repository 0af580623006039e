//! Does the file operation that standard input asks for: `guest-files < request.json`.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | the operation succeeded |
//! | 1 | it failed; the last line on standard output says why |

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Without the buffer of `Stdin`: a watch polls for more.
    let input = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(input) => File::from(input),
        Err(error) => {
            eprintln!("guest-files: cannot read the request: {error}");
            return ExitCode::FAILURE;
        }
    };
    match guest_files::run(input, &guest_files::home(), io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest-files: {}", base::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
