//! The flags that set keys of the configuration, in groups that commands share. Name, help and range of each come from
//! the key's declaration; its value is text here.

use std::fmt;
use std::marker::PhantomData;

use clap::{Arg, ArgMatches, Args, FromArgMatches};
use diorama_core::settings::{Key, Settings};
use diorama_runtime::config;
use diorama_runtime::options::{
    ClientOptions, CoordinatorOptions, EngineOptions, ReferenceOptions, RunOptions, ServiceOptions, WorkerOptions,
};

/// A group of flags.
pub(super) trait Group {
    /// Above them in the help; without it, they stand among the command's own.
    const HEADING: Option<&'static str>;
    /// Keys that all have a flag here, but those whose value no flag should say.
    const KEYS: &'static [Key];
    /// The names of keys that are declared elsewhere and have a flag here too.
    const ALSO: &'static [&'static str];
}

/// The flags of a group that were given.
pub(super) struct Flags<G> {
    given: Vec<(&'static str, String)>,
    group: PhantomData<G>,
}

impl<G> Clone for Flags<G> {
    fn clone(&self) -> Self {
        Self { given: self.given.clone(), group: PhantomData }
    }
}

impl<G: Group> Flags<G> {
    /// The keys that were given, with their texts.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        self.given.clone()
    }

    fn keys() -> impl Iterator<Item = &'static Key> {
        let also = G::ALSO.iter().filter_map(|name| config::key(name));
        G::KEYS.iter().chain(also).filter(|key| key.has_flag())
    }
}

impl<G: Group> Args for Flags<G> {
    fn augment_args(command: clap::Command) -> clap::Command {
        Self::keys().fold(command, |command, key| {
            let flag = Arg::new(key.name)
                .long(key.name.replace('_', "-"))
                .value_name(key.placeholder)
                .help(key.help())
                .allow_negative_numbers(true);
            command.arg(match G::HEADING {
                Some(heading) => flag.help_heading(heading),
                None => flag,
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<G: Group> FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
        Ok(Self { given: Self::keys().filter_map(given).collect(), group: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Which flags were given, and not what they say: some are secrets.
impl<G: Group> fmt::Debug for Flags<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.given.iter().map(|(name, _)| name)).finish()
    }
}

macro_rules! groups {
    ($($(#[$doc:meta])* $flags:ident of $group:ident: $heading:expr, $keys:expr, $also:expr;)+) => { $(
        $(#[$doc])*
        pub(super) type $flags = Flags<$group>;

        #[doc = concat!("The group of [`", stringify!($flags), "`].")]
        pub(super) struct $group;

        impl Group for $group {
            const HEADING: Option<&'static str> = $heading;
            const KEYS: &'static [Key] = $keys;
            const ALSO: &'static [&'static str] = &$also;
        }
    )+ };
}

groups! {
    /// The settings of the method.
    MethodFlags of Method: Some("Method"), Settings::DECLARED, [];
    /// What makes the pictures.
    EngineFlags of Engine: Some("Engine"), EngineOptions::KEYS, [];
    /// The machine that a model runs on, where another argument says which model.
    MachineFlags of Machine: Some("Engine"), &[], ["variant", "device", "dtype", "batch_size"];
    /// How a run is cut, stored and tried again.
    RunFlags of Run: Some("Run"), RunOptions::KEYS, [];
    /// With which networks a run's pictures are measured.
    NetworkFlags of Measuring: Some("Run"), &[], ["networks"];
    /// The seed of a single picture.
    SeedFlag of Seed: None, &[], ["seed"];
    /// How references are fetched.
    ReferenceFlags of References: Some("References"), ReferenceOptions::KEYS, [];
    /// Where RabbitMQ, Redis and the object store are. Secrets are better in the environment or in a file.
    ServiceFlags of Services: Some("Services"), ServiceOptions::KEYS, [];
    /// Which coordinator, beside services that have certificates of their own.
    CoordinatorFlags of Coordinator: Some("Coordinator"), ClientOptions::KEYS, [];
    /// Which coordinator.
    ClientFlags of Client: Some("Coordinator"), ClientOptions::KEYS, ["ca_file"];
    /// Which pool a run is for, and what references its workers take.
    SubmitFlags of Submit: None, &[], ["pool", "allow_private_references"];
    /// How a worker works.
    WorkerFlags of Worker: Some("Worker"), WorkerOptions::KEYS, [
        "max_shard_size", "max_retry_rounds", "max_size", "max_steps", "max_accept_tries",
    ];
    /// How a coordinator serves.
    ServeFlags of Serve: Some("Coordinator"), CoordinatorOptions::KEYS, [
        "metrics_listen", "scratch", "allow_private_references", "max_shard_size", "max_retry_rounds", "max_size", "max_steps",
        "max_accept_tries",
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_key_has_its_flag_at_some_command_except_secrets_that_no_flag_should_say() {
        let cli = Cli::command();
        let flags: BTreeSet<String> = cli
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(|argument| argument.get_long().map(str::to_owned))
            .collect();
        for key in config::keys() {
            let flag = key.name.replace('_', "-");
            let hidden = ["token", "s3_secret_key", "s3_session_token", "reference_s3_secret_key"].contains(&key.name);
            assert_eq!(flags.contains(&flag), !hidden, "--{flag}");
        }
    }

    #[test]
    fn the_help_of_a_flag_says_its_range_and_its_default() {
        let help = |command: &str| Cli::command().find_subcommand_mut(command).unwrap().render_long_help().to_string();
        let help = |command: &str| help(command).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help("serve").contains("is kept before it is collected: 0 to 31536000 (default: 86400)"));
        assert!(help("generate").contains("The share of the schedule that runs: above 0 and at most 1"));
        assert!(help("run").contains("How the picture is made: abs-grad-sam, img2img, img2img-reduced or txt2img"));
    }
}
