//! The policy that allows only the controller to write statuses, on which the verifier and the controller rely.

use super::{
    Account, CONTROLLERS, account,
    draft::{Draft, Law, Rule, Scope},
};
use crate::api::GROUP;

/// The name of the policy, without the group.
pub(super) const NAME: &str = "status";

pub(super) fn draft(controllers: &[Account]) -> Draft {
    Draft {
        name: NAME.to_owned(),
        about: "Statuses are written by the controller alone.",
        rules: vec![Rule { group: GROUP, resources: &["*/status"], operations: &["CREATE", "UPDATE"] }],
        variables: vec![(CONTROLLERS, account::users(controllers))],
        laws: vec![Law {
            holds: "!has(request.subResource) || request.subResource != 'status' || \
                    request.userInfo.username in variables.controllers"
                .to_owned(),
            message: "a status is written by the controller alone",
            says: "'user ' + request.userInfo.username + ' may not write the status of ' + request.resource.resource + ': only \
                   the controller may, which is ' + variables.controllers.join(' or ') + '; change the spec instead'"
                .to_owned(),
        }],
        scope: Scope::Everyone,
    }
}
