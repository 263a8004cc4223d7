//! DNS messages (RFC 1035, section 4): requests are read as far as we look at them, answers are
//! written. Nothing else is ever taken apart: what others answer is passed on as it is.

use super::Family;
use std::net::IpAddr;

/// Seconds for which an answer may be kept (contract, 2.8).
const TTL: u32 = 30;
const HEADER: usize = 12;
/// What any client takes by UDP (RFC 1035, section 2.3.4).
pub(super) const MIN_PAYLOAD: u16 = 512;
/// The longest message: over TCP its length has two bytes.
pub(super) const MAX_MESSAGE: usize = u16::MAX as usize;
/// The question's name, which follows the header, as a compressed name (RFC 1035, section 4.1.4).
const OF_QUESTION: u16 = 0xc000 | HEADER as u16;
const POINTER: u8 = 0xc0;
const MAX_NAME: usize = 255;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const IN: u16 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;
const RCODE: u16 = 0x000f;

/// EDNS flag: DNSSEC records are wanted (RFC 3225).
const DNSSEC_OK: u16 = 0x8000;

/// How a request ends (RFC 1035, section 4.1.1; RFC 6891, section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NotImp = 4,
    BadVers = 16,
}

/// A question with what its answer depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    bytes: &'a [u8],
    // Where the question ends.
    question: usize,
    edns: Option<Edns>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edns {
    payload: u16,
    version: u8,
    flags: u16,
}

/// Why a message is no request that we look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody can be told, or should be: it is an error message itself, and two who answer such
    /// would never end.
    Silent,
    /// This is told.
    Answer(Vec<u8>),
}

impl<'a> Request<'a> {
    /// Reads a message.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let flags = number(bytes, 2).filter(|_| bytes.len() >= HEADER).ok_or(Refusal::Silent)?;
        let refuse = |code: Rcode| Refusal::Answer(header(bytes, code as u16, [0; 4]));
        if flags & RESPONSE != 0 {
            return Err(if flags & RCODE != 0 { Refusal::Silent } else { refuse(Rcode::FormErr) });
        }
        if flags & OPCODE != 0 {
            return Err(refuse(Rcode::NotImp));
        }
        let request = Self::sections(bytes).ok_or_else(|| refuse(Rcode::FormErr))?;
        match request.edns {
            Some(edns) if edns.version != 0 => Err(Refusal::Answer(request.error(Rcode::BadVers))),
            Some(_) | None => Ok(request),
        }
    }

    fn sections(bytes: &'a [u8]) -> Option<Self> {
        let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(|at| number(bytes, at));
        if questions != Some(1) {
            return None;
        }
        let question = plain_name(bytes, HEADER)? + 4;
        bytes.get(..question)?;
        let mut at = question;
        for _ in 0..u32::from(answers?) + u32::from(authorities?) {
            at = record(bytes, at)?.end;
        }
        let mut edns = None;
        for _ in 0..additionals? {
            let Record { kind, class, ttl, is_root, end } = record(bytes, at)?;
            if kind == OPT {
                let [_, version, flags @ ..] = ttl.to_be_bytes();
                let found = Edns { payload: class.max(MIN_PAYLOAD), version, flags: u16::from_be_bytes(flags) };
                // There is only one, and it belongs to no name (RFC 6891, section 6.1.1).
                if !is_root || edns.replace(found).is_some() {
                    return None;
                }
            }
            at = end;
        }
        Some(Self { bytes, question, edns })
    }

    /// The whole message.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The question as it came: a name without compression, a type, a class.
    pub(super) fn question(&self) -> &'a [u8] {
        self.bytes.get(HEADER..self.question).unwrap_or_default()
    }

    /// What addresses are asked for; `None` for any other question.
    pub(super) fn family(&self) -> Option<Family> {
        match (self.kind(), number(self.bytes, self.question - 2)?) {
            (A, IN) => Some(Family::V4),
            (AAAA, IN) => Some(Family::V6),
            _ => None,
        }
    }

    /// The type that is asked for.
    pub(super) fn kind(&self) -> u16 {
        number(self.bytes, self.question - 4).unwrap_or_default()
    }

    /// The name in lower case, without a dot at its end; `None` where it is nothing that a host could
    /// be called, such as with dots inside of its labels.
    pub(super) fn name(&self) -> Option<String> {
        let mut labels = self.question();
        let mut name = String::with_capacity(labels.len());
        while let Some((length @ 1.., rest)) = labels.split_first().map(|(length, rest)| (usize::from(*length), rest)) {
            let (label, rest) = rest.split_at_checked(length)?;
            if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*')) {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
            labels = rest;
        }
        Some(name)
    }

    /// How long an answer by UDP may be.
    pub(super) fn payload(&self) -> usize {
        self.edns.map_or(MIN_PAYLOAD, |edns| edns.payload).into()
    }

    /// The answer without addresses: an error, or that there are none.
    pub(super) fn error(&self, code: Rcode) -> Vec<u8> {
        self.write(code as u16, 0, MAX_MESSAGE, |_| ())
    }

    /// What an answer becomes that is too long for the client, who asks again by TCP.
    pub(super) fn truncated(&self, answer: &[u8]) -> Vec<u8> {
        let kept = number(answer, 2).unwrap_or_default() & (AUTHORITATIVE | RCODE);
        self.write(kept & RCODE, kept & AUTHORITATIVE | TRUNCATED, MAX_MESSAGE, |_| ())
    }

    /// The answer with addresses, of which there may be none. Where they are those of an alias, that
    /// name is told as well. Longer than `limit` bytes, it is cut short and says so.
    pub(super) fn answer(&self, addresses: &[IpAddr], alias: Option<&str>, limit: usize) -> Vec<u8> {
        self.write(Rcode::NoError as u16, AUTHORITATIVE, limit, |out| {
            let mut owner = OF_QUESTION;
            if let Some(alias) = alias.filter(|_| !addresses.is_empty()) {
                match out.record(owner, CNAME, &wire_name(alias)) {
                    Some(data) => owner = 0xc000 | data,
                    None => return,
                }
            }
            for address in addresses {
                let written = match address {
                    IpAddr::V4(ip) => out.record(owner, A, &ip.octets()),
                    IpAddr::V6(ip) => out.record(owner, AAAA, &ip.octets()),
                };
                if written.is_none() {
                    return;
                }
            }
        })
    }

    fn write(&self, code: u16, flags: u16, limit: usize, records: impl FnOnce(&mut Answers)) -> Vec<u8> {
        let opt = self.edns.map(|edns| edns.answer(code));
        let room = limit - opt.as_ref().map_or(0, |opt| opt.len());
        let mut bytes = header(self.bytes, code & RCODE, [1, 0, 0, opt.is_some().into()]);
        bytes.extend_from_slice(self.question());
        let mut answers = Answers { bytes, room, count: 0, flags };
        records(&mut answers);
        let Answers { mut bytes, count, flags, .. } = answers;
        let flags = flags | number(&bytes, 2).unwrap_or_default();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes.extend(opt.iter().flatten());
        bytes
    }
}

impl Edns {
    /// The OPT record of the answer: what the client said of itself, and the upper bits of the code.
    fn answer(self, code: u16) -> [u8; 11] {
        let mut out = [0; 11];
        out[1..3].copy_from_slice(&OPT.to_be_bytes());
        out[3..5].copy_from_slice(&self.payload.to_be_bytes());
        out[5] = (code >> 4) as u8;
        out[7..9].copy_from_slice(&(self.flags & DNSSEC_OK).to_be_bytes());
        out
    }
}

/// A message that is being written: header, question, and answers as long as there is room.
struct Answers {
    bytes: Vec<u8>,
    room: usize,
    count: u16,
    flags: u16,
}

impl Answers {
    /// Where the data begins; `None` when there is no room, which the message then says.
    fn record(&mut self, owner: u16, kind: u16, data: &[u8]) -> Option<u16> {
        let at = self.bytes.len() + 12;
        if at + data.len() > self.room {
            self.flags |= TRUNCATED;
            return None;
        }
        for part in [owner, kind, IN] {
            self.bytes.extend(part.to_be_bytes());
        }
        self.bytes.extend(TTL.to_be_bytes());
        // Addresses and names: 255 bytes at most.
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        self.count += 1;
        u16::try_from(at).ok()
    }
}

/// Whether `answer` is one to this question, asked under `id`. What is no answer to it may be forged.
pub(super) fn answers(answer: &[u8], id: u16, question: &[u8]) -> bool {
    let is_response = number(answer, 2).is_some_and(|flags| flags & RESPONSE != 0);
    let (name, kind) = question.split_at(question.len().saturating_sub(4));
    let echoed = answer.get(HEADER..HEADER + question.len()).map(|echoed| echoed.split_at(name.len()));
    let is_same = echoed.is_some_and(|echoed| echoed.0.eq_ignore_ascii_case(name) && echoed.1 == kind);
    number(answer, 0) == Some(id) && is_response && number(answer, 4) == Some(1) && is_same
}

/// Whether `answer` says, of the request under `id`, no more than that it went wrong: some servers
/// leave the question out then.
pub(super) fn is_bare_error(answer: &[u8], id: u16) -> bool {
    let is_error = number(answer, 2).is_some_and(|flags| flags & RESPONSE != 0 && flags & RCODE != 0);
    answer.len() == HEADER && number(answer, 0) == Some(id) && is_error
}

/// The id of a message; of what is too short to have one, none.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// The id of a message.
pub(super) fn id(message: &[u8]) -> u16 {
    number(message, 0).unwrap_or_default()
}

/// How many records an answer has.
pub(super) fn answer_count(message: &[u8]) -> u16 {
    number(message, 6).unwrap_or_default()
}

/// The type's mnemonic in lower case; `unknown` for all that are rare.
pub(super) fn kind_name(kind: u16) -> &'static str {
    match kind {
        A => "a",
        2 => "ns",
        CNAME => "cname",
        6 => "soa",
        12 => "ptr",
        13 => "hinfo",
        15 => "mx",
        16 => "txt",
        AAAA => "aaaa",
        33 => "srv",
        35 => "naptr",
        43 => "ds",
        46 => "rrsig",
        47 => "nsec",
        48 => "dnskey",
        52 => "tlsa",
        64 => "svcb",
        65 => "https",
        252 => "axfr",
        255 => "any",
        257 => "caa",
        _ => "unknown",
    }
}

/// The header of an answer to `request`.
fn header(request: &[u8], code: u16, counts: [u16; 4]) -> Vec<u8> {
    let kept = number(request, 2).unwrap_or_default() & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
    let mut out = Vec::with_capacity(MIN_PAYLOAD.into());
    for part in [id(request), RESPONSE | kept | RECURSION_AVAILABLE | code].iter().chain(&counts) {
        out.extend(part.to_be_bytes());
    }
    out
}

struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    is_root: bool,
    end: usize,
}

/// The record at a place, apart from its name and data.
fn record(bytes: &[u8], at: usize) -> Option<Record> {
    let is_root = bytes.get(at) == Some(&0);
    let at = name(bytes, at)?;
    let [kind, class, high, low, length] = [0, 2, 4, 6, 8].map(|offset| number(bytes, at + offset));
    let end = at + 10 + usize::from(length?);
    bytes.get(..end)?;
    Some(Record { kind: kind?, class: class?, ttl: u32::from(high?) << 16 | u32::from(low?), is_root, end })
}

/// Where the name at a place ends. What it says does not matter, so pointers are not followed.
fn name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & POINTER == POINTER => return Some(at + 2),
            length if length & POINTER == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Where the name at a place ends, which has no pointers and is no longer than it may be.
fn plain_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *bytes.get(at)? {
            0 => return (at + 1 - start <= MAX_NAME).then_some(at + 1),
            length if length & POINTER == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// A host name on the wire.
fn wire_name(host: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(host.len() + 2);
    for label in host.split('.') {
        // It was part of a question: no label is longer than 63 bytes.
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
