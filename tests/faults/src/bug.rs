//! Mistakes put into the operator on purpose, between its code and the wire, to prove that they are caught.

mod minted;

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request as HttpRequest, Response, StatusCode, Uri, request::Parts};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use kube::client::Body as KubeBody;
use serde_json::{Value, json};
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::{
    body::Body,
    plan::{Plan, Request},
    run::KEYRING,
    wire::{Wired, path},
};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Deletes whatever has the name.
    DeleteWithoutUid,
    /// Where a Secret of the name is there already, writes over it.
    Overwrite,
    /// Where a Secret of the name is there already, deletes it and creates its own.
    Replace,
    /// Where the creation of a Secret failed, tries again under another name.
    AnotherName,
    /// Computes the end from now, at each status write.
    EndFromNow,
    /// Does not delete Secrets.
    KeepSecret,
    /// Does not delete bindings.
    KeepBindings,
    /// Writes something whenever it starts.
    WriteAtStart,
    /// Drops every old key when there is a new one.
    DropKeys,
    /// Writes the status first, then the Secret.
    StatusFirst,
    /// Puts the value into the status.
    Leak,
    /// Creates a Secret again that it deleted.
    Revive,
    /// A verifier whose clock is slow.
    LateVerifier,
    /// A verifier that does not hear of revocations.
    DeafToRevocation,
    /// A verifier that does not hear of deletions.
    DeafToDeletion,
    /// A verifier that asks for the default audience where its route names another.
    AnyAudience,
    /// Forgets the value before, when it renews.
    ForgetPrevious,
    /// Deletes a token at its end, though its `ttlAfterExpired` has just begun.
    EarlyGoing,
    /// Binds one role more than was asked for, and unbinds it again.
    GrantMore,
    /// None of its own: the admission policies are not in force, and it does not look.
    NoAdmission,
    /// Deletes no token.
    KeepToken,
    /// Deletes no account, which garbage collection does but for orphans.
    KeepAccount,
    /// Leaves nothing in a Secret beside the value that it renews.
    ClearSecret,
    /// Deletes a Secret first, and says then that its value was delivered.
    SayLater,
    /// Takes a value that was delivered for one that never was there.
    Redraw,
    /// Puts something beside what is sealed.
    PlainBeside,
    /// Takes whatever is in a Secret for what it sealed.
    TrustCiphertext,
    /// Has a token minted that does not die with its Secret.
    Unbound,
    /// Has a token minted for another `ServiceAccount`.
    AnotherAccount,
    /// Has a token minted once more when its Secret was deleted.
    MintAfterEnd,
}

impl Bug {
    /// All of them, each with a plan that catches it and the law that it breaks; of several one is enough.
    pub const ALL: [(Self, &'static str, &'static str); 33] = [
        (Self::GrantMore, "change-roles:", "S7"),
        (Self::NoAdmission, "grant-too-much:", "S7"),
        (Self::DeleteWithoutUid, "revoke:", "S6"),
        (Self::DeleteWithoutUid, "ttl-while-down:", "S6"),
        (Self::EarlyGoing, "ttl:", "S15"),
        (Self::KeepToken, "ttl:", "L1"),
        (Self::KeepAccount, "orphan:", "L1"),
        (Self::Overwrite, "foreign-secret:", "S5"),
        (Self::Replace, "foreign-secret:", "S5"),
        (Self::AnotherName, "issue: lost-answer@create/secrets/t-token#1", "S4"),
        (Self::EndFromNow, "suspend:", "S11"),
        (Self::KeepSecret, "expire:", "L1"),
        (Self::KeepBindings, "change-roles:", "S8"),
        (Self::WriteAtStart, "issue:", "S13"),
        (Self::DropKeys, "rotate-keyring:", "L1"),
        (Self::StatusFirst, "issue: kill-committed@update/apitokens.status/t#1", "state"),
        (Self::Leak, "issue:", "S9"),
        (Self::Revive, "expire:", "S10"),
        (Self::LateVerifier, "expire-while-down:", "S1"),
        (Self::DeafToRevocation, "revoke:", "S2"),
        (Self::DeafToDeletion, "delete:", "S2"),
        (Self::AnyAudience, "issue:", "S3"),
        (Self::ForgetPrevious, "renew:", "S14"),
        (Self::ClearSecret, "renew:", "state"),
        (Self::SayLater, "once-window:", "S16"),
        (Self::Revive, "once-acknowledge:", "S16"),
        (Self::Redraw, "once-delete:", "S4"),
        (Self::PlainBeside, "sealed:", "S17"),
        (Self::TrustCiphertext, "sealed-edit:", "L1"),
        (Self::Unbound, "mint:", "S18"),
        (Self::AnotherAccount, "mint:", "S18"),
        (Self::MintAfterEnd, "mint-expire:", "S10"),
        (Self::KeepSecret, "mint-suspend:", "L1"),
    ];

    /// What a verifier with this bug never hears of.
    #[must_use]
    pub fn unheard(self) -> Option<&'static str> {
        match self {
            Self::DeafToRevocation => Some("\"revoked\":true"),
            Self::DeafToDeletion => Some("\"type\":\"DELETED\""),
            _ => None,
        }
    }

    /// Whether it is a mistake that the admission policies would keep from having any effect.
    #[must_use]
    pub fn is_unguarded(self) -> bool {
        // What the policies refuse is to be caught by the laws, too.
        matches!(self, Self::NoAdmission | Self::AnotherAccount | Self::Overwrite)
    }

    /// Whether it deletes nothing of that kind.
    fn keeps(self, resource: &str) -> bool {
        match self {
            Self::KeepSecret => resource == "secrets",
            Self::KeepBindings => resource.ends_with("bindings"),
            Self::KeepToken => resource == "apitokens",
            Self::KeepAccount => resource == "serviceaccounts",
            _ => false,
        }
    }

    /// The plan of a line in [`Bug::ALL`].
    ///
    /// # Panics
    /// When the line is no plan.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "the lines are written above")]
    pub fn plan(line: &str) -> Plan {
        Plan::from_str(line).unwrap()
    }
}

/// Puts a bug between a client and its wire.
pub struct BugLayer(pub Bug);

/// A client's requests, as a bug makes them.
pub struct Mistaken {
    bug: Bug,
    wired: Wired,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    started: bool,
    held: Option<(Parts, Bytes)>,
    value: Option<String>,
    created: Option<(Parts, Bytes)>,
    sent: minted::Sent,
}

type Answer = Result<Response<Body>, BoxError>;

impl Layer<Wired> for BugLayer {
    type Service = Mistaken;

    fn layer(&self, wired: Wired) -> Mistaken {
        Mistaken { bug: self.0, wired, memory: Arc::default() }
    }
}

impl Service<HttpRequest<KubeBody>> for Mistaken {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<KubeBody>) -> Self::Future {
        let mistaken = Self { bug: self.bug, wired: self.wired.clone(), memory: self.memory.clone() };
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            mistaken.meddle(parts, bytes).await
        }
        .boxed()
    }
}

impl Mistaken {
    fn memory<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn send(&self, parts: Parts, bytes: Bytes) -> Answer {
        self.wired.clone().oneshot(HttpRequest::from_parts(parts, KubeBody::from(bytes))).await
    }

    async fn meddle(&self, parts: Parts, bytes: Bytes) -> Answer {
        let about = path(&parts, &bytes).request;
        let creates = about.verb == "create" && about.resource == "secrets" && about.name != KEYRING;
        let states = about.verb == "update" && about.resource == "apitokens.status";
        let mut body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let renews =
            about.verb == "patch" && about.resource == "secrets" && body["data"]["token"].is_string();
        match self.bug {
            Bug::Unbound | Bug::AnotherAccount | Bug::MintAfterEnd => {
                self.mint_wrongly(&about, parts, bytes, body).await
            }
            Bug::DeleteWithoutUid if about.verb == "delete" => {
                body["preconditions"] = Value::Null;
                self.send(parts, to_bytes(&body)).await
            }
            Bug::Overwrite | Bug::Replace | Bug::AnotherName if creates => {
                let answer = self.send(parts.clone(), bytes.clone()).await;
                if answer.as_ref().is_ok_and(|answer| answer.status() != StatusCode::CONFLICT) {
                    return answer;
                }
                self.insist(answer, parts, bytes, body, &about.name).await
            }
            Bug::GrantMore if about.verb == "create" && about.resource == "rolebindings" => {
                self.grant_more(parts, bytes, body).await
            }
            bug if about.verb == "delete" && bug.keeps(&about.resource) => Ok(done()),
            Bug::EndFromNow if states => {
                body["status"]["expiresAt"] = json!((now() + SignedDuration::from_hours(720)).to_string());
                self.send(parts, to_bytes(&body)).await
            }
            Bug::WriteAtStart if about.resource == "apitokens" && about.verb == "get" => {
                if !self.memory(|memory| std::mem::replace(&mut memory.started, true)) {
                    let namespace = "/api/v1/namespaces/".to_owned() + &self.wired.namespace();
                    let patch = merge(&parts, uri(&parts, &format!("{namespace}/secrets/t-token")));
                    let touch =
                        json!({"metadata": {"annotations": {"example.com/started-at": now().to_string()}}});
                    let _ = self.send(patch, to_bytes(&touch)).await;
                }
                self.send(parts, bytes).await
            }
            Bug::DropKeys if about.name == KEYRING && about.verb == "patch" => {
                let mut get = parts.clone();
                get.method = Method::GET;
                let held = collect(self.send(get, Bytes::new()).await?).await?;
                for id in held["data"].as_object().into_iter().flat_map(serde_json::Map::keys) {
                    body["data"][id] = Value::Null;
                }
                self.send(parts, to_bytes(&body)).await
            }
            Bug::StatusFirst if creates => {
                self.memory(|memory| memory.held = Some((parts, bytes)));
                body["metadata"]["uid"] = json!("11111111-1111-4111-8111-111111111111");
                body["metadata"]["resourceVersion"] = json!("1");
                Ok(made_up(StatusCode::CREATED, &body))
            }
            Bug::StatusFirst if states => {
                let answer = self.send(parts, bytes).await;
                if let Some((parts, bytes)) = self.memory(|memory| memory.held.take()) {
                    let _ = self.send(parts, bytes).await;
                }
                answer
            }
            Bug::Leak if creates => {
                let value: Option<ByteString> = serde_json::from_value(body["data"]["token"].clone()).ok();
                let value = value.and_then(|value| String::from_utf8(value.0).ok());
                self.memory(|memory| memory.value = value);
                self.send(parts, bytes).await
            }
            Bug::Leak if states => {
                body["status"]["conditions"][0]["message"] =
                    json!(self.memory(|memory| memory.value.clone()));
                self.send(parts, to_bytes(&body)).await
            }
            Bug::EarlyGoing if states && body["status"]["state"] == "Expired" => {
                self.go_early(parts, bytes, &body).await
            }
            Bug::ForgetPrevious if states => {
                body["status"]["previous"] = Value::Null;
                self.send(parts, to_bytes(&body)).await
            }
            Bug::ClearSecret if renews => {
                let nothing = json!({"metadata": {"uid": body["metadata"]["uid"]}, "data": null});
                let _ = self.send(parts.clone(), to_bytes(&nothing)).await;
                body["metadata"]["resourceVersion"] = Value::Null;
                self.send(parts, to_bytes(&body)).await
            }
            Bug::Revive if creates => {
                self.memory(|memory| memory.created = Some((parts.clone(), bytes.clone())));
                self.send(parts, bytes).await
            }
            Bug::Revive if about.verb == "delete" && about.resource == "secrets" => {
                let answer = self.send(parts, bytes).await;
                if let Some((parts, bytes)) = self.memory(|memory| memory.created.take()) {
                    let _ = self.send(parts, bytes).await;
                }
                answer
            }
            _ => self.deliver(parts, bytes, body, &about).await,
        }
    }

    /// Deletes the object whose end is to be told: before that, or a clock that waits for it has gone on to where it may.
    async fn go_early(&self, parts: Parts, bytes: Bytes, body: &Value) -> Answer {
        let mut delete = parts.clone();
        delete.method = Method::DELETE;
        delete.uri = uri(&delete, delete.uri.path().trim_end_matches("/status"));
        let uid = json!({"preconditions": {"uid": body["metadata"]["uid"]}});
        let _ = self.send(delete, to_bytes(&uid)).await;
        self.send(parts, bytes).await
    }

    /// Binds another role first.
    async fn grant_more(&self, parts: Parts, bytes: Bytes, mut body: Value) -> Answer {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        body["metadata"]["name"] = json!(format!("{name}-2"));
        body["roleRef"]["name"] = json!("edit");
        let _ = self.send(parts.clone(), to_bytes(&body)).await;
        self.send(parts, bytes).await
    }

    /// Mistakes in how values are delivered.
    async fn deliver(&self, parts: Parts, bytes: Bytes, mut body: Value, about: &Request) -> Answer {
        let creates = about.verb == "create" && about.resource == "secrets" && about.name != KEYRING;
        let states = about.verb == "update" && about.resource == "apitokens.status";
        match self.bug {
            Bug::SayLater if states && body["status"]["deliveredAt"].is_string() => {
                let first = self.memory(|memory| !std::mem::replace(&mut memory.started, true));
                if !first {
                    return self.send(parts, bytes).await;
                }
                let mut get = parts.clone();
                get.method = Method::GET;
                get.uri = uri(&get, get.uri.path().trim_end_matches("/status"));
                let mut stored = collect(self.send(get, Bytes::new()).await?).await?;
                stored["status"] = body["status"].take();
                self.memory(|memory| memory.held = Some((parts, bytes)));
                Ok(made_up(StatusCode::OK, &stored))
            }
            Bug::SayLater if about.verb == "delete" && about.resource == "secrets" => {
                let answer = self.send(parts, bytes).await;
                if let Some((parts, bytes)) = self.memory(|memory| memory.held.take()) {
                    let _ = self.send(parts, bytes).await;
                }
                answer
            }
            Bug::Redraw if states && body["status"]["deliveredAt"].is_string() => {
                if self.memory(|memory| std::mem::replace(&mut memory.started, true)) {
                    return self.send(parts, bytes).await;
                }
                body["status"] = json!({});
                let answer = self.send(parts.clone(), to_bytes(&body)).await?;
                let code = answer.status();
                let written = collect(answer).await?;
                // What the operator wrote itself, it does not look at again.
                body["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"].clone();
                body["status"]["state"] = json!("Pending");
                let _ = self.send(parts, to_bytes(&body)).await;
                Ok(made_up(code, &written))
            }
            Bug::PlainBeside if creates => {
                body["data"]["token"] = json!(ByteString(b"in the clear".to_vec()));
                self.send(parts, to_bytes(&body)).await
            }
            Bug::TrustCiphertext if creates => {
                self.memory(|memory| memory.created = Some((parts.clone(), bytes.clone())));
                self.send(parts, bytes).await
            }
            Bug::TrustCiphertext if about.verb == "get" && about.resource == "secrets" => {
                let answer = self.send(parts, bytes).await?;
                let code = answer.status();
                let mut held = collect(answer).await?;
                if let Some((_, sealed)) = self.memory(|memory| memory.created.clone()) {
                    let sealed: Value = serde_json::from_slice(&sealed)?;
                    held["data"] = sealed["data"].clone();
                }
                Ok(made_up(code, &held))
            }
            _ => self.send(parts, bytes).await,
        }
    }

    /// The name is taken, or nobody knows.
    async fn insist(
        &self,
        answer: Answer,
        parts: Parts,
        bytes: Bytes,
        mut body: Value,
        name: &str,
    ) -> Answer {
        let there = uri(&parts, &format!("{}/{name}", parts.uri.path()));
        match self.bug {
            Bug::Overwrite => self.send(merge(&parts, there), bytes).await,
            Bug::Replace if answer.is_ok() => {
                let mut get = parts.clone();
                get.method = Method::GET;
                get.uri = there.clone();
                let held = collect(self.send(get, Bytes::new()).await?).await?;
                let mut delete = parts.clone();
                delete.method = Method::DELETE;
                delete.uri = there;
                let uid = json!({"preconditions": {"uid": held["metadata"]["uid"]}});
                let _ = self.send(delete, to_bytes(&uid)).await;
                self.send(parts, bytes).await
            }
            Bug::AnotherName => {
                body["metadata"]["name"] = json!(format!("{name}-2"));
                self.send(parts, to_bytes(&body)).await
            }
            _ => answer,
        }
    }
}

/// A merge patch there, with all else as in that request.
fn merge(parts: &Parts, there: Uri) -> Parts {
    let mut patch = parts.clone();
    patch.method = Method::PATCH;
    patch.uri = there;
    let json = http::HeaderValue::from_static("application/merge-patch+json");
    patch.headers.insert(http::header::CONTENT_TYPE, json);
    patch
}

fn uri(parts: &Parts, path: &str) -> Uri {
    let query = parts.uri.query().filter(|query| query.contains("fieldManager"));
    let mut of = parts.uri.clone().into_parts();
    of.path_and_query = format!("{path}?{}", query.unwrap_or_default()).parse().ok();
    Uri::from_parts(of).unwrap_or_default()
}

async fn collect(answer: Response<Body>) -> Result<Value, BoxError> {
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
}

fn to_bytes(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

fn made_up(status: StatusCode, body: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::MadeUp(Some(to_bytes(body))));
    *answer.status_mut() = status;
    answer
}

fn done() -> Response<Body> {
    made_up(
        StatusCode::OK,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}),
    )
}

#[expect(clippy::disallowed_methods, reason = "a mistake that is made on purpose")]
fn now() -> Timestamp {
    Timestamp::now()
}
