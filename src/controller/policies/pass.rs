//! Evaluates the credentials of every namespace with changes, and writes the counts to the status of the policies.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use kube::{ResourceExt, api::PostParams};
use tokio::time::Instant;

use super::{AT_A_TIME, COUNT_EVERY, GATHER, lost};
use crate::{
    api::{
        CredentialPolicy, CredentialPolicyStatus, Reason,
        condition::{ConditionType, Finding, conditions},
    },
    client::Objects,
    controller::{
        Context, Key, Place,
        cache::Kept,
        write::{RequestError, send, unless_gone},
    },
    domain::policy::{Policies, Severity, max_tokens},
};

/// The counts of one policy.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    namespaces: i64,
    credentials: i64,
    violations: i64,
    /// The number of admitted Credentials over `maxCredentials`.
    exceeding: i64,
    /// The number of issued ApiTokens over `tokens.maxPerCredential`, for all credentials together.
    exceeding_tokens: i64,
}

/// The counts of one namespace, by policy name.
pub(super) type Counts = BTreeMap<String, Count>;

/// Evaluates the credentials of every namespace with changes, enqueues those with a different result, and writes the counts.
/// Runs at most one pass a second.
///
/// # Errors
/// The first failure to write a status, after the others were tried.
pub async fn reconcile(ctx: &Context) -> Result<(), RequestError> {
    // A failure there does not change which policies apply.
    let mut failed = lost::reconcile(ctx).await.err();
    let policies = {
        let judgements = &mut ctx.memory().policy;
        let rest = judgements.passed.map_or(Duration::ZERO, |at| GATHER.saturating_sub(at.elapsed()));
        if !rest.is_zero() {
            ctx.queue.add_after(&Key::Policies, rest);
            return failed.map_or(Ok(()), Err);
        }
        judgements.ranks.clear();
        judgements.policies.clone()
    };
    let changed = std::mem::take(&mut ctx.memory().policy.changed);
    if changed {
        ctx.memory().policy.counts.clear();
    }
    pass(ctx, &policies, changed).await;
    ctx.memory().policy.passed = Some(Instant::now());
    // A controller that watches only some namespaces writes no counts, since other controllers count, too.
    if !ctx.config.reach.is_everywhere() {
        return failed.map_or(Ok(()), Err);
    }
    let counts = sum(ctx, &policies);
    for name in policies.names() {
        let count = counts.get(name).copied().unwrap_or_default();
        if let Err(error) = write_status(ctx, name, count).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Evaluates the credentials of every namespace that is not counted.
async fn pass(ctx: &Context, policies: &Policies, changed: bool) {
    let mut places: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for place in ctx.credentials.places() {
        places.entry(place.namespace().to_owned()).or_default().push(place);
    }
    {
        let judgements = &mut ctx.memory().policy;
        judgements.counts.retain(|namespace, _| places.contains_key(namespace));
        judgements.uncounted.retain(|namespace| places.contains_key(namespace));
    }
    for (namespace, places) in places {
        let is_counted = {
            let judgements = &mut ctx.memory().policy;
            // A change after this point makes the next pass count the namespace again.
            !judgements.uncounted.remove(&namespace) && judgements.counts.contains_key(&namespace)
        };
        if is_counted {
            continue;
        }
        let labels = ctx.namespaces.brief(&Place::new("", &namespace));
        let rules = policies.within(labels.as_ref());
        let mut counts: Counts = rules.names().map(|name| (name.to_owned(), Count::default())).collect();
        ctx.metrics.note_policy_pass();
        for (number, place) in places.into_iter().enumerate() {
            if number % AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
            let Some(credential) = ctx.credentials.get(&place) else { continue };
            let (breaches, _) = ctx.breaches(&credential);
            if changed {
                ctx.wake_all_waiting(&Key::Credential(place.clone()), usize::MAX);
            }
            let has_a_place = credential.brief().established;
            let issued = if rules.count_tokens() { issued_tokens(ctx, &place) } else { 0 };
            for (name, max) in rules.all().filter_map(|policy| Some((policy.name_any(), max_tokens(policy)?)))
            {
                counts.entry(name).or_default().exceeding_tokens += (issued - max).max(0);
            }
            for (name, count) in &mut counts {
                let breach = breaches.iter().find(|breach| breach.policy.as_ref() == Some(name));
                let exceeds = breach.is_some_and(|breach| breach.severity == Severity::Count) && has_a_place;
                count.credentials += 1;
                count.violations += i64::from(breach.is_some());
                count.exceeding += i64::from(exceeds);
            }
        }
        ctx.memory().policy.counts.insert(namespace, counts);
    }
}

/// The number of tokens of a credential that are issued and have not ended.
fn issued_tokens(ctx: &Context, credential: &Place) -> i64 {
    let mut issued = 0;
    ctx.tokens.each_owned_by(&Key::Credential(credential.clone()), |_, token| {
        issued += i64::from(token.issued && !token.over);
    });
    issued
}

/// The counts of all namespaces, by policy name.
fn sum(ctx: &Context, policies: &Policies) -> Counts {
    let mut counts = Counts::new();
    for namespace in ctx.namespaces.places() {
        let labels = ctx.namespaces.brief(&namespace).unwrap_or_default();
        for name in policies.within(Some(&labels)).names() {
            counts.entry(name.to_owned()).or_default().namespaces += 1;
        }
    }
    for (name, count) in ctx.memory().policy.counts.values().flatten() {
        let sum = counts.entry(name.clone()).or_default();
        sum.credentials += count.credentials;
        sum.violations += count.violations;
        sum.exceeding += count.exceeding;
        sum.exceeding_tokens += count.exceeding_tokens;
    }
    counts
}

/// The message of the status. It reports by how much a count is exceeded: by objects that are older than the policy, or by
/// one for each additional controller that acts as the leader at the same time.
fn enforced_message(policy: &CredentialPolicy, count: Count) -> String {
    let mut message = "the policy is enforced in the namespaces that it selects".to_owned();
    let limits = [
        ("maxCredentials", policy.spec.max_credentials, count.exceeding, "Credentials", "Delete"),
        (
            "tokens.maxPerCredential",
            max_tokens(policy),
            count.exceeding_tokens,
            "ApiTokens",
            "Revoke or delete",
        ),
    ];
    for (field, max, exceeding, kind, what_to_do) in limits {
        if let (Some(max), 1..) = (max, exceeding) {
            let _ = write!(
                message,
                "; {field} ({max}) is exceeded by {exceeding} {kind}, which keep what they have and get nothing new. \
                 {what_to_do} {kind}, or raise {field}"
            );
        }
    }
    message
}

async fn write_status(ctx: &Context, name: &str, count: Count) -> Result<(), RequestError> {
    let Some(policy) = ctx.policies.get(&Place::new("", name)) else {
        return Ok(());
    };
    let before = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation;
    let enforced = Finding {
        kind: ConditionType::Ready,
        holds: true,
        reason: Reason::Published,
        message: enforced_message(&policy, count),
    };
    let status = CredentialPolicyStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, vec![enforced], generation, ctx.clock.now()),
        namespaces: Some(count.namespaces),
        credentials: Some(count.credentials),
        violations: Some(count.violations),
    };
    if policy.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let last = ctx.memory().policy.counted.get(name).copied();
    let wait = last.map_or(Duration::ZERO, |last| COUNT_EVERY.saturating_sub(last.elapsed()));
    if before.observed_generation == generation && !wait.is_zero() {
        ctx.queue.add_after(&Key::Policies, wait);
        return Ok(());
    }
    let api: Objects<CredentialPolicy> = Objects::all(ctx.client.clone());
    let changed = CredentialPolicy { status: Some(status), ..policy };
    let written = send(
        || format!("update the status of CredentialPolicy {name}"),
        api.replace_status(name, &PostParams::default(), &changed),
    )
    .await;
    if let Some(written) = unless_gone(written)? {
        ctx.memory().policy.counted.insert(name.to_owned(), Instant::now());
        ctx.policies.remember(written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_says_by_how_much_each_count_is_exceeded() {
        let enforced = "the policy is enforced in the namespaces that it selects";
        let credentials = "; maxCredentials (2) is exceeded by 1 Credentials, which keep what they have and get nothing new. \
                           Delete Credentials, or raise maxCredentials";
        let tokens = "; tokens.maxPerCredential (3) is exceeded by 4 ApiTokens, which keep what they have and get nothing new. \
                      Revoke or delete ApiTokens, or raise tokens.maxPerCredential";
        for (max_credentials, max_tokens, exceeding, exceeding_tokens, expected) in [
            (None, None, 0, 0, String::new()),
            (Some(2), Some(3), 0, 0, String::new()),
            (Some(2), None, 1, 0, credentials.to_owned()),
            (None, Some(3), 0, 4, tokens.to_owned()),
            (Some(2), Some(3), 1, 4, format!("{credentials}{tokens}")),
            // The limit was removed after the count.
            (None, None, 1, 4, String::new()),
        ] {
            let spec = json!({"namespaceSelector": {}, "maxCredentials": max_credentials,
                "tokens": {"maxPerCredential": max_tokens}});
            let policy = CredentialPolicy::new("p", serde_json::from_value(spec).unwrap());
            let message =
                enforced_message(&policy, Count { exceeding, exceeding_tokens, ..Count::default() });
            assert_eq!(message, format!("{enforced}{expected}"));
        }
    }
}
