use std::fs;

use secrecy::ExposeSecret;

use super::*;

fn sources(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(DEFAULT_FILE), file).unwrap();
    let sources = Sources {
        file: None,
        folder: folder.path().to_owned(),
        env: env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        flags: flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect(),
    };
    (folder, sources)
}

/// The same where somebody named the file.
fn sources_named(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> (tempfile::TempDir, Sources) {
    let (folder, sources) = sources(file, env, flags);
    let file = Some(folder.path().join(DEFAULT_FILE));
    (folder, Sources { file, ..sources })
}

#[test]
fn a_file_of_the_working_folder_says_neither_where_secrets_go_nor_what_they_are_nor_whom_to_trust() {
    for (key, value) in [
        ("coordinator", "\"http://evil.example\""),
        ("token", "\"x\""),
        ("token_file", "\"/etc/passwd\""),
        ("amqp_url_file", "\"/etc/passwd\""),
        ("redis_url", "\"redis://evil.example\""),
        ("s3_endpoint", "\"http://evil.example\""),
        ("s3_bucket", "\"theirs\""),
        ("s3_readable", "[\"everything\"]"),
        ("ca_file", "\"theirs.pem\""),
        ("tokens_file", "\"theirs.toml\""),
        ("listen", "\"0.0.0.0:80\""),
        ("allow_private_references", "true"),
        ("reference_cache", "\"/home/me/pictures\""),
    ] {
        let (_folder, usual) =
            sources("coordinator = \"http://127.0.0.1:8700\"\nallow_private_references = false\n", &[], &[]);
        load(&usual).expect("as in a copy of the examples");
        let file = format!("steps = 7\n{key} = {value}\n");
        let (_folder, found) = sources(&file, &[], &[]);
        let message = load(&found).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{key}: a diorama.toml merely found in")), "{message}");
        assert!(!message.contains("evil") && message.contains("--config diorama.toml"), "{message}");
        let (_folder, other) = sources(&file, &[(&format!("DIORAMA_{}", key.to_uppercase()), "x")], &[]);
        load(&other).expect_err("what is said elsewhere excuses nothing");
        if !key.ends_with("_file") {
            let (_folder, named) = sources_named(&file, &[], &[]);
            assert_eq!(load(&named).unwrap().settings.steps, Some(7));
        }
    }
}

#[test]
fn a_password_in_a_flag_is_refused_and_an_address_without_one_is_not() {
    for (flag, key, text) in [
        ("--amqp-url", "amqp_url", "amqp://diorama:hunter2@host/v"),
        ("--redis-url", "redis_url", "redis://:hunter2@host"),
        ("--redis-url", "redis_url", "hunter2"),
    ] {
        let (_folder, sources) = sources("", &[], &[(key, text)]);
        let message = load(&sources).unwrap_err().to_string();
        assert!(message.contains(flag) && message.contains(&format!("{flag}-file")), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let (_folder, sources) = sources("", &[], &[("amqp_url", "amqp://host/v"), ("redis_url", "redis://host:6379/0")]);
    load(&sources).unwrap();
}

fn source_of(config: &Config, key: &str) -> String {
    config.source(key).to_string()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default_and_each_says_so() {
    let file = "steps = 10\nguidance = 1.5\nthreshold = 0.25\nedit_steps = [1, 2]\nbatch_size = 2\n";
    let env = [("DIORAMA_STEPS", "20"), ("DIORAMA_GUIDANCE", "2.5"), ("HOME", "/"), ("DIORAMA_NEGATIVE_PROMPT", "7")];
    let (folder, sources) = sources(file, &env, &[("steps", "30"), ("edit_steps", "5,18")]);
    let config = load(&sources).unwrap();
    let settings = &config.settings;
    assert_eq!((settings.steps, settings.guidance, settings.threshold), (Some(30), Some(2.5), Some(0.25)));
    assert_eq!(settings.edit_steps, Some(vec![5, 18]));
    assert_eq!(settings.negative_prompt.as_deref(), Some("7"));
    assert_eq!((config.engine.batch_size, config.run.shard_size), (Some(2), 64));
    assert_eq!(source_of(&config, "steps"), "flag --steps");
    assert_eq!(source_of(&config, "guidance"), "environment variable DIORAMA_GUIDANCE");
    assert_eq!(source_of(&config, "threshold"), format!("file {}", folder.path().join(DEFAULT_FILE).display()));
    assert_eq!(source_of(&config, "shard_size"), "default");
    assert_eq!(source_of(&config, "scheduler"), "unset");
}

#[test]
fn each_key_is_declared_once_and_its_default_is_of_its_type_and_in_its_range() {
    let names: std::collections::BTreeSet<_> = keys().map(|key| key.name).collect();
    assert_eq!(names.len(), keys().count(), "a key is declared twice");
    for key in keys() {
        if let Some(default) = key.default {
            assert_eq!(key.check(&default()), Ok(()));
        }
    }
}

#[test]
fn without_any_source_the_defaults_are_in_force() {
    let config = load(&Sources::default()).unwrap();
    assert_eq!((config.engine.batch_size, config.engine.device.as_str()), (None, "auto"));
    assert_eq!((config.run.shard_size, config.run.retry_delay), (64, 5.0));
    assert_eq!((config.worker.pool.as_str(), config.client.pool.as_str()), ("default", "default"));
    assert_eq!((config.coordinator.gc_grace, config.coordinator.scratch), (86_400.0, None));
    assert_eq!(config.settings, Settings::default());
    let sources = [Source::Default, Source::Unset];
    assert!(config.entries.iter().all(|entry| sources.contains(&entry.source)), "{:?}", config.entries);
}

#[test]
fn a_secret_is_read_from_its_file_and_shown_nowhere() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "hunter2\n").unwrap();
    let path = file.path().to_str().unwrap();
    let (_folder, sources) =
        sources_named(&format!("token_file = {path:?}\n"), &[("DIORAMA_AMQP_URL", " amqp://hunter2 ")], &[]);
    let config = load(&sources).unwrap();
    assert_eq!(config.client.token.as_ref().unwrap().expose_secret(), "hunter2");
    assert_eq!(config.services.amqp_url.as_ref().unwrap().expose_secret(), "amqp://hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&config.entries).unwrap().contains("hunter2"));
    fs::write(file.path(), " \n").unwrap();
    let message = load(&sources).unwrap_err().to_string();
    assert!(message.starts_with(&format!("token_file: {path} is empty (from file ")), "{message}");
}

#[test]
fn a_secret_and_the_file_of_one_obey_the_order_of_sources_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "from its file").unwrap();
    let path = file.path().to_str().unwrap();
    let redis = |file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let (_folder, sources) = sources_named(file, env, flags);
        load(&sources).unwrap().services.redis_url.unwrap().expose_secret().to_owned()
    };
    assert_eq!(redis("", &[("DIORAMA_REDIS_URL_FILE", path)], &[("redis_url", "redis://flag")]), "redis://flag");
    assert_eq!(redis("redis_url = \"ours\"", &[("DIORAMA_REDIS_URL_FILE", path)], &[]), "from its file");
    assert_eq!(redis(&format!("redis_url = \"ours\"\nredis_url_file = {path:?}"), &[], &[]), "from its file");
}

#[test]
fn every_refused_value_is_named_with_its_range_and_its_source() {
    let env = [("DIORAMA_STRENGTH", "7"), ("DIORAMA_STEPPS", "1"), ("DIORAMA_SERVICE_HOST", "10.0.0.1")];
    let (_folder, mut sources) = sources("stepps = 3\ndevice = \"tpu\"\n", &env, &[("batch_size", "0")]);
    let message = load(&sources).unwrap_err().to_string();
    for part in [
        "stepps: is not a key; did you mean steps? (from file ",
        "device: \"tpu\" is not auto, cpu, cuda or cuda:N (from file ",
        "strength: 7 is out of range; it must be above 0 and at most 1 (from environment variable DIORAMA_STRENGTH)",
        "batch_size: 0 is out of range; it must be 1 to 256 (from flag --batch-size)",
    ] {
        assert!(message.contains(part), "{part:?} is not in\n{message}");
    }
    sources.env.remove(0);
    sources.flags.clear();
    fs::write(sources.folder.join(DEFAULT_FILE), "").unwrap();
    assert_eq!(load(&sources).unwrap().unknown_variables, ["DIORAMA_STEPPS"]);
}

#[test]
fn a_path_may_begin_with_the_home_folder_wherever_it_is_said() {
    let (folder, mut sources) = sources("scratch = \"~/scratch\"\n", &[("DIORAMA_MODEL", "~/models/demo")], &[]);
    sources.file = Some(folder.path().join("diorama.toml"));
    sources.env.push(("HOME".to_owned(), folder.path().display().to_string()));
    sources.flags.push(("reference_cache", "~".to_owned()));
    let config = load(&sources).unwrap();
    assert_eq!(config.engine.model, Some(folder.path().join("models/demo")));
    assert_eq!(config.worker.scratch, Some(folder.path().join("scratch")));
    assert_eq!(config.references.reference_cache.as_deref(), Some(folder.path()));
    sources.env.pop();
    let message = load(&sources).unwrap_err().to_string();
    assert!(message.contains("model: ~ in \"~/models/demo\" is the home folder, but HOME is not set"), "{message}");
    sources.flags = vec![("reference_cache", "~bob/cache".to_owned())];
    let message = load(&sources).unwrap_err().to_string();
    assert!(message.contains("reference_cache: ~bob in \"~bob/cache\" is expanded only by shells"), "{message}");
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_toml() {
    let (folder, mut sources) = sources("steps = \n", &[], &[]);
    assert!(matches!(load(&sources), Err(ConfigError::File { .. })));
    sources.file = Some(folder.path().join("other.toml"));
    let message = load(&sources).unwrap_err().to_string();
    assert!(message.contains("other.toml: there is no such file"), "{message}");
}

#[test]
fn a_file_of_the_working_folder_that_is_no_configuration_is_neither_shown_nor_read_whole() {
    let (_folder, found) = sources("steps = 7\nroot:hunter2:20228\n", &[], &[]);
    let message = load(&found).unwrap_err().to_string();
    assert!(message.contains("is not TOML: line 2") && !message.contains("hunter2"), "{message}");
    let (_folder, named) = sources_named("steps = 7\nroot:hunter2:20228\n", &[], &[]);
    assert!(load(&named).unwrap_err().to_string().contains("hunter2"), "whoever names a file is shown its line");
    let (_folder, long) = sources(&"#".repeat(MAX_FILE_BYTES as usize + 1), &[], &[]);
    assert!(load(&long).unwrap_err().to_string().contains("is it a configuration?"));
}
