//! The API server's audit log.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, file};

/// One request, as the API server wrote it down when it had answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who asked.
    pub user: AuditUser,
    /// What about; not there for requests that are not about resources.
    pub object_ref: Option<AuditObject>,
    /// The answer.
    pub response_status: Option<AuditStatus>,
    /// The body, of deletions and new bindings alone.
    pub request_object: Option<Value>,
    /// When it arrived.
    pub request_received_timestamp: jiff::Timestamp,
    /// `ResponseStarted` (of watches), `ResponseComplete` or `Panic`.
    pub stage: String,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditUser {
    /// The name, such as `system:serviceaccount:ns:name`; empty where the API server could not tell (401).
    #[serde(default)]
    pub username: String,
}

/// What a request is about. What the request does not name is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuditObject {
    /// Plural, in lower case.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// Of a namespaced object.
    pub namespace: String,
    /// Not of a list, nor of a create with a generated name.
    pub name: String,
    /// Empty for the core group.
    pub api_group: String,
}

/// The answer to a request.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditStatus {
    /// The HTTP status.
    pub code: u16,
}

/// Reads a log that is being written, from where the last read ended.
#[derive(Debug)]
pub struct AuditTail {
    path: PathBuf,
    offset: u64,
}

impl AuditTail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// What was written since the last read.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self) -> Result<Vec<AuditEvent>, Error> {
        let failed = || file(format!("read {}", self.path.display()));
        let mut log = fs::File::open(&self.path).map_err(failed())?;
        log.seek(SeekFrom::Start(self.offset)).map_err(failed())?;
        let mut text = Vec::new();
        log.read_to_end(&mut text).map_err(failed())?;
        // The last line may still be being written.
        text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.offset += text.len() as u64;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(Error::Audit)).collect()
    }
}
