//! The cluster that the quickstart runs on: one of its own, or one of the user's.

use std::{path::PathBuf, process::Command, time::Duration};

use control_plane::ControlPlane;
use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    config::{AuthInfo, KubeConfigOptions},
};
use serde::Deserialize;

use crate::error::{Error, While};

/// The namespace that everything is shown in.
pub const NAMESPACE: &str = "default";
const FIELD_MANAGER: &str = "quickstart";

/// A cluster, seen by somebody who may do everything.
pub struct Cluster {
    config: Config,
    /// The client of that somebody.
    pub client: Client,
    kubectl: PathBuf,
    /// What every kubectl command begins with, so that it works as it is printed.
    options: Vec<String>,
    /// Stops when it is dropped; none where the cluster is the user's.
    own: Option<ControlPlane>,
}

impl Cluster {
    /// Starts a control plane that is gone when this is dropped.
    pub async fn start() -> Result<Self, Error> {
        let own = ControlPlane::start().await.or_could_not("start a control plane")?;
        let kubectl = tokio::task::block_in_place(|| own.kubectl()).or_could_not("find a kubectl")?;
        let config = own.admin().config();
        Ok(Self { client: client(config.clone())?, config, kubectl, options: Vec::new(), own: Some(own) })
    }

    /// Uses a cluster that is there, by the context of that name in the user's kubeconfig.
    pub async fn existing(context: &str) -> Result<Self, Error> {
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options)
            .await
            .or_could_not(format!("use the context {context} of your kubeconfig"))?;
        Ok(Self {
            client: client(config.clone())?,
            config,
            kubectl: "kubectl".into(),
            options: ["--context", context, "-n", NAMESPACE].map(str::to_owned).into(),
            own: None,
        })
    }

    /// Whether it was there before, and stays.
    pub fn is_the_users(&self) -> bool {
        self.own.is_none()
    }

    /// Where its API server is, and which version it has, as it says itself.
    pub async fn describe(&self) -> Result<String, Error> {
        let version = self.client.apiserver_version().await;
        let version = version.map_err(reason).or_could_not("reach the API server")?;
        let server = self.config.cluster_url.to_string();
        Ok(format!("Kubernetes {} at {}", version.git_version, server.trim_end_matches('/')))
    }

    /// Applies each document of `yaml` and tells what the API server made of it. Objects that name no namespace, and
    /// are of a kind that has one, go into [`NAMESPACE`].
    pub async fn apply(&self, yaml: &str) -> Result<(), Error> {
        for document in serde_yaml_ng::Deserializer::from_str(yaml) {
            let mut object = DynamicObject::deserialize(document).or_could_not("read an object as YAML")?;
            let types = object.types.clone().unwrap_or_default();
            let gvk = GroupVersionKind::try_from(&types).or_could_not("read the kind of an object")?;
            if gvk.group == credential_operator::api::GROUP {
                object.metadata.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
            }
            let resource = ApiResource::from_gvk(&gvk);
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let name = object.metadata.name.clone().unwrap_or_default();
            // Never by force: what somebody else set in an existing cluster is theirs.
            let params = PatchParams::apply(FIELD_MANAGER);
            let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
            let applied = applied.map_err(reason).or_could_not(format!("apply {} {name}", gvk.kind))?;
            let at = applied.metadata.namespace.map(|namespace| format!(" in {namespace}"));
            println!(
                "  applied {} {}{}",
                gvk.kind,
                applied.metadata.name.unwrap_or_default(),
                at.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// A client for a `ServiceAccount`, by a token that the API server mints for it.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Client, Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 60 * 60), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let minted = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let minted = minted
            .map_err(reason)
            .or_could_not(format!("mint a token for ServiceAccount {namespace}/{name}"))?;
        let mut config = self.config.clone();
        config.auth_info =
            AuthInfo { token: minted.status.map(|status| status.token.into()), ..AuthInfo::default() };
        // The operator has its own ways to try again; a client that repeats a POST by itself would meet its own
        // first attempt.
        config.default_retry = false;
        client(config)
    }

    /// A kubectl command as a user would type it.
    pub fn command(&self, arguments: &[&str]) -> String {
        let words = self.options.iter().map(String::as_str);
        words
            .chain(arguments.iter().copied())
            .fold("kubectl".to_owned(), |line, word| line + " " + &quoted(word))
    }

    /// Prints a kubectl command and runs it, so that what follows on the screen is what it says.
    ///
    /// Tells whether it succeeded.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<bool, Error> {
        println!("$ {}", self.command(arguments));
        let mut command = Command::new(&self.kubectl);
        command.args(&self.options).args(arguments);
        if let Some(own) = &self.own {
            // The user's cache of what API servers offer has no use for one that is gone in a minute.
            command
                .env("KUBECONFIG", own.admin().kubeconfig())
                .env("KUBECACHEDIR", own.directory().join("kubectl-cache"));
        }
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        let output = ran.or_could_not("run kubectl")?.or_could_not("run kubectl")?;
        // Both streams on one, in the order in which a reader would meet them.
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(text);
            if !text.is_empty() {
                println!("{}", text.trim_end());
            }
        }
        Ok(output.status.success())
    }

    /// What to type so that the commands that are printed work in another shell.
    pub fn exports(&self) -> Vec<String> {
        let Some(own) = &self.own else { return Vec::new() };
        let kubeconfig = own.admin().kubeconfig().display().to_string();
        let mut lines = vec![format!("export KUBECONFIG={}", quoted(&kubeconfig))];
        if let Some(folder) = self.kubectl.parent().filter(|folder| folder.is_absolute()) {
            let folder = folder.display().to_string();
            lines.push(format!("export PATH={}:\"$PATH\"", quoted(&folder)));
        }
        lines
    }
}

fn client(config: Config) -> Result<Client, Error> {
    Client::try_from(config).or_could_not("make a client")
}

/// Who the API server takes the user of `client` for.
pub async fn who(client: &Client) -> Result<String, Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = review.map_err(reason).or_could_not("ask the API server who I am")?;
    let user = review.status.and_then(|status| status.user_info);
    Ok(user.and_then(|user| user.username).unwrap_or_default())
}

/// The API server's own words, where it was the one that refused.
pub fn reason(error: kube::Error) -> crate::error::Cause {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message).into(),
        other => other.into(),
    }
}

/// How often something is asked that no watch would tell.
pub const ASK_EVERY: Duration = Duration::from_millis(50);

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
