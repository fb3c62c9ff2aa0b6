//! `completions`, `man` and `openapi`: what is told of the commands and of the API, made of themselves.

use super::table::print;
use super::{Cli, Done, Failed};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::Path;

/// `completions`
pub fn completions(shell: Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// `man`
pub fn man(directory: Option<&Path>) -> Done {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        let rendered = Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|why| Failed::Failed(format!("the page cannot be made: {why}")))?;
        return print(&String::from_utf8_lossy(&page));
    };
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|why| Failed::Failed(format!("{} cannot be written: {why}", directory.display())))
}

/// `openapi`
pub fn openapi() -> Done {
    let document = crate::admin::document().to_pretty_json().expect("the document is plain JSON");
    print(&format!("{document}\n"))
}
