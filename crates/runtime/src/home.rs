//! `~` at the beginning of a path, which shells expand, and nothing else does: not in a file, not in a variable, and not
//! behind `--out=`.

use std::path::{Path, PathBuf};

/// The home folder that the environment names.
pub fn folder(env: &[(String, String)]) -> Option<PathBuf> {
    env.iter().find(|(name, path)| name == "HOME" && !path.is_empty()).map(|(_, path)| PathBuf::from(path))
}

/// The path with `home` in the place of `~`; the error says why there is none.
pub fn expand(path: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    let mut parts = path.components();
    let first = parts.next().and_then(|first| first.as_os_str().to_str()).unwrap_or_default();
    match (first.strip_prefix('~'), home) {
        (None, _) => Ok(path.to_owned()),
        (Some(""), Some(home)) => Ok(home.join(parts.as_path())),
        (Some(""), None) => Err(format!("~ in {path:?} is the home folder, but HOME is not set; write the full path")),
        (Some(_), _) if path.exists() => Ok(path.to_owned()),
        (Some(_), _) => Err(format!("{first} in {path:?} is expanded only by shells; write the full path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_stands_for_its_sign_at_the_beginning_only() {
        let expand = |path: &str| expand(Path::new(path), Some(Path::new("/home/ann"))).unwrap();
        for (path, wanted) in [
            ("~/models/demo", "/home/ann/models/demo"),
            ("~", "/home/ann"),
            ("models/~/demo", "models/~/demo"),
            ("/models", "/models"),
            ("", ""),
        ] {
            assert_eq!(expand(path), Path::new(wanted));
        }
        assert!(super::expand(Path::new("~bob/x"), None).unwrap_err().contains("expanded only by shells"));
        assert!(super::expand(Path::new("~/x"), None).unwrap_err().contains("HOME is not set"));
    }
}
