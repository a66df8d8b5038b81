//! Somebody who talks to the API server, by certificate or by token.

use std::path::{Path, PathBuf};

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
        let stem = name.replace([':', '/'], "-");
        let (certificate, key) = (
            directory.join(format!("{stem}.crt")),
            directory.join(format!("{stem}.key")),
        );
        write(&certificate, &pair.public)?;
        write(&key, &pair.private)?;
        Self::new(
            directory,
            server,
            &stem,
            &json!({ "client-certificate": certificate, "client-key": key }),
        )
    }

    pub(crate) fn with_token(directory: &Path, server: &str, name: &str, token: &str) -> Result<Self, Error> {
        Self::new(directory, server, name, &json!({ "token": token }))
    }

    fn new(directory: &Path, server: &str, name: &str, user: &Value) -> Result<Self, Error> {
        let path = directory.join(format!("{name}.kubeconfig"));
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
        Ok(Self {
            config,
            kubeconfig: path,
        })
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
        Client::try_from(self.config()).map_err(|source| Error::Client {
            what: "make a client".to_owned(),
            source: Box::new(source),
        })
    }
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
