//! Whose key signs the requests: one that was given, or what the AWS SDK's own chain finds: the environment, profiles
//! (with SSO, roles, processes), web identity, container and instance roles. What the chain finds is renewed before it
//! expires, while requests go on.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, future};
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, ProvideCredentials, Region, SharedCredentialsProvider, SharedHttpClient,
};
use diorama_core::causes;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;

use crate::objects::ObjectErrorKind;
use crate::objects::ObjectErrorKind::{Refused, Transient};

/// How long the chain may look: an instance's or a container's service may be slow, and it is asked several times.
pub(super) const LOOKING: Duration = Duration::from_secs(20);

/// Where the key comes from.
#[derive(Debug, Clone, Default)]
pub enum S3Credentials {
    /// The SDK's own chain.
    #[default]
    Chain,
    /// A profile of `~/.aws/config`, whatever the environment holds.
    Profile(String),
    /// A key that was given.
    Key { id: SecretString, secret: SecretString, session_token: Option<SecretString> },
}

impl S3Credentials {
    /// Says in a few words what it is, without a secret: keeps apart what different keys may read.
    pub fn realm(&self) -> String {
        match self {
            Self::Chain => "chain".to_owned(),
            Self::Profile(profile) => format!("profile {profile}"),
            Self::Key { id, .. } => format!("key {}", id.expose_secret()),
        }
    }

    pub(super) fn provider(&self, http: SharedHttpClient, region: Region) -> SharedCredentialsProvider {
        let found =
            |profile: Option<&str>| Found { profile: profile.map(str::to_owned), http, region, first: OnceCell::new() };
        match self {
            Self::Chain => SharedCredentialsProvider::new(found(None)),
            Self::Profile(profile) => SharedCredentialsProvider::new(found(Some(profile))),
            Self::Key { id, secret, session_token } => {
                let token = session_token.as_ref().map(|token| token.expose_secret().to_owned());
                let (id, secret) = (id.expose_secret(), secret.expose_secret());
                SharedCredentialsProvider::new(Credentials::new(id, secret, token, None, "configuration"))
            }
        }
    }
}

/// What the SDK finds. It begins to look when the first request is signed.
#[derive(Debug)]
struct Found {
    profile: Option<String>,
    http: SharedHttpClient,
    region: Region,
    first: OnceCell<SharedCredentialsProvider>,
}

impl Found {
    async fn open(&self) -> SharedCredentialsProvider {
        let config = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_region(Some(self.region.clone()))
            .with_http_client(self.http.clone());
        match &self.profile {
            Some(profile) => {
                let profile = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile);
                SharedCredentialsProvider::new(profile.build())
            }
            None => {
                let chain = DefaultCredentialsChain::builder().configure(config).region(self.region.clone());
                SharedCredentialsProvider::new(chain.build().await)
            }
        }
    }

    async fn find(&self) -> provider::Result {
        let found = self.first.get_or_init(|| self.open()).await.provide_credentials().await;
        match (&self.profile, found) {
            // The SDK says only that there was nothing.
            (Some(profile), Err(error @ CredentialsError::CredentialsNotLoaded(_))) => {
                let problem = format!("the profile {profile:?} gives no key: {}", causes::in_one_line(&error));
                Err(CredentialsError::invalid_configuration(problem))
            }
            (_, found) => found,
        }
    }
}

impl ProvideCredentials for Found {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.find())
    }
}

/// Which provider gave the key, and until when it is good: for people.
pub(super) fn origin(credentials: &Credentials) -> String {
    let features = credentials.get_property::<Vec<AwsCredentialFeature>>();
    let parts: Vec<&str> = features.into_iter().flatten().filter_map(provider_name).collect();
    let provider = if parts.is_empty() { "the configuration".to_owned() } else { parts.join(", by way of ") };
    let kind = if credentials.session_token().is_some() { "a temporary key" } else { "a key" };
    let until = credentials.expiry().and_then(|at| jiff::Timestamp::try_from(at).ok());
    let until = until.map(|at| format!(", good until {at:.0} and renewed before")).unwrap_or_default();
    format!("{kind} from {provider}{until}")
}

fn provider_name(feature: &AwsCredentialFeature) -> Option<&'static str> {
    use AwsCredentialFeature as Feature;
    Some(match feature {
        Feature::CredentialsEnvVars => "the environment (AWS_ACCESS_KEY_ID)",
        Feature::CredentialsProfileStsWebIdToken
        | Feature::CredentialsEnvVarsStsWebIdToken
        | Feature::CredentialsStsAssumeRoleWebId => "a web identity token (AWS_WEB_IDENTITY_TOKEN_FILE)",
        Feature::CredentialsStsAssumeRole => "a role",
        Feature::CredentialsProfile => "a profile",
        Feature::CredentialsSso => "SSO",
        Feature::CredentialsProcess => "a credential process",
        Feature::CredentialsHttp => "the container's role",
        Feature::CredentialsImds => "the instance's role",
        _ => return None,
    })
}

/// What it means that no key was found.
pub(super) fn meaning(error: &CredentialsError) -> (ObjectErrorKind, String) {
    let text = causes::in_one_line(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            Refused,
            format!(
                "NoCredentials: {text}: no key was found in the configuration, the environment, a profile, or this \
                 machine's role; give s3_access_key and s3_secret_key_file, or any source that the AWS SDK knows"
            ),
        ),
        CredentialsError::InvalidConfiguration(_) => {
            (Refused, format!("NoCredentials: {text}: correct the AWS configuration (AWS_PROFILE, ~/.aws/config)"))
        }
        // A service that gives keys is away, or slow.
        _ => (Transient, format!("NoCredentials: {text}: the credential provider gave none")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_key_is_told_by_where_it_comes_from_and_never_by_what_it_is() {
        let mut key =
            Credentials::new("AKIDVISIBLE", "hunter2", Some("token".to_owned()), Some(SystemTime::UNIX_EPOCH), "x");
        let features = key.get_property_mut_or_default::<Vec<AwsCredentialFeature>>();
        features.extend([AwsCredentialFeature::CredentialsProcess, AwsCredentialFeature::CredentialsProfile]);
        assert_eq!(
            origin(&key),
            "a temporary key from a credential process, by way of a profile, good until 1970-01-01T00:00:00Z and renewed before"
        );
        assert_eq!(origin(&Credentials::new("a", "b", None, None, "x")), "a key from the configuration");
    }

    #[test]
    fn that_there_is_no_key_will_not_pass_and_that_its_giver_is_away_may() {
        let (kind, text) = meaning(&CredentialsError::not_loaded_no_source());
        assert_eq!(kind, Refused);
        assert!(text.contains("s3_secret_key_file"), "{text}");
        assert_eq!(meaning(&CredentialsError::provider_timed_out(LOOKING)).0, Transient);
        assert_eq!(meaning(&CredentialsError::provider_error("503")).0, Transient);
    }
}
