//! Somebody who has nothing but a token of the API server's.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, Config, api::ListParams};
use tokio::time::{Instant, sleep};

use crate::support::{Space, World};

fn client(world: &World, token: &str) -> Client {
    let mut config = Config::new(world.control_plane.server().parse().unwrap());
    config.root_cert = world.control_plane.admin().config().root_cert;
    config.auth_info.token = Some(token.to_owned().into());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// What the API server answers to whoever lists config maps with it.
pub async fn asked(world: &World, space: &Space, token: &str) -> u16 {
    let api: Api<ConfigMap> = Api::namespaced(client(world, token), &space.namespace);
    match api.list(&ListParams::default()).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until it answers so. Nothing tells of that, so it is asked again and again.
pub async fn until(world: &World, space: &Space, token: &str, expected: u16, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let told = asked(world, space, token).await;
        if told == expected {
            return;
        }
        assert!(Instant::now() < deadline, "it answers {told}, not {expected}");
        sleep(Duration::from_millis(50)).await;
    }
}
