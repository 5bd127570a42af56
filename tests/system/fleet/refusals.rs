//! How a process of a fleet ends where a service does not take it: with 42 and what to mend where no waiting helps, with 75
//! where a service is away; and a Redis that is away ends nobody.

use diorama_tests::services::certificates::Certificates;
use diorama_tests::services::free_port;
use diorama_tests::services::rabbitmq::USER;
use diorama_tests::services::s3::Faults;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::Fleet;
use crate::case::{End, end, until};

/// What stands for a secret here: nobody may say it.
const SECRET: &str = "hunter2";

/// A worker, and a coordinator.
const MEMBERS: [&[&str]; 2] =
    [&["worker", "--worker", "one", "--engine", "synthetic"], &["serve", "--listen", "127.0.0.1:0"]];

/// How a member ends with one setting changed.
fn ends(fleet: &Fleet, member: &[&str], (variable, value): (&str, &str)) -> End {
    let ended = end(fleet.command(member).env(variable, value));
    assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET), "{}", ended.stderr);
    ended
}

/// One setting changed, and what the refusal says: the setting, and what to do.
type Wrong<'a> = ((&'a str, &'a str), [&'a str; 2]);

#[track_caller]
fn refuses_for_good(fleet: &Fleet, wrong: &[Wrong<'_>]) {
    for (setting, parts) in wrong {
        for member in MEMBERS {
            let ended = ends(fleet, member, *setting);
            assert_eq!(ended.code, Some(42), "{member:?} {setting:?}: {}", ended.stderr);
            for part in parts {
                assert!(ended.stderr.contains(part), "{member:?} {setting:?}, no {part:?}: {}", ended.stderr);
            }
        }
    }
}

#[test]
fn a_setting_that_no_waiting_mends_ends_a_member_with_42_and_says_what_to_do() {
    let fleet = Fleet::new();
    let (broker, redis, s3) = (fleet.rabbitmq.port(), fleet.redis.port(), fleet.s3.port());
    let login = format!("amqp://{USER}:{SECRET}@127.0.0.1:{broker}/{USER}");
    let vhost = format!("{}-absent", fleet.rabbitmq.url());
    let amqps = format!("amqps://{USER}:{SECRET}@localhost:{broker}/{USER}");
    fleet.redis.ask(&["ACL", "SETUSER", "somebody", "on", ">right", "~*", "+@all"]).unwrap();
    let password = format!("redis://somebody:{SECRET}@127.0.0.1:{redis}");
    let database = format!("redis://127.0.0.1:{redis}/99");
    let rediss = format!("rediss://localhost:{redis}");
    let https = format!("https://localhost:{s3}");
    refuses_for_good(
        &fleet,
        &[
            (("DIORAMA_AMQP_URL", "amqp:hunter2"), ["amqp_url", "amqp://user:password@host"]),
            (("DIORAMA_AMQP_URL", &login), ["refuses the login", "check user and password in amqp_url"]),
            (("DIORAMA_AMQP_URL", &vhost), ["refuses the vhost", "amqp_url"]),
            (("DIORAMA_AMQP_URL", &amqps), ["TLS failed", "the broker's TLS port"]),
            (("DIORAMA_REDIS_URL", "hunter2"), ["redis_url", "redis://user:password@host"]),
            (("DIORAMA_REDIS_URL", &password), ["Password authentication failed", "redis_url"]),
            (("DIORAMA_REDIS_URL", &database), ["no such database", "redis_url"]),
            (("DIORAMA_REDIS_URL", &rediss), ["no TLS", "redis_url"]),
            (("DIORAMA_REDIS_CLUSTER", "true"), ["not a cluster", "redis_cluster"]),
            (("DIORAMA_S3_ENDPOINT", "localhost:9000"), ["s3_endpoint", "http://host:port"]),
            (("DIORAMA_S3_ENDPOINT", &https), ["NotTls", "s3_endpoint"]),
            (("DIORAMA_S3_BUCKET", "absent"), ["NoSuchBucket", "s3_bucket"]),
            (("DIORAMA_S3_ACCESS_KEY", "nobody"), ["NotSignedUp", "s3_access_key"]),
            (("DIORAMA_S3_SECRET_KEY", SECRET), ["SignatureDoesNotMatch", "s3_secret_key"]),
        ],
    );
    // A coordinator finds that out with its first run, which pauses with the reason.
    declare_otherwise(&fleet);
    let ended = ends(&fleet, MEMBERS[0], ("DIORAMA_POOL", "default")).expect(42);
    assert!(ended.stderr.contains("PRECONDITION_FAILED") && ended.stderr.contains("delete_queue"), "{}", ended.stderr);
}

/// The pool's queue is there, and is none of ours.
fn declare_otherwise(fleet: &Fleet) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = lapin::Connection::connect(&fleet.rabbitmq.url(), Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let classic = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("diorama.default".into(), classic, FieldTable::default()).await.unwrap();
    });
}

#[test]
fn certificates_that_do_not_fit_end_a_member_with_42_and_say_what_to_do() {
    let fleet = Fleet::with_tls();
    let strangers = Certificates::new();
    let strange = strangers.authority().display().to_string();
    let malformed = fleet.case.path("malformed.pem");
    std::fs::write(&malformed, SECRET).unwrap();
    let malformed = malformed.display().to_string();
    let amqp = fleet.rabbitmq.tls_url().replace("amqps", "amqp");
    let redis = fleet.redis.url().replace("rediss", "redis");
    let s3 = fleet.s3.endpoint().replace("https", "http");
    refuses_for_good(
        &fleet,
        &[
            (("DIORAMA_CA_FILE", "absent.pem"), ["absent.pem", "set ca_file"]),
            (("DIORAMA_CA_FILE", &malformed), ["holds no certificate", "set ca_file"]),
            (("DIORAMA_CA_FILE", &strange), ["ertificate", "ca_file"]),
            (("DIORAMA_AMQP_URL", &amqp), ["without TLS", "amqps://"]),
            (("DIORAMA_REDIS_URL", &redis), ["redis_url", "rediss://"]),
            (("DIORAMA_S3_ENDPOINT", &s3), ["NotHttp", "https://"]),
        ],
    );
}

#[test]
fn a_service_that_is_away_ends_a_member_with_75() {
    let fleet = Fleet::new();
    let nowhere = format!("127.0.0.1:{}", free_port());
    let store = format!("http://{nowhere}");
    // A store is waited for, for two minutes; meanwhile the others.
    let mut patient = fleet.start_with(&[("DIORAMA_S3_ENDPOINT", &store)], MEMBERS[0]);
    let broker = format!("amqp://{USER}:{SECRET}@{nowhere}/{USER}");
    let unknown = format!("amqp://{USER}:{SECRET}@no-such-host.invalid/{USER}");
    for setting in [
        ("DIORAMA_AMQP_URL", broker.as_str()),
        ("DIORAMA_AMQP_URL", &unknown),
        ("DIORAMA_S3_ENDPOINT", "http://no-such-host.invalid"),
    ] {
        for member in MEMBERS {
            ends(&fleet, member, setting).expect(75);
        }
    }
    // Where the store ignores conditions, Redis fences the commits, and nobody begins without it.
    fleet.s3.set(Faults { ignore_conditions: true, ..Default::default() });
    for member in MEMBERS {
        ends(&fleet, member, ("DIORAMA_REDIS_URL", &format!("redis://{nowhere}"))).expect(75);
    }
    assert_eq!(patient.code(), Some(75), "{}", patient.logged());
}

#[test]
fn members_that_start_while_redis_is_away_use_it_as_soon_as_it_answers() {
    let mut fleet = Fleet::new();
    fleet.redis.kill();
    let coordinator = fleet.start(fleet.serving(&fleet.coordinator));
    let worker = fleet.worker("one");
    for member in [&coordinator, &worker] {
        member.until_logged("Redis is unreachable: starting without it");
    }
    fleet.redis.start_again();
    until("the coordinator answers", || fleet.run(&["status"]).code == Some(0));
    let run = fleet.submit(80);
    fleet.proves_whole(&run, 80);
}
