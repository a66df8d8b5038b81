//! Services that ask by RFC 7662, and whether Kubernetes lets them.

use std::{pin::Pin, sync::Arc, time::Duration};

use credential_operator::api::{ApiToken, ApiTokenState};
use http::{Method, Request, StatusCode};
use oauth2::{AccessToken, ClientId, IntrospectionUrl, TokenIntrospectionResponse, basic::BasicClient};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{Asked, service_token};
use crate::support::{DEADLINE, Space, World, credential, token};

crate::tests![
    an_oauth_client_introspects_if_kubernetes_lets_it,
    what_it_answers_last_is_as_true_as_what_it_answered_first,
];

/// Who shows a token of Kubernetes, whatever client id and secret a library would.
struct Caller {
    verifier: Arc<Asked>,
    token: String,
}

impl<'c> oauth2::AsyncHttpClient<'c> for Caller {
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<oauth2::HttpResponse>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(async { Ok(self.verifier.send_as(request, &self.token).await) })
    }
}

async fn let_introspect(space: &Space, account: &str) {
    let rights = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {0}-introspects}}
rules: [{{nonResourceURLs: [/introspect], verbs: [create]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {0}-introspects}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {0}-introspects}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {0}}}]
",
        space.namespace
    );
    space.apply(&rights).await;
}

async fn an_oauth_client_introspects_if_kubernetes_lets_it(world: Arc<World>, space: Space) {
    let verifier = Arc::new(Asked::start(&world).await);
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    let issued = space.token("t", ApiTokenState::Active).await.status.unwrap();
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    let (may, may_not) = (service_token(&space, "may").await, service_token(&space, "may-not").await);
    let_introspect(&space, "may").await;

    let url = IntrospectionUrl::new(format!("http://{}/introspect", verifier.address)).unwrap();
    let oauth = BasicClient::new(ClientId::new("orders".to_owned())).set_introspection_url(url);
    let service = Caller { verifier: verifier.clone(), token: may };
    let introspect = async |value: &str| {
        let value = AccessToken::new(value.to_owned());
        oauth.introspect(&value).set_token_type_hint("access_token").request_async(&service).await
    };
    // Rights take a moment until every part of the API server knows of them.
    let deadline = Instant::now() + DEADLINE;
    let told = loop {
        match introspect(&value).await {
            Ok(told) => break told,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        sleep(Duration::from_secs(1)).await;
    };
    assert!(told.active());
    let identity = format!("{}/c", space.namespace);
    assert_eq!((told.username(), told.jti()), (Some(&*identity), issued.token_id.as_deref()));
    assert_eq!(
        (told.iss(), told.aud().unwrap().as_slice()),
        (Some("tests"), &["credential-operator".to_owned()][..])
    );
    let end = issued.expires_at.unwrap().timestamp().unwrap();
    assert_eq!(told.exp().unwrap().timestamp(), end.as_second());
    assert!(!introspect("cop_000000000000_nothing").await.unwrap().active());
    for (caller, status) in [(&*may_not, 403), ("made-up", 401)] {
        let request =
            Request::builder().method(Method::POST).uri(format!("http://{}/introspect", verifier.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(format!("token={value}").into_bytes()).unwrap();
        assert_eq!(verifier.send_as(request, caller).await.status(), StatusCode::from_u16(status).unwrap());
    }
    drop(service);
    Arc::into_inner(verifier).unwrap().stop().await;
}

async fn what_it_answers_last_is_as_true_as_what_it_answered_first(world: Arc<World>, space: Space) {
    let verifier = Asked::start(&world).await;
    space.apply(&(credential("c") + "---\n" + &token("t", "expiresIn: 1h"))).await;
    space.token("t", ApiTokenState::Active).await;
    let value = space.value("t-token").await;
    verifier.until("", &value, 200).await;
    let caller = service_token(&space, "slow").await;
    let_introspect(&space, "slow").await;
    let form = format!("token={value}");
    let request = |body: &str| {
        let request = Request::post(format!("http://{}/introspect", verifier.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(body.as_bytes().to_vec()).unwrap()
    };
    let deadline = Instant::now() + DEADLINE;
    while verifier.send_as(request(&form), &caller).await.status() != 200 {
        assert!(Instant::now() < deadline, "he may not ask");
        sleep(Duration::from_millis(500)).await;
    }

    // He is slow to ask, the verifier is told to stop, and then the token is revoked.
    let mut stream = TcpStream::connect(verifier.address).await.unwrap();
    let head = format!(
        "POST /introspect HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {caller}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // By this it says that it waits for the rest.
    let mut continues = [0; 25];
    stream.read_exact(&mut continues).await.unwrap();
    assert_eq!(&continues, b"HTTP/1.1 100 Continue\r\n\r\n");
    let stopping = tokio::spawn(verifier.stop());
    sleep(Duration::from_millis(500)).await;
    space.patch::<ApiToken>("t", json!({"spec": {"revoked": true}})).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    stream.write_all(form.as_bytes()).await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(told.ends_with("{\"active\":false}"), "{told}");
    stopping.await.unwrap();
}
