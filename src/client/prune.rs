//! A streaming JSON filter that drops unneeded metadata of objects while a response arrives.
//!
//! Any user who can edit an object can fill its metadata up to the size limit of etcd (1.5 MB by default), so no response is
//! buffered as a whole: the items of a list are returned one at a time, and foreign metadata is dropped before it is
//! buffered. `metadata.managedFields` is always dropped: it can nest deeper than a parser allows and contain timestamps that
//! it rejects.

use serde::Deserialize;
use zeroize::Zeroizing;

/// The maximum number of bytes of one value in the metadata, except for annotations. The API server limits names to 253.
const VALUE: usize = 1024;
/// The maximum number of bytes of a key. The API server limits keys of labels and annotations to 317.
const KEY: usize = 512;
/// The number of subjects of a binding that are retained. A binding of the controller has one; a second one shows that it
/// was edited.
const SUBJECTS: usize = 2;
/// The metadata fields that are retained in addition to labels, annotations, finalizers and owner references.
const FIELDS: [&str; 9] = [
    "continue",
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "name",
    "namespace",
    "remainingItemCount",
    "resourceVersion",
    "uid",
];

/// Declares which labels, or which annotations, are retained.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// The keys that are always retained, each with the maximum number of bytes of its value. A longer value is replaced by
    /// the empty string.
    pub named: &'static [(&'static str, usize)],
    /// The prefix of the other keys that are retained; empty for all keys.
    pub prefix: &'static str,
    /// The maximum number of bytes of all other keys and values together. The first ones are retained.
    pub others: usize,
}

/// Declares which metadata of a kind is retained.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// The labels.
    pub labels: Keys,
    /// The annotations.
    pub annotations: Keys,
    /// The number of finalizers that are retained in addition to [`Keep::finalizer`].
    pub finalizers: usize,
    /// The finalizer that is retained at any position, once.
    pub finalizer: &'static str,
    /// The label that replaces all labels if they exceed the limit. `None`: the first labels are retained.
    pub truncated: Option<&'static str>,
}

/// The shape of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object.
    Object,
    /// A list of objects.
    List,
    /// A sequence of watch events.
    Events,
}

/// A complete document of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Document {
    /// An object or a watch event, and the number of bytes of the object before it was pruned.
    Item(Zeroizing<Vec<u8>>, usize),
    /// A list without its items.
    Envelope(Vec<u8>),
}

/// The response is not JSON of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response is not JSON of the expected shape")]
pub struct Malformed;

/// The position of a container in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    List,
    Items,
    Event,
    Object,
    Metadata,
    Labels,
    Annotations,
    Finalizers,
    References,
    Subjects,
}

/// A container that is being parsed.
#[derive(Debug)]
struct Frame {
    node: Node,
    is_array: bool,
    seen: usize,
    is_empty: bool,
    /// The offset of its content in the output.
    start: usize,
}

/// What happens to the value that is being parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The value is retained as a whole.
    Keep,
    /// The value is retained if it has at most this number of bytes, and replaced by an empty value otherwise.
    Within(usize),
    /// The value is dropped.
    Drop,
}

#[derive(Debug)]
enum State {
    /// A value is expected.
    Value,
    /// A key, or the end of the object.
    Key,
    /// In a key.
    KeyText { escaped: bool },
    /// The colon after a key.
    Colon,
    /// A comma, or the end of the container.
    Next,
    /// In a value that is retained or dropped as a whole.
    Whole { fate: Fate, start: usize, depth: usize, text: bool, escaped: bool },
}

/// A parser and filter of one response.
#[derive(Debug)]
pub struct Pruner {
    shape: Shape,
    keep: Keep,
    state: State,
    frames: Vec<Frame>,
    /// The key of the current value, with its quotation marks.
    key: Vec<u8>,
    out: Zeroizing<Vec<u8>>,
    /// The output of the list, while one of its items is parsed.
    envelope: Option<Zeroizing<Vec<u8>>>,
    /// The number of bytes that is left for labels and for annotations that are not in [`Keys::named`].
    left: [usize; 2],
    /// Whether labels of the current object were dropped.
    truncated: bool,
    /// The number of bytes before the current one.
    position: usize,
    /// The position at which the current object begins.
    began: usize,
    /// Whether [`Keep::finalizer`] was found in the current object.
    has_finalizer: bool,
    /// Whether the controlling owner reference was found in the current object.
    has_controller: bool,
}

impl Pruner {
    /// A parser for a response of this shape.
    #[must_use]
    pub fn new(shape: Shape, keep: Keep) -> Self {
        Self {
            shape,
            keep,
            state: State::Value,
            frames: Vec::new(),
            key: Vec::new(),
            out: Zeroizing::default(),
            envelope: None,
            left: [keep.labels.others, keep.annotations.others],
            truncated: false,
            position: 0,
            began: 0,
            has_finalizer: false,
            has_controller: false,
        }
    }

    /// Parses the next bytes and calls `found` with each document that ends in them.
    ///
    /// # Errors
    /// When the bytes are not JSON of the expected shape.
    pub fn feed(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Document)) -> Result<(), Malformed> {
        let end = self.position + bytes.len();
        while let Some((&byte, rest)) = bytes.split_first() {
            self.position = end - bytes.len();
            match &mut self.state {
                State::Whole { .. } => {
                    bytes = self.whole(bytes, found);
                    continue;
                }
                State::KeyText { escaped } => {
                    let ends = byte == b'"' && !*escaped;
                    *escaped = byte == b'\\' && !*escaped;
                    if self.key.len() <= KEY {
                        self.key.push(byte);
                    }
                    if ends {
                        self.state = State::Colon;
                    }
                }
                _ if byte.is_ascii_whitespace() => {}
                State::Value => {
                    // An array may end where its first value would be.
                    if byte == b']'
                        && self.frames.last().is_some_and(|frame| frame.is_array && frame.seen == 0)
                    {
                        self.close(found)?;
                    } else if !matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
                        return Err(Malformed);
                    } else if !self.open(byte) {
                        continue;
                    }
                }
                State::Key => match byte {
                    b'"' => {
                        self.key.clear();
                        self.key.push(byte);
                        self.state = State::KeyText { escaped: false };
                    }
                    b'}' => self.close(found)?,
                    _ => return Err(Malformed),
                },
                State::Colon if byte == b':' => self.state = State::Value,
                State::Next => match (byte, self.frames.last()) {
                    (b',', Some(frame)) => {
                        self.state = if frame.is_array { State::Value } else { State::Key };
                    }
                    (b'}' | b']', Some(_)) => self.close(found)?,
                    _ => return Err(Malformed),
                },
                State::Colon => return Err(Malformed),
            }
            bytes = rest;
        }
        self.position = end;
        Ok(())
    }

    /// Whether the last document is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.frames.is_empty() && !matches!(self.state, State::Whole { .. })
    }

    /// Begins the value that starts with this byte. Returns whether the byte was consumed.
    fn open(&mut self, byte: u8) -> bool {
        let Some((node, fate)) = self.place(byte) else {
            self.state = State::Whole {
                fate: Fate::Drop,
                start: self.out.len(),
                depth: 0,
                text: false,
                escaped: false,
            };
            return false;
        };
        if self.frames.last().is_some_and(|frame| frame.node == Node::Items) {
            self.envelope = Some(std::mem::take(&mut self.out));
        }
        let start = self.out.len();
        self.write_key();
        if let Some(node) = node {
            self.begin(node);
            self.out.push(byte);
            let start = self.out.len();
            self.frames.push(Frame { node, is_array: byte == b'[', seen: 0, is_empty: true, start });
            self.state = if byte == b'[' { State::Value } else { State::Key };
            return true;
        }
        self.state = State::Whole { fate, start, depth: 0, text: false, escaped: false };
        false
    }

    fn begin(&mut self, node: Node) {
        if node == Node::Object {
            self.left = [self.keep.labels.others, self.keep.annotations.others];
            self.truncated = false;
            self.began = self.position;
            self.has_finalizer = false;
            self.has_controller = false;
        }
    }

    /// Classifies the next value: a container that is parsed further, or a value that is copied. `None`: the value is
    /// dropped.
    fn place(&mut self, byte: u8) -> Option<(Option<Node>, Fate)> {
        let Some(frame) = self.frames.last() else {
            let root = match self.shape {
                Shape::Object => Node::Object,
                Shape::List => Node::List,
                Shape::Events => Node::Event,
            };
            return Some((Some(root).filter(|_| byte == b'{'), Fate::Keep));
        };
        if !frame.is_array && self.key.len() > KEY {
            return None;
        }
        let key = self.key.get(1..self.key.len().saturating_sub(1)).unwrap_or_default();
        let child =
            |node, opens| if byte == opens { (Some(node), Fate::Keep) } else { (None, Fate::Within(VALUE)) };
        match frame.node {
            Node::List if key == b"items" => Some(child(Node::Items, b'[')),
            Node::Items => (byte == b'{').then_some((Some(Node::Object), Fate::Keep)),
            Node::Event if key == b"object" => Some(child(Node::Object, b'{')),
            Node::Object if key == b"metadata" => Some(child(Node::Metadata, b'{')),
            Node::Object if key == b"subjects" => Some(child(Node::Subjects, b'[')),
            // The API server does not bound the name of a role.
            Node::Object if key == b"roleRef" => Some((None, Fate::Within(VALUE))),
            Node::List | Node::Event | Node::Object => Some((None, Fate::Keep)),
            Node::Metadata => match key {
                b"labels" => Some(child(Node::Labels, b'{')),
                b"annotations" => Some(child(Node::Annotations, b'{')),
                b"finalizers" => Some(child(Node::Finalizers, b'[')),
                b"ownerReferences" => Some(child(Node::References, b'[')),
                key => {
                    let is_kept = FIELDS.iter().any(|field| field.as_bytes() == key);
                    is_kept.then_some((None, Fate::Within(VALUE)))
                }
            },
            Node::Labels => self.keep.labels.fate(key, self.left[0]),
            Node::Annotations => self.keep.annotations.fate(key, self.left[1]),
            Node::Finalizers | Node::References | Node::Subjects => Some((None, Fate::Within(VALUE))),
        }
    }

    fn write_key(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        if frame.node == Node::Items {
            return;
        }
        if !std::mem::replace(&mut frame.is_empty, false) {
            self.out.push(b',');
        }
        if !frame.is_array {
            self.out.extend_from_slice(&self.key);
            self.out.push(b':');
        }
    }

    /// Consumes the bytes of a value that is retained or dropped as a whole, and returns the bytes after it.
    fn whole<'b>(&mut self, bytes: &'b [u8], found: &mut impl FnMut(Document)) -> &'b [u8] {
        let State::Whole { fate, start, depth, text, escaped } = &mut self.state else { return bytes };
        let mut end = bytes.len();
        let mut ended = false;
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if *text {
                if *escaped {
                    *escaped = false;
                } else if byte == b'\\' {
                    *escaped = true;
                } else if byte == b'"' {
                    *text = false;
                    ended = *depth == 0;
                } else {
                    // Only these two bytes are special in a string, so skip to the next one.
                    let run = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'));
                    at += run.unwrap_or(bytes.len() - at);
                    continue;
                }
            } else {
                match byte {
                    b'"' => *text = true,
                    b'{' | b'[' => *depth += 1,
                    // A number, true, false or null ends at the next delimiter.
                    b',' | b'}' | b']' if *depth == 0 => {
                        end = at;
                        ended = true;
                        break;
                    }
                    b'}' | b']' => {
                        *depth -= 1;
                        ended = *depth == 0;
                    }
                    _ => {}
                }
            }
            at += 1;
            if ended {
                end = at;
                break;
            }
        }
        let room = match fate {
            Fate::Keep => usize::MAX,
            // Includes key and comma. A value that exceeds the limit is replaced in `settle`.
            Fate::Within(limit) => {
                start.saturating_add(*limit).saturating_add(2 * KEY).saturating_sub(self.out.len())
            }
            Fate::Drop => 0,
        };
        self.out.extend_from_slice(&bytes[..end.min(room)]);
        if ended {
            let (fate, start) = (*fate, *start);
            self.settle(fate, start);
            self.after(found);
        }
        &bytes[end..]
    }

    /// Completes a value that is copied as a whole: replaces it by an empty value if it is too large, and removes it if a
    /// limit on the number of values is reached.
    fn settle(&mut self, fate: Fate, start: usize) {
        let Some(frame) = self.frames.last_mut() else { return };
        frame.seen += 1;
        if fate == Fate::Drop {
            self.truncated |= frame.node == Node::Labels;
            return;
        }
        let comma = usize::from(self.out.get(start) == Some(&b','));
        let name = if frame.is_array { 0 } else { self.key.len() + 1 };
        let value = start + comma + name;
        let fits = !matches!(fate, Fate::Within(limit) if self.out.len() - value > limit);
        if !fits {
            let empty: &[u8] = match self.out[value] {
                b'{' => b"{}",
                b'[' => b"[]",
                b'"' => b"\"\"",
                _ => b"null",
            };
            self.out.truncate(value);
            self.out.extend_from_slice(empty);
        }
        let text = &self.out[value..];
        let is_kept = match frame.node {
            Node::Finalizers => {
                let is_ours = text.get(1..text.len() - 1) == Some(self.keep.finalizer.as_bytes());
                let is_first = is_ours && !std::mem::replace(&mut self.has_finalizer, true);
                is_first || frame.seen <= self.keep.finalizers
            }
            // The API server allows one controlling owner reference per object. The others are not needed.
            Node::References => is_controller(text) && !std::mem::replace(&mut self.has_controller, true),
            Node::Subjects => frame.seen <= SUBJECTS,
            Node::Labels => {
                let kept =
                    self.keep.labels.has_room(&self.key, fits, self.out.len() - start, &mut self.left[0]);
                self.truncated |= !kept;
                kept
            }
            Node::Annotations => {
                self.keep.annotations.has_room(&self.key, fits, self.out.len() - start, &mut self.left[1])
            }
            Node::List | Node::Items | Node::Event | Node::Object | Node::Metadata => true,
        };
        if !is_kept {
            self.out.truncate(start);
            frame.is_empty = comma == 0;
        }
    }

    /// Ends the current container.
    fn close(&mut self, found: &mut impl FnMut(Document)) -> Result<(), Malformed> {
        let frame = self.frames.pop().ok_or(Malformed)?;
        if frame.node == Node::Labels
            && self.truncated
            && let Some(label) = self.keep.truncated
        {
            self.out.truncate(frame.start);
            self.out.extend_from_slice(format!("\"{label}\":\"\"").as_bytes());
        }
        self.out.push(if frame.is_array { b']' } else { b'}' });
        if let Some(parent) = self.frames.last_mut() {
            parent.seen += 1;
        }
        self.after(found);
        Ok(())
    }

    /// Continues after a complete value, and calls `found` if the value was a document.
    fn after(&mut self, found: &mut impl FnMut(Document)) {
        self.state = State::Next;
        match self.frames.last() {
            Some(frame) if frame.node == Node::Items => {
                // There is no envelope if the item is not an object.
                if let Some(envelope) = self.envelope.take() {
                    let size = self.position - self.began;
                    found(Document::Item(std::mem::replace(&mut self.out, envelope), size));
                }
            }
            Some(_) => {}
            None => {
                let document = std::mem::take(&mut self.out);
                self.state = State::Value;
                found(match self.shape {
                    Shape::List => Document::Envelope(document.to_vec()),
                    Shape::Object | Shape::Events => Document::Item(document, self.position - self.began),
                });
            }
        }
    }
}

impl Keys {
    /// The maximum number of bytes of the value of a key in [`Keys::named`].
    fn limit(&self, key: &[u8]) -> Option<usize> {
        self.named.iter().find(|(named, _)| named.as_bytes() == key).map(|(_, limit)| *limit)
    }

    /// Whether the value of this key is retained, if `left` bytes remain for keys that are not in [`Keys::named`].
    fn fate(&self, key: &[u8], left: usize) -> Option<(Option<Node>, Fate)> {
        if let Some(limit) = self.limit(key) {
            return Some((None, Fate::Within(limit)));
        }
        let may_fit = left > key.len() && key.starts_with(self.prefix.as_bytes());
        may_fit.then_some((None, Fate::Within(left)))
    }

    /// Whether the value of this key is retained. `key` includes its quotation marks.
    fn has_room(&self, key: &[u8], fits: bool, size: usize, left: &mut usize) -> bool {
        if self.limit(&key[1..key.len() - 1]).is_some() {
            return true;
        }
        let has_room = fits && size <= *left;
        *left = if has_room { *left - size } else { 0 };
        has_room
    }
}

/// Whether an owner reference has `controller: true`.
fn is_controller(reference: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Reference {
        controller: bool,
    }

    serde_json::from_slice::<Reference>(reference).is_ok_and(|reference| reference.controller)
}

#[cfg(test)]
mod tests;
