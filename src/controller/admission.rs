//! Whether the admission policies are in force. They keep authors of credentials from gaining rights that way, so without
//! them nothing new is made. What that means for each credential is for `policies` to say, as of a policy of its namespace
//! that nobody can read.
//!
//! Three things are looked at: that the policies and their bindings are there, that they are what this version ships, and
//! that each refuses what it is to refuse, by a dry run. At the start, after each change, and every now and then.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    ClusterResourceScope,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        authentication::v1::SelfSubjectReview,
    },
};
use kube::{Resource, api::PostParams, core::PartialObjectMeta, runtime::watcher::Event};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

use super::{
    Context, Key, events,
    write::{RequestError, send},
};
use crate::{
    admission::{self, Kept},
    api::{Credential, CredentialSpec, Reason, credential::DesiredState},
    client::{
        Objects, Readable,
        informer::{self, Selector},
    },
    domain::name,
};

/// How often the policies are looked at.
const LOOK_EVERY: Duration = Duration::from_mins(5);
/// The same, while something is wrong with them: the API server needs a moment to take a policy in.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How many events of a watch may wait to be taken in.
const AHEAD: usize = 100;

/// What is said until it is known.
pub(super) const NOT_KNOWN: &str =
    "whether the admission policies are in force is not known yet, and nothing new is made; waiting for that";

/// Has the policies looked at whenever one of them or of their bindings changes.
pub(super) fn watch(tasks: &mut JoinSet<()>, ctx: &Arc<Context>) {
    feed::<ValidatingAdmissionPolicy>(tasks, ctx);
    feed::<ValidatingAdmissionPolicyBinding>(tasks, ctx);
}

fn feed<K>(tasks: &mut JoinSet<()>, ctx: &Arc<Context>)
where
    K: Readable + Resource<Scope = ClusterResourceScope> + Send + 'static,
{
    let names: HashSet<_> = admission::names().into_iter().collect();
    let (events, mut shown) = mpsc::channel(AHEAD);
    let objects = Objects::<PartialObjectMeta<K>>::all(ctx.client.clone());
    tasks.spawn(informer::run(objects, Selector::default(), events));
    let ctx = ctx.clone();
    tasks.spawn(async move {
        while let Some(event) = shown.recv().await {
            let concerns_us = match event {
                Event::Init | Event::InitApply(_) => false,
                Event::InitDone => true,
                Event::Apply(changed) | Event::Delete(changed) => {
                    changed.metadata().name.as_ref().is_some_and(|name| names.contains(name))
                }
            };
            if concerns_us {
                ctx.queue.add(Key::Admission);
            }
        }
    });
}

/// Looks at the policies, and has all credentials judged anew when that is news.
///
/// # Errors
/// When a request fails; then what was known stays.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    if !ctx.needs_admission {
        return Ok(());
    }
    let user = whoami(ctx).await?;
    let flaw = flaw(ctx, &user).await?;
    ctx.queue.add_after(&Key::Admission, if flaw.is_some() { LOOK_AGAIN } else { LOOK_EVERY });
    let said = flaw.map(|flaw| {
        let account = user.strip_prefix("system:serviceaccount:").unwrap_or("NAMESPACE:NAME");
        let keyring = match ctx.config.keyring_secret.as_str() {
            name::KEYRING => String::new(),
            other => format!(" --keyring-secret {other}"),
        };
        format!(
            "{flaw}, so authors of credentials might gain rights that way, and nothing new is made; put the policies back, for the \
             accounts of all operators: by the chart credential-operator-crds with controllerAccounts, or by credential-operator \
             crds --controller-account {account}{keyring} | kubectl apply --server-side -f -"
        )
    });
    if ctx.note_admission(said.clone()) {
        if let Some(said) = said {
            warn!(said, "nothing new is made");
            events::of_operator(ctx, Reason::AdmissionMissing, "Create", &said).await;
        } else {
            info!("the admission policies are in force");
        }
    }
    Ok(())
}

async fn flaw(ctx: &Context, user: &str) -> Result<Option<String>, RequestError> {
    let policies: Objects<ValidatingAdmissionPolicy> = Objects::all(ctx.client.clone());
    let bindings: Objects<ValidatingAdmissionPolicyBinding> = Objects::all(ctx.client.clone());
    let mut kept = HashMap::new();
    for name in admission::names() {
        let found = Kept { policy: get(&policies, &name).await?, binding: get(&bindings, &name).await? };
        kept.insert(name, found);
    }
    let shipped = |name: &str| kept.get(name).cloned().unwrap_or_default();
    if let Some(flaw) = admission::flaw(&shipped, user, &ctx.config.keyring_secret) {
        return Ok(Some(flaw));
    }
    for (name, found) in kept {
        // Of one that is asked for each CredentialPolicy nothing is asked where there is none.
        let for_each = found.policy.and_then(|policy| policy.spec?.param_kind).is_some();
        if for_each && ctx.policies.places().is_empty() {
            continue;
        }
        if let Some(said) = lets_pass(ctx, &name).await? {
            return Ok(Some(format!("ValidatingAdmissionPolicy {name} is not in force ({said})")));
        }
    }
    Ok(None)
}

async fn whoami(ctx: &Context) -> Result<String, RequestError> {
    let api: Objects<SelfSubjectReview> = Objects::all(ctx.client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let reviewed = send(|| "ask who the controller is".to_owned(), api.create(&params, &question)).await?;
    let user = reviewed.status.and_then(|status| status.user_info).and_then(|user| user.username);
    Ok(user.unwrap_or_default())
}

async fn get<K: Readable>(api: &Objects<K>, name: &str) -> Result<Option<K>, RequestError> {
    send(|| format!("get {} {name}", K::kind(&())), api.get_opt(name)).await
}

/// What becomes of a request that the policy is to refuse, if it is something else.
async fn lets_pass(ctx: &Context, policy: &str) -> Result<Option<String>, RequestError> {
    let inactive = CredentialSpec { state: DesiredState::Inactive, ..CredentialSpec::default() };
    let mut canary = Credential::new("credential-operator-canary", inactive);
    let annotation = (admission::CANARY_ANNOTATION.to_owned(), policy.to_owned());
    canary.metadata.annotations = Some([annotation].into());
    let api: Objects<Credential> = Objects::namespaced(ctx.client.clone(), &ctx.config.namespace);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let tried = send(|| format!("try {policy} by a dry run"), api.create(&dry_run, &canary)).await;
    match tried {
        Ok(_) => Ok(Some("it lets pass what it is to refuse".to_owned())),
        Err(RequestError::Api { what, source }) => match &*source {
            kube::Error::Api(status) if status.message.ends_with(&admission::refusal_of_canary(policy)) => {
                Ok(None)
            }
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                Ok(Some(format!("to try it: {}", status.message)))
            }
            _ => Err(RequestError::Api { what, source }),
        },
        Err(error) => Err(error),
    }
}
