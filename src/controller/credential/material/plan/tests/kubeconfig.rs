//! Kubeconfigs. The one that is there was minted at noon, for a day; it is followed at four in the morning.

use super::*;
use crate::{
    api::{CredentialSpec, material::Kubeconfig},
    controller::mint::Native,
};

const NOON: &str = "2026-06-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A credential, what there is, and the time.
struct Case {
    credential: Credential,
    seen: Seen,
    held: Option<Trouble>,
    now: Timestamp,
}

impl Case {
    fn fresh() -> Self {
        let spec = CredentialSpec {
            credential_type: CredentialType::Kubeconfig,
            kubeconfig: Some(Kubeconfig { server: "https://a".to_owned(), ..Kubeconfig::default() }),
            ..CredentialSpec::default()
        };
        let mut credential = Credential::new("c", spec);
        credential.metadata.uid = Some("credential-uid".to_owned());
        let account = ObjectReference { name: "c-credential".to_owned(), uid: "account-uid".to_owned() };
        let seen = Seen {
            secret: SecretSeen::Absent,
            former: None,
            strays: Vec::new(),
            source: SourceSeen::Unasked,
            issuer: None,
            options: Ok("options".to_owned()),
            native: Some(Native { allowed: true, account: Some(account) }),
            key_known: true,
            generating: None,
        };
        Self { credential, seen, held: None, now: at(NOON) }
    }

    fn there() -> Self {
        let mut case = Self::fresh();
        let material = MaterialStatus {
            serial: Some(3),
            id: Some("id".to_owned()),
            digest: Some("digest".to_owned()),
            options: Some("options/account-uid".to_owned()),
            issued_at: Some(NOON.into()),
            expires_at: Some("2026-06-02T12:00:00Z".into()),
            ..MaterialStatus::default()
        };
        let reference = ObjectReference { name: "c-credential".to_owned(), uid: "secret-uid".to_owned() };
        let status = case.credential.status.get_or_insert_default();
        status.secret = Some(reference.clone());
        status.material = Some(material.clone());
        let attested =
            MaterialAttestation { material, proof: "proof".to_owned(), ..MaterialAttestation::default() };
        case.seen.secret = SecretSeen::Ours(Box::new(OwnSecret {
            reference,
            resource_version: "7".to_owned(),
            labels: [(name::MANAGED_BY_LABEL.to_owned(), name::MANAGED_BY.to_owned())].into(),
            annotations: BTreeMap::new(),
            owned: true,
            attested: Some(attested),
            plain_intact: true,
            empty: false,
        }));
        case
    }

    fn own(&mut self) -> &mut OwnSecret {
        match &mut self.seen.secret {
            SecretSeen::Ours(own) => own,
            other => panic!("{other:?}"),
        }
    }

    fn native(&mut self) -> &mut Native {
        self.seen.native.as_mut().unwrap()
    }

    fn told(&self) -> String {
        let plan = plan(&self.credential, &self.seen, Wanted::Yes, self.held.clone(), self.now);
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| match step {
                Step::Mint(minted) => {
                    let serial = minted.recipe.attestation.serial();
                    let place = if minted.recipe.into.is_some() { " in place" } else { "" };
                    format!("mint {serial}{place}")
                }
                Step::Delete { .. } => "delete".to_owned(),
                Step::Mend(_) => "mend".to_owned(),
                Step::Publish(_) => panic!("nothing is drawn"),
            })
            .collect();
        let trouble = plan.trouble.map(|trouble| format!("{:?}", trouble.reason)).unwrap_or_default();
        let wake = plan.wake.map(|wake| wake.to_string()).unwrap_or_default();
        format!("{} | {trouble} | {wake}", steps.join(", "))
    }
}

type Row = (&'static str, fn(&mut Case), &'static str);

fn check(base: fn() -> Case, rows: &[Row]) {
    for (what, change, expected) in rows {
        let mut case = base();
        change(&mut case);
        assert_eq!(case.told(), *expected, "{what}");
    }
}

#[test]
fn a_kubeconfig_is_minted_once_all_is_there() {
    check(
        Case::fresh,
        &[
            ("as it is", |_| {}, "mint 0 |  | "),
            ("switched off", |case| case.native().allowed = false, " | InvalidSpec | "),
            ("no account", |case| case.native().account = None, " | Pending | "),
            ("inactive", |case| case.credential.spec.state = DesiredState::Inactive, " |  | "),
            ("a foreign Secret", |case| case.seen.secret = SecretSeen::Foreign, " | Conflict | "),
            (
                "options that make no sense",
                |case| case.seen.options = Err(Problem::Options("no".to_owned())),
                " | InvalidSpec | ",
            ),
        ],
    );
}

#[test]
fn a_kubeconfig_follows_time_state_and_wishes() {
    check(
        Case::there,
        &[
            ("as it is", |_| {}, " |  | 2026-06-02T04:00:00Z"),
            ("a second before", |case| case.now = at("2026-06-02T03:59:59Z"), " |  | 2026-06-02T04:00:00Z"),
            ("in time", |case| case.now = at("2026-06-02T04:00:00Z"), "mint 4 in place |  | "),
            (
                "in time, but switched off",
                |case| (case.now, case.native().allowed) = (at("2026-06-02T04:00:00Z"), false),
                " | InvalidSpec | 2026-06-02T12:00:00Z",
            ),
            (
                "to the end of the credential",
                |case| case.credential.spec.expires_at = Some("2026-06-02T12:00:00Z".into()),
                " |  | 2026-06-02T12:00:00Z",
            ),
            ("inactive", |case| case.credential.spec.state = DesiredState::Inactive, "delete |  | "),
            (
                "another revision",
                |case| case.credential.spec.rotation.get_or_insert_default().revision = Some(1),
                "delete, mint 4 |  | ",
            ),
            (
                "another revision, but switched off",
                |case| {
                    case.credential.spec.rotation.get_or_insert_default().revision = Some(1);
                    case.native().allowed = false;
                },
                " | InvalidSpec | ",
            ),
            ("other options", |case| case.seen.options = Ok("others".to_owned()), "mint 4 in place |  | "),
            (
                "another account",
                |case| case.native().account.as_mut().unwrap().uid = "another".to_owned(),
                "mint 4 in place |  | ",
            ),
            ("no account", |case| case.native().account = None, " |  | 2026-06-02T04:00:00Z"),
            ("edited", |case| case.own().attested = None, "delete, mint 4 |  | "),
            (
                "made and not filled",
                |case| (case.own().attested, case.own().empty) = (None, true),
                "mint 4 in place |  | ",
            ),
            ("no owner", |case| case.own().owned = false, "mend |  | 2026-06-02T04:00:00Z"),
            (
                "lost at once",
                |case| case.seen.secret = SecretSeen::Absent,
                " | Pending | 2026-06-01T12:01:00Z",
            ),
            (
                "lost later",
                |case| {
                    case.seen.secret = SecretSeen::Absent;
                    case.now = at("2026-06-01T12:01:00Z");
                },
                "mint 4 |  | ",
            ),
        ],
    );
}

#[test]
fn a_kubeconfig_that_was_taken_back_says_nothing_of_it() {
    let mut case = Case::there();
    case.credential.spec.state = DesiredState::Inactive;
    let plan = plan(&case.credential, &case.seen, Wanted::Yes, None, case.now);
    let told = plan.material.unwrap();
    assert_eq!((told.serial, told.id, told.digest, told.expires_at), (Some(3), None, None, None));
    assert_eq!(plan.secret, None);
}
