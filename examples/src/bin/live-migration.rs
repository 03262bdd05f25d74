//! Migrates a live database of real flights and proves that nothing was lost. `--help` tells the options.

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use zdm_examples::live_migration::options::{HELP, Options};
use zdm_examples::live_migration::program;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _printed = writeln!(stdout(), "{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _printed = writeln!(stderr(), "live-migration: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let clean = match runtime {
        Ok(runtime) => runtime.block_on(program::run(&options)).map_err(Box::<dyn Error>::from),
        Err(error) => Err(error.into()),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let mut text = format!("live-migration: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            let _printed = writeln!(stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}
