//! The policies that allow users to add a role to a credential only if they could bind that role themselves.

use super::draft::{Draft, Law, Rule, Scope, before_and_after};
use crate::api::credential::MAX_GRANTS;

/// The number of grants that one policy checks, with two authorizer checks each.
const GRANTS_EACH: usize = 8;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn drafts() -> Vec<Draft> {
    let firsts = (0..MAX_GRANTS).step_by(GRANTS_EACH);
    firsts
        .enumerate()
        .map(|(number, first)| draft(number + 1, first, (first + GRANTS_EACH).min(MAX_GRANTS)))
        .collect()
}

fn draft(number: usize, first: usize, end: usize) -> Draft {
    let mut variables = before_and_after();
    variables.push(("added", added()));
    // An empty namespace stands for the whole cluster.
    variables.push((
        "asked",
        "variables.added.map(g, {'told': g.kind + ' ' + g.name, 'name': string(g.name), \
         'resource': g.kind == 'ClusterRole' ? 'clusterroles' : 'roles', \
         'binding': has(g.clusterWide) && g.clusterWide ? 'clusterrolebindings' : 'rolebindings', \
         'namespace': has(g.clusterWide) && g.clusterWide ? '' : \
         has(g.namespace) ? string(g.namespace) : string(request.namespace), \
         'where': has(g.clusterWide) && g.clusterWide ? 'the whole cluster' : \
         'namespace ' + (has(g.namespace) ? string(g.namespace) : string(request.namespace))})"
            .to_owned(),
    ));
    let mut laws: Vec<_> = (first..end).flat_map(|index| [creates_binding(index), binds(index)]).collect();
    if end == MAX_GRANTS {
        laws.push(Law {
            holds: format!("variables.added.size() <= {MAX_GRANTS}"),
            message: "a credential has too many roles to be judged",
            says: format!(
                "'of the roles of a credential {MAX_GRANTS} are judged, and these are ' + string(variables.added.size())"
            ),
        });
    }
    Draft {
        name: format!("grants-{number}"),
        about: "Who adds a role to a credential, or switches it on, must be allowed to bind that role there.",
        rules: vec![Rule::writes(&["credentials"])],
        variables,
        laws,
        scope: Scope::Everyone,
    }
}

/// The added grants, or all grants of a credential that is activated.
pub(super) fn added() -> String {
    "(has(variables.spec.roles) ? variables.spec.roles : dyn([])).filter(g, \
     variables.activated || !has(variables.old.roles) || type(variables.old.roles) != list || !(g in variables.old.roles))"
        .to_owned()
}

fn creates_binding(index: usize) -> Law {
    let asked = format!("variables.asked[{index}]");
    Law {
        holds: format!(
            "variables.asked.size() <= {index} || authorizer.group('{RBAC}').resource({asked}.binding)\
             .namespace({asked}.namespace).check('create').allowed()"
        ),
        message: "who grants a role by a credential needs the right to create that binding",
        says: refused(&asked, &format!("'the right to create ' + {asked}.binding + ' in ' + {asked}.where")),
    }
}

fn binds(index: usize) -> Law {
    let asked = format!("variables.asked[{index}]");
    Law {
        holds: format!(
            "variables.asked.size() <= {index} || authorizer.group('{RBAC}').resource({asked}.resource)\
             .namespace({asked}.namespace).name({asked}.name).check('bind').allowed()"
        ),
        message: "who grants a role by a credential needs the verb bind on that role",
        says: refused(
            &asked,
            &format!("'the verb bind on ' + {asked}.resource + '/' + {asked}.name + ' in ' + {asked}.where"),
        ),
    }
}

fn refused(asked: &str, missing: &str) -> String {
    format!(
        "'user ' + request.userInfo.username + ' may not grant ' + {asked}.told + ' in ' + {asked}.where + ': ' + {missing} + \
         ' is missing; ask for it, or remove the grant from spec.roles'"
    )
}
