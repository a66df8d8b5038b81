//! The control plane that all runs share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use control_plane::{AuditEvent, AuditTail, ControlPlane, Identity};
use credential_operator::api::{self, ApiToken, ApiTokenState};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::Secret, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::sync::OnceCell;

use crate::{
    admission,
    authors::{self, AUTHOR},
    plan::Plan,
    run::{self, Report, Run},
    scenario,
    space::{ELSEWHERE, Outcome, Space},
    state::State,
};

/// Whom the audit log names for the operator.
pub const OPERATOR_USER: &str = "system:serviceaccount:credential-operator:credential-operator";

/// A control plane with our kinds, the operator's rights, and what undisturbed runs of the scenarios came to.
pub struct World {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// Somebody who may do everything.
    pub admin: Client,
    author: Client,
    /// The operator's own `ServiceAccount`.
    pub operator: Identity,
    spaces: AtomicUsize,
    audit: Mutex<Log>,
    undisturbed: Mutex<BTreeMap<String, Arc<OnceCell<Undisturbed>>>>,
}

/// The audit log, as far as it was read.
struct Log {
    tail: AuditTail,
    requests: HashMap<String, Requests>,
}

/// What was done in the namespace of one run.
#[derive(Clone, Default)]
pub struct Requests {
    /// By the operator.
    pub operator: Vec<AuditEvent>,
    /// To Credentials, by their authors.
    pub authors: Vec<AuditEvent>,
}

/// What authors write into Credentials.
const AUDITED: &str = "
- level: Request
  users: [author]
  verbs: [create, update, patch]
  resources: [{group: credential-operator.io, resources: [credentials]}]
";

/// What a scenario comes to when nothing goes wrong.
#[derive(Clone)]
pub struct Undisturbed {
    /// What there is in the end, and how often something was created or deleted on the way.
    pub state: State,
    /// The operator's writes on the way.
    pub writes: Vec<crate::plan::Request>,
}

impl World {
    /// Starts it.
    ///
    /// # Errors
    /// When the control plane does not start or does not take our kinds.
    pub async fn start() -> Outcome<Self> {
        let text = |error: &dyn std::error::Error| error.to_string();
        // A day at a time, as the API servers of some providers grant.
        let cap = "--service-account-max-token-expiration=24h";
        let builder = ControlPlane::builder().api_server_arg(cap).audit(AUDITED);
        let control_plane = builder.start().await.map_err(|error| text(&error))?;
        let admin = control_plane.admin().client().map_err(|error| text(&error))?;
        let author = control_plane.user(AUTHOR, None).and_then(|author| author.client());
        let author = author.map_err(|error| text(&error))?;
        let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
        let params = PatchParams::apply("tests").force();
        for crd in api::crds() {
            let name = crd.metadata.name.clone().unwrap_or_default();
            crds.patch(&name, &params, &Patch::Apply(&crd)).await.map_err(|error| text(&error))?;
            let established = kube::runtime::conditions::is_crd_established();
            let wait = kube::runtime::wait::await_condition(crds.clone(), &name, established);
            wait.await.map_err(|error| text(&error))?;
        }
        let namespace = "credential-operator".to_owned();
        let system = Space { client: admin.clone(), author: author.clone(), namespace };
        system.apply(include_str!("../../../deploy/namespace.yaml")).await?;
        system.apply(include_str!("../../../deploy/controller.yaml")).await?;
        system.apply(include_str!("../../../deploy/service-account-tokens/rights.yaml")).await?;
        system.apply(authors::RIGHTS).await?;
        admission::install(&admin).await?;
        system.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {ELSEWHERE}}}\n")).await?;
        let operator = control_plane.service_account("credential-operator", "credential-operator").await;
        let operator = operator.map_err(|error| text(&error))?;
        let tail = control_plane.audit_tail();
        let world = Self {
            control_plane,
            admin,
            author,
            operator,
            spaces: AtomicUsize::new(0),
            audit: Mutex::new(Log { tail, requests: HashMap::new() }),
            undisturbed: Mutex::default(),
        };
        world.warm_up().await?;
        Ok(world)
    }

    /// Garbage collection takes up to half a minute to learn of our kinds; no run shall wait for that.
    async fn warm_up(&self) -> Outcome {
        let run = Run::start(self, &Plan::undisturbed("warm-up"), None).await?;
        run.space.apply(&(scenario::credential("c") + "---\n" + &scenario::token("t"))).await?;
        run.space.token("t", ApiTokenState::Active).await?;
        run.space.delete::<ApiToken>("t").await?;
        run.space.gone::<Secret>("t-token").await?;
        run.end().await;
        Ok(())
    }

    /// A new namespace.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn space(&self, purpose: &str) -> Outcome<Space> {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let space = Space {
            client: self.admin.clone(),
            author: self.author.clone(),
            namespace: format!("f{number}-{purpose}"),
        };
        space
            .apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", space.namespace))
            .await?;
        Ok(space)
    }

    /// Forgets a run.
    pub fn forget(&self, space: &Space) {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        audit.requests.remove(&space.namespace);
    }

    /// What the API server wrote down of the operator in that space.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit(&self, space: &Space) -> Outcome<Vec<AuditEvent>> {
        self.requests(space).map(|requests| requests.operator)
    }

    /// What the API server wrote down of everybody in that space.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests(&self, space: &Space) -> Outcome<Requests> {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        let Log { tail, requests } = &mut *audit;
        for event in tail.read().map_err(|error| error.to_string())? {
            let of_space = requests.entry(space_of(&event)).or_default();
            match event.user.username.as_str() {
                OPERATOR_USER if event.verb != "watch" => of_space.operator.push(event),
                AUTHOR if event.request_object.is_some() => of_space.authors.push(event),
                _ => {}
            }
        }
        Ok(requests.get(&space.namespace).cloned().unwrap_or_default())
    }

    /// What a scenario comes to when nothing goes wrong; it is run the first time.
    ///
    /// # Errors
    /// When it goes wrong all the same.
    pub async fn undisturbed(&self, scenario: &str) -> Outcome<Undisturbed> {
        let known = {
            let mut known = self.undisturbed.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(scenario.to_owned()).or_default().clone()
        };
        let run = async || {
            let report = run::run(self, &Plan::undisturbed(scenario), None, None).await;
            if let Some(violation) = report.violations.first() {
                return Err(format!("{scenario} goes wrong undisturbed: {violation}"));
            }
            let state = report.state.clone().ok_or("nothing was seen in the end")?;
            Ok(Undisturbed { state, writes: report.writes })
        };
        known.get_or_try_init(run).await.cloned()
    }

    /// Runs every scenario undisturbed, as many at a time as that.
    ///
    /// # Errors
    /// When one goes wrong all the same.
    pub async fn prepare(&self, width: usize) -> Outcome {
        let runs = stream::iter(scenario::all()).map(|(name, _)| self.undisturbed(name));
        runs.buffer_unordered(width).try_for_each(async |_| Ok(())).await
    }

    /// Runs plans, that many at a time, and last, one after the other, those that all the others would feel.
    pub fn run_all<'a>(&'a self, plans: &'a [Plan], width: usize) -> impl Stream<Item = Report> + 'a {
        let run = |shared| {
            let plans = plans.iter().filter(move |plan| plan.is_shared() == shared);
            stream::iter(plans).map(|plan| self.run(plan)).buffer_unordered(if shared { 1 } else { width })
        };
        run(false).chain(run(true))
    }

    /// Runs a plan and compares it with the undisturbed run.
    pub async fn run(&self, plan: &Plan) -> Report {
        match self.undisturbed(&plan.scenario).await {
            Ok(undisturbed) => run::run(self, plan, None, Some(&undisturbed)).await,
            Err(why) => Report::failed(plan, why),
        }
    }
}

/// The namespace of the run that a request was made in: its own, or that of the binding that it is about.
fn space_of(event: &AuditEvent) -> String {
    let object = event.object_ref.clone().unwrap_or_default();
    let in_body = event.request_object.as_ref().and_then(|body| body["metadata"]["name"].as_str());
    let name = if object.name.is_empty() { in_body.unwrap_or_default().to_owned() } else { object.name };
    let namespace = object.namespace;
    if namespace.is_empty() || namespace == ELSEWHERE {
        name.split('.').next().unwrap_or_default().to_owned()
    } else {
        namespace
    }
}
