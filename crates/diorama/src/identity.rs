//! What a process calls itself where others see it: among workers, in decisions, in leases.

/// A name that no other process has, also where every container runs as process 1.
pub(crate) fn unique() -> String {
    // The last digits of a version 7 id are random.
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("{}-{}-{}", host(), std::process::id(), &id[id.len() - 8..])
}

/// This machine's name, as far as it can stand in ids: its end, where generated names differ.
fn host() -> String {
    end_of(&rustix::system::uname().nodename().to_string_lossy())
}

fn end_of(name: &str) -> String {
    const LONGEST: usize = 40;
    let fine: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let end = fine[fine.len().saturating_sub(LONGEST)..].trim_start_matches('-');
    if end.is_empty() { "host".to_owned() } else { end.to_owned() }
}

#[cfg(test)]
mod tests {
    use diorama_core::id::WorkerId;

    use super::*;

    #[test]
    fn generated_names_of_pods_differ_where_their_ends_do() {
        let pod = |end: &str| end_of(&format!("myrelease-diorama-worker-default-7c9f6d5b8-{end}"));
        assert_ne!(pod("x2x91"), pod("x2x92"));
        assert!(pod("x2x91").ends_with("7c9f6d5b8-x2x91"));
        for (name, end) in [("", "host"), ("---", "host"), ("gpu_7.example.org", "gpu7exampleorg"), ("äöü", "host")]
        {
            assert_eq!(end_of(name), end, "{name:?}");
        }
    }

    #[test]
    fn a_name_is_a_worker_id_and_nobody_elses() {
        assert!(WorkerId::new(unique()).is_ok(), "{}", unique());
        assert_ne!(unique(), unique());
    }
}
