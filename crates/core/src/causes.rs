//! An error together with whatever caused it: walked through, and in one line. The one place that does either.

use std::error::Error;
use std::io;
use std::sync::Arc;

/// The error and its causes, outermost first. An I/O error that wraps another one gives that one as its cause, where
/// [`Error::source`] would leave it out; and so does one that is shared.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The first `T` among the error and its causes.
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// The error and its causes in one line, each thing said once: many an error repeats its cause in its own words.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for error in causes(error) {
        let said = error.to_string();
        if !line.contains(&said) {
            if !line.is_empty() {
                line += ": ";
            }
            line += &said;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<dyn Error + Send + Sync>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn every_cause_is_said_once_even_inside_an_io_error() {
        let deepest = Layer("the certificate has expired", None);
        let inner = Layer("handshake", Some(io::Error::other(deepest).into()));
        let outer = Layer("connecting failed: handshake", Some(inner.into()));
        assert_eq!(in_one_line(&outer), "connecting failed: handshake: the certificate has expired");
        assert_eq!(find::<Layer>(&io::Error::other(Layer("found", None))).map(|layer| layer.0), Some("found"));
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other(Layer("shared", None)));
        assert_eq!(find::<Layer>(&shared).map(|layer| layer.0), Some("shared"));
        assert!(find::<fmt::Error>(&outer).is_none());
    }
}
