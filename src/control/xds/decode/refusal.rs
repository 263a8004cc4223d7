//! Why a resource is refused, with the place in its message.

use std::fmt;

/// How much of a text a reason repeats.
const MAX_QUOTED: usize = 256;

/// What is wrong, and with which field.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    field: String,
    message: String,
}

impl Refusal {
    /// Something wrong with a field, or with the whole message where that is empty.
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same, seen from the message that has the field inside `field`.
    pub(super) fn within(mut self, field: impl fmt::Display) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{field}{dot}{}", self.field);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// A text as reasons repeat it: whoever sent it may have sent a very long one.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Decodes all items of a field.
pub(super) fn each<T, U>(field: &str, items: &[T], mut decode: impl FnMut(&T) -> Result<U, Refusal>) -> Result<Vec<U>, Refusal> {
    let decode = |(i, item)| decode(item).map_err(|refusal| refusal.within(format_args!("{field}[{i}]")));
    items.iter().enumerate().map(decode).collect()
}

/// A value of an enumeration.
pub(super) fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Refusal> {
    E::try_from(value).map_err(|_| Refusal::new(field, format!("{value} is no value that is known")))
}

/// Text that must be there.
pub(super) fn required(field: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() { Err(Refusal::new(field, "must not be empty")) } else { Ok(()) }
}

/// A number of a port, or 0, the meaning of which is for the caller.
pub(super) fn port_or_none(field: &str, port: u32) -> Result<u16, Refusal> {
    u16::try_from(port).map_err(|_| Refusal::new(field, format!("{port} is not a port between 1 and 65535")))
}

/// A port.
pub(super) fn port(field: &str, port: u32) -> Result<u16, Refusal> {
    if port == 0 {
        return Err(Refusal::new(field, "port 0 is none"));
    }
    port_or_none(field, port)
}

/// Holds the name under which a resource came against its key.
pub(super) fn named(name: &str, is_key: bool, key: impl fmt::Display) -> Result<(), Refusal> {
    if name.is_empty() || is_key {
        return Ok(());
    }
    let message = format!("the resource is named {}, but what is in it is {}", quoted(name), quoted(&key.to_string()));
    Err(Refusal::new("", message))
}
