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

use crate::rpc::status;

/// Octets of all requests together at most: a few of the greatest.
const OCTETS_MAX: usize = 24 << 20;

/// What requests of one kind of caller hold.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

/// What one request holds; gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    octets: AtomicUsize,
}

impl Share {
    pub(super) fn of(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), octets: AtomicUsize::new(0) })
    }

    /// Takes so many octets more, if there is room for them.
    fn take(&self, octets: usize) -> bool {
        let fits = |held: usize| held.checked_add(octets).filter(|sum| *sum <= OCTETS_MAX);
        let took = self.budget.0.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if took {
            self.octets.fetch_add(octets, Relaxed);
        }
        took
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(*self.octets.get_mut(), Relaxed);
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
        let budget = Arc::default();
        let (first, second) = (Share::of(&budget), Share::of(&budget));
        assert!(first.take(OCTETS_MAX - 1) && second.take(1));
        assert!(!second.take(1) && !second.take(usize::MAX));
        drop(first);
        assert!(second.take(OCTETS_MAX - 1));
        drop(second);
        assert_eq!(budget.0.load(Relaxed), 0);
    }
}
