//! Objects as the watches read them.
//!
//! Most of what the API server says of an object is the record of who set which field. Nobody here looks at it, so it is
//! left unread; and an object that does not parse is told by what can be read of it and spoils no list.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::{Value, value::RawValue};

use super::unread::Unread;

/// An object without `metadata.managedFields`; or, where it does not parse, what can be read of it.
#[derive(Clone, Debug)]
pub struct Lean<K>(pub Result<K, Box<Unread>>);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let json = without_managed_fields(json.get());
        if let Ok(object) = serde_json::from_str(&json) {
            return Ok(Self(Ok(object)));
        }
        let mut object: Value = serde_json::from_str(&json).map_err(D::Error::custom)?;
        let metadata = ObjectMeta::deserialize(object["metadata"].take()).map_err(D::Error::custom)?;
        Ok(Self(Err(Box::new(Unread::of(metadata, &object)))))
    }
}

fn without_managed_fields(json: &str) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow)]
        managed_fields: Option<&'a RawValue>,
    }

    let Ok(Object { metadata: Metadata { managed_fields: Some(fields) } }) = serde_json::from_str(json)
    else {
        return json.into();
    };
    let fields = fields.get();
    let start = fields.as_ptr().addr() - json.as_ptr().addr();
    [&json[..start], "[]", &json[start + fields.len()..]].concat().into()
}

impl<K: Resource> Resource for Lean<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unread| &unread.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unread| &mut unread.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::core::{ObjectList, PartialObjectMeta, WatchEvent};
    use serde_json::json;

    use super::*;
    use crate::api::ApiToken;

    fn token(spec: &Value) -> Value {
        json!({
            "apiVersion": "credential-operator.io/v1alpha1",
            "kind": "ApiToken",
            "metadata": {
                "name": "t",
                "namespace": "n",
                "annotations": {"managedFields": "[{\"manager\":\"mine\"}]"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {".": {}, "f:scopes": {}}}}],
                "uid": "u",
            },
            "spec": spec,
        })
    }

    #[test]
    fn all_is_read_but_who_set_which_field() {
        let valid = token(&json!({"credentialRef": {"name": "c"}, "expiresIn": "30d"}));
        let mut bare = valid.clone();
        bare["metadata"].as_object_mut().unwrap().remove("managedFields");
        let mut expected: ApiToken = serde_json::from_value(bare.clone()).unwrap();
        let Lean(read) = serde_json::from_str::<Lean<ApiToken>>(&bare.to_string()).unwrap();
        assert_eq!(read.unwrap(), expected);
        expected.metadata.managed_fields = Some(Vec::new());
        let Lean(read) = serde_json::from_str::<Lean<ApiToken>>(&valid.to_string()).unwrap();
        assert_eq!(read.unwrap(), expected);

        let list =
            json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [valid, token(&json!(7))]});
        let list: ObjectList<Lean<ApiToken>> = serde_json::from_str(&list.to_string()).unwrap();
        assert_eq!(list.items[0].0.as_ref().unwrap(), &expected);
        assert_eq!(list.items[1].0.as_ref().unwrap_err().metadata.name.as_deref(), Some("t"));
        assert_eq!(list.items[1].meta().uid.as_deref(), Some("u"));
    }

    #[test]
    fn events_of_a_watch_are_read() {
        // As the API server writes them, the type first.
        let event = format!("{{\"type\":\"ADDED\",\"object\":{}}}", token(&json!(null)));
        let WatchEvent::Added(token) = serde_json::from_str::<WatchEvent<Lean<ApiToken>>>(&event).unwrap()
        else {
            panic!("another event");
        };
        assert_eq!(token.meta().namespace.as_deref(), Some("n"));
        assert!(Lean::<PartialObjectMeta<Secret>>::metadata_api() && !Lean::<ApiToken>::metadata_api());
    }

    #[test]
    fn what_has_no_metadata_is_no_object() {
        assert!(serde_json::from_str::<Lean<ApiToken>>("{\"spec\": 7}").is_err());
    }
}
