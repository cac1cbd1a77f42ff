//! Where a webhook is.

use std::fmt;

use hyper::Uri;

/// The URL of a webhook. Whoever knows one can often write to it, so only its beginning is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Over TLS.
    pub(super) secure: bool,
    /// An IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it stands in the URL, for the receiver to read.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

/// What is wrong with a URL, and how to mend it. Neither shows any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What.
    pub what: &'static str,
    /// How to mend it.
    pub remedy: &'static str,
}

const FORM: &str = "write https://hooks.example.com/presence";

impl Url {
    /// Reads `http[s]://host[:port][/path][?query]`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |what, remedy| Err(Wrong { what, remedy });
        if text.contains(['{', '}']) {
            return wrong(
                "the URL of a webhook is no template",
                "what differs from entry to entry goes into `payload`; write %7B and %7D for braces",
            );
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let secure = match scheme.as_deref() {
            Some("https") => true,
            Some("http") => false,
            _ => return wrong("the URL of a webhook begins with https:// or http://", FORM),
        };
        if text.contains('#') {
            return wrong("nobody is sent what stands behind a `#` of the URL", "leave it out, or write it %23");
        }
        let Ok(uri) = text.parse::<Uri>() else { return wrong("the URL can not be read", FORM) };
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
            return wrong("the URL names no host", FORM);
        };
        if authority.as_str().contains('@') {
            return wrong(
                "a user or password does not belong in the URL of a webhook, and would not be sent",
                "sign what is sent with `secret_file` instead, and let the receiver verify that",
            );
        }
        let behind = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port = match (behind, authority.port_u16()) {
            ("" | ":", _) if secure => 443,
            ("" | ":", _) => 80,
            (_, Some(port)) if port != 0 => port,
            _ => return wrong("the port of the URL is not between 1 and 65535", FORM),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { secure, host, port, authority: authority.to_string(), target })
    }
}

impl Url {
    /// Whether what is sent goes over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.target == "/" { "/" } else { "/…" };
        write!(f, "{}://{}{more}", if self.secure { "https" } else { "http" }, self.authority)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, target: &str, shown: &str) {
        let url = Url::parse(text).unwrap();
        assert_eq!((url.host.as_str(), url.port, url.target.as_str()), (host, port, target), "{text}");
        assert_eq!(url.to_string(), shown, "{text}");
    }

    #[test]
    fn a_url_says_where_and_shows_only_its_beginning() {
        check("https://hooks.example.com", "hooks.example.com", 443, "/", "https://hooks.example.com/");
        check("HTTP://a:8080/x/y?token=1", "a", 8080, "/x/y?token=1", "http://a:8080/…");
        check("http://[::1]:9/x", "::1", 9, "/x", "http://[::1]:9/…");
        check("http://[::1]/", "::1", 80, "/", "http://[::1]/");
        check("https://a?x=1", "a", 443, "/?x=1", "https://a/…");
    }

    #[test]
    fn what_is_no_url_of_a_webhook_is_refused() {
        for (text, what) in [
            ("", "the URL of a webhook begins with https:// or http://"),
            ("hooks.example.com/x", "the URL of a webhook begins with https:// or http://"),
            ("ftp://a/", "the URL of a webhook begins with https:// or http://"),
            ("unix:///run/x", "the URL of a webhook begins with https:// or http://"),
            ("https://", "the URL can not be read"),
            ("https:///x", "the URL can not be read"),
            ("https://a b/", "the URL can not be read"),
            ("https://a/\n", "the URL can not be read"),
            ("https://a:0/", "the port of the URL is not between 1 and 65535"),
            ("https://a:70000/", "the port of the URL is not between 1 and 65535"),
            (
                "https://user:pass@a/",
                "a user or password does not belong in the URL of a webhook, and would not be sent",
            ),
            ("https://a/{id}", "the URL of a webhook is no template"),
            ("https://a/#x", "nobody is sent what stands behind a `#` of the URL"),
        ] {
            assert_eq!(Url::parse(text).map(|url| url.to_string()).map_err(|wrong| wrong.what), Err(what), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>(), rest in "[a-z:@/?#\\[\\]0-9%.{}]{0,40}") {
            let _ = Url::parse(&text);
            let _ = Url::parse(&format!("http://{rest}"));
        }
    }
}
