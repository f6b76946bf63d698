//! Textual encodings of keys and certificates (RFC 7468).

use base64ct::{Base64, Encoding};

/// The bytes of the first block with this label.
pub(crate) fn decode(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&["-----BEGIN ", label, "-----"].concat())?;
    let (body, _) = rest.split_once(&["-----END ", label, "-----"].concat())?;
    let body: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    Base64::decode_vec(&body).ok().filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::decode;

    #[test]
    fn a_block_is_read_whatever_its_lines_and_what_stands_around_it() {
        let text =
            "Bag Attributes\n-----BEGIN X-----\r\nAQ\n ID\n-----END X-----\n-----BEGIN X-----\nBBBB\n-----END X-----\n";
        assert_eq!(decode(text, "X").unwrap(), [1, 2, 3]);
        assert_eq!(decode(text, "Y"), None);
        for wrong in [
            "",
            "AQID",
            "-----BEGIN X-----AQID",
            "-----BEGIN X-----A!ID-----END X-----",
            "-----BEGIN X----------END X-----",
        ] {
            assert_eq!(decode(wrong, "X"), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(-----BEGIN X-----)?.{0,20}(-----END X-----)?.{0,9}") {
            let _ = decode(&text, "X");
        }
    }
}
