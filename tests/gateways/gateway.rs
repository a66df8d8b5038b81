//! Gateways, by the set-ups of examples/verify.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    program::Program,
    service::{Answer, Caller},
    world::{DEADLINE, Verifier},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Caddy,
    Nginx,
    Traefik,
}

pub const ALL: [Kind; 3] = [Kind::Caddy, Kind::Nginx, Kind::Traefik];

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
        }
    }

    /// What is said where the verifier cannot be reached, or does not answer.
    pub const fn without_an_answer(self) -> &'static [u16] {
        match self {
            Self::Caddy => &[502, 504],
            Self::Nginx => &[503],
            Self::Traefik => &[500],
        }
    }

    /// Within which it gives up a verifier that does not answer, by its set-up. Traefik has 30 s, and no setting.
    pub const fn patience(self) -> Duration {
        match self {
            Self::Caddy | Self::Nginx => Duration::from_secs(5),
            Self::Traefik => Duration::from_secs(35),
        }
    }

    const fn set_up(self) -> &'static str {
        match self {
            Self::Caddy => include_str!("../../examples/verify/Caddyfile"),
            Self::Nginx => include_str!("../../examples/verify/nginx.conf"),
            Self::Traefik => include_str!("../../examples/verify/traefik-orders.yaml"),
        }
    }

    /// The lines of the set-up that TLS replaces, by their beginning and their end, and what they are replaced by.
    const fn tls(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Caddy => {
                ("\t\tforward_auth", "\t\t\turi", include_str!("../../examples/verify/Caddyfile-tls"))
            }
            Self::Nginx => (
                "        proxy_pass http://verifier",
                "        proxy_connect_timeout",
                include_str!("../../examples/verify/nginx-tls.conf"),
            ),
            Self::Traefik => (
                "        address:",
                "        authRequestHeaders",
                include_str!("../../examples/verify/traefik-tls.yaml"),
            ),
        }
    }

    /// Where tests/external/install puts it.
    fn program(self) -> PathBuf {
        match self {
            // Where Debian has it, which is not where everybody looks.
            Self::Nginx if Path::new("/usr/sbin/nginx").exists() => "/usr/sbin/nginx".into(),
            Self::Nginx => "nginx".into(),
            Self::Caddy | Self::Traefik => {
                let here = Path::new(env!("CARGO_MANIFEST_DIR"));
                let program = here.join("target/external").join(self.name());
                assert!(program.exists(), "{} is not there; run tests/external/install", program.display());
                program
            }
        }
    }
}

/// A gateway that runs.
pub struct Gateway {
    pub kind: Kind,
    address: SocketAddr,
    /// The same, or another one where HTTP/2 without TLS needs that.
    http_2: SocketAddr,
    caller: Caller,
    program: Program,
    _folder: TempDir,
}

impl Gateway {
    /// Starts it by its set-up, with the addresses of this machine in it, and waits until it refuses who has no token.
    pub async fn start(kind: Kind, route: &str, verifier: &Verifier, service: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let address = free_address();
        let http_2 = if kind == Kind::Nginx { free_address() } else { address };
        let mut text = kind.set_up().to_owned();
        if verifier.authority.is_some() {
            let (from, to, tls) = kind.tls();
            let (before, rest) = text.split_once(from).unwrap();
            let (_, after) = rest.split_once(to).unwrap();
            text = format!("{before}{tls}{to}{after}");
        }
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} is not in the set-up of {kind:?}");
            text = text.replace(from, to);
        };
        if let Some(authority) = &verifier.authority {
            replace(&format!("/etc/{}/verifier-ca.crt", kind.name()), &authority.display().to_string());
        }
        // nginx is told the name apart from the address; the others look it up.
        if verifier.authority.is_none() || kind == Kind::Nginx {
            replace("127.0.0.1:8080", &verifier.address.to_string());
        } else {
            replace("verifier.example:8443", &format!("localhost:{}", verifier.address.port()));
        }
        replace("127.0.0.1:9000", &service.to_string());
        replace("/forward-auth/orders", &format!("/forward-auth/{route}"));
        let file = folder.path().join("orders.yaml");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let arguments = match kind {
            Kind::Caddy => {
                replace("http://:8000", &format!("http://{address}"));
                // Without TLS, so that the test has to set nothing else up.
                let global =
                    "{\n\tadmin off\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n}\n";
                text.insert_str(0, global);
                ["run", "--adapter", "caddyfile", "--config"].map(str::to_owned).into()
            }
            Kind::Nginx => {
                replace("listen 8000;", &format!("listen {address}; listen {http_2} http2;"));
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {};", path(name)))
                    .concat();
                text = format!(
                    "pid {}; error_log stderr; daemon off; master_process off; events {{}}\nhttp {{ access_log off; {temporary}\n{text}}}\n",
                    path("pid")
                );
                vec!["-p".to_owned(), path(""), "-c".to_owned()]
            }
            Kind::Traefik => {
                vec![
                    format!("--entryPoints.web.address={address}"),
                    "--global.checkNewVersion=false".to_owned(),
                    "--global.sendAnonymousUsage=false".to_owned(),
                ]
            }
        };
        fs::write(&file, text).unwrap();
        let mut arguments: Vec<String> = arguments;
        let file = file.display().to_string();
        arguments.push(if kind == Kind::Traefik {
            format!("--providers.file.filename={file}")
        } else {
            file
        });
        let home =
            [("HOME", folder.path()), ("XDG_DATA_HOME", folder.path()), ("XDG_CONFIG_HOME", folder.path())];
        let program = Program::start(&kind.program(), &arguments, &home, folder.path().join("log"));
        let gateway = Self { kind, address, http_2, caller: Caller::new(), program, _folder: folder };
        gateway.ready().await;
        gateway
    }

    async fn ready(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Traefik listens before it has read what for.
            let answer = self.send(Request::get("/").body(Full::default()).unwrap()).await;
            if answer.is_some_and(|answer| answer.status != 404) {
                return;
            }
            assert!(Instant::now() < deadline, "{:?} does not start: {}", self.kind, self.program.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a request by HTTP/1.1.
    pub async fn send(&self, request: Request<Full<hyper::body::Bytes>>) -> Option<Answer> {
        self.send_by(request, false).await
    }

    pub async fn send_by(
        &self,
        mut request: Request<Full<hyper::body::Bytes>>,
        http_2: bool,
    ) -> Option<Answer> {
        let address = if http_2 { self.http_2 } else { self.address };
        *request.uri_mut() = format!("http://{address}{}", request.uri()).parse().unwrap();
        self.caller.send(request, http_2).await
    }

    /// What is answered to a GET with that token.
    pub async fn get(&self, token: &str) -> Answer {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        self.send(request.body(Full::default()).unwrap()).await.unwrap()
    }

    /// Waits until a GET with that token is answered so.
    pub async fn until(&self, token: &str, expected: u16) -> Answer {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(token).await;
            if answer.status == expected {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "{:?} answers {}: {}",
                self.kind,
                answer.status,
                self.program.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Where nobody listens. Free a moment ago; what is started at it next takes it.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
