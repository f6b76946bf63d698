//! What is needed of a client's certificate: its thumbprint, and from when until when it is valid.
//!
//! Four elements of the structure (RFC 5280 section 4.1) are walked over by hand: a library of X.509 reads names
//! and extensions too, and pays for them in wasm.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest as _, Sha256};

use crate::pem;
use crate::time::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// `x5t#S256`: base64url of the SHA-256 of its DER (RFC 7515 section 4.1.8).
    pub thumbprint: String,
    /// The first instant of its validity.
    pub not_before: Timestamp,
    /// The last one.
    pub not_after: Timestamp,
}

impl Certificate {
    /// Reads the first certificate of a PEM.
    pub fn from_pem(text: &str) -> Option<Self> {
        let der = pem::decode(text, "CERTIFICATE")?;
        let (not_before, not_after) = validity(&der)?;
        let thumbprint = Base64UrlUnpadded::encode_string(&Sha256::digest(&der));
        Some(Self { thumbprint, not_before, not_after })
    }

    /// What is wrong with it at this time; the end of a sentence.
    pub(crate) fn untimely(&self, now: Timestamp) -> Option<&'static str> {
        if self.not_after < now {
            return Some("has expired");
        }
        (now < self.not_before).then_some("is not valid yet")
    }
}

fn validity(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, rest) = expect(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let (mut fields, _) = expect(certificate, SEQUENCE)?;
    // The version, where there is one; then serial number, signature, issuer.
    if let Some((_, rest)) = expect(fields, VERSION) {
        fields = rest;
    }
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// The first element of some DER: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = der.split_first_chunk::<2>()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x83 => {
            let (bytes, behind) = rest.split_at_checked(usize::from(first & 3))?;
            rest = behind;
            bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte))
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

/// A time (RFC 5280 section 4.1.2.5): `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` from then on.
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, content, rest) = element(der)?;
    let digits = content.strip_suffix(b"Z")?;
    let mut pairs = digits.chunks(2).map(|pair| match pair {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(u64::from(tens & 15).saturating_mul(10).saturating_add(u64::from(ones & 15)))
        }
        _ => None,
    });
    let mut next = || pairs.next().flatten();
    let year = match tag {
        UTC_TIME => next().map(|year| year.saturating_add(if year < 50 { 2000 } else { 1900 }))?,
        GENERALIZED_TIME => next()?.saturating_mul(100).saturating_add(next()?),
        _ => return None,
    };
    let date = Timestamp::from_date(year, next()?, [next()?, next()?, next()?, next()?])?;
    pairs.next().is_none().then_some((date, rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 36500 -subj /CN=gateway`.
    pub(crate) const PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBejCCASGgAwIBAgIUeUGXwUtdU9GQKsdPS+ppVPx+1QgwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHZ2F0ZXdheTAgFw0yNjExMjQwMDE5NTlaGA8yMTI2MTAzMTAw
MTk1OVowEjEQMA4GA1UEAwwHZ2F0ZXdheTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABJIP4EyPVecev331j62rk1pyx5wQzP6hvqyRoubLIscrIYk+KIc1PCgqhEL0
ympHxuOLN75l0ApMOGHrIcUR8KajUzBRMB0GA1UdDgQWBBTes8njR2dy9+oUEr5B
MG2F4xjexjAfBgNVHSMEGDAWgBTes8njR2dy9+oUEr5BMG2F4xjexjAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIEFmGYrCWbvj/ZeniiSN2CczCOK2
JH2vAt6BfEvsiK+DAiByUMqnGo4KYu1tYZk9EKrSSsfdVbIXa33tt8WkKWYgpA==
-----END CERTIFICATE-----
";

    #[test]
    fn a_certificate_gives_what_openssl_prints_of_it() {
        let certificate = Certificate::from_pem(PEM).unwrap();
        // openssl x509 -outform DER | openssl dgst -sha256 -binary | base64, in the other alphabet.
        assert_eq!(certificate.thumbprint, "T-jEJOIOuzxNB1BEcznNkK1BA5IjjhMjShnbCfcth6Y");
        // notBefore=Nov 24 00:19:59 2026 GMT, notAfter=Oct 31 00:19:59 2126 GMT
        assert_eq!(certificate.not_before, Timestamp::from_http_date("Tue, 24 Nov 2026 00:19:59 GMT").unwrap());
        assert_eq!(certificate.not_after, Timestamp::from_http_date("Thu, 31 Oct 2126 00:19:59 GMT").unwrap());
        assert_eq!(certificate.untimely(certificate.not_before), None);
        assert_eq!(certificate.untimely(certificate.not_before.minus(1)), Some("is not valid yet"));
        assert_eq!(certificate.untimely(certificate.not_after), None);
        assert_eq!(certificate.untimely(certificate.not_after.plus(1)), Some("has expired"));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let key = PEM.replace("CERTIFICATE", "PRIVATE KEY");
        for wrong in ["", "hunter2", &key, &PEM.replace("MIIB", "MIIC"), &PEM.replace("MIIBejCC", "")] {
            assert_eq!(Certificate::from_pem(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_walk_panic(mut der in Just(pem::decode(PEM, "CERTIFICATE").unwrap()),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in 0..400_usize) {
            for (place, byte) in places {
                *place.get_mut(&mut der) = byte;
            }
            der.truncate(cut);
            let _ = validity(&der);
        }
    }
}
