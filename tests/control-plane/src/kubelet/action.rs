//! What probes and hooks do.
//!
//! Knows nothing of when, nor of what follows from it.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{ExecAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Client, Config, client::Body};
use tokio::{net::TcpStream, time::sleep};

use super::container::Inside;

/// One of what there is to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Action<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a Probe> for Action<'a> {
    fn from(probe: &'a Probe) -> Self {
        let (exec, http, tcp) = (probe.exec.as_ref(), probe.http_get.as_ref(), probe.tcp_socket.as_ref());
        Self { exec, http, tcp, sleep: None }
    }
}

impl<'a> From<&'a LifecycleHandler> for Action<'a> {
    fn from(hook: &'a LifecycleHandler) -> Self {
        let (exec, http, tcp) = (hook.exec.as_ref(), hook.http_get.as_ref(), hook.tcp_socket.as_ref());
        Self { exec, http, tcp, sleep: hook.sleep.as_ref() }
    }
}

/// Does it, and tells whether it succeeded.
pub(super) async fn act(within: &Inside<'_>, action: Action<'_>) -> bool {
    if let Some(exec) = action.exec {
        return within.run(exec.command.clone().unwrap_or_default()).await;
    }
    if let Some(http) = action.http {
        return get(within, http).await.is_some_and(|status| (200..400).contains(&status));
    }
    if let Some(tcp) = action.tcp {
        let Some(port) = port(within, &tcp.port) else { return false };
        return TcpStream::connect((host(within, tcp.host.as_ref()), port)).await.is_ok();
    }
    if let Some(time) = action.sleep {
        sleep(Duration::from_secs(time.seconds.unsigned_abs())).await;
        return true;
    }
    // Of a kind that we do not have, which must not pass unnoticed.
    false
}

/// The status of the answer, whoever the server says it is.
async fn get(within: &Inside<'_>, action: &HTTPGetAction) -> Option<u16> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = host(within, action.host.as_ref());
    let port = port(within, &action.port)?;
    let mut config = Config::new(format!("{scheme}://{host}:{port}").parse().ok()?);
    config.accept_invalid_certs = true;
    config.root_cert = Some(Vec::new());
    config.default_retry = false;
    let mut request = http::Request::get(action.path.as_deref().unwrap_or("/"))
        .header("User-Agent", "kube-probe/1.36")
        // A server that ends must not wait for us.
        .header("Connection", "close");
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let client = Client::try_from(config).ok()?;
    let answer = client.send(request.body(Body::empty()).ok()?).await.ok()?;
    Some(answer.status().as_u16())
}

fn host(within: &Inside<'_>, said: Option<&String>) -> String {
    let said = said.filter(|host| !host.is_empty()).cloned();
    said.unwrap_or_else(|| IpAddr::V4(within.life.address).to_string())
}

/// A port by its number, or by its name in the container.
fn port(within: &Inside<'_>, said: &IntOrString) -> Option<u16> {
    let number = match said {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = within.container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    number.try_into().ok()
}
