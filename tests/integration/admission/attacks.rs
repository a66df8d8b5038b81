//! Who tries to gain rights by way of a credential is refused, told why, and let pass with the rights that it takes.

use std::sync::Arc;

use super::{deletion, each, grants, issue, limits, managed_secrets, others, secrets, stolen};
use crate::support::{Space, World};

crate::tests![
    roles_are_granted_by_who_may_bind_them,
    values_are_made_by_who_may_issue,
    secrets_are_named_by_who_may_read_them,
    statuses_are_written_and_tokens_minted_as_they_should,
    protected_credentials_are_deleted_on_purpose,
    policies_are_kept_to,
    stolen_controller_token_writes_only_what_the_operator_creates,
    controllers_and_everyone_else_write_as_before,
    marks_of_secrets_are_changed_by_controllers_only,
];

async fn roles_are_granted_by_who_may_bind_them(world: Arc<World>, _: Space) {
    each(world, grants::attacks()).await;
}

async fn values_are_made_by_who_may_issue(world: Arc<World>, _: Space) {
    each(world, issue::attacks()).await;
}

async fn secrets_are_named_by_who_may_read_them(world: Arc<World>, _: Space) {
    each(world, secrets::attacks()).await;
}

async fn statuses_are_written_and_tokens_minted_as_they_should(world: Arc<World>, _: Space) {
    each(world, others::attacks()).await;
}

async fn protected_credentials_are_deleted_on_purpose(world: Arc<World>, _: Space) {
    each(world, deletion::attacks()).await;
}

async fn policies_are_kept_to(world: Arc<World>, _: Space) {
    each(world, limits::attacks()).await;
}

async fn stolen_controller_token_writes_only_what_the_operator_creates(world: Arc<World>, _: Space) {
    each(world, stolen::attacks()).await;
}

async fn controllers_and_everyone_else_write_as_before(world: Arc<World>, _: Space) {
    each(world.clone(), stolen::allowed()).await;
    each(world, stolen::released()).await;
}

async fn marks_of_secrets_are_changed_by_controllers_only(world: Arc<World>, _: Space) {
    each(world.clone(), managed_secrets::attacks()).await;
    each(world, managed_secrets::allowed()).await;
}
