//! Deleting what is protected.

use kube::api::PropagationPolicy;
use serde_json::json;

use super::case::{Act, Attack, EDITOR, Kind, Remedy, Who, credential};

const SAYS: &str = "Credential c has deletionProtection; if it is to go: kubectl annotate credential -n $ns c \
                    credential-operator.io/confirm-delete=c, and delete it then";

fn attack(name: &'static str, act: Act) -> Attack {
    let confirm = json!({"metadata": {"annotations": {"credential-operator.io/confirm-delete": "c"}}});
    Attack {
        name,
        given: credential("{deletionProtection: true}"),
        who: EDITOR,
        may: &[],
        act,
        refused_by: "deletion",
        says: SAYS,
        remedy: Remedy::First(Act::Merge(Kind::Credential, "c", confirm)),
    }
}

fn delete(policy: Option<PropagationPolicy>) -> Act {
    Act::Delete(Kind::Credential, "c", policy)
}

pub fn attacks() -> Vec<Attack> {
    let with = |metadata: &str| {
        super::case::object("Credential", &format!("{{name: c, {metadata}}}"), "{deletionProtection: true}")
    };
    vec![
        attack("deleted", delete(None)),
        attack("deleted in the foreground", delete(Some(PropagationPolicy::Foreground))),
        attack("deleted and its children left", delete(Some(PropagationPolicy::Orphan))),
        attack("deleted as a dry run", Act::DryRun(Box::new(delete(None)))),
        attack("deleted with all others", Act::DeleteAll(Kind::Credential)),
        Attack { who: Who::Admin, ..attack("deleted by the admin", delete(None)) },
        Attack { who: Who::GitOps, ..attack("pruned", delete(Some(PropagationPolicy::Foreground))) },
        Attack {
            given: with("annotations: {credential-operator.io/confirm-delete: 'true'}"),
            ..attack("confirmed by another word", delete(None))
        },
        Attack {
            given: with("labels: {credential-operator.io/confirm-delete: c}"),
            ..attack("confirmed by a label", delete(None))
        },
        Attack {
            remedy: Remedy::First(Act::Merge(
                Kind::Credential,
                "c",
                json!({"spec": {"deletionProtection": false}}),
            )),
            ..attack("unprotected first", delete(None))
        },
    ]
}
