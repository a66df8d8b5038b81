//! Which namespaces an operator works in.

use std::collections::BTreeSet;

use super::{
    binding::BindingKey,
    policy::{is_outside, told},
};
use crate::api::CredentialSpec;

/// The whole cluster, among the names of namespaces.
pub const EVERYWHERE: &str = "*";

/// Which namespaces an operator works in: all of the cluster, or those that it is given, and nowhere else has rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    only: Option<BTreeSet<String>>,
}

impl Reach {
    /// These namespaces; all, where none is named.
    pub fn within(namespaces: impl IntoIterator<Item = String>) -> Self {
        let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
        Self { only: (!namespaces.is_empty()).then_some(namespaces) }
    }

    /// Whether it is the whole cluster.
    #[must_use]
    pub const fn is_everywhere(&self) -> bool {
        self.only.is_none()
    }

    /// Whether it works in that namespace.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(namespace))
    }

    /// Whether it works there: in a namespace, or [`EVERYWHERE`].
    #[must_use]
    pub fn has_place(&self, place: &str) -> bool {
        if place == EVERYWHERE { self.is_everywhere() } else { self.has(place) }
    }

    /// Whether it may look at, make or delete a binding there.
    #[must_use]
    pub fn has_binding(&self, key: &BindingKey) -> bool {
        key.namespace.as_deref().map_or(self.is_everywhere(), |namespace| self.has(namespace))
    }

    /// What is watched, each for itself: the namespaces, or, as `None`, all of them at once.
    #[must_use]
    pub fn scopes(&self) -> Vec<Option<String>> {
        match &self.only {
            Some(only) => only.iter().cloned().map(Some).collect(),
            None => vec![None],
        }
    }

    /// Why a credential of that namespace cannot have what it asks for.
    #[must_use]
    pub fn refusal(&self, spec: &CredentialSpec, own: &str) -> Option<String> {
        let only = self.only.as_ref()?;
        let grant = spec.roles.iter().find(|grant| {
            is_outside(grant, own)
                && (grant.cluster_wide || grant.namespace.as_deref().is_some_and(|target| !self.has(target)))
        })?;
        let (namespaces, only) = (
            if only.len() == 1 { "namespace" } else { "namespaces" },
            Vec::from_iter(only.clone()).join(", "),
        );
        Some(format!(
            "this operator works in {namespaces} {only} alone, so it cannot grant {}; remove it from spec.roles, or have the \
             operator's --watch-namespaces and rights extended",
            told(grant, own)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::credential::{Grant, RoleKind};

    fn grant(namespace: Option<&str>, cluster_wide: bool) -> CredentialSpec {
        let grant = Grant {
            kind: RoleKind::ClusterRole,
            name: "view".to_owned(),
            namespace: namespace.map(ToOwned::to_owned),
            cluster_wide,
        };
        CredentialSpec { roles: vec![grant], ..CredentialSpec::default() }
    }

    #[test]
    fn nothing_is_out_of_reach_for_who_works_everywhere() {
        let reach = Reach::within([]);
        assert!(reach.is_everywhere() && reach.has("orders"));
        assert_eq!(reach.scopes(), [None]);
        assert_eq!(reach.refusal(&grant(None, true), "orders"), None);
    }

    #[test]
    fn what_is_elsewhere_is_refused_and_named() {
        let reach = Reach::within(["orders".to_owned(), "stock".to_owned()]);
        assert_eq!(reach.scopes(), [Some("orders".to_owned()), Some("stock".to_owned())]);
        for within in [None, Some("orders"), Some("stock")] {
            assert_eq!(reach.refusal(&grant(within, false), "orders"), None, "{within:?}");
        }
        let said = reach.refusal(&grant(Some("shop"), false), "orders").unwrap();
        let expected =
            "works in namespaces orders, stock alone, so it cannot grant ClusterRole view in namespace shop;";
        assert!(said.contains(expected), "{said}");
        let said = reach.refusal(&grant(None, true), "orders").unwrap();
        assert!(said.contains("cannot grant ClusterRole view in the whole cluster;"), "{said}");
        let key = |namespace: Option<&str>| BindingKey {
            namespace: namespace.map(ToOwned::to_owned),
            name: "a".to_owned(),
        };
        assert!(reach.has_binding(&key(Some("stock"))));
        assert!(!reach.has_binding(&key(Some("shop"))) && !reach.has_binding(&key(None)));
    }
}
