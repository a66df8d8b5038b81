//! Authors who edit their own objects all the time, so that writes of the controller meet conflicts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use control_plane::Namespaced;
use credential_operator::{
    api::{ApiToken, Credential, CredentialPolicy},
    domain::name,
};
use k8s_openapi::api::{core::v1::Secret, rbac::v1::RoleBinding};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    minted::{self, issued},
    support::{Space, SystemClock, World, condition},
};

crate::tests![access_ends_in_time_although_the_objects_are_edited_all_the_time];

/// How soon access must end.
const PROMISED: Duration = Duration::from_secs(5);
/// The time between two edits of an object: 55 edits a second delayed a refusal by 18 s.
const PAUSE: Duration = Duration::from_millis(10);

/// Edits an annotation of the object, until the set is dropped.
fn edit<K>(editors: &mut JoinSet<()>, space: &Space, name: &str, annotation: &str, count: &Arc<AtomicUsize>)
where
    K: Namespaced,
{
    let (objects, name, annotation) = (space.api::<K>(), name.to_owned(), annotation.to_owned());
    let count = count.clone();
    editors.spawn(async move {
        for turn in 0_u32.. {
            let at = format!("2026-01-01T00:00:{:02}Z", turn % 60);
            let patch = Patch::Merge(json!({"metadata": {"annotations": {&annotation: at}}}));
            if objects.patch_metadata(&name, &PatchParams::default(), &patch).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
            sleep(PAUSE).await;
        }
    });
}

/// With an annotation of others, and with one that the controller reads.
async fn access_ends_in_time_although_the_objects_are_edited_all_the_time(world: Arc<World>, space: Space) {
    let operator = world.operator(SystemClock::shared()).await;
    for annotation in ["example.com/busy", name::ROTATE_ANNOTATION] {
        for way in ["inactive", "deleted", "refused"] {
            let name = format!("{way}-{}", annotation.len());
            let objects = minted::credential(&name) + "---\n" + &minted::token(&name, &name, "expiresIn: 1h");
            space.apply(&objects).await;
            issued(&space, &name, 0).await;
            let edits = Arc::new(AtomicUsize::new(0));
            let mut editors = JoinSet::new();
            edit::<Credential>(&mut editors, &space, &name, annotation, &edits);
            edit::<ApiToken>(&mut editors, &space, &name, annotation, &edits);
            while edits.load(Ordering::Relaxed) < 20 {
                sleep(PAUSE).await;
            }
            timeout(PROMISED, end(&space, way, &name))
                .await
                .unwrap_or_else(|_| panic!("edits of {annotation} delay the end of what is {way}"));
            editors.shutdown().await;
        }
    }
    operator.stop().await;
}

/// Ends the access of the credential, and waits until it has ended.
async fn end(space: &Space, way: &str, name: &str) {
    match way {
        "inactive" => {
            drop(space.patch::<Credential>(name, json!({"spec": {"state": "Inactive"}})).await.unwrap());
        }
        "deleted" => drop(space.api::<Credential>().delete(name, &DeleteParams::default()).await.unwrap()),
        _ => {
            let policy = format!(
                "apiVersion: credential-operator.io/v1alpha1\nkind: CredentialPolicy\nmetadata: {{name: {0}-{name}}}\nspec:\n  \
                 namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {0}}}}}\n  roles: []\n",
                space.namespace
            );
            space.apply(&policy).await;
        }
    }
    if way == "deleted" {
        // Its binding is deleted by Kubernetes' garbage collection.
        space.until::<Secret>(&format!("{name}-token"), |found| found.is_none()).await;
        return;
    }
    let bindings = space.api::<RoleBinding>();
    let of_it = |binding: &RoleBinding| {
        binding.subjects.iter().flatten().any(|found| found.name == format!("{name}-credential"))
    };
    let bound = bindings.list(&ListParams::default()).await.unwrap();
    for binding in bound.items.iter().filter(|binding| of_it(binding)) {
        space.until::<RoleBinding>(binding.metadata.name.as_deref().unwrap(), |found| found.is_none()).await;
    }
    if way == "refused" {
        let is_refused = |found: &Credential| condition(found, "Usable").1 == "PolicyViolation";
        space.until::<Credential>(name, |found| found.is_some_and(is_refused)).await;
        let policies: Api<CredentialPolicy> = Api::all(space.client.clone());
        policies.delete(&format!("{}-{name}", space.namespace), &DeleteParams::default()).await.unwrap();
    } else {
        space.until::<Secret>(&format!("{name}-token"), |found| found.is_none()).await;
    }
}
