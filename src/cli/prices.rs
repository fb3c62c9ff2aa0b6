//! The commands on price books.

use super::table::{print, print_json};
use super::{Done, Failed};
use crate::clock::Timestamp;
use crate::config;
use clap::Args;
use std::path::PathBuf;

/// What `prices import` takes.
#[derive(Args)]
pub struct Import {
    /// The map: `model_prices_and_context_window.json` of LiteLLM
    file: PathBuf,
    /// Whose models, as the map names them
    #[arg(long, value_delimiter = ',', default_value = "openai,anthropic")]
    providers: Vec<String>,
    /// The name of the book; without it, today's date
    #[arg(long)]
    name: Option<String>,
}

/// `prices import`: the book on standard output, what is not in it on standard error.
pub fn import(what: &Import, json: bool) -> Done {
    let file = what.file.display();
    let map = std::fs::read_to_string(&what.file).map_err(|why| Failed::Usage(format!("{file}: {why}")))?;
    let today = Timestamp::now().to_string();
    let version = what.name.as_deref().unwrap_or(&today[..10]);
    let imported = config::import(&map, &what.providers, version);
    let imported = imported.map_err(|why| Failed::Usage(format!("{file} {why}")))?;
    if json {
        return print_json(&serde_json::json!({
            "book": imported.book, "models": imported.models, "left_out": imported.left_out
        }));
    }
    for left_out in &imported.left_out {
        eprintln!("left out: {left_out}");
    }
    print(&imported.book)
}
