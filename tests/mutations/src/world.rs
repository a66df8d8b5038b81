//! A control plane with values on it, and a verifier that knows them.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use control_plane::ControlPlane;
use credential_operator::{
    api,
    domain::{
        clock::Clock,
        digest::{self, Subject},
        keyring::Key,
        reach::Reach,
        token::{Prefix, Token},
    },
    verifier::{
        self, Listen, ServeError, Source, Verifier,
        routes::Routes,
        service::{Introspection, Service},
    },
};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
    runtime::{conditions, wait::await_condition},
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{draw::Asker, value::Values};

/// What may go wrong before anything is measured.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Where everything is.
const NAMESPACE: &str = "default";
const KEYRING: &str = "credential-operator-keyring";
/// Longer than anything takes that goes on at all.
const DEADLINE: Duration = Duration::from_mins(1);
/// How many values are accepted of each sort.
const VALID: u64 = 8;
/// A service that may introspect.
const MAY_INTROSPECT: &str = r#"[
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "introspect"},
     "rules": [{"nonResourceURLs": ["/introspect"], "verbs": ["create"]}]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "introspect"},
     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "introspect"},
     "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "caller"}]},
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller"}}
]"#;

/// A verifier on a real control plane.
pub struct World {
    /// Who asks.
    pub asker: Asker,
    /// Where the verifier listens.
    pub address: SocketAddr,
    /// Dropped first, so that the verifier does not miss the API server.
    _stop: oneshot::Sender<()>,
    _served: JoinHandle<Result<(), ServeError>>,
    _control_plane: ControlPlane,
}

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the clock of this program")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl World {
    /// Starts it, with values that are drawn by a seed.
    ///
    /// # Errors
    /// When something of it does not start.
    pub async fn start(seed: u64) -> Outcome<Self> {
        let control_plane = ControlPlane::start().await?;
        let client = control_plane.admin().client()?;
        let kinds = Api::<CustomResourceDefinition>::all(client.clone());
        for crd in api::crds() {
            kinds.create(&PostParams::default(), &crd).await?;
            let name = crd.name_any();
            let served = await_condition(kinds.clone(), &name, conditions::is_crd_established());
            timeout(DEADLINE, served).await??;
        }
        let caller = caller(&client).await?;
        let values = Issuer::new(client.clone(), seed).await?.values().await?;

        let source = Source {
            namespace: NAMESPACE.to_owned(),
            keyring_secret: KEYRING.to_owned(),
            reach: Reach::default(),
            max_staleness: Duration::from_secs(30),
        };
        let verifier = Arc::new(Verifier::new(source, Arc::new(SystemClock)));
        let introspection = Introspection { reviewer: Some(client.clone()), issuer: "mutations".to_owned() };
        let service = Arc::new(Service::new(verifier.clone(), Routes::default(), Some(introspection)));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen { address: any, tls: None, health: any, stop_after: Duration::ZERO };
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = oneshot::channel();
        let served = tokio::spawn(async move {
            // Who waits for it is this very function.
            let bound = |address, _| {
                let _ = bound.send(address);
            };
            Box::pin(verifier::run(service, client, listen, bound, stopped)).await
        });
        let address = address.await?;
        let ready = async {
            while !verifier.is_ready(verifier.now()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, ready).await?;
        let asker = Asker { values, caller };
        Ok(Self { asker, address, _stop: stop, _served: served, _control_plane: control_plane })
    }
}

/// The token of a `ServiceAccount` that may introspect.
async fn caller(client: &Client) -> Outcome<String> {
    for object in serde_json::from_str::<Vec<Value>>(MAY_INTROSPECT)? {
        create(client, object).await?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let spec = TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let minted = accounts.create_token_request("caller", &PostParams::default(), &request).await?;
    Ok(minted.status.map(|status| status.token).unwrap_or_default())
}

/// Writes what the operator would write.
struct Issuer {
    client: Client,
    key: Key,
    random: StdRng,
}

impl Issuer {
    async fn new(client: Client, seed: u64) -> Outcome<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let key = Key::draw(SystemClock.now(), &mut random);
        let data = json!({(key.id()): ByteString(key.expose().to_vec())});
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEYRING}, "data": data});
        create(&client, secret).await?;
        Ok(Self { client, key, random })
    }

    async fn values(&mut self) -> Outcome<Values> {
        let owner = self.credential("c", json!({"audiences": ["credential-operator", "other"]})).await?.uid();
        let idle = self.credential("idle", json!({"state": "Inactive"})).await?.uid();
        let (far, past) = ("2035-01-01T00:00:00Z", "2020-01-01T00:00:00Z");
        let mut values = Values::default();
        for number in 0..VALID {
            let spec = json!({"credentialRef": {"name": "c"}, "expiresAt": far});
            values.valid.push(self.token(&format!("t{number}"), spec, owner.as_ref()).await?);
        }
        for (name, credential, owner, end, more) in [
            ("revoked", "c", &owner, far, json!({"revoked": true})),
            ("expired", "c", &owner, past, json!({})),
            ("idle", "idle", &idle, far, json!({})),
            ("elsewhere", "c", &owner, far, json!({"audiences": ["other"]})),
            ("orphan", "c", &idle, far, json!({})),
        ] {
            let mut spec = json!({"credentialRef": {"name": credential}, "expiresAt": end});
            if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
                spec.extend(more);
            }
            values.dead.push(self.token(name, spec, owner.as_ref()).await?);
        }
        for number in 0..VALID {
            let spec = json!({"type": "ClientSecret"});
            let created = self.credential(&format!("client{number}"), spec).await?;
            let (value, digest) = self.draw(&created);
            let material = json!({"serial": 0, "id": value.id(), "digest": digest});
            self.write_status(created, json!({"state": "Active", "material": material})).await?;
            values.client_secrets.push(value.expose().to_owned());
        }
        Ok(values)
    }

    async fn credential(&self, name: &str, spec: Value) -> Outcome<DynamicObject> {
        let kind = json!({"apiVersion": "credential-operator.io/v1alpha1", "kind": "Credential"});
        self.create(kind, name, spec).await
    }

    async fn token(&mut self, name: &str, spec: Value, owner: Option<&String>) -> Outcome<String> {
        let kind = json!({"apiVersion": "credential-operator.io/v1alpha1", "kind": "ApiToken"});
        let created = self.create(kind, name, spec).await?;
        let (value, digest) = self.draw(&created);
        let status = json!({
            "state": "Active", "serial": 0, "tokenId": value.id(), "digest": digest, "credentialUid": owner,
        });
        self.write_status(created, status).await?;
        Ok(value.expose().to_owned())
    }

    async fn create(&self, mut object: Value, name: &str, spec: Value) -> Outcome<DynamicObject> {
        object["metadata"] = json!({"name": name});
        object["spec"] = spec;
        create(&self.client, object).await
    }

    /// A value for that object, and its digest.
    fn draw(&mut self, object: &DynamicObject) -> (Token, String) {
        let value = Token::draw(&Prefix::default(), &mut self.random);
        let subject = Subject { uid: object.uid().unwrap_or_default(), serial: 0, term: None };
        let digest = digest::digest(&self.key, &subject, &value);
        (value, digest)
    }

    async fn write_status(&self, mut object: DynamicObject, status: Value) -> Outcome<()> {
        object.data["status"] = status;
        let api = api_of(&self.client, &object)?;
        api.replace_status(&object.name_any(), &PostParams::default(), &object).await?;
        Ok(())
    }
}

async fn create(client: &Client, object: Value) -> Outcome<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object)?;
    Ok(api_of(client, &object)?.create(&PostParams::default(), &object).await?)
}

fn api_of(client: &Client, object: &DynamicObject) -> Outcome<Api<DynamicObject>> {
    let kind = GroupVersionKind::try_from(object.types.as_ref().ok_or("an object without a kind")?)?;
    let resource = ApiResource::from_gvk(&kind);
    Ok(if kind.kind.starts_with("Cluster") {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), NAMESPACE, &resource)
    })
}
