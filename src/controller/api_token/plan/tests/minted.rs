//! Tokens that the API server mints. It grants at most ten days at a time here; the token ends in seven months.

use super::*;
use crate::{
    api::{api_token::MintedToken, credential_policy::TokenType},
    client::Flaw,
    controller::mint::Native,
    domain::mint::MintAttestation,
};

const CAP: i64 = 10 * 24 * 60 * 60;
const ACCOUNT: &str = "account-uid";

/// The cluster as far as such a token sees it.
#[derive(Clone, Debug, PartialEq)]
struct Cluster {
    token: Option<ApiToken>,
    credential: Option<Credential>,
    native: Native,
    policy: Option<Breach>,
    secret: Option<Vessel>,
    made: u64,
    /// Values that the API server would accept: number, the Secret that each dies with, the account, and its end.
    alive: Vec<(u64, u64, String, Timestamp)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Vessel {
    number: u64,
    version: u64,
    owned: bool,
    content: Held,
}

#[derive(Clone, Debug, PartialEq)]
enum Held {
    /// Made by this process, and nothing minted.
    Empty,
    /// Nobody knows what was minted.
    Unknown,
    Value(Box<MintAttestation>),
}

impl Cluster {
    fn fresh() -> Self {
        let World { token, credential, .. } = World::fresh();
        let mut token = token.unwrap();
        token.spec.token_type = TokenType::ServiceAccount;
        let account = ObjectReference { name: "nodes-credential".to_owned(), uid: ACCOUNT.to_owned() };
        Self {
            token: Some(token),
            credential,
            native: Native { allowed: true, account: Some(account) },
            policy: None,
            secret: None,
            made: 0,
            alive: Vec::new(),
        }
    }

    fn observe(&self) -> Option<Observed> {
        let token = self.token.clone()?;
        let status = token.status.clone().unwrap_or_default();
        let credential = match &self.credential {
            Some(found) => CredentialSeen::Present(Box::new(found.clone())),
            None if status.credential_uid.is_none() => CredentialSeen::Absent,
            None => CredentialSeen::Gone,
        };
        let secret = self.secret.as_ref().map_or(SecretSeen::Absent, |vessel| {
            let latest = |said: &&MintAttestation| status.serial.is_none_or(|serial| said.serial >= serial);
            SecretSeen::Ours(Box::new(OwnSecret {
                reference: reference(vessel.number),
                resource_version: vessel.version.to_string(),
                labels: map(&[(name::MANAGED_BY_LABEL, name::MANAGED_BY)]),
                annotations: BTreeMap::new(),
                owned: vessel.owned,
                sealed_for: None,
                content: match &vessel.content {
                    Held::Empty => Content::Empty,
                    Held::Unknown => Content::Strange,
                    Held::Value(said) => {
                        Some(&**said).filter(latest).cloned().map_or(Content::Strange, Content::Minted)
                    }
                },
            }))
        });
        let native = Some(self.native.clone());
        let policy = self.policy.clone();
        Some(Observed {
            token,
            credential,
            secret,
            native,
            unsaid: None,
            policy,
            key_known: true,
            touched: false,
        })
    }

    /// As `apply` does, but stops after `limit` writes. To mint is up to three: the Secret, the token, the value in it.
    fn apply(&mut self, plan: Plan, limit: usize, now: Timestamp) -> bool {
        let mut left = limit;
        let mut write = || {
            let may = left > 0;
            left = left.saturating_sub(1);
            may
        };
        let mut status = plan.status;
        for step in plan.steps {
            match step {
                Step::DeleteSecret { secret, resource_version } => {
                    if !write() {
                        return true;
                    }
                    let gone = self.secret.take().unwrap();
                    assert_eq!(secret, reference(gone.number));
                    assert!(resource_version.is_none_or(|version| version == gone.version.to_string()));
                    self.alive.retain(|(_, secret, ..)| *secret != gone.number);
                }
                Step::MendSecret(mend) => {
                    if !write() {
                        return true;
                    }
                    let secret = self.secret.as_mut().unwrap();
                    assert_eq!(mend.held.resource_version, secret.version.to_string());
                    secret.owned |= mend.held.own;
                    secret.version += 1;
                }
                Step::Mint(recipe) => {
                    if recipe.into.is_none() {
                        if !write() {
                            return true;
                        }
                        assert_eq!(self.secret, None, "409: a Secret of that name exists");
                        self.made += 1;
                        // Whoever comes next does not know what we did.
                        let content = Held::Unknown;
                        self.secret = Some(Vessel { number: self.made, version: 1, owned: true, content });
                    }
                    if !write() {
                        return true;
                    }
                    let granted = crate::domain::mint::seconds_until(recipe.order.end, seconds(now)).min(CAP);
                    let expires_at = seconds(now) + granted.seconds();
                    self.made += 1;
                    let secret = self.secret.as_mut().unwrap();
                    self.alive.push((self.made, secret.number, recipe.order.account.uid.clone(), expires_at));
                    if recipe.empty {
                        secret.content = Held::Unknown;
                    }
                    if !write() {
                        return true;
                    }
                    if let Some(held) = &recipe.into {
                        assert_eq!(held.resource_version, secret.version.to_string());
                        secret.owned |= held.own;
                    }
                    let said = MintAttestation {
                        serial: recipe.serial,
                        term: recipe.term,
                        id: Some(self.made.to_string()),
                        account: recipe.order.account.uid,
                        credential: recipe.order.credential,
                        audiences: recipe.order.audiences,
                        issued_at: seconds(now).into(),
                        expires_at: expires_at.into(),
                        proof: String::new(),
                    };
                    secret.version += 1;
                    if let Some(status) = &mut status {
                        status.token_id.clone_from(&said.id);
                        status.minted = Some(MintedToken {
                            service_account_uid: said.account.clone(),
                            expires_at: said.expires_at.clone(),
                        });
                        status.secret = Some(reference(secret.number));
                    }
                    secret.content = Held::Value(Box::new(said));
                }
                Step::DeleteToken { .. } => {
                    if !write() {
                        return true;
                    }
                    self.token = None;
                    return false;
                }
                Step::CreateSecret(_) | Step::RenewSecret(..) | Step::Say(_) => {
                    panic!("the operator draws nothing")
                }
            }
        }
        if let (Some(status), Some(token)) = (status, &mut self.token) {
            if !write() {
                return true;
            }
            token.status = Some(status);
        }
        false
    }

    fn settle(mut self, now: Timestamp) -> Self {
        for _ in 0..10 {
            let before = self.clone();
            let Some(observed) = self.observe() else { return self };
            self.apply(plan(&observed, now), usize::MAX, now);
            if self == before {
                return self;
            }
        }
        panic!("never settles: {self:#?}");
    }

    /// What matters in the end: the state, and whether there is a Secret with a value.
    fn end(&self) -> (Option<ApiTokenState>, bool, Option<String>) {
        let status = self.token.as_ref().and_then(|token| token.status.clone()).unwrap_or_default();
        let account = status.minted.map(|minted| minted.service_account_uid);
        (status.state, self.secret.is_some(), account)
    }

    fn spec(&mut self) -> &mut ApiTokenSpec {
        &mut self.token.as_mut().unwrap().spec
    }

    fn credential(&mut self) -> &mut CredentialSpec {
        &mut self.credential.as_mut().unwrap().spec
    }

    fn told(&self, now: Timestamp) -> String {
        let planned = plan(&self.observe().unwrap(), now);
        let steps: Vec<_> = planned
            .steps
            .iter()
            .map(|step| match step {
                Step::Mint(recipe) if recipe.into.is_some() => format!("mint {} in place", recipe.serial),
                Step::Mint(recipe) => format!("mint {}", recipe.serial),
                Step::DeleteSecret { .. } => "delete".to_owned(),
                Step::MendSecret(_) => "mend".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        let status = planned.status.unwrap();
        let said: Vec<_> = status
            .conditions
            .iter()
            .map(|said| {
                format!("{}{} {}", if said.status == "True" { "" } else { "not " }, said.kind, said.reason)
            })
            .collect();
        let steps = if steps.is_empty() { "-".to_owned() } else { steps.join(", ") };
        format!("{steps} | {:?}: {}", status.state.unwrap(), said.join(", "))
    }
}

fn reference(number: u64) -> ObjectReference {
    ObjectReference { name: "laptop-token".to_owned(), uid: format!("secret-{number}") }
}

fn breach(severity: Severity) -> Breach {
    Breach { policy: None, severity, message: "no".to_owned(), until: None }
}

type Row = (&'static str, fn(&mut Cluster), &'static str);

#[test]
fn what_becomes_of_a_fresh_token() {
    let rows: &[Row] = &[
        ("as it is", |_| {}, "mint 0 | Active: Ready Issued, Usable Issued"),
        (
            "switched off",
            |cluster| cluster.native.allowed = false,
            "- | Failed: not Ready InvalidSpec, not Usable InvalidSpec, Stalled InvalidSpec",
        ),
        (
            "no account yet",
            |cluster| cluster.native.account = None,
            "- | Pending: not Ready Pending, not Usable Pending, Reconciling Pending",
        ),
        (
            "inactive",
            |cluster| cluster.credential().state = DesiredState::Inactive,
            "- | Suspended: Ready CredentialInactive, not Usable CredentialInactive",
        ),
        (
            "audiences of nobody",
            |cluster| cluster.spec().audiences = Some(vec!["vault".to_owned()]),
            "- | Failed: not Ready InvalidSpec, not Usable InvalidSpec, Stalled InvalidSpec",
        ),
        (
            "against a policy",
            |cluster| cluster.policy = Some(breach(Severity::Terms)),
            "- | Failed: not Ready PolicyViolation, not Usable PolicyViolation, Stalled PolicyViolation",
        ),
        (
            "revoked",
            |cluster| cluster.spec().revoked = Some(true),
            "- | Revoked: Ready Revoked, not Usable Revoked",
        ),
        (
            "over",
            |cluster| cluster.spec().expires_at = Some(NOW.into()),
            "- | Expired: Ready Expired, not Usable Expired",
        ),
    ];
    for (what, change, expected) in rows {
        let mut cluster = Cluster::fresh();
        change(&mut cluster);
        assert_eq!(cluster.told(now()), *expected, "{what}");
    }
}

#[test]
fn what_becomes_of_a_token_that_is_there() {
    let rows: &[Row] = &[
        ("as it is", |_| {}, "- | Active: Ready Issued, Usable Issued"),
        (
            "inactive",
            |cluster| cluster.credential().state = DesiredState::Inactive,
            "delete | Suspended: Ready CredentialInactive, not Usable CredentialInactive",
        ),
        (
            "revoked",
            |cluster| cluster.spec().revoked = Some(true),
            "delete | Revoked: Ready Revoked, not Usable Revoked",
        ),
        (
            "the credential is being deleted",
            |cluster| terminate(&mut cluster.credential.as_mut().unwrap().metadata),
            "delete | Suspended: Ready CredentialDeleted, not Usable CredentialDeleted",
        ),
        (
            "the account is another",
            |cluster| cluster.native.account.as_mut().unwrap().uid = "another".to_owned(),
            "delete, mint 1 | Active: Ready Issued, Usable Issued",
        ),
        (
            "the account is not there",
            |cluster| cluster.native.account = None,
            "- | Active: Ready Issued, Usable Issued",
        ),
        (
            "fewer audiences",
            |cluster| cluster.spec().audiences = Some(vec!["credential-operator".to_owned()]),
            "delete, mint 1 | Active: Ready Issued, Usable Issued",
        ),
        (
            "no owner",
            |cluster| cluster.secret.as_mut().unwrap().owned = false,
            "mend | Active: Ready Issued, Usable Issued",
        ),
        (
            "edited",
            |cluster| cluster.secret.as_mut().unwrap().content = Held::Unknown,
            "delete, mint 1 | Active: Ready Issued, Usable Issued",
        ),
        ("lost", |cluster| cluster.secret = None, "mint 1 | Active: Ready Issued, Usable Issued"),
        ("switched off", |cluster| cluster.native.allowed = false, "- | Active: Ready Issued, Usable Issued"),
        (
            "refused by a policy",
            |cluster| cluster.policy = Some(breach(Severity::Refused)),
            "- | Suspended: Ready PolicyViolation, not Usable PolicyViolation",
        ),
    ];
    for (what, change, expected) in rows {
        let mut cluster = Cluster::fresh().settle(now());
        change(&mut cluster);
        assert_eq!(cluster.told(now()), *expected, "{what}");
    }
}

/// Of the ten days that were granted two thirds are over.
#[test]
fn a_value_is_followed_by_another_in_time_or_it_is_told() {
    let due = now() + 160.hours();
    let rows: &[Row] = &[
        ("as it is", |_| {}, "mint 1 in place | Active: Ready Issued, Usable Issued"),
        (
            "switched off",
            |cluster| cluster.native.allowed = false,
            "- | Active: not Ready InvalidSpec, Usable Issued, Stalled InvalidSpec",
        ),
        (
            "no account",
            |cluster| cluster.native.account = None,
            "- | Active: not Ready Pending, Usable Issued, Reconciling Pending",
        ),
        (
            "against a policy",
            |cluster| cluster.policy = Some(breach(Severity::Terms)),
            "- | Active: not Ready PolicyViolation, Usable Issued, Stalled PolicyViolation",
        ),
    ];
    for (what, change, expected) in rows {
        let mut cluster = Cluster::fresh().settle(now());
        change(&mut cluster);
        assert_eq!(cluster.told(due), *expected, "{what}");
        assert!(cluster.told(due - 1.second()).starts_with("- | Active: Ready Issued"), "{what}: early");
    }
    let mut over = Cluster::fresh().settle(now());
    over.native.allowed = false;
    let told = over.told(now() + 240.hours());
    assert_eq!(told, "- | Failed: not Ready InvalidSpec, not Usable InvalidSpec, Stalled InvalidSpec");
}

#[test]
fn while_its_credential_cannot_be_read_the_api_server_goes_on_accepting_what_is_there() {
    let until = now() + 240.hours();
    let usable = |observed: &Observed, now| {
        let plan = plan(observed, now);
        assert_eq!(plan.steps.len(), 0);
        let status = plan.status.unwrap();
        assert!(holds(&status, ConditionType::Stalled) && !holds(&status, ConditionType::Ready));
        (holds(&status, ConditionType::Usable), plan.wake)
    };
    let mut observed = Cluster::fresh().settle(now()).observe().unwrap();
    spoil(&mut observed);
    assert_eq!(usable(&observed, now()), (true, Some(until)));
    assert_eq!(usable(&observed, until), (false, Some(at(END))));
    // Not what had been suspended.
    let mut refused = Cluster { policy: Some(breach(Severity::Refused)), ..Cluster::fresh().settle(now()) };
    refused = refused.settle(now());
    let mut observed = refused.observe().unwrap();
    spoil(&mut observed);
    assert_eq!(usable(&observed, now()), (false, Some(at(END))));
}

#[test]
fn what_its_unreadable_credential_does_not_grant_any_more_is_taken_back() {
    type Row = (fn(&mut InvalidObject), Reason);
    let over: [Row; 4] = [
        (|o| o.flaw = Flaw::Size { is: 2, allowed: 1 }, Reason::InvalidSpec),
        (|o| o.inactive = true, Reason::CredentialInactive),
        (|o| o.expired = true, Reason::Expired),
        (|o| terminate(&mut o.metadata), Reason::CredentialDeleted),
    ];
    for (change, reason) in over {
        let mut cluster = Cluster::fresh().settle(now());
        let mut observed = cluster.observe().unwrap();
        change(spoil(&mut observed));
        let first = plan(&observed, now());
        assert!(matches!(&first.steps[..], [Step::DeleteSecret { .. }]) && first.takes_back(), "{reason:?}");
        let status = first.status.as_ref().unwrap();
        assert_eq!(status.conditions[1].reason, reason.as_str());
        cluster.apply(first, 9, now());
        // Mended, it is as if it had been switched off and on.
        let mended = cluster.settle(now()).token.unwrap().status.unwrap();
        assert_eq!((mended.serial, mended.replaced_at.len()), (Some(1), 0), "{reason:?}");
    }
}

#[test]
fn what_this_process_made_and_nobody_minted_for_is_filled() {
    let mut cluster = Cluster::fresh();
    cluster.secret = Some(Vessel { number: 1, version: 1, owned: true, content: Held::Empty });
    cluster.made = 1;
    assert_eq!(cluster.told(now()), "mint 0 in place | Active: Ready Issued, Usable Issued");
    cluster.secret.as_mut().unwrap().content = Held::Unknown;
    assert_eq!(cluster.told(now()), "delete, mint 0 | Active: Ready Issued, Usable Issued");
}

#[test]
fn a_token_that_was_suspended_has_lost_nothing() {
    let mut cluster = Cluster::fresh().settle(now());
    for serial in 1..6 {
        cluster.credential().state = DesiredState::Inactive;
        cluster = cluster.settle(now());
        assert_eq!((cluster.secret.clone(), cluster.alive.clone()), (None, vec![]));
        cluster.credential().state = DesiredState::Active;
        assert_eq!(cluster.told(now()), format!("mint {serial} | Active: Ready Issued, Usable Issued"));
        cluster = cluster.settle(now());
    }
    cluster.secret = None;
    cluster = cluster.settle(now());
    cluster.secret = None;
    let told = cluster.told(now());
    assert_eq!(
        told, "- | Pending: not Ready Pending, not Usable Pending, Reconciling Pending",
        "once a minute"
    );
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let changes: Vec<fn(&mut Cluster)> = vec![
        |_| {},
        |cluster| cluster.credential().state = DesiredState::Inactive,
        |cluster| cluster.spec().revoked = Some(true),
        |cluster| cluster.spec().expires_at = Some("2026-06-01T12:01:00Z".into()),
        |cluster| cluster.spec().expires_at = Some(NOW.into()),
        |cluster| cluster.native.account.as_mut().unwrap().uid = "another".to_owned(),
        |cluster| cluster.native.account = None,
        |cluster| cluster.native.allowed = false,
        |cluster| cluster.policy = Some(breach(Severity::Terms)),
        |cluster| cluster.spec().audiences = Some(vec!["credential-operator".to_owned()]),
        |cluster| cluster.spec().audiences = Some(vec!["vault".to_owned()]),
        |cluster| terminate(&mut cluster.credential.as_mut().unwrap().metadata),
        |cluster| cluster.credential = None,
        |cluster| cluster.secret = None,
        |cluster| {
            if let Some(secret) = &mut cluster.secret {
                (secret.content, secret.owned) = (Held::Unknown, true);
            }
        },
        |cluster| {
            if let Some(secret) = &mut cluster.secret {
                secret.owned = false;
            }
        },
        |cluster| cluster.token.as_mut().unwrap().status = None,
    ];
    let change = prop::sample::select(changes);
    (any::<bool>(), change.clone(), change, 0..400_i64).prop_map(|(issued, first, second, hours)| {
        let mut cluster = Cluster::fresh();
        if issued {
            cluster = cluster.settle(now() - hours.hours());
        }
        for change in [first, second] {
            if cluster.token.is_some() && cluster.credential.is_some() {
                if cluster.native.account.is_none() {
                    cluster.native = Cluster::fresh().native;
                }
                change(&mut cluster);
            }
        }
        // Somebody who took the Secret away took what was bound to it.
        let held = cluster.secret.as_ref().map(|secret| secret.number);
        cluster.alive.retain(|(_, secret, ..)| Some(*secret) == held);
        cluster
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn law_planning_again_yields_nothing_minted(mut cluster in clusters()) {
        let Some(observed) = cluster.observe() else { return Ok(()) };
        cluster.apply(plan(&observed, now()), usize::MAX, now());
        if let Some(observed) = cluster.observe() {
            let again = plan(&observed, now());
            prop_assert!(again.steps.is_empty(), "{:?}", again.steps);
        }
    }

    /// Wherever it stops, it ends the same; and no value lives on that nobody can take back.
    #[test]
    fn law_stopping_anywhere_in_a_mint_ends_the_same(cluster in clusters()) {
        let undisturbed = cluster.clone().settle(now());
        for limit in 0.. {
            let mut disturbed = cluster.clone();
            let Some(observed) = cluster.observe() else { break };
            if !disturbed.apply(plan(&observed, now()), limit, now()) {
                break;
            }
            let later = now() + 1.minute();
            let (disturbed, undisturbed) = (disturbed.settle(now()).settle(later), undisturbed.clone().settle(later));
            prop_assert_eq!(disturbed.end(), undisturbed.end(), "after {} writes", limit);
            let held = disturbed.secret.as_ref().map(|secret| secret.number);
            prop_assert!(disturbed.alive.iter().all(|(_, secret, ..)| Some(*secret) == held));
        }
    }

    /// No Secret is there where nothing may be accepted.
    #[test]
    fn what_may_not_be_used_has_no_secret(cluster in clusters()) {
        let cluster = cluster.settle(now());
        if let Some(token) = &cluster.token {
            let status = token.status.clone().unwrap_or_default();
            let over = matches!(status.state, Some(ApiTokenState::Revoked | ApiTokenState::Expired | ApiTokenState::Suspended));
            prop_assert!(!over || cluster.alive.is_empty(), "{:?}", cluster);
        } else {
            prop_assert!(cluster.alive.is_empty());
        }
    }

    /// Following the wakes alone, there is a value that the API server accepts at every moment until the end.
    #[test]
    fn there_is_always_a_value_until_the_end(hours in 0..200_i64) {
        let mut now = now() + hours.minutes();
        let mut cluster = Cluster::fresh();
        for _ in 0..200 {
            cluster = cluster.settle(now);
            let Some(wake) = plan(&cluster.observe().unwrap(), now).wake else { break };
            prop_assert!(wake > now);
            let latest = cluster.alive.last().unwrap();
            prop_assert!(latest.3 > wake || wake == at(END), "{wake} comes after the end of the value");
            now = wake;
        }
        prop_assert_eq!(cluster.end(), (Some(ApiTokenState::Expired), false, None));
        prop_assert!(cluster.alive.is_empty());
    }
}
