//! The bodies of answers: as they are, made up, or a watch that can freeze, break or expire.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use kube::client::DynBody;
use tokio::time::{Sleep, sleep};
use tower::BoxError;

/// How long a frozen watch shows nothing.
pub const FROZEN: Duration = Duration::from_secs(3);

/// What is to happen to a watch at its next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It comes late.
    Freeze,
    /// The connection ends instead.
    Break,
    /// It is 410 instead.
    Expire,
}

/// What is to happen to one watch. Shared by the wire, which decides, and the watch's answer.
pub type Awaited = Arc<Mutex<Option<Trouble>>>;

/// The body of an answer.
pub enum Body {
    /// As the API server sent it.
    Plain(Box<DynBody>),
    /// Made up by the wire.
    MadeUp(Option<Bytes>),
    /// A watch.
    Watch(Watch),
}

/// The events of a watch, on their way.
pub struct Watch {
    inner: Box<DynBody>,
    awaited: Awaited,
    /// Events that contain this are never shown: a deliberate mistake.
    unheard: Option<&'static str>,
    held: Option<Bytes>,
    frozen: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl Watch {
    /// A watch that fares as `awaited` says.
    pub fn new(inner: Box<DynBody>, awaited: Awaited, unheard: Option<&'static str>) -> Self {
        Self { inner, awaited, unheard, held: None, frozen: None, over: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(sleep) = &mut self.frozen {
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.frozen = None;
            }
            if let Some(held) = self.held.take() {
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
            let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            if let (Some(unheard), Some(shown)) = (self.unheard, frame.data_ref())
                && shown.windows(unheard.len()).any(|window| window == unheard.as_bytes())
            {
                continue;
            }
            match self.awaited.lock().unwrap_or_else(PoisonError::into_inner).take() {
                None => return Poll::Ready(Some(Ok(frame))),
                Some(Trouble::Freeze) => {
                    self.held = frame.into_data().ok();
                    self.frozen = Some(Box::pin(sleep(FROZEN)));
                }
                Some(Trouble::Break) => self.over = true,
                Some(Trouble::Expire) => {
                    self.over = true;
                    let gone = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("{gone}\n"))))));
                }
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_frame(cx),
            Self::MadeUp(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Watch(watch) => watch.poll(cx),
        }
    }
}
