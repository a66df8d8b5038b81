//! What pods read of Secrets, `ConfigMaps` and their own fields.
//!
//! Knows nothing of where they put it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Api, Client};

use super::machine::{HOST_ADDRESS, NODE};

/// The values of an object by their keys.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// The kind of an object with values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    Secret,
    ConfigMap,
}

impl Store {
    /// The values of an object; none of one that is not there and need not be.
    ///
    /// # Errors
    /// In words, when it is not there and has to be, or cannot be read.
    pub(super) async fn read(
        self,
        client: &Client,
        namespace: &str,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Data, String> {
        let (kind, data) = match self {
            Self::Secret => {
                let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await;
                ("secret", found.map(|found| found.map(of_secret)))
            }
            Self::ConfigMap => {
                let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await;
                ("configmap", found.map(|found| found.map(of_config_map)))
            }
        };
        match data {
            Ok(Some(data)) => Ok(data),
            Ok(None) if optional == Some(true) => Ok(Data::new()),
            Ok(None) => Err(format!("{kind} \"{name}\" not found")),
            Err(error) => Err(format!("{kind} \"{name}\" cannot be read: {error}")),
        }
    }
}

fn of_secret(secret: Secret) -> Data {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

fn of_config_map(map: ConfigMap) -> Data {
    let texts = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    texts.chain(bytes).collect()
}

/// What a `fieldRef` reads; nothing of a field that no pod can read.
pub(super) fn field(pod: &Pod, address: Ipv4Addr, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let of = |map: &Option<BTreeMap<String, String>>, key: &str| {
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match map {
            "metadata.labels" => of(&metadata.labels, key),
            "metadata.annotations" => of(&metadata.annotations, key),
            _ => None,
        };
    }
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Some(lines(metadata.annotations.as_ref())),
        "spec.nodeName" => Some(NODE.to_owned()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.podIPs" => Some(address.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(HOST_ADDRESS.to_owned()),
        _ => None,
    }
}

/// `key="value"`, one a line.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    #[test]
    fn fields_are_read_by_their_paths() {
        let labels =
            BTreeMap::from([("app.io/a".to_owned(), "x".to_owned()), ("b".to_owned(), "y".to_owned())]);
        let metadata =
            ObjectMeta { name: Some("pod".to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        let pod = Pod { metadata, ..Pod::default() };
        let read = |path: &str| field(&pod, Ipv4Addr::new(127, 1, 2, 3), path);
        assert_eq!(read("metadata.name").as_deref(), Some("pod"));
        assert_eq!(read("metadata.labels['app.io/a']").as_deref(), Some("x"));
        assert_eq!(read("metadata.labels['none']").as_deref(), Some(""));
        assert_eq!(read("metadata.labels").as_deref(), Some("app.io/a=\"x\"\nb=\"y\""));
        assert_eq!(read("status.podIP").as_deref(), Some("127.1.2.3"));
        assert_eq!(read("spec.unknown"), None);
    }
}
