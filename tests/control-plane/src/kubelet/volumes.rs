//! The volumes of a pod: what is in them, kept as it is in the API, and where a container mounts them.
//!
//! Knows nothing of mount namespaces.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use super::{
    environment::{Environment, expand},
    payload::{MODE, Payload, files, mode, put},
    pod::Life,
    problem::Problem,
    root::Mount,
    store::{Store, field},
    token::Tokens,
};

/// What was put into the volumes of a pod so far.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    written: HashMap<String, Payload>,
    versions: u64,
    tokens: Tokens,
}

impl Volumes {
    /// Writes what has changed since the last time.
    ///
    /// # Errors
    /// When something that a volume shows is not there, or is of a kind that we do not have.
    pub(super) async fn refresh(&mut self, life: &Life) -> Result<(), Problem> {
        for volume in life.spec().volumes.iter().flatten() {
            let failed = |message: String| Problem::creating(format!("volume {:?}: {message}", volume.name));
            let folder = folder(&life.folder, &volume.name);
            fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
            let Some(payload) = self.payload(life, volume).await.map_err(failed)? else { continue };
            if self.written.get(&volume.name) != Some(&payload) {
                self.versions += 1;
                put(&folder, &payload, self.versions).map_err(|error| failed(error.to_string()))?;
                self.written.insert(volume.name.clone(), payload);
            }
        }
        Ok(())
    }

    /// The files that a volume shows; none of one that shows none.
    async fn payload(&mut self, life: &Life, volume: &Volume) -> Result<Option<Payload>, String> {
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let (items, usual) = (secret.items.as_ref(), mode(secret.default_mode, MODE));
            return read(life, Store::Secret, name, items, usual, secret.optional).await.map(Some);
        }
        if let Some(map) = &volume.config_map {
            let (items, usual) = (map.items.as_ref(), mode(map.default_mode, MODE));
            return read(life, Store::ConfigMap, &map.name, items, usual, map.optional).await.map(Some);
        }
        if let Some(own) = &volume.downward_api {
            return fields(life, own.items.as_ref(), mode(own.default_mode, MODE)).map(Some);
        }
        if let Some(projected) = &volume.projected {
            let usual = mode(projected.default_mode, MODE);
            let mut all = Payload::new();
            for source in projected.sources.iter().flatten() {
                all.extend(self.projected(life, source, usual).await?);
            }
            return Ok(Some(all));
        }
        if volume.empty_dir.is_some() || volume.host_path.is_some() {
            return Ok(None);
        }
        Err("this kubelet has no volumes of this kind".to_owned())
    }

    async fn projected(
        &mut self,
        life: &Life,
        source: &VolumeProjection,
        usual: u32,
    ) -> Result<Payload, String> {
        if let Some(token) = &source.service_account_token {
            let value = self.tokens.current(life, token).await?;
            return Ok(Payload::from([(token.path.clone().into(), (value.into_bytes(), usual))]));
        }
        if let Some(secret) = &source.secret {
            let items = secret.items.as_ref();
            return read(life, Store::Secret, &secret.name, items, usual, secret.optional).await;
        }
        if let Some(map) = &source.config_map {
            return read(life, Store::ConfigMap, &map.name, map.items.as_ref(), usual, map.optional).await;
        }
        match &source.downward_api {
            Some(own) => fields(life, own.items.as_ref(), usual),
            None => Err("this kubelet has no sources of this kind".to_owned()),
        }
    }
}

async fn read(
    life: &Life,
    store: Store,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    usual: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let data = store.read(&life.machine.client, life.namespace(), name, optional).await?;
    files(data, items, usual, optional)
}

fn fields(life: &Life, items: Option<&Vec<DownwardAPIVolumeFile>>, usual: u32) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items.into_iter().flatten() {
        let path = item.field_ref.as_ref().map_or("resourceFieldRef", |reference| &reference.field_path);
        let value = field(&life.latest(), life.address, path);
        let value = value.ok_or_else(|| format!("field path not supported: {path}"))?;
        payload.insert(item.path.clone().into(), (value.into_bytes(), mode(item.mode, usual)));
    }
    Ok(payload)
}

fn folder(pod: &Path, volume: &str) -> PathBuf {
    pod.join("volumes").join(volume)
}

/// Where a container mounts which volume.
///
/// # Errors
/// When it mounts one that the pod has not, or a part of one that is not there.
pub(super) fn mounts(
    life: &Life,
    container: &Container,
    environment: &Environment,
) -> Result<Vec<Mount>, Problem> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let mut volumes = life.spec().volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| Problem::config(format!("there is no volume {:?}", mount.name)))?;
        let host_path = volume.host_path.as_ref().map(|host| PathBuf::from(&host.path));
        let mut source = host_path.unwrap_or_else(|| folder(&life.folder, &volume.name));
        let part = mount.sub_path_expr.as_deref().map(|path| expand(path, environment));
        if let Some(part) = part.or_else(|| mount.sub_path.clone()).filter(|part| !part.is_empty()) {
            source.push(part);
            if volume.empty_dir.is_some() && !source.exists() {
                fs::create_dir_all(&source).map_err(|error| Problem::config(error.to_string()))?;
            }
        }
        if !source.exists() {
            return Err(Problem::config(format!(
                "failed to prepare subPath for volumeMount {:?}",
                mount.name
            )));
        }
        // What a kubelet writes itself is not for a container to change.
        let written_by_us = volume.empty_dir.is_none() && volume.host_path.is_none();
        let read_only = written_by_us || mount.read_only == Some(true);
        mounts.push(Mount { source, target: mount.mount_path.clone().into(), read_only });
    }
    Ok(mounts)
}
