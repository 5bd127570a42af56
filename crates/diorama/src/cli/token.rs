//! The flags of `diorama token`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Adds a token to the file, and prints it: once, as only its digest is kept
    New(NewToken),
    /// Says whose tokens there are, what they allow and until when
    List(TokensFile),
    /// Removes every token of a name; what it had begun ends within seconds
    Revoke(RevokeToken),
}

#[derive(Debug, Args)]
pub(crate) struct TokensFile {
    /// The file of the tokens (or DIORAMA_TOKENS_FILE)
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<String>,
    /// Prints it as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// Whose it is: stands in logs, and in the runs that it submits
    pub(crate) name: String,
    /// What it allows: viewer, submitter or admin
    #[arg(long, value_name = "ROLE", value_parser = ["viewer", "submitter", "admin"])]
    pub(crate) role: String,
    /// Whoever else is in it sees and steers its runs
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Whose runs it sees: own or all (default: all for a viewer and an admin, own for a submitter)
    #[arg(long, value_name = "WHOSE", value_parser = ["own", "all"])]
    pub(crate) sees: Option<String>,
    /// Days for which it is good (default: until it is revoked)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: Option<u32>,
    #[command(flatten)]
    pub(crate) file: TokensFile,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeToken {
    /// Whose
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) file: TokensFile,
}

impl Token {
    pub(super) fn file(&self) -> &TokensFile {
        match self {
            Self::New(command) => &command.file,
            Self::List(file) => file,
            Self::Revoke(command) => &command.file,
        }
    }
}
