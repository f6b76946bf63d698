//! Textual encodings of keys and certificates (RFC 7468), and of secrets.

use base64ct::{Base64UrlUnpadded, Encoding};

/// The bytes of the first block with this label.
pub(crate) fn decode(text: &str, label: &str) -> Option<Vec<u8>> {
    let begin = ["-----BEGIN ", label, "-----"].concat();
    let rest = text.get(place(text, &begin)?.saturating_add(begin.len())..)?;
    let body = rest.get(..place(rest, &["-----END ", label, "-----"].concat())?)?;
    decode_base64(body).filter(|bytes| !bytes.is_empty())
}

/// Where `part` begins in `text`. The library's searcher is faster on long texts, and 1 kB of wasm.
pub(crate) fn place(text: &str, part: &str) -> Option<usize> {
    text.as_bytes().windows(part.len().max(1)).position(|window| window == part.as_bytes())
}

/// Reads base64 in either alphabet (RFC 4648 sections 4 and 5), padded or not, whatever its lines.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let letters = text.chars().filter(|character| !character.is_ascii_whitespace()).map(|character| match character {
        '+' => '-',
        '/' => '_',
        other => other,
    });
    let letters: String = letters.collect();
    Base64UrlUnpadded::decode_vec(letters.trim_end_matches('=')).ok()
}

/// Writes base64 (RFC 4648 section 4). The alphabet of URLs does for both, and half of the library stays out.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    let letters = Base64UrlUnpadded::encode_string(bytes);
    let padding = letters.len().wrapping_neg() % 4;
    let letters = letters.chars().map(|letter| match letter {
        '-' => '+',
        '_' => '/',
        other => other,
    });
    letters.chain(core::iter::repeat_n('=', padding)).collect()
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding};
    use proptest::prelude::*;

    use super::{decode, decode_base64, encode_base64};

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
        fn base64_is_written_as_the_library_writes_it(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let text = encode_base64(&bytes);
            prop_assert_eq!(&text, &Base64::encode_string(&bytes));
            prop_assert_eq!(decode_base64(&text), Some(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(-----BEGIN X-----)?.{0,20}(-----END X-----)?.{0,9}") {
            let _ = decode(&text, "X");
        }
    }
}
