//! The `ServiceAccount`s that controllers run as.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A `ServiceAccount`, written `NAMESPACE:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    namespace: String,
    name: String,
}

/// Why a text is no account.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write NAMESPACE:NAME of a ServiceAccount, such as credential-operator:credential-operator")]
pub struct InvalidAccount;

impl Account {
    /// Whom the API server takes it for.
    #[must_use]
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl Default for Account {
    /// That of `deploy/controller.yaml`.
    fn default() -> Self {
        Self { namespace: "credential-operator".to_owned(), name: "credential-operator".to_owned() }
    }
}

impl FromStr for Account {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, InvalidAccount> {
        // What stands in an expression must not be able to end the string there.
        let is_name = |text: &str, max: usize, more: &[char]| {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || more.contains(&c);
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            text.len() <= max
                && text.chars().all(allowed)
                && edge(text.chars().next())
                && edge(text.chars().last())
        };
        let (namespace, name) = text.split_once(':').ok_or(InvalidAccount)?;
        if is_name(namespace, 63, &[]) && is_name(name, 253, &['.']) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            Err(InvalidAccount)
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// The users that these accounts are, as a list in an expression.
pub(super) fn users(accounts: &[Account]) -> String {
    let users: Vec<_> = accounts.iter().map(|account| format!("'{}'", account.user())).collect();
    format!("[{}]", users.join(", "))
}

/// Reads what [`users`] has written.
pub(super) fn read_users(list: &str) -> Option<Vec<Account>> {
    let list = list.strip_prefix('[')?.strip_suffix(']')?;
    let user = |user: &str| {
        let user = user.strip_prefix("'system:serviceaccount:")?.strip_suffix('\'')?;
        user.parse().ok()
    };
    list.split(", ").map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_namespace_and_name() {
        let account: Account = "orders:the.controller".parse().unwrap();
        assert_eq!(account.user(), "system:serviceaccount:orders:the.controller");
        assert_eq!(account.to_string(), "orders:the.controller");
        for text in ["", "a", ":", "a:", ":a", "a:b:c", "A:b", "a:b'] + ['x", "a.b:c", "-a:b", "a:b-"] {
            assert_eq!(text.parse::<Account>(), Err(InvalidAccount), "{text}");
        }
        let all = [Account::default(), account];
        assert_eq!(read_users(&users(&all)), Some(all.to_vec()));
        for list in [
            "",
            "[]",
            "['orders:a']",
            "['system:serviceaccount:a:b'",
            "['system:serviceaccount:a:b'] + ['x']",
        ] {
            assert_eq!(read_users(list), None, "{list}");
        }
        assert_eq!(
            users(&all),
            "['system:serviceaccount:credential-operator:credential-operator', \
             'system:serviceaccount:orders:the.controller']"
        );
    }
}
