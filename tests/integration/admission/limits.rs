//! Attacks on CredentialPolicies, by a GitOps controller that may do everything.

use serde_json::json;

use super::case::{Act, Attack, Kind, Remedy, Who, credential, object, policy, token};

/// What is refused by `tight`, and passes with `loose`.
fn attack(name: &'static str, tight: &str, loose: &str, act: Act, says: &'static str) -> Attack {
    Attack {
        name,
        given: policy(tight),
        who: Who::GitOps,
        may: &[],
        act,
        refused_by: "limits",
        says,
        remedy: Remedy::Applied(policy(loose)),
    }
}

fn of_token(name: &'static str, tight: &str, loose: &str, spec: &str, says: &'static str) -> Attack {
    let tight = format!("tokens: {{{tight}}}");
    let loose = format!("tokens: {{{loose}}}");
    let mut attack = attack(name, &tight, &loose, Act::Apply(token(spec)), says);
    attack.given += &credential("{}");
    Attack { refused_by: "token-limits", ..attack }
}

fn created(name: &'static str, tight: &str, loose: &str, spec: &str, says: &'static str) -> Attack {
    attack(name, tight, loose, Act::Apply(credential(spec)), says)
}

/// A policy for namespaces with such labels; the namespace of a case has one, by its name.
fn selected(name: &'static str, expression: &str) -> Attack {
    let of = |expression: &str, types: &str| {
        object(
            "CredentialPolicy",
            "{name: $ns}",
            &format!("{{namespaceSelector: {{matchExpressions: [{expression}]}}, types: [{types}]}}"),
        )
    };
    // Of no other case, also where it selects their namespaces.
    let none = "{key: nobody-has-this, operator: Exists}";
    Attack {
        given: of(
            &format!("{expression}, {{key: kubernetes.io/metadata.name, operator: In, values: [$ns]}}"),
            "SshKey",
        ),
        remedy: Remedy::Applied(of(none, "SshKey")),
        ..created(name, "types: []", "types: []", "{}", "CredentialPolicy $ns does not allow type Token")
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub fn attacks() -> Vec<Attack> {
    let edited = |name, tight: &str, loose: &str, before: &str, patch, says| {
        let mut attack = attack(name, tight, loose, Act::Merge(Kind::Credential, "c", patch), says);
        attack.given = credential(before) + &attack.given;
        attack
    };
    vec![
        created(
            "a type that is not allowed",
            "types: [SshKey]",
            "types: [SshKey, Token]",
            "{}",
            "CredentialPolicy $ns does not allow type Token, only [SshKey]; create a credential of an allowed type, or have the policy's types \
             extended",
        ),
        created(
            "no type at all",
            "types: []",
            "tokens: {}",
            "{type: ClientSecret}",
            "does not allow type ClientSecret",
        ),
        created(
            "a role that is not allowed",
            "roles: [{kind: ClusterRole, name: 'view-*'}]",
            "roles: [{kind: ClusterRole, name: 'vie*'}]",
            "{roles: [{kind: ClusterRole, name: view}]}",
            "CredentialPolicy $ns does not allow the grant of ClusterRole view; remove it from spec.roles, or have it named in the \
             policy's roles",
        ),
        created(
            "a role of another kind",
            "roles: [{kind: Role, name: view}]",
            "roles: [{kind: ClusterRole, name: view}]",
            "{roles: [{kind: ClusterRole, name: view}]}",
            "does not allow the grant of ClusterRole view",
        ),
        created(
            "a role elsewhere",
            "types: [Token]",
            "roles: [{kind: ClusterRole, name: view, namespaces: ['*']}]",
            "{roles: [{kind: ClusterRole, name: view, namespace: $other}]}",
            "does not allow the grant of ClusterRole view in namespace $other",
        ),
        created(
            "a role in a namespace that is not named",
            "roles: [{kind: ClusterRole, name: view, namespaces: [orders]}]",
            "roles: [{kind: ClusterRole, name: view, namespaces: [orders, $other]}]",
            "{roles: [{kind: ClusterRole, name: view, namespace: $other}]}",
            "does not allow the grant of ClusterRole view in namespace $other",
        ),
        created(
            "a role in the whole cluster",
            "roles: [{kind: ClusterRole, name: view, namespaces: ['*']}]",
            "roles: [{kind: ClusterRole, name: view, clusterWide: true}]",
            "{roles: [{kind: ClusterRole, name: view, clusterWide: true}]}",
            "does not allow the grant of ClusterRole view in the whole cluster",
        ),
        created(
            "a scope that is not allowed",
            "scopes: ['orders:*']",
            "scopes: ['orders:*', stock]",
            "{scopes: ['orders:read', stock]}",
            "CredentialPolicy $ns does not allow the scope stock; remove it from spec.scopes, or have it named in the policy's scopes",
        ),
        created(
            "a scope that begins otherwise",
            "scopes: ['orders:*']",
            "scopes: ['orders*']",
            "{scopes: [orders]}",
            "does not allow the scope orders",
        ),
        created(
            "an audience that is not allowed",
            "audiences: [orders]",
            "audiences: ['*']",
            "{audiences: [orders, stock]}",
            "CredentialPolicy $ns does not allow the audience stock; set spec.audiences to allowed ones",
        ),
        created(
            "the audience by default",
            "audiences: [orders]",
            "audiences: [orders, credential-operator]",
            "{}",
            "does not allow the audience credential-operator, which a credential has that names none",
        ),
        created(
            "a client secret that lives on",
            "tokens: {maxLifetime: 30d}",
            "types: [ClientSecret]",
            "{type: ClientSecret}",
            "CredentialPolicy $ns allows a value to live 30d, and a client secret of this credential would live longer; set \
             rotation.every",
        ),
        created(
            "a client secret that overlaps too long",
            "tokens: {maxLifetime: 30d}",
            "tokens: {maxLifetime: 5w}",
            "{type: ClientSecret, rotation: {every: 30d, overlap: 1d}}",
            "allows a value to live 30d",
        ),
        created(
            "a client secret that ends too late",
            "tokens: {maxLifetime: 1d}",
            "tokens: {maxLifetime: 10y}",
            "{type: ClientSecret, expiresAt: '2030-01-01T00:00:00Z'}",
            "allows a value to live 1d",
        ),
        edited(
            "a client secret rotated less",
            "tokens: {maxLifetime: 30d}",
            "tokens: {maxLifetime: 60d}",
            "{type: ClientSecret, rotation: {every: 30d}}",
            json!({"spec": {"rotation": {"every": "60d"}}}),
            "allows a value to live 30d",
        ),
        edited(
            "a scope added",
            "scopes: ['orders:*']",
            "scopes: ['*']",
            "{scopes: ['orders:read']}",
            json!({"spec": {"scopes": ["orders:read", "stock:read"]}}),
            "does not allow the scope stock:read",
        ),
        edited(
            "an audience taken away",
            "audiences: [orders]",
            "audiences: [credential-operator, orders]",
            "{audiences: [orders]}",
            json!({"spec": {"audiences": null}}),
            "does not allow the audience credential-operator",
        ),
        edited(
            "a role added to others",
            "roles: [{kind: ClusterRole, name: view}]",
            "roles: [{kind: ClusterRole, name: '*'}]",
            "{roles: [{kind: ClusterRole, name: view}]}",
            json!({"spec": {"roles": [{"kind": "ClusterRole", "name": "view"}, {"kind": "ClusterRole", "name": "edit"}]}}),
            "does not allow the grant of ClusterRole edit",
        ),
        edited(
            "switched on with a scope of old",
            "scopes: ['orders:*']",
            "scopes: ['orders:*', 'stock:read']",
            "{state: Inactive, scopes: ['stock:read']}",
            json!({"spec": {"state": "Active"}}),
            "does not allow the scope stock:read",
        ),
        edited(
            "switched on with a type of old",
            "types: [SshKey]",
            "types: [Token]",
            "{state: Inactive}",
            json!({"spec": {"state": "Active"}}),
            "does not allow type Token",
        ),
        of_token(
            "a lifetime that is not listed",
            "lifetimes: [1h, 1w]",
            "lifetimes: [2h]",
            "expiresIn: 2h",
            "CredentialPolicy $ns allows tokens these lifetimes alone: [1h, 1w]; choose one of them as expiresIn",
        ),
        of_token(
            "an end beyond all lifetimes",
            "lifetimes: [1h, 1w]",
            "lifetimes: [10y]",
            LATE,
            "allows tokens these lifetimes alone",
        ),
        of_token(
            "a token that lives too long",
            "maxLifetime: 1d",
            "maxLifetime: 1w",
            "expiresIn: 25h",
            "CredentialPolicy $ns allows a value to live 1d, and this token's would live longer",
        ),
        of_token(
            "a token that ends too late",
            "maxLifetime: 1d",
            "maxLifetime: 10y",
            LATE,
            "allows a value to live 1d",
        ),
        of_token(
            "a type of token that is not allowed",
            "types: [ServiceAccount]",
            "types: [Opaque]",
            "expiresIn: 1h",
            "does not allow ApiTokens of type Opaque; have it added to tokens.types",
        ),
        of_token(
            "a token of the API server",
            "types: [Opaque]",
            "types: [Opaque, ServiceAccount]",
            "type: ServiceAccount, expiresIn: 1h",
            "does not allow ApiTokens of type ServiceAccount; have it added to tokens.types",
        ),
        of_token(
            "a delivery that is not allowed",
            "deliveries: [Once]",
            "deliveries: [Once, Secret]",
            "expiresIn: 1h",
            "does not allow delivery by Secret; have it added to tokens.deliveries",
        ),
        of_token(
            "a token delivered once",
            "deliveries: [Secret, Sealed]",
            "deliveries: [Once]",
            "expiresIn: 1h, delivery: {mode: Once}",
            "does not allow delivery by Once; have it added to tokens.deliveries",
        ),
        selected("a namespace that exists", "{key: kubernetes.io/metadata.name, operator: Exists}"),
        selected("a namespace by its absence", "{key: not-there, operator: DoesNotExist}"),
        selected(
            "a namespace not in a list",
            "{key: kubernetes.io/metadata.name, operator: NotIn, values: [orders]}",
        ),
        selected(
            "a label that is not there not in a list",
            "{key: not-there, operator: NotIn, values: [orders]}",
        ),
        Attack {
            given: policy("types: [Token]")
                + &object(
                    "CredentialPolicy",
                    "{name: second.$ns}",
                    "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $ns}}, types: [SshKey]}",
                ),
            remedy: Remedy::Applied(object(
                "CredentialPolicy",
                "{name: second.$ns}",
                "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $other}}, types: [SshKey]}",
            )),
            ..created(
                "what the second of two refuses",
                "types: []",
                "types: []",
                "{}",
                "CredentialPolicy second.$ns does not allow",
            )
        },
        Attack {
            act: Act::DryRun(Box::new(Act::Create(credential("{scopes: [stock]}")))),
            ..created(
                "a scope as a dry run",
                "scopes: []",
                "scopes: [stock]",
                "{}",
                "does not allow the scope stock",
            )
        },
    ]
}

/// Years away, but not ten.
const LATE: &str = "expiresAt: '2030-01-01T00:00:00Z'";
