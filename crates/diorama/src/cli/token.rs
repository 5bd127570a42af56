//! The flags of `diorama token`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Adds a token to the file and prints it, once: only its digest is kept
    New(NewToken),
    /// Lists the tokens' names, what they allow and when they expire
    List(TokensFile),
    /// Removes every token of a name; its open streams end within seconds
    Revoke(RevokeToken),
}

#[derive(Debug, Args)]
pub(crate) struct TokensFile {
    /// The file of the tokens (or DIORAMA_TOKENS_FILE)
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<String>,
    /// Prints the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// The owner's name, which appears in logs and in the runs submitted
    pub(crate) name: String,
    /// What it allows: viewer, submitter or admin
    #[arg(long, value_name = "ROLE", value_parser = ["viewer", "submitter", "admin"])]
    pub(crate) role: String,
    /// A group whose members see and control each other's runs
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Whose runs it sees: own or all (default: all for a viewer and an admin, own for a submitter)
    #[arg(long, value_name = "WHOSE", value_parser = ["own", "all"])]
    pub(crate) sees: Option<String>,
    /// Days until it expires (default: never)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: Option<u32>,
    #[command(flatten)]
    pub(crate) file: TokensFile,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeToken {
    /// The owner's name
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
