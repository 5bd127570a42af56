//! Addresses with a password in them that is written as it must not be.

/// Whether an `@` stands behind the end of the host, as where a password has a `/`, `?` or `#` in it that is not written
/// `%2f`, `%3f` or `%23`: what is taken for host, port and path is then pieces of the password, and nothing to show.
pub(crate) fn is_torn(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.find(['/', '?', '#', '\\']).is_some_and(|end| rest[end..].contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_a_raw_slash_is_noticed_wherever_it_stands() {
        for torn in [
            "amqp://u:p/ss@host/v",
            "amqp://u:1/ss@host:5672/v",
            "amqp://u:p@s/sword@host/v",
            "redis://:p#1@host:6379/0",
            "redis://:p?@host",
            "amqp://u:p\\w@host",
        ] {
            assert!(is_torn(torn), "{torn}");
        }
        for whole in ["amqp://u:p@host/v", "amqp://u:p%2fss@host:5672/%2f", "redis://host:6379/0", "rediss://:p@w@host"]
        {
            assert!(!is_torn(whole), "{whole}");
        }
    }
}
