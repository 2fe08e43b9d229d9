//! What Kubernetes takes as names, and as keys and values of labels.

/// A DNS subdomain name (RFC 1123), as Kubernetes wants names to be.
pub fn is_dns_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253 && name.split('.').all(|part| is_made_of(part, word, |byte| word(byte) || byte == b'-'))
}

/// The key of a label: a name of at most 63 characters, perhaps with a DNS name and a slash before it.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

/// The value of a label: empty, or at most 63 characters.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

fn is_qualified(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.len() <= 63 && is_made_of(name, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// Whether a word has such characters at both ends, and such in it.
fn is_made_of(word: &str, ends: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = word.as_bytes();
    bytes.first().is_some_and(|byte| ends(*byte))
        && bytes.last().is_some_and(|byte| ends(*byte))
        && bytes.iter().all(|byte| inner(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keys_and_values_are_those_that_an_api_server_takes() {
        let long = "x".repeat(63);
        for (text, name, key, value) in [
            ("", false, false, true),
            ("a", true, true, true),
            ("a.b-c", true, true, true),
            ("A_b.c-D", false, true, true),
            ("-a", false, false, false),
            ("a.", false, false, false),
            ("a..b", false, true, true),
            ("yes please", false, false, false),
            ("ja,nein", false, false, false),
            ("é", false, false, false),
            ("heliograph.io/reflector", false, true, false),
            ("Heliograph.io/reflector", false, false, false),
            ("/a", false, false, false),
            ("a/", false, false, false),
            ("a/b/c", false, false, false),
            (&long, true, true, true),
            (&format!("{long}x"), true, false, false),
            (&format!("a/{long}"), false, true, false),
        ] {
            assert_eq!(
                (is_dns_name(text), is_label_key(text), is_label_value(text)),
                (name, key, value),
                "{text:?}"
            );
        }
    }
}
