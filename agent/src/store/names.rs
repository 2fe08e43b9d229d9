//! The syntax of names, label keys and label values in Kubernetes.

/// Returns whether a name is a DNS subdomain name (RFC 1123), as Kubernetes requires of names.
pub fn is_dns_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|part| consists_of(part, word, |byte| word(byte) || byte == b'-'))
}

/// Returns whether a label key is valid: a name of at most 63 characters, with an optional prefix of a DNS name and a slash.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

/// Returns whether a label value is valid: empty, or at most 63 characters.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

fn is_qualified(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.len() <= 63 && consists_of(name, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// Returns whether a word has characters of `ends` at both ends, and of `inner` everywhere.
fn consists_of(word: &str, ends: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = word.as_bytes();
    bytes.first().is_some_and(|byte| ends(*byte))
        && bytes.last().is_some_and(|byte| ends(*byte))
        && bytes.iter().all(|byte| inner(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keys_and_values_are_valid_where_an_api_server_accepts_them() {
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
