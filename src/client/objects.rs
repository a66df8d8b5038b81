//! A client for the objects of one kind, in place of `kube::Api`: it parses responses leniently and as a stream.

use std::{collections::VecDeque, fmt, marker::PhantomData};

use http_body_util::BodyExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{authentication::v1::TokenRequest, core::v1::ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ListMeta,
};
use kube::{
    Client, Error, Resource, Result,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    client::Body,
    core::{PartialObjectMeta, Request, Status},
};
use serde::{Deserialize, Serialize, de::Error as _};
use serde_json::{Value, value::RawValue};
use tracing::warn;
use zeroize::Zeroizing;

use super::{
    Readable, Untyped, Watched,
    prune::{Document, Keep, Malformed, Pruner, Shape},
    read::answer,
};

/// The maximum number of bytes that are read of an error response.
const REFUSAL: usize = 64 << 10;

/// The media type of a JSON patch (RFC 6902).
const JSON_PATCH: &str = "application/json-patch+json";

/// A client for the objects of a kind, in one namespace or in all.
pub struct Objects<K> {
    client: Client,
    request: Request,
    namespace: Option<String>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            request: self.request.clone(),
            namespace: self.namespace.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Objects<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.request.url_path).finish()
    }
}

impl<K: Readable> Objects<K> {
    /// A client for all objects of the kind.
    #[must_use]
    pub fn all(client: Client) -> Self {
        Self::within(client, None)
    }

    /// A client for the objects in this namespace, or in all.
    fn within(client: Client, namespace: Option<&str>) -> Self {
        let request = Request::new(K::url_path(&(), namespace));
        Self { client, request, namespace: namespace.map(ToOwned::to_owned), kind: PhantomData }
    }

    /// A client for the objects in one namespace.
    #[must_use]
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::within(client, Some(namespace))
    }

    /// A client for the objects in one namespace, or in all.
    #[must_use]
    pub fn scoped(client: Client, namespace: Option<&str>) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::within(client, namespace)
    }

    /// The namespace of the objects; `None` for all.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Gets the object with this name, if it exists.
    ///
    /// # Errors
    /// When the request fails, or the object does not match the schema of its kind.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        self.get_watched(name).await?.map(fitting).transpose()
    }

    /// Gets the object with this name.
    ///
    /// # Errors
    /// When the request fails, or the object does not match the schema of its kind.
    pub async fn get(&self, name: &str) -> Result<K> {
        fitting(self.send("get", self.request.get(name, &GetParams::default())).await?)
    }

    /// Gets the object with this name, if it exists, even if it does not match the schema of its kind.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn get_watched(&self, name: &str) -> Result<Option<Watched<K>>> {
        there(self.send("get_opt", self.request.get(name, &GetParams::default())).await)
    }

    /// Gets the metadata and status of the object with this name, if it exists, without parsing them into the type of its
    /// kind.
    ///
    /// # Errors
    /// When the request fails, or the status of the object cannot be parsed.
    pub async fn get_untyped(&self, name: &str) -> Result<Option<Untyped>> {
        let json = self.document("get_opt", self.request.get(name, &GetParams::default())).await;
        there(json)?.map(|(json, _)| Untyped::read(&json).ok_or_else(unexpected)).transpose()
    }

    /// Gets all finalizers of the object with this name and UID, in their order; none if it does not exist.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn finalizers(&self, name: &str, uid: &str) -> Result<Vec<String>> {
        let body =
            self.body("get_metadata_opt", self.request.get_metadata(name, &GetParams::default())).await;
        let Some(body) = there(body)? else { return Ok(Vec::new()) };
        let (json, size) = document(body, Keep { finalizers: usize::MAX, ..K::KEEP }).await?;
        let found = Watched::<PartialObjectMeta<K>>::read(&json, size).ok_or_else(unexpected)?;
        let metadata = Some(found.metadata()).filter(|metadata| metadata.uid.as_deref() == Some(uid));
        Ok(metadata.and_then(|metadata| metadata.finalizers.clone()).unwrap_or_default())
    }

    /// Gets the metadata of the object with this name, if it exists.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn get_metadata_opt(&self, name: &str) -> Result<Option<PartialObjectMeta<K>>> {
        let request = self.request.get_metadata(name, &GetParams::default());
        there(self.partial().send("get_metadata_opt", request).await)?.map(fitting).transpose()
    }

    /// Creates the object.
    ///
    /// # Errors
    /// When the request fails, or the created object does not match the schema of its kind.
    pub async fn create(&self, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        self.answered("create", self.request.create(params, body)).await
    }

    /// Patches the object with this name.
    ///
    /// # Errors
    /// When the request fails, or the patched object does not match the schema of its kind.
    pub async fn patch(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<impl Serialize + fmt::Debug>,
    ) -> Result<K> {
        self.answered("patch", self.request.patch(name, params, patch)).await
    }

    /// Patches the object with this name and returns its metadata only.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn patch_metadata(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<impl Serialize + fmt::Debug>,
    ) -> Result<PartialObjectMeta<K>> {
        self.partial().answered("patch_metadata", self.request.patch_metadata(name, params, patch)).await
    }

    /// Patches the object with this name by the operations of a JSON patch (RFC 6902). A failed `test` operation is returned
    /// as a conflict.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn json_patch(
        &self,
        name: &str,
        params: &PatchParams,
        operations: &Value,
    ) -> Result<Watched<K>> {
        self.send("patch", as_json_patch(self.request.patch(name, params, &Patch::Merge(operations)))).await
    }

    /// Patches the status of the object with this name by the operations of a JSON patch. A failed `test` operation is
    /// returned as a conflict.
    ///
    /// # Errors
    /// When the request fails, or the patched object does not match the schema of its kind.
    pub async fn json_patch_status(&self, name: &str, params: &PatchParams, operations: &Value) -> Result<K> {
        let request = self.request.patch_subresource("status", name, params, &Patch::Merge(operations));
        self.answered("patch_status", as_json_patch(request)).await
    }

    /// Replaces the status of the object. Besides the status, only name, UID and resource version of `object` are used.
    ///
    /// # Errors
    /// When the request fails, or the updated object does not match the schema of its kind.
    pub async fn replace_status(
        &self,
        name: &str,
        params: &PostParams,
        object: &impl Serialize,
    ) -> Result<K> {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        self.answered("replace_status", self.request.replace_subresource("status", name, params, body)).await
    }

    /// Replaces the status of an object that need not match the schema of its kind.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn replace_status_of_invalid(
        &self,
        name: &str,
        params: &PostParams,
        object: &impl Serialize,
    ) -> Result<()> {
        let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
        self.document("replace_status", self.request.replace_subresource("status", name, params, body))
            .await
            .map(drop)
    }

    /// Deletes the object with this name.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<Deleted<K>> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            kind: &'a str,
        }

        let (json, size) = self.document("delete", self.request.delete(name, params)).await?;
        if serde_json::from_slice::<Kind<'_>>(&json).is_ok_and(|answer| answer.kind == "Status") {
            return Ok(Deleted::Gone);
        }
        Watched::read(&json, size).map(|held| Deleted::Held(Box::new(held))).ok_or_else(unexpected)
    }

    /// Requests a page of a list. The objects are parsed as they arrive.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn list(&self, params: &ListParams) -> Result<Page<K>> {
        let request =
            if K::metadata_api() { self.request.list_metadata(params) } else { self.request.list(params) };
        let body = self.body("list", request).await?;
        let pruner = Pruner::new(Shape::List, K::KEEP);
        Ok(Page {
            documents: Documents { body, pruner, found: VecDeque::new() },
            metadata: None,
            kind: PhantomData,
        })
    }

    /// Starts a watch from this resource version.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn watch(&self, params: &WatchParams, version: &str) -> Result<Events<K>> {
        let request = if K::metadata_api() {
            self.request.watch_metadata(params, version)
        } else {
            self.request.watch(params, version)
        };
        let body = self.body("watch", request).await?;
        let pruner = Pruner::new(Shape::Events, K::KEEP);
        let documents = Documents { body, pruner, found: VecDeque::new() };
        Ok(Events { documents, kind: PhantomData })
    }

    fn partial(&self) -> Objects<PartialObjectMeta<K>> {
        Objects {
            client: self.client.clone(),
            request: self.request.clone(),
            namespace: self.namespace.clone(),
            kind: PhantomData,
        }
    }

    async fn send(&self, call: &'static str, request: Built) -> Result<Watched<K>> {
        let (json, size) = self.document(call, request).await?;
        Watched::read(&json, size).ok_or_else(unexpected)
    }

    async fn answered(&self, call: &'static str, request: Built) -> Result<K> {
        let (json, size) = self.document(call, request).await?;
        // The write has made it too large. The watch shows it as invalid, and a cached answer would hide that.
        if size > K::MAX_SIZE {
            return fitting(Watched::read(&json, size).ok_or_else(unexpected)?);
        }
        answer(&json).ok_or_else(unexpected)
    }

    async fn document(&self, call: &'static str, request: Built) -> Result<(Zeroizing<Vec<u8>>, usize)> {
        document(self.body(call, request).await?, K::KEEP).await
    }

    /// Sends the request and returns the body of a successful response. `call` names the request for middleware around the
    /// client.
    async fn body(&self, call: &'static str, request: Built) -> Result<Body> {
        let mut request = request.map_err(Error::BuildRequest)?;
        request.extensions_mut().insert(call);
        // Compressed responses are not decompressed as a stream, which would delay the events of a watch.
        let identity = http::HeaderValue::from_static("identity");
        request.headers_mut().entry(http::header::ACCEPT_ENCODING).or_insert(identity);
        // The controller's JSON patches are well-formed, so a 422 without a cause means that a `test` operation failed.
        let is_json_patch =
            request.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind == JSON_PATCH);
        let response = self.client.send(request.map(Body::from)).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let text = beginning(response.into_body()).await;
        let status: Status = serde_json::from_slice(&text).unwrap_or_else(|_| {
            Status::failure(&format!("the API server answered {code}"), "Unknown").with_code(code.as_u16())
        });
        let is_failed_test =
            code == 422 && is_json_patch && status.details.as_ref().is_none_or(|told| told.causes.is_empty());
        let status = if is_failed_test {
            Status { code: 409, reason: "Conflict".to_owned(), ..status }
        } else {
            status
        };
        Err(Error::Api(status.boxed()))
    }
}

impl Objects<ServiceAccount> {
    /// Requests a token for the ServiceAccount with this name.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn create_token_request(
        &self,
        name: &str,
        params: &PostParams,
        request: &TokenRequest,
    ) -> Result<TokenRequest> {
        let body = serde_json::to_vec(request).map_err(Error::SerdeError)?;
        let request = self.request.create_subresource("token", name, params, body);
        let tokens: Objects<TokenRequest> = Objects {
            client: self.client.clone(),
            request: self.request.clone(),
            namespace: self.namespace.clone(),
            kind: PhantomData,
        };
        tokens.answered("create_token_request", request).await
    }
}

fn as_json_patch(request: Built) -> Built {
    request.map(|mut request| {
        request.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(JSON_PATCH));
        request
    })
}

type Built = std::result::Result<http::Request<Vec<u8>>, kube::core::request::Error>;

/// Reads a body that is one document, and returns how many bytes were sent for it.
async fn document(body: Body, keep: Keep) -> Result<(Zeroizing<Vec<u8>>, usize)> {
    let mut documents = Documents { body, pruner: Pruner::new(Shape::Object, keep), found: VecDeque::new() };
    match documents.next().await? {
        Some(Document::Item(json, size)) => Ok((json, size)),
        Some(Document::Envelope(_)) | None => Err(unexpected()),
    }
}

/// Reads the beginning of the body of an error response.
async fn beginning(mut body: Body) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < REFUSAL {
        match body.frame().await {
            Some(Ok(frame)) => {
                text.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            }
            Some(Err(_)) | None => break,
        }
    }
    text
}

fn there<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::Api(status)) if status.code == 404 && status.reason == "NotFound" => Ok(None),
        Err(error) => Err(error),
    }
}

fn fitting<K: Readable>(Watched(read): Watched<K>) -> Result<K> {
    read.map_err(|invalid| {
        Error::SerdeError(serde_json::Error::custom(format!("{}: {}", K::kind(&()), invalid.flaw)))
    })
}

fn unexpected() -> Error {
    Error::SerdeError(serde_json::Error::custom(Malformed))
}

/// The result of a deletion.
#[derive(Debug)]
pub enum Deleted<K> {
    /// The object no longer exists.
    Gone,
    /// The object exists until its finalizers are removed.
    Held(Box<Watched<K>>),
}

/// The documents of a body, one after the other.
struct Documents {
    body: Body,
    pruner: Pruner,
    found: VecDeque<Document>,
}

impl Documents {
    async fn next(&mut self) -> Result<Option<Document>> {
        loop {
            if let Some(document) = self.found.pop_front() {
                return Ok(Some(document));
            }
            let Some(frame) = self.body.frame().await else {
                // A truncated response is an error.
                return if self.pruner.is_complete() { Ok(None) } else { Err(unexpected()) };
            };
            if let Ok(bytes) = frame?.into_data() {
                let found = &mut self.found;
                self.pruner
                    .feed(&bytes, &mut |document| found.push_back(document))
                    .map_err(|_| unexpected())?;
            }
        }
    }
}

/// A page of a list, read one object at a time.
pub struct Page<K> {
    documents: Documents,
    metadata: Option<ListMeta>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Readable> Page<K> {
    /// Returns the next object; `None` after the last.
    ///
    /// # Errors
    /// When the response is truncated, or is not a list.
    pub async fn next(&mut self) -> Result<Option<Watched<K>>> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMeta,
        }

        loop {
            match self.documents.next().await? {
                Some(Document::Item(json, size)) => {
                    if let Some(object) = Watched::read(&json, size) {
                        return Ok(Some(object));
                    }
                    warn!(kind = %K::kind(&()), "an item of a list has no name and is skipped");
                }
                Some(Document::Envelope(json)) => {
                    let list: List = serde_json::from_slice(&json).map_err(Error::SerdeError)?;
                    self.metadata = Some(list.metadata);
                }
                None if self.metadata.is_some() => return Ok(None),
                None => return Err(unexpected()),
            }
        }
    }

    /// Reads the remaining objects and returns the metadata of the list.
    ///
    /// # Errors
    /// When the response is truncated, or is not a list.
    pub async fn end(mut self) -> Result<ListMeta> {
        while self.next().await?.is_some() {}
        Ok(self.metadata())
    }

    /// The metadata of the list, once its last object was read.
    #[must_use]
    pub fn metadata(self) -> ListMeta {
        self.metadata.unwrap_or_default()
    }
}

/// An event of a watch.
#[derive(Debug)]
pub enum WatchEvent<K> {
    /// An object was created or changed.
    Applied(Watched<K>),
    /// An object was deleted.
    Deleted(Watched<K>),
    /// All events up to this resource version were sent.
    Bookmark(String),
    /// The API server ends the watch with an error.
    Error(Box<Status>),
}

/// The events of a watch.
pub struct Events<K> {
    documents: Documents,
    kind: PhantomData<fn() -> K>,
}

impl<K: Readable> Events<K> {
    /// Returns the next event; `None` once the API server has ended the watch.
    ///
    /// # Errors
    /// When the response is truncated, or is not a watch event.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<K>>> {
        match self.documents.next().await? {
            Some(Document::Item(json, size)) => event(&json, size).map(Some).ok_or_else(unexpected),
            Some(Document::Envelope(_)) | None => Ok(None),
        }
    }
}

fn event<K: Readable>(json: &[u8], size: usize) -> Option<WatchEvent<K>> {
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }

    #[derive(Deserialize)]
    struct Bookmark {
        metadata: ListMeta,
    }

    let Event { r#type, object } = serde_json::from_slice(json).ok()?;
    let object = object.get().as_bytes();
    match r#type {
        "ADDED" | "MODIFIED" => Watched::read(object, size).map(WatchEvent::Applied),
        "DELETED" => Watched::read(object, size).map(WatchEvent::Deleted),
        "BOOKMARK" => {
            let bookmark: Bookmark = serde_json::from_slice(object).ok()?;
            bookmark.metadata.resource_version.map(WatchEvent::Bookmark)
        }
        "ERROR" => serde_json::from_slice(object).ok().map(WatchEvent::Error),
        _ => None,
    }
}
