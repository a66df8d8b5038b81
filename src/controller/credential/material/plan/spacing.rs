//! How often material is generated that takes long: by the CPU time that its type takes, whatever asks for it.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Decision, SourceSeen, Trouble};
use crate::{
    api::{Instant, Reason, credential::MaterialStatus},
    domain::material::cost,
};

impl Decision<'_> {
    /// Until when the next value has to wait, because one was generated, or requested for another wish, less than a period ago.
    pub(super) fn postponed_until(&self, replaced: Option<&MaterialStatus>) -> Option<Timestamp> {
        let options = self.seen.options.as_ref().ok()?;
        let period = self.period();
        if period.is_zero() {
            return None;
        }
        let wish = self.wish(&self.attestation(options, replaced, false).material);
        let requested_at = match &self.seen.generating {
            // It goes on, and is published when it is done.
            Some((requested, _)) if *requested == wish => return None,
            requested => requested.as_ref().map(|(_, at)| *at),
        };
        let last = replaced.unwrap_or(&self.before).issued_at.as_ref().map(Instant::timestamp);
        let last = last.and_then(Result::ok).into_iter().chain(requested_at).max()?;
        let until = last.checked_add(period).ok()?;
        // A clock that was set back must not hold it up for long.
        (until > self.now && until.duration_since(self.now) <= period).then_some(until)
    }

    pub(super) fn postponed(&self, until: Timestamp) -> Trouble {
        let message = format!(
            "The generation of new material is postponed until {until}: it takes long, and is done at most once every {:#} for a \
             Credential of this type and these options. Until then, what is published stays",
            self.period()
        );
        Trouble { reason: Reason::Pending, message, waits_for_others: false }
    }

    /// The shortest time between two values.
    fn period(&self) -> SignedDuration {
        let takes_time = match self.seen.source {
            SourceSeen::Unasked => self.kind.generated.is_some(),
            // A provided password is hashed.
            SourceSeen::Changed { .. } | SourceSeen::Published | SourceSeen::Missing => {
                self.kind.provided.publish.is_some()
            }
        };
        if takes_time { cost::shortest_period(&self.credential.spec) } else { SignedDuration::ZERO }
    }

    /// What material is generated for: whenever that is done, it is for the same wish.
    pub(super) fn wish(&self, material: &MaterialStatus) -> String {
        let uid = self.credential.metadata.uid.as_deref().unwrap_or_default();
        let version = match &self.seen.source {
            SourceSeen::Changed { version, .. } => version.as_str(),
            SourceSeen::Unasked | SourceSeen::Missing | SourceSeen::Published => "",
        };
        let timeless =
            MaterialStatus { issued_at: None, expires_at: None, previous: None, ..material.clone() };
        format!("{uid}/{version}/{}", json!(timeless))
    }
}
