//! One value follows the other, by the time alone, and the one before goes on until its end.

use super::{Held, Live, Plan, Step};
use crate::{
    api::{ApiTokenStatus, api_token::PreviousToken},
    controller::dress::Dress,
    domain::digest::Predecessor,
};

impl Live<'_> {
    /// The value before, as far as it goes on.
    pub(super) fn outlasting(&self, previous: Option<Predecessor>) -> Option<PreviousToken> {
        let Predecessor { serial, term, id, digest } = previous.filter(|_| self.term.is_some())?;
        let end = self.end_of(Some(term));
        let previous = PreviousToken { serial, term, token_id: id, digest, expires_at: end.into() };
        (end > self.now).then_some(previous)
    }

    /// The value of now, as far as it goes on beside its successor: not if it was sealed for others.
    pub(super) fn outlasting_now(&self) -> Option<PreviousToken> {
        let ApiTokenStatus { serial, term, token_id, digest, .. } = &self.status;
        let replaced = match (serial, term, token_id, digest) {
            (Some(serial), Some(term), Some(id), Some(digest)) => {
                Some(Predecessor { serial: *serial, term: *term, id: id.clone(), digest: digest.clone() })
            }
            _ => None,
        };
        self.outlasting(replaced.filter(|_| !self.is_for_others()))
    }

    /// The value is followed by that of the current term, however many were missed, and goes on until its end.
    pub(super) fn renew(mut self, held: Held, dress: Dress) -> Plan {
        self.status.previous = self.outlasting_now();
        let recipe = self.next_value(dress);
        self.issued(vec![Step::RenewSecret(recipe, held)])
    }
}
