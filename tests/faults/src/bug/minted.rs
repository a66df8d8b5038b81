//! Mistakes with tokens that the API server mints. The operator looks at what it gets, so the mistake is made behind its
//! back: what goes into the Secret is another token than it was shown.

use bytes::Bytes;
use http::request::Parts;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tower::BoxError;

use super::{Answer, Bug, Mistaken, collect, to_bytes, uri};
use crate::{plan::Request, run::KEYRING};

/// What was sent for a minted token: the Secret, the request for the token, the value in the Secret.
#[derive(Default)]
pub(super) struct Sent {
    created: Option<(Parts, Bytes)>,
    asked: Option<(Parts, Bytes)>,
    filled: Option<(Parts, Bytes)>,
    /// A token that the operator was not shown.
    another: Option<String>,
}

impl Mistaken {
    /// Whatever is sent, by an operator that makes one of these mistakes.
    pub(super) async fn mint_wrongly(
        &self,
        about: &Request,
        parts: Parts,
        bytes: Bytes,
        body: Value,
    ) -> Answer {
        match (about.verb.as_str(), about.resource.as_str()) {
            ("create", "serviceaccounts.token") => self.ask(parts, bytes, body).await,
            ("patch", "secrets") if body["data"]["token"].is_string() => self.fill(parts, bytes, body).await,
            ("create", "secrets") if about.name != KEYRING => {
                self.memory(|memory| memory.sent.created = Some((parts.clone(), bytes.clone())));
                self.send(parts, bytes).await
            }
            ("delete", "secrets") if self.bug == Bug::MintAfterEnd => {
                let answer = self.send(parts, bytes).await;
                self.mint_again().await?;
                answer
            }
            _ => self.send(parts, bytes).await,
        }
    }

    /// A token is asked for.
    async fn ask(&self, parts: Parts, bytes: Bytes, mut body: Value) -> Answer {
        self.memory(|memory| memory.sent.asked = Some((parts.clone(), bytes.clone())));
        let mut instead = parts.clone();
        body["metadata"]["uid"] = Value::Null;
        if self.bug == Bug::Unbound {
            body["spec"]["boundObjectRef"] = Value::Null;
        } else {
            let path = parts.uri.path().replace("c-credential", "default");
            instead.uri = uri(&parts, &path);
        }
        if self.bug != Bug::MintAfterEnd {
            let another = collect(self.send(instead, to_bytes(&body)).await?).await?;
            let another = another["status"]["token"].as_str().map(ToOwned::to_owned);
            self.memory(|memory| memory.sent.another = another);
        }
        self.send(parts, bytes).await
    }

    /// A token is put into its Secret.
    async fn fill(&self, parts: Parts, bytes: Bytes, mut body: Value) -> Answer {
        self.memory(|memory| memory.sent.filled = Some((parts.clone(), bytes.clone())));
        if let Some(another) = self.memory(|memory| memory.sent.another.take()) {
            body["data"]["token"] = json!(ByteString(another.into_bytes()));
            return self.send(parts, to_bytes(&body)).await;
        }
        self.send(parts, bytes).await
    }

    /// A Secret was deleted: all is sent once more.
    async fn mint_again(&self) -> Result<(), BoxError> {
        let Sent { created, asked, filled, .. } = self.memory(|memory| std::mem::take(&mut memory.sent));
        let (Some((create, secret)), Some((ask, request)), Some((fill, value))) = (created, asked, filled)
        else {
            return Ok(());
        };
        let made = collect(self.send(create, secret).await?).await?;
        let mut request: Value = serde_json::from_slice(&request)?;
        request["spec"]["boundObjectRef"]["uid"] = made["metadata"]["uid"].clone();
        let minted = collect(self.send(ask, to_bytes(&request)).await?).await?;
        let mut value: Value = serde_json::from_slice(&value)?;
        let token = minted["status"]["token"].as_str().unwrap_or_default().to_owned();
        value["data"]["token"] = json!(ByteString(token.into_bytes()));
        for precondition in ["uid", "resourceVersion"] {
            value["metadata"][precondition] = made["metadata"][precondition].clone();
        }
        self.send(fill, to_bytes(&value)).await.map(drop)
    }
}
