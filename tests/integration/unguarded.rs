//! Attacks where no admission policy is in force: what the operator knows of, it refuses alone.
//!
//! It cannot know who asks. What depends on that, admission alone refuses, and without it a controller makes nothing new
//! (`admission::missing`). This one goes on, so that each case shows what it refuses by itself.

mod case;
pub mod crd;
pub mod forged;
mod limits;
pub mod own_operator;
mod planted;
mod provided;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::{Api, ResourceExt, api::ListParams};

use self::case::Tried;
use crate::{
    admission::clean_up,
    support::{Space, World},
};

crate::tests![what_policies_do_not_allow, what_others_own, what_somebody_planted];

async fn what_policies_do_not_allow(world: Arc<World>, _: Space) {
    each(world, limits::attacks()).await;
}

async fn what_others_own(world: Arc<World>, _: Space) {
    each(world, provided::attacks()).await;
}

async fn what_somebody_planted(world: Arc<World>, _: Space) {
    each(world, planted::attacks()).await;
}

/// How many cases run at a time, beside other tests.
const AT_A_TIME: usize = 4;

/// Runs all cases beside the operator that all share, and tells which failed.
async fn each(world: Arc<World>, attacks: Vec<Tried>) {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.admin.clone());
    let policies = policies.list_metadata(&ListParams::default()).await.unwrap();
    let ours = policies.iter().filter(|policy| policy.name_any().ends_with("credential-operator.io"));
    assert_eq!(ours.count(), 0, "admission would refuse what the operator is to refuse");
    let count = attacks.len();
    let run = stream::iter(attacks).map(|attack| {
        let world = world.clone();
        async move {
            let space = world.space(&attack.name.replace(' ', "_").to_lowercase()).await;
            let passed = AssertUnwindSafe(attack.run(&world, &space)).catch_unwind().await.is_ok();
            if passed {
                clean_up(&space).await;
            }
            (attack.name, passed)
        }
    });
    let run: Vec<_> = run.buffer_unordered(AT_A_TIME).collect().await;
    let failed: Vec<_> = run.iter().filter(|(_, passed)| !passed).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "{} of {count} cases failed: {failed:#?}", failed.len());
}
