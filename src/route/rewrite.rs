//! How a matched prefix is replaced.

/// Replaces the matched `prefix` of `path` (`ReplacePrefixMatch` of URLRewrite and RequestRedirect)
/// by the table in the Gateway API's `HTTPPathModifier`: a trailing `/` of prefix and replacement
/// has no meaning, a trailing `/` of the path is kept, and the result is never empty.
///
/// A path that does not have the prefix comes back unchanged. The result may start with `//` when
/// the path goes on so after the prefix: a redirect must write it behind scheme and host, else it
/// would name a host of the client's choice.
pub fn replace_prefix(path: &str, prefix: &str, replacement: &str) -> String {
    let Some(rest) = path.strip_prefix(prefix.trim_end_matches('/')).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return path.to_owned();
    };
    let start = replacement.trim_end_matches('/');
    // An empty start leaves the rest, which brings its own slash unless it is empty too.
    let slash = if (start.is_empty() && rest.is_empty()) || (!start.is_empty() && !start.starts_with('/')) { "/" } else { "" };
    [slash, start, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::replace_prefix;

    #[test]
    fn every_row_of_the_gateway_api_table_holds() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            assert_eq!(replace_prefix(path, prefix, replacement), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn rows_beyond_the_table_follow_from_it() {
        for (path, prefix, replacement, expected) in [
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "/", "/"),
            ("/foo", "/foo/", "/xyz/", "/xyz"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
            ("/foobar", "/foo", "/xyz", "/foobar"),
            ("/other", "/foo", "/xyz", "/other"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ] {
            assert_eq!(replace_prefix(path, prefix, replacement), expected, "{path} {prefix} {replacement}");
        }
    }
}
