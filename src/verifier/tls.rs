//! The server's own TLS: its certificate, and the authority that clients' certificates must come from.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use thiserror::Error;
use tracing::{error, info};

/// How often the files are looked at. They may be in a volume that is exchanged as a whole, where watching a file shows nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where the server's certificate is.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and those between it and the root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities of clients, PEM; `None`: no certificate of a client is looked at.
    pub client_authorities: Option<PathBuf>,
}

/// Why there is no TLS by these files. Says nothing of a key.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("could not read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("{path} holds no {what} in PEM")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not go together, or an authority is none.
    #[error("the certificate and the key of the verifier cannot be used")]
    Pair(#[source] rustls::Error),
    /// An authority is none.
    #[error("the authorities of clients cannot be used: {0}")]
    Authorities(String),
}

/// The bytes of the files, by which a change is told.
#[derive(PartialEq, Eq)]
struct Read {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    authorities: Option<Vec<u8>>,
}

/// TLS that follows its files.
pub struct Tls {
    files: TlsFiles,
    first: Read,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let first = files.read()?;
        let current = ArcSwap::new(first.config(&files)?);
        Ok(Self { files, first, current })
    }

    /// What a new connection is to be served by.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Follows the files until it is dropped. What cannot be used is said, and what was used before stays.
    pub async fn follow(&self) {
        let mut before = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let read = match self.files.read() {
                Ok(read) if read == *before.as_ref().unwrap_or(&self.first) => continue,
                Ok(read) => read,
                Err(error) => {
                    error!(%error, "the certificate cannot be read again; the one before stays in use");
                    continue;
                }
            };
            match read.config(&self.files) {
                Ok(config) => {
                    info!("the certificate changed and is in use for new connections");
                    self.current.store(config);
                }
                Err(error) => {
                    error!(%error, "the new certificate cannot be used; the one before stays in use");
                }
            }
            before = Some(read);
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Read, TlsError> {
        let read =
            |path: &PathBuf| fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source });
        Ok(Read {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?.into(),
            authorities: self.client_authorities.as_ref().map(read).transpose()?,
        })
    }
}

impl Read {
    fn config(&self, files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Pem { path: files.key.clone(), what: "private key" })?;
        let builder = ServerConfig::builder();
        let builder = match (&self.authorities, &files.client_authorities) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, path)? {
                    roots.add(authority).map_err(|error| TlsError::Authorities(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder(roots.into()).allow_unauthenticated().build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| TlsError::Authorities(error.to_string()))?,
                )
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config.into())
    }
}

fn certificates(pem: &[u8], path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Pem { path: path.to_owned(), what: "certificate" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a certificate that is new, and its key.
    fn renew(files: &TlsFiles) {
        let new = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.certificate, new.cert.pem()).unwrap();
        fs::write(&files.key, new.signing_key.serialize_pem()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_taken_up_whenever_it_came_and_only_if_it_can_be_used() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_authorities: None,
        };
        renew(&files);
        let tls = Tls::new(files.clone()).unwrap();
        let first = tls.current();
        // It is renewed before anybody looks for the first time.
        renew(&files);
        let look = async || {
            let _ = tokio::time::timeout(2 * LOOK_EVERY, tls.follow()).await;
            tls.current()
        };
        let second = look().await;
        assert!(!Arc::ptr_eq(&first, &second), "the new one is not in use");
        for broken in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&files.certificate, broken).unwrap();
            assert!(Arc::ptr_eq(&second, &look().await), "{broken:?} is in use");
        }
        fs::remove_file(&files.key).unwrap();
        assert!(Arc::ptr_eq(&second, &look().await));
        renew(&files);
        assert!(!Arc::ptr_eq(&second, &look().await));
    }
}
