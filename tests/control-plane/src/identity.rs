//! Somebody who talks to the API server, by certificate or by token.

use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{Error, certificates::Authority, write};

/// Somebody who talks to the API server.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Config,
    kubeconfig: PathBuf,
}

impl Identity {
    pub(crate) fn certified(
        authority: &Authority,
        directory: &Path,
        server: &str,
        name: &str,
        group: Option<&str>,
    ) -> Result<Self, Error> {
        let pair = authority.user(name, group)?;
        let user = json!({
            "client-certificate-data": ByteString(pair.public.into_bytes()),
            "client-key-data": ByteString(pair.private.into_bytes()),
        });
        // The same name in another group is somebody else, but goes by the same name in its kubeconfig.
        let file = group.map_or_else(|| name.to_owned(), |group| format!("{name}@{group}"));
        Self::new(directory, server, &file, name, &user)
    }

    pub(crate) fn with_token(directory: &Path, server: &str, name: &str, token: &str) -> Result<Self, Error> {
        Self::new(directory, server, name, name, &json!({ "token": token }))
    }

    fn new(directory: &Path, server: &str, file: &str, name: &str, user: &Value) -> Result<Self, Error> {
        let path = directory.join(format!("{}.kubeconfig", file.replace([':', '/'], "-")));
        // JSON is YAML.
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "control-plane",
                "cluster": { "server": server, "certificate-authority": directory.join("ca.crt") },
            }],
            "users": [{ "name": name, "user": user }],
            "contexts": [{ "name": name, "context": { "cluster": "control-plane", "user": name } }],
            "current-context": name,
        })
        .to_string();
        write(&path, &text)?;
        let config = from_kubeconfig(Kubeconfig::from_yaml(&text)?)?;
        Ok(Self { config, kubeconfig: path })
    }

    /// The kubeconfig of this identity, for other programs.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The configuration of a client.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A client. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the TLS configuration is refused.
    pub fn client(&self) -> Result<Client, Error> {
        client(self.config())
    }

    /// A client of another server of the same authority.
    pub(crate) fn client_of(&self, server: &str) -> Result<Client, Error> {
        let mut config = self.config();
        config.cluster_url =
            server.parse().map_err(|source| Error::Url { url: server.to_owned(), source })?;
        client(config)
    }
}

fn client(config: Config) -> Result<Client, Error> {
    Client::try_from(config)
        .map_err(|source| Error::Client { what: "make a client".to_owned(), source: Box::new(source) })
}

/// All of it is in the file, so what `Config` does asynchronously (running plugins) never happens here.
fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config, Error> {
    let options = KubeConfigOptions::default();
    let mut config = std::pin::pin!(Config::from_custom_kubeconfig(kubeconfig, &options));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(config) = config.as_mut().poll(&mut context) {
            return Ok(config?);
        }
    }
}
