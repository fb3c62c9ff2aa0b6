//! The commands. Each prints for people, or with `--json` one JSON object for scripts.

mod audit;
mod client;
mod credit;
mod customer;
mod demo;
mod gateway;
mod key_limits;
mod ledger;
mod pool;
mod prices;
mod shell;
mod table;
mod top;
mod usage;

use crate::app::Begin;
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::Chain;
use crate::money::Amount;
use clap::{Args, Parser, Subcommand};
use client::Client;
use key_limits::LimitOptions;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Sells, meters and protects access to LLM APIs.
#[derive(Parser)]
#[command(
    name = "tollgate",
    version,
    about,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by the gateway"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Where the admin API of the gateway is
    #[arg(long, global = true, env = "TOLLGATE_ADMIN_URL", default_value = "http://127.0.0.1:9180")]
    admin: String,
    /// Print one JSON object; lists print one a line
    #[arg(long, global = true)]
    json: bool,
    /// On whose behalf a change is made, for the audit
    #[arg(long, global = true, env = "USER", hide_env_values = true)]
    operator: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Show it all: a provider, a gateway, a customer and two requests, in a temporary store
    Demo {
        /// Where the gateway listens
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// End after the requests, with 1 if anything did not add up
        #[arg(long)]
        once: bool,
    },
    /// Run the gateway
    Serve {
        /// The configuration
        #[arg(long)]
        config: PathBuf,
        /// Take the place of the process that uses the store: no request fails. Without one, just run
        #[arg(long)]
        upgrade: bool,
    },
    /// Tell every fault of a configuration, or of a price book alone
    Check(gateway::Check),
    /// Run the simulated provider alone
    Simulate(gateway::Simulate),
    /// Customers: who pays
    #[command(subcommand)]
    Customer(CustomerCommand),
    /// Keys: what customers present
    #[command(subcommand)]
    Key(KeyCommand),
    /// Credit: what customers have
    #[command(subcommand)]
    Credit(credit::CreditCommand),
    /// The ledger's proof of one request
    Receipt {
        /// The request, from its x-request-id
        #[arg(value_parser = id::<RequestId>)]
        request_id: RequestId,
    },
    /// Every entry of a customer
    Statement {
        /// Whose
        #[arg(long, value_parser = id::<CustomerId>)]
        customer: CustomerId,
        /// Not before this time: RFC 3339, or a date
        #[arg(long, value_parser = time)]
        from: Option<Timestamp>,
        /// Before this time
        #[arg(long, value_parser = time)]
        to: Option<Timestamp>,
        /// How it is printed
        #[arg(long, value_enum, default_value_t = customer::Format::Table)]
        format: customer::Format,
    },
    /// What a customer used and was charged
    Usage(usage::Asked),
    /// Price books: what is sold, and for how much
    #[command(subcommand)]
    Prices(PricesCommand),
    /// The journal and what follows from it
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// The pool of upstream accounts
    #[command(subcommand)]
    Upstream(UpstreamCommand),
    /// How the gateway does, live: rate, latency, pool, money, what failed last
    Top(top::Options),
    /// Who changed what by the admin API
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print the OpenAPI document of the admin API
    Openapi,
    /// Print what makes a shell complete these commands
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands to a directory
    Man {
        /// Where to write them
        directory: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum UpstreamCommand {
    /// Every account: its health, what it has to do, and what is left of its limits
    List,
    /// Let one finish what it has and give it no more, until `resume` or a restart
    Drain {
        /// Its name in the configuration
        name: String,
    },
    /// Give one requests again
    Resume {
        /// Its name in the configuration
        name: String,
    },
}

#[derive(Subcommand)]
enum CustomerCommand {
    /// Begin to keep a customer
    Create {
        /// Any name of up to 256 characters, without control characters
        name: String,
    },
    /// All customers
    List,
    /// Change the limits of all keys of a customer together, and what they may owe, at once; what is not named stays
    Set {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        /// US dollars that the customer may owe, such as 100.00; none for nothing
        #[arg(long, value_name = "USD", value_parser = key_limits::overdraft, allow_hyphen_values = true)]
        overdraft: Option<Amount>,
        #[command(flatten)]
        limits: Box<LimitOptions>,
    },
    /// One customer
    Show {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
    },
    /// Note that a customer accepted terms of the service
    AcceptTerms {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        /// The version, as `policy.terms_version` has it; * if a contract stands in place of all versions
        #[arg(long, value_name = "VERSION")]
        terms: String,
        #[command(flatten)]
        why: credit::Why,
    },
    /// Refuse new requests until further notice; those in flight are finished
    Suspend {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        #[command(flatten)]
        why: credit::Why,
    },
    /// End a suspension
    Resume {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        #[command(flatten)]
        why: credit::Why,
    },
    /// Refuse everything, end what is in flight, and take all credit
    Ban {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        /// The evidence, for the audit
        #[arg(long)]
        reason: String,
    },
    /// Lift a ban, and give the credit back
    Unban {
        /// Which
        #[arg(value_parser = id::<CustomerId>)]
        id: CustomerId,
        #[command(flatten)]
        why: credit::Why,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key; it is printed once
    Create {
        /// Whose
        #[arg(long, value_parser = id::<CustomerId>)]
        customer: CustomerId,
        /// Any name, to tell it from others
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: Box<LimitOptions>,
    },
    /// Change the limits of a key, at once; those that are not named stay
    Set {
        /// Which
        #[arg(value_parser = id::<KeyId>)]
        id: KeyId,
        #[command(flatten)]
        limits: Box<LimitOptions>,
    },
    /// Take over a key of another gateway, read from standard input
    Import {
        /// Whose
        #[arg(long, value_parser = id::<CustomerId>)]
        customer: CustomerId,
        /// Any name, to tell it from others
        #[arg(long)]
        name: Option<String>,
    },
    /// All keys
    List {
        /// Of this customer only
        #[arg(long, value_parser = id::<CustomerId>)]
        customer: Option<CustomerId>,
    },
    /// End a key for good
    Revoke {
        /// Which
        #[arg(value_parser = id::<KeyId>)]
        id: KeyId,
    },
}

#[derive(Subcommand)]
enum PricesCommand {
    /// Make a price book of the public map of LiteLLM, on standard output
    Import(prices::Import),
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// Read and fold the whole journal, and check that everything adds up
    Verify {
        /// A store that no gateway uses; without it, that of the running gateway
        #[arg(long)]
        store: Option<PathBuf>,
        /// A head that was printed before: fail if anything up to it was changed since
        #[arg(long, value_name = "HEAD", value_parser = head)]
        expect: Option<Chain>,
    },
    /// Copy the ledger of the running gateway, as of now, verified as it is copied
    Backup {
        /// A new directory on the gateway's machine
        directory: PathBuf,
    },
    /// Move full segments of the running gateway's journal to another directory, verified on their way
    Archive {
        /// On the gateway's machine, such as a larger disk: it may be out of reach later
        directory: PathBuf,
        #[command(flatten)]
        which: ledger::Which,
    },
    /// Print every entry, from the first or after one
    Export {
        /// How it is printed
        #[arg(long, value_enum, default_value_t = ledger::Format::Jsonl)]
        format: ledger::Format,
        /// Resume after this entry: the last entry_id that was printed
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
    },
    /// Make the state and the indexes of a stopped store again from its journal
    Rebuild {
        /// A store that no gateway uses
        #[arg(long)]
        store: PathBuf,
    },
}

/// How a command ended badly.
#[derive(Debug)]
pub enum Failed {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2: the command line or the configuration.
    Usage(String),
    /// Exit code 3: the gateway refused.
    Refused(String),
    /// Exit code 4: all that could be seen is well, but not all could be seen.
    Unseen(String),
}

impl Failed {
    fn code(&self) -> u8 {
        match self {
            Failed::Failed(_) => 1,
            Failed::Usage(_) => 2,
            Failed::Refused(_) => 3,
            Failed::Unseen(_) => 4,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Failed(what) | Failed::Usage(what) | Failed::Refused(what) | Failed::Unseen(what) => {
                f.write_str(what)
            }
        }
    }
}

/// What a command gives.
pub type Done = Result<(), Failed>;

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    match dispatch(command, &global) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("tollgate: {failed}");
            ExitCode::from(failed.code())
        }
    }
}

fn dispatch(command: Command, global: &Global) -> Done {
    let client = || Client::new(global);
    match command {
        Command::Demo { listen, once } => demo::run(listen, once, global.json),
        Command::Serve { config, upgrade } => {
            gateway::serve(&config, if upgrade { Begin::Upgrade } else { Begin::Afresh })
        }
        Command::Check(what) => gateway::check(&what, global.json),
        Command::Simulate(options) => gateway::simulate(&options),
        Command::Customer(command) => customer::run(&client()?, command),
        Command::Key(KeyCommand::Create { customer, name, limits }) => {
            customer::create_key(&client()?, customer, name, &limits.changes())
        }
        Command::Key(KeyCommand::Set { id, limits }) => {
            customer::limit_key(&client()?, id, &limits.changes())
        }
        Command::Key(KeyCommand::Import { customer, name }) => {
            customer::import_key(&client()?, customer, name)
        }
        Command::Key(KeyCommand::List { customer }) => customer::list_keys(&client()?, customer),
        Command::Key(KeyCommand::Revoke { id }) => customer::revoke_key(&client()?, id),
        Command::Credit(command) => credit::run(&client()?, &command),
        Command::Receipt { request_id } => customer::receipt(&client()?, request_id),
        Command::Statement { customer, from, to, format } => {
            customer::statement(&client()?, customer, from, to, format)
        }
        Command::Usage(asked) => usage::run(&client()?, &asked),
        Command::Prices(PricesCommand::Import(what)) => prices::import(&what, global.json),
        Command::Ledger(what) => dispatch_ledger(what, global),
        Command::Audit(audit::AuditCommand::List(which)) => audit::list(&client()?, &which),
        Command::Top(options) => top::run(client()?, options),
        Command::Openapi => shell::openapi(),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { directory } => shell::man(directory.as_deref()),
        Command::Upstream(UpstreamCommand::List) => pool::list(&client()?),
        Command::Upstream(UpstreamCommand::Drain { name }) => pool::drain(&client()?, &name),
        Command::Upstream(UpstreamCommand::Resume { name }) => pool::resume(&client()?, &name),
    }
}

fn dispatch_ledger(command: LedgerCommand, global: &Global) -> Done {
    let client = || Client::new(global);
    match command {
        LedgerCommand::Verify { store: Some(store), expect } => {
            ledger::verify_stopped(&store, expect, global.json)
        }
        LedgerCommand::Verify { store: None, expect } => ledger::verify(&client()?, expect),
        LedgerCommand::Export { format, after } => ledger::export(&client()?, format, after),
        LedgerCommand::Archive { directory, which } => ledger::archive(&client()?, &directory, &which),
        LedgerCommand::Backup { directory } => ledger::backup(&client()?, &directory),
        LedgerCommand::Rebuild { store } => ledger::rebuild(&store, global.json),
    }
}

/// The word that a value is written as.
fn shown_name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => unreachable!("it is written as a word"),
    }
}

/// What has an id that is written like `cus_…`.
trait Id: Sized {
    fn read(text: &str) -> Option<Self>;
    const FORM: &'static str;
}

impl Id for CustomerId {
    const FORM: &'static str = "cus_ and 16 hexadecimal digits";
    fn read(text: &str) -> Option<Self> {
        CustomerId::parse(text)
    }
}

impl Id for KeyId {
    const FORM: &'static str = "key_ and 16 hexadecimal digits";
    fn read(text: &str) -> Option<Self> {
        KeyId::parse(text)
    }
}

impl Id for RequestId {
    const FORM: &'static str = "req_ and 32 hexadecimal digits";
    fn read(text: &str) -> Option<Self> {
        RequestId::parse(text)
    }
}

fn id<T: Id>(text: &str) -> Result<T, String> {
    T::read(text).ok_or_else(|| format!("must be {}", T::FORM))
}

fn head(text: &str) -> Result<Chain, String> {
    Chain::parse(text).ok_or_else(|| "must be the 64 hexadecimal digits that `ledger verify` prints".into())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .ok_or_else(|| "must be a date or an RFC 3339 time, such as 2026-11-23T12:00:00Z".into())
}
