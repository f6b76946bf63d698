//! Sealing what goes into a store: AES-256-GCM under a key that only the identity's own bytes complete.
//!
//! For an entry of an assertion the key is derived from the store secret and the assertion, so a dump of
//! the store and the secret still open nothing. An entry that renewed assertions share is sealed by the
//! secret alone.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64ct::{Base64UrlUnpadded, Encoding};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::entry::Entry;
use super::key::IdentityKind;
use crate::config::StoreSecret;
use crate::digest::Digest;
use crate::request::Request;

/// The envelope's version: the first characters of what is stored, and part of the additional data.
const VERSION: &str = "2.";
const KEY_INFO: &[u8] = b"obo-edge/store/v1";
const NAME_INFO: &[u8] = b"obo-edge/name/v1";
const NONCE_BYTES: usize = 12;

/// What seals and opens the entries of one key.
pub(crate) struct Sealer<'a> {
    /// Whose token it is.
    pub(crate) identity: IdentityKind,
    /// The assertion's bytes; used for [`IdentityKind::Assertion`] only.
    pub(crate) assertion: &'a str,
    /// The key of the exchange.
    pub(crate) digest: Digest,
}

impl<'a> Sealer<'a> {
    /// For the entries of `request`, whose key is `digest`.
    pub(crate) fn of(request: &'a Request, digest: Digest) -> Self {
        let identity = if request.subject.is_some() { IdentityKind::Subject } else { IdentityKind::Assertion };
        Self { identity, assertion: request.assertion.reveal(), digest }
    }

    /// The name of the entry in the store, which tells nothing to whoever has not the secret.
    pub(crate) fn name(&self, secret: &StoreSecret) -> Option<String> {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(secret.reveal()).ok()?;
        mac.update(NAME_INFO);
        mac.update(&self.digest.0);
        Some(Base64UrlUnpadded::encode_string(&mac.finalize().into_bytes()))
    }

    /// The sealed entry. The nonce must be fresh and random.
    pub(crate) fn seal(&self, secret: &StoreSecret, nonce: [u8; NONCE_BYTES], entry: &Entry) -> Option<String> {
        let plain = entry.to_bytes();
        let payload = Payload { msg: &plain, aad: &self.additional_data() };
        let sealed = self.cipher(secret)?.encrypt(&nonce.into(), payload).ok()?;
        let envelope = [nonce.as_slice(), &sealed].concat();
        Some([VERSION, &Base64UrlUnpadded::encode_string(&envelope)].concat())
    }

    /// Opens what [`Sealer::seal`] made for this very key; `None` for anything else.
    pub(crate) fn open(&self, secret: &StoreSecret, text: &str) -> Option<Entry> {
        let envelope = Base64UrlUnpadded::decode_vec(text.strip_prefix(VERSION)?).ok()?;
        let (nonce, sealed) = envelope.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: &self.additional_data() };
        let plain = self.cipher(secret)?.decrypt(&(*nonce).into(), payload).ok()?;
        Entry::from_bytes(&plain)
    }

    fn cipher(&self, secret: &StoreSecret) -> Option<Aes256Gcm> {
        let input = match self.identity {
            IdentityKind::Assertion => self.assertion.as_bytes(),
            IdentityKind::Subject => &[],
        };
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(secret.reveal()), input)
            .expand_multi_info(&[KEY_INFO, &[self.identity.tag()], &self.digest.0], &mut key)
            .ok()?;
        Some(Aes256Gcm::new(&key.into()))
    }

    fn additional_data(&self) -> Vec<u8> {
        [VERSION.as_bytes(), &self.digest.0].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Sealer;
    use crate::cache::entry::tests::entry;
    use crate::cache::key::IdentityKind;
    use crate::config::StoreSecret;
    use crate::digest::Digest;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn secret(letter: char) -> StoreSecret {
        StoreSecret::from_base64(&letter.to_string().repeat(43)).unwrap()
    }

    fn sealer(assertion: &str) -> Sealer<'_> {
        Sealer { identity: IdentityKind::Assertion, assertion, digest: Digest([7; 32]) }
    }

    #[test]
    fn a_sealed_entry_opens_with_its_own_secret_identity_and_key_only() {
        let entry = entry("token-of-a-user", NOW, 3_600_000);
        let sealed = sealer("a").seal(&secret('A'), [1; 12], &entry).unwrap();
        assert!(!sealed.contains("token"));
        assert_eq!(sealer("a").open(&secret('A'), &sealed), Some(entry));
        assert_eq!(sealer("a").open(&secret('E'), &sealed), None, "another secret");
        assert_eq!(sealer("b").open(&secret('A'), &sealed), None, "another assertion");
        let other_key = Sealer { digest: Digest([8; 32]), ..sealer("a") };
        assert_eq!(other_key.open(&secret('A'), &sealed), None, "another key");
        let subject = Sealer { identity: IdentityKind::Subject, ..sealer("a") };
        assert_eq!(subject.open(&secret('A'), &sealed), None, "another kind of identity");
    }

    #[test]
    fn a_shared_entry_opens_for_another_assertion_of_the_subject() {
        let entry = entry("t", NOW, 3_600_000);
        let shared = |assertion| Sealer { identity: IdentityKind::Subject, ..sealer(assertion) };
        let sealed = shared("a").seal(&secret('A'), [1; 12], &entry).unwrap();
        assert_eq!(shared("b").open(&secret('A'), &sealed), Some(entry));
    }

    #[test]
    fn a_name_depends_on_the_secret_and_the_key_and_fits_workers_kv() {
        let name = sealer("a").name(&secret('A')).unwrap();
        assert_eq!(name.len(), 43);
        assert_ne!(Some(&name), sealer("a").name(&secret('E')).as_ref());
        assert_ne!(Some(name), Sealer { digest: Digest([8; 32]), ..sealer("a") }.name(&secret('A')));
    }

    proptest! {
        #[test]
        fn what_was_cut_or_changed_or_never_sealed_does_not_open(
            place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]", noise in ".{0,80}",
        ) {
            let entry = entry("t", NOW, 3_600_000);
            let sealed = sealer("a").seal(&secret('A'), [1; 12], &entry).unwrap();
            let at = place.index(sealed.len());
            prop_assert_eq!(sealer("a").open(&secret('A'), &sealed[..at]), None);
            let mut changed = sealed.clone();
            changed.replace_range(at..=at, &with);
            if changed != sealed {
                prop_assert_eq!(sealer("a").open(&secret('A'), &changed), None);
            }
            prop_assert_eq!(sealer("a").open(&secret('A'), &noise), None);
            prop_assert_eq!(sealer("a").open(&secret('A'), &format!("3.{}", &sealed[2..])), None);
        }
    }
}
