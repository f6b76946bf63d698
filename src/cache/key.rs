//! The key of an exchange: who asks for what, of whom, digested so that no two unlike requests share it.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::digest::Digest;
use crate::request::Request;

/// The layout of the digested fields. A change of theirs changes this, and old entries are misses.
const VERSION: &[u8] = b"obo-edge/key/v2";

/// A map whose keys are spread evenly already.
pub(crate) type DigestMap<V> = HashMap<Digest, V, BuildHasherDefault<FirstBytes>>;

/// Takes the first eight bytes of a digest for its hash.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
}

/// Whose token an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// Of whoever holds the very bytes of the assertion.
    Assertion,
    /// Of a user whom the caller has verified; renewed assertions share it.
    Subject,
}

impl IdentityKind {
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Assertion => b'a',
            Self::Subject => b's',
        }
    }
}

/// Fields in a row, each tagged and preceded by its length, each list by its count: no two unlike rows of
/// fields are the same bytes.
#[derive(Default)]
pub(crate) struct TaggedFields(Vec<u8>);

impl TaggedFields {
    pub(crate) fn text(&mut self, tag: u8, text: &[u8]) {
        self.0.push(tag);
        self.0.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.0.extend_from_slice(text);
    }

    pub(crate) fn list<'a>(&mut self, tag: u8, texts: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.0.push(tag);
        self.0.extend_from_slice(&(texts.len() as u64).to_be_bytes());
        for text in texts {
            self.text(tag, text);
        }
    }

    /// An absent field is a list of none, and so unlike an empty one.
    pub(crate) fn optional(&mut self, tag: u8, text: Option<&[u8]>) {
        self.list(tag, text.into_iter());
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Makes keys for one configuration, whose own fields it has digested already.
pub struct KeyMaker {
    configured: Sha256,
}

impl KeyMaker {
    /// For this configuration.
    pub fn new(config: &Config) -> Self {
        let mut fields = TaggedFields::default();
        fields.text(b'v', VERSION);
        fields.text(b'g', config.grant.name().as_bytes());
        // Of each leg's server: where, whose, as whom.
        for server in &config.servers {
            fields.optional(b'e', server.token_endpoint.as_ref().map(|url| url.as_str().as_bytes()));
            fields.optional(b'i', server.issuer_name().map(str::as_bytes));
            fields.text(b'c', server.client_id.as_bytes());
        }
        Self { configured: Sha256::new_with_prefix(fields.as_bytes()) }
    }

    /// The key of `request`, whose assertion has this digest.
    pub fn key(&self, request: &Request, assertion: Digest) -> Digest {
        let mut fields = TaggedFields::default();
        add_request(&mut fields, request, assertion);
        let mut digest = self.configured.clone();
        digest.update(fields.as_bytes());
        Digest(digest.finalize().into())
    }
}

/// Whose token a request asks for, at whatever server and for whatever it is good for.
pub(crate) fn user(request: &Request, assertion: Digest) -> Digest {
    let Some(subject) = &request.subject else { return assertion };
    let mut fields = TaggedFields::default();
    fields.text(IdentityKind::Subject.tag(), subject.issuer.as_bytes());
    fields.optional(b't', subject.tenant.as_deref().map(str::as_bytes));
    fields.text(b'u', subject.id.as_bytes());
    Digest(Sha256::digest(fields.as_bytes()).into())
}

/// The key of a failure: what was asked for, with which assertion.
pub(crate) fn of_failure(key: Digest, assertion: Digest) -> Digest {
    Digest(Sha256::new().chain_update(key.0).chain_update(assertion.0).finalize().into())
}

fn add_request(fields: &mut TaggedFields, request: &Request, assertion: Digest) {
    match &request.subject {
        None => fields.text(IdentityKind::Assertion.tag(), &assertion.0),
        Some(subject) => {
            fields.text(IdentityKind::Subject.tag(), subject.issuer.as_bytes());
            fields.optional(b't', subject.tenant.as_deref().map(str::as_bytes));
            fields.text(b'u', subject.id.as_bytes());
            fields.optional(b'x', subject.context.as_deref().map(str::as_bytes));
        }
    }
    fields.optional(b'y', request.assertion_type.as_deref().map(str::as_bytes));
    let actor: Option<[u8; 32]> =
        request.actor_token.as_ref().map(|actor| Sha256::digest(actor.reveal().as_bytes()).into());
    fields.optional(b'A', actor.as_ref().map(<[u8; 32]>::as_slice));
    fields.optional(b'Y', request.actor_token_type.as_deref().map(str::as_bytes));
    fields.list(b'S', request.scopes.iter().map(String::as_bytes));
    fields.list(b'D', request.audience.iter().map(String::as_bytes));
    fields.list(b'R', request.resource.iter().map(String::as_bytes));
    let claims: Option<[u8; 32]> = request.claims.as_ref().map(|claims| Sha256::digest(claims.as_bytes()).into());
    fields.optional(b'C', claims.as_ref().map(<[u8; 32]>::as_slice));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{KeyMaker, TaggedFields};
    use crate::assertion::AssertionFacts;
    use crate::config::tests::options;
    use crate::config::{Config, HostObjects};
    use crate::digest::Digest;
    use crate::request::{Request, VerifiedSubject};
    use crate::secret::Secret;
    use crate::url::tests::parse;

    fn key_of(options: serde_json::Value, request: &Request) -> Digest {
        let config = Config::read(options, HostObjects::default(), parse).unwrap();
        KeyMaker::new(&config).key(request, AssertionFacts::of(request.assertion.reveal(), "").digest)
    }

    fn key(request: &Request) -> Digest {
        key_of(options(), request)
    }

    fn subject() -> impl Strategy<Value = Option<VerifiedSubject>> {
        let text = "[ab]{1,2}";
        prop::option::of(
            (text, prop::option::of(text), text, prop::option::of(text))
                .prop_map(|(issuer, tenant, id, context)| VerifiedSubject { issuer, tenant, id, context }),
        )
    }

    prop_compose! {
        /// Requests over few short texts, so that neighbours are often alike.
        fn request()(
            assertion in "[ab]{1,2}",
            subject in subject(),
            types in (prop::option::of("[ab]{1,2}"), prop::option::of("[ab]{1,2}"), prop::option::of("[ab]{1,2}")),
            scopes in prop::collection::btree_set("[ab]{1,2}", 1..3),
            lists in (prop::collection::btree_set("[ab]{1,2}", 0..3), prop::collection::btree_set("[ab]{1,2}", 0..3)),
            claims in prop::option::of("[ab]{1,2}"),
        ) -> Request {
            Request {
                assertion: Secret::new(assertion),
                assertion_type: types.0,
                actor_token: types.1.map(Secret::new),
                actor_token_type: types.2,
                scopes: scopes.into_iter().collect(),
                subject,
                resource: lists.0.into_iter().collect(),
                audience: lists.1.into_iter().collect(),
                claims,
                from_cache: true,
            }
        }
    }

    /// What a key must tell apart: everything, but with a subject not the assertion.
    fn meaning(request: &Request) -> String {
        let assertion = if request.subject.is_some() { "" } else { request.assertion.reveal() };
        let actor = request.actor_token.as_ref().map(Secret::reveal);
        format!(
            "{assertion:?} {:?} {:?} {actor:?} {:?} {:?} {:?} {:?} {:?}",
            request.subject,
            request.assertion_type,
            request.actor_token_type,
            request.scopes,
            request.resource,
            request.audience,
            request.claims
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn two_requests_share_a_key_only_where_they_mean_the_same(a in request(), b in request()) {
            prop_assert_eq!(meaning(&a) == meaning(&b), key(&a) == key(&b));
        }

        #[test]
        fn lists_that_differ_are_never_the_same_bytes(
            a in prop::collection::vec(prop::collection::vec("[ab]{0,2}", 0..3), 2),
            b in prop::collection::vec(prop::collection::vec("[ab]{0,2}", 0..3), 2),
        ) {
            let bytes = |lists: &Vec<Vec<String>>| {
                let mut fields = TaggedFields::default();
                for list in lists {
                    fields.list(b'L', list.iter().map(String::as_bytes));
                }
                fields.as_bytes().to_vec()
            };
            prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
        }
    }

    #[test]
    fn each_part_of_the_configuration_that_makes_another_token_makes_another_key() {
        let request = Request { assertion: Secret::new("a"), scopes: vec!["s".into()], ..Request::new() };
        let base = key(&request);
        for (name, value) in [
            ("tokenEndpoint", json!("https://login.example/token2")),
            ("issuer", json!("https://login.example")),
            ("clientId", json!("client2")),
        ] {
            let mut options = options();
            options[name] = value;
            assert_ne!(key_of(options, &request), base, "{name}");
        }
    }

    #[test]
    fn the_layout_of_a_key_does_not_change_by_accident() {
        let request = Request { assertion: Secret::new("a"), scopes: vec!["s".into()], ..Request::new() };
        let hex: String = key(&request).0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a5b2deb19e72bd16af2cff3f9b9c4634fe127f0eb937754bac64b4dc8069ea91");
    }
}
