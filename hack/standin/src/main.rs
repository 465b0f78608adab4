//! Dispatches on the name the program was called by.

use std::process::ExitCode;

use standin::launch::{self, Role};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let mut args: Vec<String> = args.collect();
    let mut role = Role::from_program(&program);
    if role.is_none() {
        if args.first().is_some_and(|word| word == "simulate") {
            return launch::finish(standin::simulate::run(&args[1..]));
        }
        role = args.first().and_then(|word| Role::from_program(word));
        if role.is_some() {
            args.remove(0);
        }
    }
    if let Some(role) = role {
        launch::finish(launch::run(role, &args))
    } else {
        let names: Vec<&str> = Role::ALL.iter().map(|role| role.program()).collect();
        eprintln!("usage: standin ({} | simulate) [flags]; or call it by one of these names", names.join(" | "));
        ExitCode::from(2)
    }
}
