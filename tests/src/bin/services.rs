//! Private RabbitMQ, Redis and S3 servers for `make fleet`: starts them, writes where they are as shell assignments into
//! the file that it is given, and ends them when its standard input closes or a signal comes.

use std::fmt::Write as _;
use std::io::Read;

use diorama_tests::services::rabbitmq::RabbitMq;
use diorama_tests::services::redis::Redis;
use diorama_tests::services::s3::{self, S3Server};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(to) = arguments.next() else {
        panic!("usage: diorama-services FILE: the file for the addresses");
    };
    let beside = std::env::current_exe().expect("this program has a path").with_file_name("diorama-s3");
    let (redis, s3) = (Redis::start(), S3Server::start(&beside));
    let rabbitmq = RabbitMq::start();
    let mut text = String::new();
    for (name, value) in [
        ("DIORAMA_AMQP_URL", rabbitmq.url()),
        ("DIORAMA_REDIS_URL", redis.url()),
        ("DIORAMA_S3_ENDPOINT", s3.endpoint()),
        ("DIORAMA_S3_BUCKET", s3::BUCKET.to_owned()),
        ("DIORAMA_S3_ACCESS_KEY", s3::ACCESS_KEY.to_owned()),
        ("DIORAMA_S3_SECRET_KEY", s3::SECRET_KEY.to_owned()),
        ("DIORAMA_S3_PATH_STYLE", "true".to_owned()),
        // For benchmarks, which look at what lies there.
        ("S3_FOLDER", s3.folder().display().to_string()),
        ("S3_REQUESTS", s3.requests_file().display().to_string()),
    ] {
        writeln!(text, "export {name}='{value}'").expect("text takes text");
    }
    let unfinished = format!("{to}.part");
    std::fs::write(&unfinished, text).expect("the file can be written");
    std::fs::rename(&unfinished, &to).expect("the file can be renamed");
    // Whoever started us holds the other end: however it dies, this ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
