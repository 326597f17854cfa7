//! Octets of requests that are in the daemon at a time, over all callers.
//!
//! A connection may have many requests and a request many octets, so what one caller may have is far more
//! than all may have together. Each request counts from its first octet until it is answered; one for which
//! there is no room is refused. Whoever may change anything has room of its own, so that nobody who may
//! only look takes an operator's.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::Role;
use crate::rpc::status;

/// Octets of all requests together at most, of callers who may not do everything: one of the greatest. What
/// is made of a request takes several times as much.
const OTHERS_MAX: usize = 5 << 20;

/// The same of those who may.
const MASTERS_MAX: usize = 32 << 20;

/// Room for requests.
#[derive(Debug)]
pub(super) struct Budgets {
    others: Arc<Budget>,
    masters: Arc<Budget>,
}

impl Default for Budgets {
    fn default() -> Self {
        let budget = |most| Arc::new(Budget { most, held: AtomicUsize::new(0) });
        Self { others: budget(OTHERS_MAX), masters: budget(MASTERS_MAX) }
    }
}

impl Budgets {
    /// What a request of a caller with this role holds: nothing yet.
    pub(super) fn share(&self, role: Role) -> Arc<Share> {
        let budget = if role < Role::Administer { &self.others } else { &self.masters };
        Arc::new(Share { budget: Arc::clone(budget), octets: AtomicUsize::new(0) })
    }
}

/// What requests of one kind of caller hold.
#[derive(Debug)]
struct Budget {
    most: usize,
    held: AtomicUsize,
}

/// What one request holds; gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    octets: AtomicUsize,
}

impl Share {
    /// Takes so many octets more, if there is room for them.
    fn take(&self, octets: usize) -> bool {
        let fits = |held: usize| held.checked_add(octets).filter(|sum| *sum <= self.budget.most);
        let took = self.budget.held.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if took {
            self.octets.fetch_add(octets, Relaxed);
        }
        took
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(*self.octets.get_mut(), Relaxed);
    }
}

/// A request's body that takes its share as it comes.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) body: Body,
    pub(super) share: Arc<Share>,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && !self.share.take(frame.data_ref().map_or(0, Bytes::len))
        {
            return Poll::Ready(Some(Err(status::too_much())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_comes_back() {
        let budgets = Budgets::default();
        let [first, second] = [Role::Read, Role::Operate].map(|role| budgets.share(role));
        assert!(first.take(OTHERS_MAX - 1) && second.take(1));
        assert!(!second.take(1) && !second.take(usize::MAX));
        assert!(budgets.share(Role::Administer).take(MASTERS_MAX), "operators have their own");
        drop(first);
        assert!(second.take(OTHERS_MAX - 1));
        drop(second);
        assert_eq!(budgets.others.held.load(Relaxed), 0);
        assert_eq!(budgets.masters.held.load(Relaxed), 0);
    }
}
