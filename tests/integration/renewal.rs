//! Renewal, by a clock that a test puts forward: what a client that reads its Secret again in time can rely on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use credential_operator::{
    api::{ApiToken, ApiTokenState, Credential},
    domain::{clock::Clock, expiry::Terms},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::{Instant, sleep},
};

use crate::{
    events::until_told,
    support::{DEADLINE, Operator, Space, SystemClock, World, condition, credential, token},
    verifier::Asked,
};

crate::tests![
    ten_renewals_break_no_client,
    a_client_that_asks_all_the_time_is_never_without_a_value,
    missed_renewals_jump_to_the_current_value,
    what_others_put_into_the_secret_stays_and_an_edited_value_is_replaced,
    a_suspended_token_renews_and_one_whose_secret_is_immutable_says_so,
];

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A value lives for 40 hours and has a successor after 30.
const SPEC: &str = "expiresIn: 40h, renewBefore: 10h";

/// A token that renews, an operator and a verifier by one clock.
struct Renewing {
    world: Arc<World>,
    space: Space,
    clock: Arc<SystemClock>,
    operator: Option<Operator>,
    verifier: Asked,
    created_at: Timestamp,
    terms: Terms,
}

impl Renewing {
    async fn start(world: Arc<World>, space: Space) -> Self {
        let clock = SystemClock::shared();
        let operator = Some(world.operator(clock.clone()).await);
        let verifier = Asked::timed(&world, clock.clone()).await;
        space.apply(&(credential("c") + "---\n" + &token("t", SPEC))).await;
        let issued = space.token("t", ApiTokenState::Active).await;
        let created_at = issued.metadata.creation_timestamp.as_ref().unwrap().0;
        let terms = Terms::of(&issued.spec, created_at).unwrap();
        verifier.until("", &space.value("t-token").await, 200).await;
        Self { world, space, clock, operator, verifier, created_at, terms }
    }

    fn hours(&self) -> i64 {
        self.clock.now().duration_since(self.created_at).as_hours()
    }

    fn to_hour(&self, hour: i64) {
        let then = self.created_at + SignedDuration::from_hours(hour);
        self.clock.step(then.duration_since(self.clock.now()));
    }

    async fn start_operator(&mut self) {
        self.operator = Some(self.world.operator(self.clock.clone()).await);
    }

    async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.stop().await;
        }
    }

    /// Waits until the operator has done what is to be done by now: the status tells of the current value, and of the one
    /// before while that is valid.
    async fn renewed(&self) -> ApiToken {
        let now = self.clock.now();
        let there = self.space.until::<ApiToken>("t", |token| {
            let status = token.and_then(|token| token.status.as_ref());
            status.is_some_and(|status| {
                let previous = status.previous.as_ref().map(|previous| Some(previous.term));
                status.term == self.terms.current(now)
                    && previous.is_none_or(|term| self.terms.end(term) > now)
            })
        });
        there.await.unwrap()
    }

    /// What the verifier says of a value. After a step of the clock it knows nothing for certain until it has asked.
    async fn ask(&self, value: &str) -> u16 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let told = self.verifier.bearer("", value).await;
            if told != 503 {
                return told;
            }
            assert!(Instant::now() < deadline, "it never gets up to date");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(mut self) {
        self.stop_operator().await;
        self.verifier.stop().await;
    }
}

async fn ten_renewals_break_no_client(world: Arc<World>, space: Space) {
    let mut renewing = Renewing::start(world, space).await;
    // The client reads its Secret again every ten hours, the overlap, and goes on with what it read in the meantime.
    let mut held = renewing.space.value("t-token").await;
    let mut all = vec![held.clone()];
    while renewing.hours() < 10 * 30 + 5 {
        let hour = renewing.hours() + 5;
        // The operator is away when the third and the seventh value are due.
        if [90, 210].contains(&hour) {
            renewing.stop_operator().await;
        }
        renewing.to_hour(hour);
        assert_eq!(renewing.ask(&held).await, 200, "before anybody did anything, at hour {hour}");
        if hour % 10 == 5 && renewing.operator.is_none() {
            renewing.start_operator().await;
        }
        if renewing.operator.is_some() {
            renewing.renewed().await;
        }
        let value = renewing.space.value("t-token").await;
        if !all.contains(&value) {
            // The watch of the verifier has to bring it.
            renewing.verifier.until("", &value, 200).await;
            all.push(value.clone());
        }
        assert_eq!(renewing.ask(&held).await, 200, "what was read up to ten hours ago, at hour {hour}");
        if hour % 10 == 5 {
            held = value;
            assert_eq!(renewing.ask(&held).await, 200, "what was read just now, at hour {hour}");
        }
        let mut valid = 0;
        for value in &all {
            valid += usize::from(renewing.ask(value).await == 200);
        }
        assert!((1..=2).contains(&valid), "{valid} values are valid at hour {hour}");
    }
    let status = renewing.renewed().await.status.unwrap();
    assert_eq!((all.len(), status.serial, status.term), (11, Some(10), Some(10)));
    let end = renewing.created_at + HOUR * (40 + 10 * 30);
    assert_eq!(status.expires_at.unwrap().timestamp().unwrap(), end, "by the formula alone");
    renewing.end().await;
}

/// A client with a verifier of its own, which it asks all the time, whatever happens meanwhile. It reads its Secret every
/// two hours; what it read before it keeps until the new value was accepted once, since the Secret may be ahead of the
/// verifier for a moment.
struct Caller {
    space: Space,
    clock: Arc<SystemClock>,
    verifier: Asked,
    held: String,
    before: Option<String>,
    read_at: Timestamp,
    /// How often it was let in.
    let_in: Arc<AtomicUsize>,
}

impl Caller {
    async fn start(renewing: &Renewing) -> Self {
        let (space, clock) = (renewing.space.clone(), renewing.clock.clone());
        let verifier = Asked::timed(&renewing.world, clock.clone()).await;
        let held = space.value("t-token").await;
        verifier.until("", &held, 200).await;
        let read_at = clock.now();
        Self { space, clock, verifier, held, before: None, read_at, let_in: Arc::default() }
    }

    /// Returns, of how many requests, the first that was refused with all that it had.
    async fn call_until(mut self, mut stop: oneshot::Receiver<()>) -> Result<usize, String> {
        let mut outcome = Ok(());
        while outcome.is_ok() && stop.try_recv() == Err(TryRecvError::Empty) {
            let now = self.clock.now();
            if now.duration_since(self.read_at) >= HOUR * 2 {
                self.read_at = now;
                let read = self.space.value("t-token").await;
                if read != self.held {
                    self.before = Some(std::mem::replace(&mut self.held, read));
                }
            }
            match self.verifier.bearer("", &self.held).await {
                200 => {
                    self.before = None;
                    self.let_in.fetch_add(1, Ordering::Relaxed);
                }
                // After a step of the clock it knows nothing for certain, and says so.
                503 => {}
                refused => {
                    let before = match &self.before {
                        Some(before) => self.verifier.bearer("", before).await,
                        None => refused,
                    };
                    if ![200, 503].contains(&before) {
                        outcome = Err(format!("{refused}, and {before} for the one before, at {now}"));
                    }
                }
            }
        }
        self.verifier.stop().await;
        outcome.map(|()| self.let_in.load(Ordering::Relaxed))
    }
}

async fn a_client_that_asks_all_the_time_is_never_without_a_value(world: Arc<World>, space: Space) {
    let mut renewing = Renewing::start(world, space).await;
    let caller = Caller::start(&renewing).await;
    let let_in = caller.let_in.clone();
    let (stop, stopped) = oneshot::channel();
    let calls = tokio::spawn(caller.call_until(stopped));
    let mut all = vec![renewing.space.value("t-token").await];
    for hour in (2..=306).step_by(2) {
        // The operator is away when the third, the fourth, the seventh and the eighth value after the first are due.
        match hour {
            88 | 118 | 208 | 238 => renewing.stop_operator().await,
            94 | 124 | 214 | 244 => renewing.start_operator().await,
            _ => {}
        }
        renewing.to_hour(hour);
        if renewing.operator.is_some() {
            renewing.renewed().await;
        }
        let value = renewing.space.value("t-token").await;
        if !all.contains(&value) {
            renewing.verifier.until("", &value, 200).await;
            all.push(value);
        }
        let mut valid = Vec::new();
        for (number, value) in all.iter().enumerate() {
            if renewing.ask(value).await == 200 {
                valid.push(number);
            }
        }
        assert!((1..=2).contains(&valid.len()), "the values {valid:?} are valid at hour {hour}");
        assert!(valid.contains(&(all.len() - 1)), "{valid:?} at hour {hour}");
        // The client has its say before time goes on.
        let (so_far, deadline) = (let_in.load(Ordering::Relaxed), Instant::now() + DEADLINE);
        while let_in.load(Ordering::Relaxed) < so_far + 2 && !calls.is_finished() {
            assert!(Instant::now() < deadline, "the client is not let in at hour {hour}");
            sleep(Duration::from_millis(2)).await;
        }
    }
    let status = renewing.renewed().await.status.unwrap();
    assert_eq!((all.len(), status.serial, status.term), (11, Some(10), Some(10)));
    // The last but one to the very end: it is accepted until then, and not longer.
    let end = renewing.terms.end(Some(9));
    renewing.clock.step(end.duration_since(renewing.clock.now()) - HOUR / 60);
    assert_eq!(renewing.ask(&all[9]).await, 200);
    renewing.clock.step(end.duration_since(renewing.clock.now()));
    assert_eq!((renewing.ask(&all[9]).await, renewing.ask(&all[10]).await), (401, 200));
    let _ = stop.send(());
    let calls = calls.await.unwrap().unwrap();
    println!("a client was let in {calls} times over ten renewals, and never refused");
    renewing.end().await;
}

async fn missed_renewals_jump_to_the_current_value(world: Arc<World>, space: Space) {
    let mut renewing = Renewing::start(world, space).await;
    let first = renewing.space.value("t-token").await;
    let before: Secret = renewing.space.api().get("t-token").await.unwrap();
    renewing.stop_operator().await;
    renewing.to_hour(130);
    assert_eq!(renewing.ask(&first).await, 401, "nobody renewed it, and it ended");
    renewing.start_operator().await;
    let status = renewing.renewed().await.status.unwrap();
    assert_eq!((status.serial, status.term, status.previous), (Some(1), Some(4), None));
    let value = renewing.space.value("t-token").await;
    renewing.verifier.until("", &value, 200).await;
    assert_eq!(renewing.ask(&first).await, 401);
    let after: Secret = renewing.space.api().get("t-token").await.unwrap();
    assert_eq!(after.metadata.uid, before.metadata.uid, "in place");

    // An end that is brought to before the next renewal.
    let end = renewing.created_at + HOUR * 145;
    renewing.space.patch::<ApiToken>("t", json!({"spec": {"expiresAt": end.to_string()}})).await.unwrap();
    renewing.space.token("t", ApiTokenState::Active).await;
    renewing.to_hour(146);
    renewing.space.token("t", ApiTokenState::Expired).await;
    renewing.space.until::<Secret>("t-token", |secret| secret.is_none()).await;
    assert_eq!(renewing.ask(&value).await, 401);
    renewing.end().await;
}

async fn what_others_put_into_the_secret_stays_and_an_edited_value_is_replaced(
    world: Arc<World>,
    space: Space,
) {
    let renewing = Renewing::start(world, space).await;
    let space = &renewing.space;
    let extra = json!({"metadata": {"labels": {"seen-by": "somebody"}}, "data": {"extra": "a2VwdA=="}});
    space.patch::<Secret>("t-token", extra).await.unwrap();
    let whole = |secret: Secret| {
        let labels = secret.metadata.labels.unwrap_or_default();
        (labels.contains_key("seen-by"), secret.data.unwrap().contains_key("extra"), secret.immutable)
    };
    renewing.to_hour(31);
    renewing.renewed().await;
    let first = space.value("t-token").await;
    assert_eq!(whole(space.api().get("t-token").await.unwrap()), (true, true, None));

    // Somebody puts a value of his own in place of ours.
    let planted = "cop_000000000000_0000000000000000000000000000000000000000000000000";
    let plant = json!({"stringData": {"token": planted}});
    space.patch::<Secret>("t-token", plant).await.unwrap();
    let replaced = space.until::<ApiToken>("t", |token| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.serial == Some(2))
    });
    let replaced = replaced.await.unwrap().status.unwrap();
    assert_eq!((replaced.term, replaced.previous), (Some(1), None));
    let second = space.value("t-token").await;
    renewing.verifier.until("", &second, 200).await;
    assert_eq!((renewing.ask(&first).await, renewing.ask(planted).await), (401, 401));

    // A value that is lost ends when the lost one would have, and is renewed when that would have been.
    renewing.to_hour(33);
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    let again = space.until::<ApiToken>("t", |token| {
        token.and_then(|token| token.status.as_ref()).is_some_and(|status| status.serial == Some(3))
    });
    let again = again.await.unwrap().status.unwrap();
    assert_eq!((again.term, again.expires_at), (Some(1), replaced.expires_at));
    renewing.to_hour(61);
    let next = renewing.renewed().await.status.unwrap();
    assert_eq!((next.serial, next.term), (Some(4), Some(2)));
    assert_eq!(next.previous.map(|previous| previous.serial), Some(3));
    renewing.end().await;
}

async fn a_suspended_token_renews_and_one_whose_secret_is_immutable_says_so(world: Arc<World>, space: Space) {
    let renewing = Renewing::start(world, space).await;
    let space = &renewing.space;
    let first = space.value("t-token").await;
    space.patch::<Credential>("c", json!({"spec": {"state": "Inactive"}})).await.unwrap();
    space.token("t", ApiTokenState::Suspended).await;
    renewing.to_hour(31);
    renewing.renewed().await;
    let second = space.value("t-token").await;
    assert_ne!(first, second);
    assert_eq!((renewing.ask(&first).await, renewing.ask(&second).await), (401, 401));
    space.patch::<Credential>("c", json!({"spec": {"state": "Active"}})).await.unwrap();
    space.token("t", ApiTokenState::Active).await;
    for value in [&first, &second] {
        renewing.verifier.until("", value, 200).await;
    }

    space.patch::<Secret>("t-token", json!({"immutable": true})).await.unwrap();
    renewing.to_hour(61);
    let refused =
        space.until::<ApiToken>("t", |token| token.is_some_and(|token| !condition(token, "Ready").0));
    let refused = refused.await.unwrap();
    let message = condition(&refused, "Ready").2;
    assert!(message.contains("immutable") && message.contains("delete the Secret"), "{message}");
    assert_eq!(renewing.ask(&second).await, 200, "it goes on until its end");
    until_told(space, "ApiToken t", &[("RenewalFailed", 1)]).await;
    space.api::<Secret>().delete("t-token", &DeleteParams::default()).await.unwrap();
    renewing.renewed().await;
    let third = space.value("t-token").await;
    renewing.verifier.until("", &third, 200).await;
    renewing.end().await;
}
