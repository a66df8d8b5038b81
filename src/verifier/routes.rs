//! Where the verifier can be asked, and what a value must be good for there.
//!
//! A route is a path of each protocol: `/forward-auth/orders` and `/introspect/orders` are the route `orders`; the paths
//! without a name are a route, too, for the audience `credential-operator`.

use std::collections::HashMap;

use http::HeaderValue;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::judge::Demand;
use crate::api::DEFAULT_AUDIENCE;

/// More characters than a name has that anybody would type into the configuration of a gateway.
const MAX_NAME_LENGTH: usize = 63;

/// All routes.
#[derive(Clone, Debug)]
pub struct Routes {
    unnamed: Route,
    named: HashMap<String, Route>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// What a value must be good for.
    pub demand: Demand,
    /// The challenge to who lacks a scope, or is of another namespace (RFC 6750, section 3).
    pub insufficient: HeaderValue,
}

/// Why the file of routes cannot be used.
#[derive(Debug, Error)]
pub enum RoutesError {
    /// Not YAML of that form.
    #[error(transparent)]
    Form(#[from] serde_yaml_ng::Error),
    /// A name that cannot be a segment of a path.
    #[error("routes: {0:?} is no name of a route; use lower-case letters, digits and hyphens, at most 63")]
    Name(String),
    /// Two routes of one name.
    #[error("routes: there are two of the name {0:?}; rename one of them")]
    Twice(String),
    /// A list that accepts nothing, or demands nothing.
    #[error("routes.{0}.{1} is empty; remove it or put something in")]
    Empty(String, &'static str),
    /// Something that is no scope.
    #[error(
        "routes.{0}.scopes: {1:?} is no scope; use printable characters without spaces, quotes and backslashes"
    )]
    Scope(String, String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    routes: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default, deserialize_with = "list")]
    audiences: Option<Vec<String>>,
    #[serde(default, deserialize_with = "list")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "list")]
    namespaces: Option<Vec<String>>,
}

/// A list that is named is there: `namespaces:` with nothing after it is an empty one, and must not mean all of them.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

impl Default for Routes {
    fn default() -> Self {
        let demand =
            Demand { audiences: vec![DEFAULT_AUDIENCE.to_owned()], scopes: Vec::new(), namespaces: None };
        Self { unnamed: Route::new(demand), named: HashMap::new() }
    }
}

impl Routes {
    /// Reads the file of routes.
    ///
    /// # Errors
    /// When it has a mistake.
    pub fn read(yaml: &str) -> Result<Self, RoutesError> {
        let File { routes } = serde_yaml_ng::from_str(yaml)?;
        let mut named = HashMap::new();
        for Entry { name, audiences, scopes, namespaces } in routes {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.bytes().all(plain) {
                return Err(RoutesError::Name(name));
            }
            for (what, list) in [("audiences", &audiences), ("scopes", &scopes), ("namespaces", &namespaces)]
            {
                if list.as_ref().is_some_and(Vec::is_empty) {
                    return Err(RoutesError::Empty(name, what));
                }
            }
            // RFC 6749, section 3.3.
            let scopes = scopes.unwrap_or_default();
            let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
            if let Some(wrong) = scopes.iter().find(|scope| scope.is_empty() || !scope.bytes().all(legal)) {
                return Err(RoutesError::Scope(name, wrong.clone()));
            }
            let audiences = audiences.unwrap_or_else(|| vec![DEFAULT_AUDIENCE.to_owned()]);
            let route = Route::new(Demand { audiences, scopes, namespaces });
            if named.insert(name.clone(), route).is_some() {
                return Err(RoutesError::Twice(name));
            }
        }
        Ok(Self { named, ..Self::default() })
    }

    /// The route of a path: of `/forward-auth`, `""`; of `/forward-auth/orders`, `"/orders"`.
    #[must_use]
    pub fn find(&self, rest: &str) -> Option<&Route> {
        if rest.is_empty() { Some(&self.unnamed) } else { self.named.get(rest.strip_prefix('/')?) }
    }
}

impl Route {
    fn new(demand: Demand) -> Self {
        let scope = match demand.scopes.join(" ") {
            none if none.is_empty() => none,
            scopes => format!(", scope=\"{scopes}\""),
        };
        let challenge = format!("Bearer realm=\"credential-operator\", error=\"insufficient_scope\"{scope}");
        let insufficient = HeaderValue::try_from(challenge)
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"insufficient_scope\""));
        Self { demand, insufficient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_demands_what_the_file_says_and_no_less_than_an_audience() {
        let routes = Routes::read(
            "routes:\n- {name: orders, audiences: [https://orders.example], scopes: ['a:b', c], namespaces: [shop]}\n- {name: rest}\n",
        )
        .unwrap();
        let orders = routes.find("/orders").unwrap();
        assert_eq!(orders.demand.audiences, ["https://orders.example"]);
        assert_eq!(orders.demand.scopes, ["a:b", "c"]);
        assert_eq!(orders.demand.namespaces.as_deref(), Some(&["shop".to_owned()][..]));
        assert!(orders.insufficient.to_str().unwrap().ends_with("scope=\"a:b c\""));
        for rest in ["", "/rest"] {
            assert_eq!(routes.find(rest).unwrap().demand.audiences, [DEFAULT_AUDIENCE], "{rest}");
        }
        for none in ["/", "/order", "orders", "/orders/", "//orders", "/Orders", "/%6frders"] {
            assert!(routes.find(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_mistake_is_named_by_its_field() {
        for (yaml, expected) in [
            ("routes: 7", "routes: invalid type"),
            ("routes: [{name: a, audience: [b]}]", "routes[0]: unknown field `audience`"),
            ("routes: [{}]", "routes[0]: missing field `name`"),
            ("routes: [{name: A}]", "\"A\" is no name of a route"),
            ("routes: [{name: ''}]", "\"\" is no name of a route"),
            ("routes: [{name: a}, {name: a}]", "there are two of the name \"a\""),
            ("routes: [{name: a, audiences: []}]", "routes.a.audiences is empty"),
            ("routes: [{name: a, namespaces: []}]", "routes.a.namespaces is empty"),
            ("routes:\n- name: a\n  audiences:\n", "routes.a.audiences is empty"),
            ("routes:\n- name: a\n  namespaces:\n  # - shop\n", "routes.a.namespaces is empty"),
            ("routes:\n- name: a\n  scopes: ~\n", "routes.a.scopes is empty"),
            ("routes: [{name: a, scopes: ['b c']}]", "\"b c\" is no scope"),
        ] {
            let error = Routes::read(yaml).unwrap_err().to_string();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
