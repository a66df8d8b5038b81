//! Who may do a thing is not refused, whatever else there is that they may not.

use std::sync::Arc;

use kube::api::PropagationPolicy;
use serde_json::{Value, json};

use super::{
    case::{Act, Allowed, EDITOR, Kind, Who, credential, named, object, policy, secret, token},
    each,
};
use crate::support::{Space, World};

crate::tests![what_changes_no_rights_passes, who_has_the_rights_uses_them];

async fn what_changes_no_rights_passes(world: Arc<World>, _: Space) {
    each(world, harmless()).await;
}

async fn who_has_the_rights_uses_them(world: Arc<World>, _: Space) {
    each(world, rightful()).await;
}

/// What a credential looks like that its editor could have made in no respect.
const STRONG: &str = "{type: BasicAuth, provided: {secretRef: {name: other}}, scopes: ['stock:write'], audiences: [stock], \
                      secret: {name: mine}, \
                      roles: [{kind: ClusterRole, name: edit}, {kind: ClusterRole, name: cluster-admin, clusterWide: true}]}";

fn strong() -> String {
    object(
        "Credential",
        "{name: c, finalizers: [tests/one], annotations: {credential-operator.io/rotate-requested-at: now}}",
        STRONG,
    )
}

/// An edit of that, while a policy allows nothing of it.
fn edit(name: &'static str, patch: Value) -> Allowed {
    let nothing = policy("types: [], roles: [], scopes: [], audiences: []");
    Allowed {
        name,
        given: strong() + &nothing,
        who: EDITOR,
        may: &[],
        act: Act::Merge(Kind::Credential, "c", patch),
    }
}

fn token_edit(name: &'static str, patch: Value) -> Allowed {
    let spec = "expiresIn: 1h, scopes: [a, b], audiences: [a, b], secret: {name: mine}";
    Allowed {
        given: credential(STRONG)
            + &token(spec)
            + &policy("tokens: {lifetimes: [], deliveries: [], types: []}"),
        act: Act::Merge(Kind::ApiToken, "t", patch),
        ..edit(name, Value::Null)
    }
}

fn act(name: &'static str, given: &str, act: Act) -> Allowed {
    Allowed { name, given: given.to_owned(), who: EDITOR, may: &[], act }
}

fn harmless() -> Vec<Allowed> {
    let edit_role = json!({"kind": "ClusterRole", "name": "edit"});
    let admin_role = json!({"kind": "ClusterRole", "name": "cluster-admin", "clusterWide": true});
    let create = |name, spec: &str| act(name, "", Act::Apply(credential(spec)));
    let ended = object("Credential", "{name: c}", "{expiresAt: '2030-01-01T00:00:00Z'}");
    let delete = |policy| Act::Delete(Kind::Credential, "c", Some(policy));
    vec![
        edit("a name for people", json!({"spec": {"displayName": "Orders"}})),
        edit("a description", json!({"spec": {"description": "of the night shift"}})),
        edit("a label", json!({"metadata": {"labels": {"app": "orders"}}})),
        edit("an annotation", json!({"metadata": {"annotations": {"example.com/a": "b"}}})),
        edit(
            "the annotation that rotates taken away",
            json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": null}}}),
        ),
        edit("a finalizer taken away", json!({"metadata": {"finalizers": null}})),
        edit("a finalizer", json!({"metadata": {"finalizers": ["tests/one", "tests/two"]}})),
        edit(
            "an owner",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b"}]}}),
        ),
        edit("switched off", json!({"spec": {"state": "Inactive"}})),
        edit("a role taken away", json!({"spec": {"roles": [admin_role]}})),
        edit("all roles taken away", json!({"spec": {"roles": null}})),
        edit("roles in another order", json!({"spec": {"roles": [admin_role, edit_role]}})),
        edit("an end", json!({"spec": {"expiresAt": "2030-01-01T00:00:00Z"}})),
        edit("protected from deletion", json!({"spec": {"deletionProtection": true}})),
        edit(
            "a confirmation",
            json!({"metadata": {"annotations": {"credential-operator.io/confirm-delete": "c"}}}),
        ),
        edit("nothing at all", json!({})),
        Allowed {
            act: Act::Replace(Kind::Credential, "c", json!({"spec": {"displayName": "Orders"}})),
            ..edit("written back whole", Value::Null)
        },
        Allowed { act: Act::Apply(strong()), ..edit("applied as it is by another", Value::Null) },
        Allowed {
            act: delete(PropagationPolicy::Background),
            ..edit("deleted in the background", Value::Null)
        },
        Allowed {
            act: delete(PropagationPolicy::Foreground),
            ..edit("deleted in the foreground too", Value::Null)
        },
        Allowed {
            act: delete(PropagationPolicy::Orphan),
            ..edit("deleted without its children", Value::Null)
        },
        Allowed { act: Act::DeleteAll(Kind::Credential), ..edit("all deleted", Value::Null) },
        act(
            "an end brought forward",
            &ended,
            Act::Merge(Kind::Credential, "c", json!({"spec": {"expiresAt": "2029-01-01T00:00:00Z"}})),
        ),
        act(
            "no longer protected",
            &credential("{deletionProtection: true}"),
            Act::Merge(Kind::Credential, "c", json!({"spec": {"deletionProtection": false}})),
        ),
        act(
            "a confirmed deletion",
            &object(
                "Credential",
                "{name: c, annotations: {credential-operator.io/confirm-delete: c}}",
                "{deletionProtection: true}",
            ),
            Act::Delete(Kind::Credential, "c", None),
        ),
        create("a credential", "{displayName: Test}"),
        create("one with scopes and audiences", "{scopes: ['orders:read'], audiences: [orders]}"),
        create("one that is inactive", "{state: Inactive}"),
        create("one with material", "{type: ClientSecret, rotation: {every: 30d, overlap: 1d}}"),
        create("one with options", "{type: BasicAuth, basicAuth: {username: svc, length: 40}}"),
        create("one with a certificate of its own", "{type: Tls, tls: {dnsNames: [orders.example]}}"),
        act("one as a dry run", "", Act::DryRun(Box::new(Act::Create(credential("{}"))))),
        act("one with a generated name", "", Act::Create(object("Credential", "{generateName: c-}", "{}"))),
        token_edit("revoked", json!({"spec": {"revoked": true}})),
        token_edit("described", json!({"spec": {"description": "laptop"}})),
        token_edit("fewer scopes", json!({"spec": {"scopes": ["a"]}})),
        token_edit("fewer audiences", json!({"spec": {"audiences": []}})),
        token_edit("a label on a token", json!({"metadata": {"labels": {"app": "orders"}}})),
        token_edit("a finalizer on a token", json!({"metadata": {"finalizers": ["tests/one"]}})),
        Allowed { act: Act::Delete(Kind::ApiToken, "t", None), ..token_edit("a token deleted", Value::Null) },
        Allowed { act: Act::DeleteAll(Kind::ApiToken), ..token_edit("all tokens deleted", Value::Null) },
        Allowed {
            given: credential("{}")
                + &object(
                    "ApiToken",
                    "{name: t}",
                    "{credentialRef: {name: c}, expiresAt: '2030-01-01T00:00:00Z'}",
                ),
            ..token_edit("a token that ends sooner", json!({"spec": {"expiresAt": "2029-01-01T00:00:00Z"}}))
        },
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rightful() -> Vec<Allowed> {
    let by = |who, may, name, given: &str, act| Allowed { name, given: given.to_owned(), who, may, act };
    let merge = |patch| Act::Merge(Kind::Credential, "c", patch);
    let admin = Who::Account("admin");
    let edit = Who::Account("edit");
    let issuer = Who::User("credential-operator-issuer");
    let view = "{roles: [{kind: ClusterRole, name: view}]}";
    let provided = "{type: BasicAuth, provided: {secretRef: {name: other}}}";
    let many =
        (0..16).map(|number| format!("{{kind: ClusterRole, name: cluster-admin, namespace: n{number}}}"));
    let many = format!("{{roles: [{}]}}", many.collect::<Vec<_>>().join(", "));
    let everything = "{type: Tls, roles: [{kind: ClusterRole, name: cluster-admin, clusterWide: true}], scopes: ['*'], audiences: ['*'], \
                      rotation: {revision: 3}, secret: {name: any}, tls: {issuer: {secretRef: {name: ca}}}}";
    vec![
        by(admin, &[], "an admin grants view", "", Act::Apply(credential(view))),
        by(admin, &[], "an admin adds view", &credential("{}"), Act::Apply(credential(view))),
        by(admin, &[], "an admin issues", &credential("{}"), Act::Apply(token("expiresIn: 1h"))),
        by(
            admin,
            &[],
            "an admin rotates",
            &credential("{type: ClientSecret}"),
            merge(json!({"spec": {"rotation": {"revision": 1}}})),
        ),
        by(
            admin,
            &[],
            "an admin rotates by annotation",
            &credential("{type: ClientSecret}"),
            merge(
                json!({"metadata": {"annotations": {"credential-operator.io/rotate-requested-at": "now"}}}),
            ),
        ),
        by(admin, &[], "an admin provides a Secret", &secret("other"), Act::Apply(credential(provided))),
        by(
            admin,
            &[],
            "an admin says what a Secret looks like",
            "",
            Act::Apply(credential("{type: SshKey, secret: {name: mine}}")),
        ),
        by(
            admin,
            &[],
            "an admin switches on",
            &credential("{state: Inactive, roles: [{kind: ClusterRole, name: view}]}"),
            merge(json!({"spec": {"state": "Active"}})),
        ),
        by(
            admin,
            &[],
            "an admin acknowledges",
            &(credential("{}") + &token("expiresIn: 1h")),
            Act::Merge(
                Kind::ApiToken,
                "t",
                json!({"metadata": {"annotations": {"credential-operator.io/acknowledged": "0123456789ab"}}}),
            ),
        ),
        by(edit, &[], "an editor provides a Secret", &secret("other"), Act::Apply(credential(provided))),
        by(
            edit,
            &[],
            "an editor names a Secret",
            "",
            Act::Apply(credential("{type: Totp, secret: {name: mine}}")),
        ),
        by(
            edit,
            &[],
            "an editor names an authority",
            "",
            Act::Apply(credential("{type: Tls, tls: {issuer: {secretRef: {name: ca}}}}")),
        ),
        by(issuer, &[], "an issuer issues", &credential(STRONG), Act::Apply(token("expiresIn: 1h"))),
        by(
            issuer,
            &["create secrets"],
            "an issuer names the Secret of a token",
            &credential("{}"),
            Act::Apply(token("expiresIn: 1h, secret: {name: mine}")),
        ),
        by(
            EDITOR,
            &["issue credentials c"],
            "who may issue for one credential",
            &(credential("{}") + &named("other", "{}")),
            Act::Apply(token("expiresIn: 1h")),
        ),
        by(
            EDITOR,
            &["issue credentials c"],
            "who may issue changes scopes",
            &credential("{scopes: [a]}"),
            merge(json!({"spec": {"scopes": ["b"], "audiences": ["c"]}})),
        ),
        by(
            EDITOR,
            &["create rolebindings", "bind roles deployer"],
            "who may bind a Role",
            "",
            Act::Apply(credential("{roles: [{kind: Role, name: deployer}]}")),
        ),
        by(
            EDITOR,
            &["create rolebindings @$other", "bind clusterroles view @$other"],
            "who may bind elsewhere",
            "",
            Act::Apply(credential("{roles: [{kind: ClusterRole, name: view, namespace: $other}]}")),
        ),
        by(
            EDITOR,
            &["create clusterrolebindings @*", "bind clusterroles view @*"],
            "who may bind in the whole cluster",
            "",
            Act::Apply(credential("{roles: [{kind: ClusterRole, name: view, clusterWide: true}]}")),
        ),
        by(Who::GitOps, &[], "GitOps grants sixteen", "", Act::Apply(credential(&many))),
        by(
            Who::GitOps,
            &[],
            "GitOps does everything",
            "",
            Act::Apply(credential(everything) + &token("expiresIn: 1h")),
        ),
        by(
            Who::GitOps,
            &[],
            "GitOps keeps to a policy",
            &policy(
                "types: [Token], roles: [{kind: ClusterRole, name: 'vi*'}], scopes: ['orders:*'], audiences: [orders], \
                 tokens: {maxLifetime: 1d, lifetimes: [60m, 24h], deliveries: [Secret], types: [Opaque]}",
            ),
            Act::Apply(
                credential(
                    "{roles: [{kind: ClusterRole, name: view}], scopes: ['orders:read'], audiences: [orders]}",
                ) + &token("expiresIn: 1h"),
            ),
        ),
        by(
            Who::GitOps,
            &[],
            "GitOps where a policy selects others",
            &object(
                "CredentialPolicy",
                "{name: $ns}",
                "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $other}, \
                 matchExpressions: [{key: a, operator: DoesNotExist}]}, types: []}",
            ),
            Act::Apply(credential(everything) + &token("expiresIn: 1h")),
        ),
        by(
            Who::Admin,
            &[],
            "the admin of the cluster",
            "",
            Act::Apply(credential(&many) + &token("expiresIn: 1h")),
        ),
        by(
            Who::User("credential-operator-admin"),
            &["create rolebindings"],
            "an admin of credentials",
            "",
            Act::Apply(credential(view) + &token("expiresIn: 1h")),
        ),
        by(
            EDITOR,
            &["create serviceaccounts/token"],
            "a token for an account by who is no controller",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: strong}\n",
            Act::Mint("strong"),
        ),
        by(
            Who::Controller,
            &["create serviceaccounts/token"],
            "a token for an account of a credential",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c-credential}\n",
            Act::Mint("c-credential"),
        ),
        by(
            Who::Controller,
            &[],
            "a status by the controller",
            &credential("{}"),
            Act::Status(Kind::Credential, "c", json!({"state": "Active"})),
        ),
    ]
}
