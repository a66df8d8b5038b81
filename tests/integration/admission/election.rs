//! Controllers beside one another, as processes: one leads, and when it goes, however it goes, another does.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control_plane::Part;
use credential_operator::{
    admission::Account,
    api::{ApiTokenState, Credential, CredentialPolicy, CredentialState},
    controller::{Candidate, election::LEASE},
    domain::token::Token,
};
use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::ServiceAccount,
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    client::Body,
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, service_fn};

use super::{
    Admission,
    case::{credential, named, object, placed, policy, token},
    clean_up,
    process::{Process, led_by, until_it_leads},
};
use crate::support::{DEADLINE, OPERATOR_NAMESPACE, OPERATOR_USER, Space, SystemClock, World, install_crd};

crate::tests![
    however_a_leader_goes_another_works_and_nothing_is_done_twice,
    an_answer_that_never_comes_keeps_nobody_from_leading,
    who_takes_over_holds_policies_that_went_with_their_definition,
    what_is_uninstalled_leaves_nothing_bound_elsewhere,
];

/// How often a leader is killed.
const KILLS: usize = 3;
/// How often a token is created meanwhile.
const LOAD_EVERY: Duration = Duration::from_millis(200);

/// Until when it is held if nobody renews it.
fn runs_out(lease: &Lease) -> Timestamp {
    let spec = lease.spec.clone().unwrap();
    spec.renew_time.unwrap().0 + SignedDuration::from_secs(spec.lease_duration_seconds.unwrap().into())
}

/// Creates tokens until it is told to stop; tells their names.
async fn load(space: Space, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut names = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("t{}", names.len());
        let token =
            object("ApiToken", &format!("{{name: {name}}}"), "{credentialRef: {name: c}, expiresIn: 1h}");
        space.apply(&token).await;
        names.push(name);
        sleep(LOAD_EVERY).await;
    }
    names
}

async fn however_a_leader_goes_another_works_and_nothing_is_done_twice(world: Arc<World>, space: Space) {
    let admission = Admission::of(&world, &[Account::default()]).await;
    space.apply(&credential("{}")).await;
    let mut leader = Process::controller(&world, "c0").await;
    led_by(&world, "c0").await;
    until_it_leads(&leader).await;
    assert!(leader.ask("/livez").await.unwrap().ends_with("alive\n"));
    assert!(leader.ask("/").await.unwrap().starts_with("HTTP/1.1 404"));
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(space.clone(), stop.clone()));

    for number in 1..=KILLS {
        let next = Process::controller(&world, &format!("c{number}")).await;
        assert_eq!(next.metric("leading").await.to_bits(), 0.0_f64.to_bits());
        leader.signal(Signal::KILL);
        leader.ended().await;
        led_by(&world, &next.name).await;
        until_it_leads(&next).await;
        leader = next;
    }

    // Halted for longer than its lease runs, and let go on when another leads: it finds out, and ends.
    let next = Process::controller(&world, "after-halt").await;
    leader.signal(Signal::STOP);
    led_by(&world, &next.name).await;
    leader.signal(Signal::CONT);
    assert!(!leader.ended().await.success());

    // Told to stop, it does not have the next one wait until the lease has run out.
    let mut stopping = next;
    let next = Process::controller(&world, "after-stop").await;
    let held = led_by(&world, &stopping.name).await;
    stopping.signal(Signal::TERM);
    assert!(stopping.ended().await.success());
    let taken = led_by(&world, &next.name).await.spec.unwrap().acquire_time.unwrap().0;
    assert!(taken < runs_out(&held), "the next one led at {taken}, and not before {}", runs_out(&held));

    stop.store(true, Ordering::Relaxed);
    let names = loading.await.unwrap();
    assert!(names.len() > 50, "{} tokens were created meanwhile", names.len());
    for name in &names {
        let issued = space.token(name, ApiTokenState::Active).await.status.unwrap();
        assert_eq!(issued.serial, Some(0), "{name}");
        let value = space.value(&format!("{name}-token")).await;
        assert_eq!(Token::parse(&value).unwrap().id(), issued.token_id.unwrap(), "{name}");
    }
    // Of one that was killed, the log may tell a create as cut off that was done.
    let created = world.control_plane.audit_log().unwrap().into_iter().filter_map(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        let is_one = event.verb == "create"
            && (object.resource.as_str(), &object.namespace) == ("secrets", &space.namespace)
            && event.user.username == OPERATOR_USER
            && event.response_status.as_ref().is_some_and(|status| status.code == 201);
        is_one.then_some(object.name)
    });
    let mut once = HashSet::new();
    let twice: Vec<_> = created.filter(|name| !once.insert(name.clone())).collect();
    assert_eq!((twice, names.len() - once.len() <= KILLS), (Vec::new(), true), "{} created", once.len());

    // One that cannot renew its lease does not work on by it.
    let mut alone = next;
    world.control_plane.pause(Part::ApiServer).unwrap();
    let ended = alone.ended().await;
    world.control_plane.resume(Part::ApiServer).unwrap();
    assert!(!ended.success());

    delete_lease(&world).await;
    admission.stop().await;
    clean_up(&space).await;
}

async fn an_answer_that_never_comes_keeps_nobody_from_leading(world: Arc<World>, _: Space) {
    let account =
        world.control_plane.service_account(OPERATOR_NAMESPACE, "credential-operator").await.unwrap();
    let patient = account.client().unwrap();
    let lost = Arc::new(AtomicBool::new(false));
    let once = lost.clone();
    // As where a connection is half open; the next request goes by another.
    let lossy = service_fn(move |request: Request<Body>| {
        let (client, once) = (patient.clone(), once.clone());
        async move {
            if request.method() == Method::PATCH && !once.swap(true, Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(client.send(request).await?)
        }
    });
    let client = Client::new(lossy, OPERATOR_NAMESPACE);
    let candidate =
        Candidate::new(client, SystemClock::shared(), OPERATOR_NAMESPACE, "waiting", &mut UnwrapErr(SysRng));
    let leader = timeout(DEADLINE, candidate.lead()).await.expect("it waits for an answer that never comes");
    assert!(lost.load(Ordering::Relaxed), "no answer was lost");
    leader.let_go().await;
    delete_lease(&world).await;
}

async fn delete_lease(world: &World) {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
}

async fn who_takes_over_holds_policies_that_went_with_their_definition(world: Arc<World>, space: Space) {
    let admission = Admission::of(&world, &[Account::default()]).await;
    let first = Process::controller(&world, "before").await;
    led_by(&world, "before").await;
    space.apply(&named("refused", "{scopes: [stock], roles: [{kind: ClusterRole, name: view}]}")).await;
    space.credential("refused", CredentialState::Active).await;
    space.apply(&placed(&policy("scopes: ['orders:*']"), &space)).await;
    space.credential("refused", CredentialState::Failed).await;
    let second = Process::controller(&world, "after").await;

    // Those of others go with it, too.
    let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
    let kept = policies.list(&ListParams::default()).await.unwrap().items;
    let [_, _, crd] = <[_; 3]>::try_from(credential_operator::api::crds()).unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(world.admin.clone());
    crds.delete(&crd.name_any(), &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while crds.get_metadata_opt(&crd.name_any()).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the definition stays");
        sleep(Duration::from_millis(50)).await;
    }
    install_crd(&world.admin, &crd).await;
    drop(first);
    led_by(&world, "after").await;
    until_it_leads(&second).await;
    // It has judged everything by now; and what was allowed for a moment would be bound.
    space.patch::<Credential>("refused", json!({"spec": {"description": "looked at"}})).await.unwrap();
    let looked_at = |found: Option<&Credential>| {
        found.is_some_and(|found| {
            json!(found)["status"]["observedGeneration"] == json!(found.metadata.generation)
        })
    };
    let found = space.until::<Credential>("refused", looked_at).await.unwrap();
    assert_eq!(found.status.unwrap().state, Some(CredentialState::Failed));
    assert_eq!(
        space.api::<RoleBinding>().list_metadata(&ListParams::default()).await.unwrap().items.len(),
        0
    );
    drop(second);
    for policy in kept.into_iter().filter(|policy| policy.name_any() != space.namespace) {
        let metadata = ObjectMeta { name: policy.metadata.name, ..ObjectMeta::default() };
        let policy = CredentialPolicy { metadata, status: None, spec: policy.spec };
        policies.create(&PostParams::default(), &policy).await.unwrap();
    }
    delete_lease(&world).await;
    admission.stop().await;
    clean_up(&space).await;
}

async fn what_is_uninstalled_leaves_nothing_bound_elsewhere(world: Arc<World>, space: Space) {
    let admission = Admission::of(&world, &[Account::default()]).await;
    let other = world.space("other").await;
    let roles = format!(
        "{{roles: [{{kind: ClusterRole, name: view}}, {{kind: ClusterRole, name: view, namespace: {}}}, \
         {{kind: ClusterRole, name: view, clusterWide: true}}]}}",
        other.namespace
    );
    let allowed = "roles: [{kind: ClusterRole, name: view, clusterWide: true, namespaces: ['*']}]";
    space.apply(&placed(&policy(allowed), &space)).await;
    space.apply(&(credential(&roles) + &token("expiresIn: 1h"))).await;
    let mut leader = Process::controller(&world, "uninstalled").await;
    let credentials = space.api::<Credential>();
    let bound = async || {
        let params = ListParams::default().labels("app.kubernetes.io/managed-by=credential-operator");
        let everywhere: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
        let names: Vec<_> =
            everywhere.list_metadata(&params).await.unwrap().iter().map(ResourceExt::name_any).collect();
        let own = format!("{}.", space.namespace);
        [
            space.api::<RoleBinding>().list_metadata(&params).await.unwrap().items.len(),
            other.api::<RoleBinding>().list_metadata(&params).await.unwrap().items.len(),
            names.iter().filter(|name| name.starts_with(&own)).count(),
        ]
    };
    space.credential("c", CredentialState::Active).await;
    space.token("t", ApiTokenState::Active).await;
    assert_eq!((bound().await, credentials.get("c").await.unwrap().finalizers().len()), ([1, 1, 1], 1));
    let value = space.value("t-token").await;

    // What cannot be done leaves all as it is, and lets others lead.
    let narrow = ["uninstall", "--watch-namespaces", &space.namespace];
    let mut narrow = Process::start(&world, "narrow", &narrow).await;
    assert!(!narrow.ended().await.success());
    assert!(narrow.log().contains("add it to --watch-namespaces"), "{}", narrow.log());
    assert!(!narrow.log().contains('\u{1b}'), "colours in a file: {}", narrow.log());
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), OPERATOR_NAMESPACE);
    assert_eq!(leases.get(LEASE).await.unwrap().spec.unwrap().holder_identity, None);
    assert_eq!((bound().await, credentials.get("c").await.unwrap().finalizers().len()), ([1, 1, 1], 1));

    // Once and again: what was interrupted is run anew.
    for _ in 0..2 {
        let mut uninstall = Process::start(&world, "uninstall", &["uninstall"]).await;
        assert!(uninstall.ended().await.success(), "{}", uninstall.log());
        assert_eq!((bound().await, credentials.get("c").await.unwrap().finalizers().len()), ([1, 0, 0], 0));
    }
    assert!(!leader.ended().await.success(), "it would bind them again");
    assert_eq!(space.value("t-token").await, value);
    assert!(space.api::<ServiceAccount>().get_opt("c-credential").await.unwrap().is_some());

    // Installed again, it is as it was.
    delete_lease(&world).await;
    let mut again = Process::controller(&world, "again").await;
    led_by(&world, "again").await;
    let deadline = Instant::now() + DEADLINE;
    while bound().await != [1, 1, 1] {
        assert!(Instant::now() < deadline, "not bound again");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(space.value("t-token").await, value);
    again.signal(Signal::TERM);
    assert!(again.ended().await.success());
    let policies: Api<CredentialPolicy> = Api::all(world.admin.clone());
    policies.delete(&space.namespace, &DeleteParams::default()).await.unwrap();
    delete_lease(&world).await;
    admission.stop().await;
    for space in [space, other] {
        clean_up(&space).await;
    }
}
