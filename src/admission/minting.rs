//! The policy that allows controllers to request tokens only for the accounts of credentials, which RBAC cannot distinguish.

use super::{
    Account, account,
    draft::{Draft, Law, Rule, Scope},
};
use crate::domain::name;

pub(super) fn draft(controllers: &[Account]) -> Draft {
    let of_credentials = name::service_account("");
    Draft {
        name: "minting".to_owned(),
        about: "The controller has tokens minted for the ServiceAccounts of credentials alone.",
        rules: vec![Rule { group: "", resources: &["serviceaccounts/token"], operations: &["CREATE"] }],
        variables: Vec::new(),
        laws: vec![Law {
            holds: format!(
                "!has(request.subResource) || request.subResource != 'token' || request.name.endsWith('{of_credentials}')"
            ),
            message: "the controller mints for the ServiceAccounts of credentials alone",
            says: format!(
                "'user ' + request.userInfo.username + ' may not have a token minted for ServiceAccount ' + request.name + ': a \
                 controller of credentials may for ServiceAccounts named *{of_credentials} alone'"
            ),
        }],
        scope: Scope::Users(account::users(controllers)),
    }
}
