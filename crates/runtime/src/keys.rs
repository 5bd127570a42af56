//! How the keys of one kind of program are declared: as the fields of a struct, each with what it may be.

/// Declares a struct whose fields are keys of the configuration, and the table `KEYS` that says what each may be.
///
/// ```text
/// keys! {
///     /// How a worker works.
///     pub struct WorkerOptions {
///         /// Seconds between two heartbeats.            the sentence: in the docs, in the help of --heartbeat
///         heartbeat: f64 = 5.0,                         name, type, default (an `Option` has none)
///             "F",                                      what stands for its value in the help
///             Kind::Real(Range::new(0.1, 60.0));        what it may be
///         /// The token.
///         token: Option<SecretString>, "TOKEN", Kind::Secret { what: "a token", flag: false },
///             file token_file: "A file that holds it";  a second key, that names a file with the value
///     }
///     also {
///         /// Where archives are prepared.
///         scratch: Option<PathBuf>                      a key that another struct declares, read here too
///     }
/// }
/// ```
///
/// The struct is read from a JSON object with every key that has a value, defaults included.
macro_rules! keys {
    (
        $(#[doc = $what:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $about:literal])+
                $key:ident: $type:ty $(= $default:expr)?, $placeholder:literal, $kind:expr
                $(, file $file:ident: $about_file:literal)?;
            )+
        }
        $(also { $($(#[doc = $other_about:literal])+ $other:ident: $other_type:ty),+ })?
    ) => {
        $(#[doc = $what])+
        #[derive(Debug, Clone, serde::Deserialize)]
        pub struct $name {
            $($(#[doc = $about])+ pub $key: $type,)+
            $($($(#[doc = $other_about])+ pub $other: $other_type,)+)?
        }

        impl $name {
            /// Every key that is declared here.
            pub const KEYS: &'static [Key] = &[$(
                Key {
                    name: stringify!($key),
                    about: concat!($($about),+),
                    placeholder: $placeholder,
                    kind: $kind,
                    default: keys!(@default $($default)?),
                    reads: reads::<$type>,
                },
                $(Key {
                    name: stringify!($file),
                    about: $about_file,
                    placeholder: "FILE",
                    kind: Kind::SecretFile(stringify!($key)),
                    default: None,
                    reads: reads::<PathBuf>,
                },)?
            )+];
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some(|| serde_json::json!($default)) };
}

pub(crate) use keys;
