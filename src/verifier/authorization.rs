//! The `Authorization` header: the only header of a request that is trusted.

use std::str;

use data_encoding::BASE64;
use http::{HeaderMap, header::AUTHORIZATION};

use super::judge::Presented;
use crate::domain::redacted::Redacted;

/// What a request presents. Its `Debug` shows no value.
#[derive(Debug)]
pub enum Authorization<'a> {
    /// No such header.
    None,
    /// More than one header, another scheme, or what is not of the scheme's form.
    Unusable,
    /// RFC 6750.
    Bearer(Bearer<'a>),
    /// RFC 7617: user and password, and where the password begins.
    Basic(Redacted<String>, usize),
}

/// What follows `Bearer`.
pub struct Bearer<'a>(&'a str);

impl std::fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'a> Authorization<'a> {
    /// Reads it.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), rest) = (values.next(), values.next()) else {
            return Self::None;
        };
        // Two might be one for us and the other for the service.
        let text = str::from_utf8(value.as_bytes()).ok().filter(|_| rest.is_none());
        let Some((scheme, credentials)) = text.and_then(|text| text.split_once(' ')) else {
            return Self::Unusable;
        };
        let credentials = credentials.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") {
            Self::Bearer(Bearer(credentials))
        } else if scheme.eq_ignore_ascii_case("basic") {
            basic(credentials).unwrap_or(Self::Unusable)
        } else {
            Self::Unusable
        }
    }

    /// What is to be judged; `None` when nothing usable was presented.
    pub fn presented(&self) -> Option<Presented<'_>> {
        match self {
            Self::None | Self::Unusable => None,
            Self::Bearer(Bearer(token)) => Some(Presented::Bearer(token)),
            Self::Basic(text, password) => {
                let text = text.expose();
                Some(Presented::Basic { user: &text[..password - 1], password: &text[*password..] })
            }
        }
    }
}

/// Longer than any client id and client secret in base64.
const MAX_BASIC_LENGTH: usize = 256;

fn basic<'a>(credentials: &str) -> Option<Authorization<'a>> {
    if credentials.len() > MAX_BASIC_LENGTH {
        return None;
    }
    let decoded = Redacted::new(BASE64.decode(credentials.as_bytes()).ok()?);
    let text = Redacted::new(str::from_utf8(decoded.expose()).ok()?.to_owned());
    let password = text.expose().find(':')? + 1;
    Some(Authorization::Basic(text, password))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&'static str], check: impl FnOnce(Option<Presented<'_>>)) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(Authorization::of(&headers).presented());
    }

    #[test]
    fn exactly_one_header_of_a_known_scheme_is_read() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            read(&[value], |presented| assert_eq!(presented, Some(Presented::Bearer("abc")), "{value}"));
        }
        read(&["basic dTpwOnE="], |presented| {
            assert_eq!(presented, Some(Presented::Basic { user: "u", password: "p:q" }));
        });
        for none in [
            &[][..],
            &["abc"],
            &["Bearer"],
            &["Digest abc"],
            &["Basic dTpw=="],
            &["Basic dXA="],
            &["Basic %%"],
            &["Basic /w=="],
            &["Bearer abc", "Bearer abc"],
            &["Bearer\tabc"],
        ] {
            read(none, |presented| assert_eq!(presented, None, "{none:?}"));
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer hunter2"));
        assert_eq!(format!("{:?}", Authorization::of(&headers)), "Bearer([redacted])");
    }
}
