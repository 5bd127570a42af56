//! Which keys of the object store are used, as the configuration says.

use diorama_backends::objects::s3::S3Credentials;
use diorama_runtime::options::ServiceOptions;
use secrecy::SecretString;

use crate::exit::Failure;

/// The fleet's own.
pub(super) fn of_fleet(services: &ServiceOptions) -> Result<S3Credentials, Failure> {
    of_fleet_in(services, |name| std::env::var(name).ok().filter(|text| !text.is_empty()))
}

/// The same where `variable` gives the environment's variables. A key of which one half is given takes the other half by
/// its usual name; where nothing is given, the SDK looks.
fn of_fleet_in(services: &ServiceOptions, variable: impl Fn(&str) -> Option<String>) -> Result<S3Credentials, Failure> {
    let (id, secret) = (&services.s3_access_key, &services.s3_secret_key);
    let names = Names { id: "s3_access_key", secret: "s3_secret_key", profile: "s3_profile" };
    if id.is_none() && secret.is_none() {
        if services.s3_session_token.is_some() {
            return Err(names.incomplete("s3_session_token is given, but s3_access_key and s3_secret_key are not"));
        }
        return Ok(services.s3_profile.clone().map_or(S3Credentials::Chain, S3Credentials::Profile));
    }
    // A temporary key comes with its token.
    let usual_token = || variable("AWS_SESSION_TOKEN").filter(|_| id.is_none()).map(SecretString::from);
    let session_token = services.s3_session_token.clone().or_else(usual_token);
    let id = id.clone().or_else(|| variable("AWS_ACCESS_KEY_ID"));
    let secret = secret.clone().or_else(|| variable("AWS_SECRET_ACCESS_KEY").map(SecretString::from));
    names.key(id, secret, session_token, services.s3_profile.is_some())
}

/// That of references and manifests elsewhere; `None` where the fleet's own reads them.
pub(super) fn of_references(services: &ServiceOptions) -> Result<Option<S3Credentials>, Failure> {
    let (id, secret) = (services.reference_s3_access_key.clone(), services.reference_s3_secret_key.clone());
    let profile = services.reference_s3_profile.clone();
    if id.is_none() && secret.is_none() {
        return Ok(profile.map(S3Credentials::Profile));
    }
    let names =
        Names { id: "reference_s3_access_key", secret: "reference_s3_secret_key", profile: "reference_s3_profile" };
    names.key(id, secret, None, profile.is_some()).map(Some)
}

/// What the parts of a key are called in the configuration.
struct Names {
    id: &'static str,
    secret: &'static str,
    profile: &'static str,
}

impl Names {
    fn key(
        &self,
        id: Option<String>,
        secret: Option<SecretString>,
        session_token: Option<SecretString>,
        has_profile: bool,
    ) -> Result<S3Credentials, Failure> {
        let Self { id: key, secret: second, profile } = self;
        if has_profile {
            return Err(self.incomplete(&format!("{key} and {profile} are both given: remove one")));
        }
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(S3Credentials::Key { id: id.into(), secret, session_token }),
            (Some(_), None) => Err(self.incomplete(&format!(
                "{key} is given, but {second} is not: give {second}_file, or AWS_SECRET_ACCESS_KEY for the fleet's \
                 own key"
            ))),
            _ => Err(self.incomplete(&format!("{second} is given, but {key} is not"))),
        }
    }

    fn incomplete(&self, problem: &str) -> Failure {
        Failure::usage(anyhow::anyhow!("the key of the object store: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use diorama_runtime::config::{Sources, load};
    use secrecy::ExposeSecret;

    use super::*;

    fn options(keys: &[(&str, &str)]) -> ServiceOptions {
        let env = keys.iter().map(|(key, value)| (format!("DIORAMA_{}", key.to_uppercase()), (*value).to_owned()));
        load(&Sources { env: env.collect(), ..Sources::default() }).unwrap().services
    }

    /// What is used with these keys and these variables of the AWS SDK.
    fn of_fleet(keys: &[(&str, &str)], variables: &[&str]) -> String {
        let given = |name: &str| variables.contains(&name).then(|| name.to_owned());
        match of_fleet_in(&options(keys), given) {
            Ok(S3Credentials::Key { id, secret, session_token }) => {
                let token = session_token.map(|token| token.expose_secret().to_owned());
                format!("{} {} {}", id.expose_secret(), secret.expose_secret(), token.unwrap_or_default())
            }
            Ok(other) => other.realm(),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn a_key_that_is_given_is_used_whole_and_else_the_sdk_looks() {
        const AWS: &[&str] = &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        assert_eq!(of_fleet(&[], AWS), "chain");
        assert_eq!(of_fleet(&[("s3_profile", "fleet")], AWS), "profile fleet");
        let (id, secret) = (("s3_access_key", "id"), ("s3_secret_key", "secret"));
        // A long-lived key does not get the token of another one.
        assert_eq!(of_fleet(&[id, secret], AWS), "id secret ");
        assert_eq!(of_fleet(&[id, secret, ("s3_session_token", "token")], &[]), "id secret token");
        assert_eq!(of_fleet(&[id], AWS), "id AWS_SECRET_ACCESS_KEY ");
        assert_eq!(of_fleet(&[secret], AWS), "AWS_ACCESS_KEY_ID secret AWS_SESSION_TOKEN");
        let half = of_fleet(&[id], &[]);
        assert!(half.contains("s3_secret_key is not") && half.contains("AWS_SECRET_ACCESS_KEY"), "{half}");
        for wrong in [&[id, secret, ("s3_profile", "fleet")][..], &[secret], &[("s3_session_token", "token")]] {
            assert!(of_fleet(wrong, &[]).starts_with("the key of the object store: "), "{wrong:?}");
        }
    }

    #[test]
    fn references_have_a_key_of_their_own_or_the_fleets() {
        let realm = |keys: &[(&str, &str)]| {
            of_references(&options(keys))
                .map(|found| found.map(|key| key.realm()))
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(realm(&[("s3_access_key", "id"), ("s3_secret_key", "secret")]), Ok(None));
        let own = [("reference_s3_access_key", "reader"), ("reference_s3_secret_key", "secret")];
        assert_eq!(realm(&own), Ok(Some("key reader".to_owned())));
        assert_eq!(realm(&[("reference_s3_profile", "reader")]), Ok(Some("profile reader".to_owned())));
        realm(&own[..1]).unwrap_err();
        realm(&[own[0], own[1], ("reference_s3_profile", "reader")]).unwrap_err();
    }
}
