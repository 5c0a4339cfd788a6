//! nf_tables' messages: a transaction's, and those that ask what is there (linux/netfilter/nf_tables.h, nfnetlink.h).

use isthmus_netlink::{Attributes, Malformed, flags, message};

use super::expression::{Expression, Fields, decode, encode, packets};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENERATION: u16 = 1;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const GET_GENERATION: u16 = 16;

/// NFPROTO_INET: IPv4 and IPv6 alike.
const INET: u8 = 1;
/// nfgenmsg: family, version, resource.
const HEADER: usize = 4;

const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMMENT: u16 = 7;

/// Nobody but the socket that made the table may change it (Linux 5.12).
pub(super) const OWNER: u32 = 2;
/// When the owner is gone the table stays, without one, until somebody takes it over (Linux 6.9).
pub(super) const PERSIST: u32 = 4;
/// What a packet meets that no rule decides: NF_ACCEPT.
const ACCEPT: u32 = 1;

/// Where a chain is called. All of ours let through what they do not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) flags: u32,
    /// The port of the socket that owns it.
    pub(super) owner: Option<u32>,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelChain {
    pub(super) name: String,
    /// Nothing where it is called in another way than any of ours.
    pub(super) hook: Option<Hook>,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelRule {
    pub(super) chain: String,
    pub(super) steps: Vec<Expression>,
    pub(super) comment: String,
    /// Packets that its counter has seen, where it has one.
    pub(super) packets: Option<u64>,
}

/// All or nothing; refused with ERESTART where others changed the rules since `generation`.
pub(super) struct Batch(Vec<Vec<u8>>);

impl Batch {
    pub(super) fn new(generation: u32) -> Batch {
        let begin = Attributes::new().number_be(BATCH_GENERATION, generation);
        Batch(vec![message(BATCH_BEGIN, flags::REQUEST, &batch_header(), &begin)])
    }

    pub(super) fn add_table(&mut self, table: &str, table_flags: u32) {
        let attributes = Attributes::new().text(1, table).number_be(2, table_flags);
        self.push(NEW_TABLE, flags::CREATE, &attributes);
    }

    pub(super) fn delete_table(&mut self, table: &str) {
        self.push(DELETE_TABLE, 0, &Attributes::new().text(1, table));
    }

    /// Changes nothing where it is there already.
    pub(super) fn add_chain(&mut self, table: &str, chain: &str, hook: &Hook) {
        let place = Attributes::new().number_be(1, hook.number).number_be(2, hook.priority.cast_unsigned());
        let attributes = Attributes::new().text(1, table).text(3, chain).nest(4, &place);
        self.push(NEW_CHAIN, flags::CREATE, &attributes.number_be(5, ACCEPT).text(7, hook.kind));
    }

    /// It must have no rules any more.
    pub(super) fn delete_chain(&mut self, table: &str, chain: &str) {
        self.push(DELETE_CHAIN, 0, &Attributes::new().text(1, table).text(3, chain));
    }

    pub(super) fn delete_rules(&mut self, table: &str, chain: &str) {
        self.push(DELETE_RULE, 0, &Attributes::new().text(1, table).text(2, chain));
    }

    pub(super) fn add_rule(&mut self, table: &str, chain: &str, steps: &[Expression], comment: &str) {
        let attributes = Attributes::new().text(1, table).text(2, chain).nest(RULE_EXPRESSIONS, &encode(steps));
        let attributes = attributes.bytes(RULE_COMMENT, &comment_bytes(comment));
        self.push(NEW_RULE, flags::CREATE | flags::APPEND, &attributes);
    }

    /// The messages of the transaction. The last change asks for an acknowledgement; errors come unasked.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if let Some(field) = self.0.last_mut().and_then(|last| last.get_mut(6..8)) {
            let asked = u16::from_ne_bytes([field[0], field[1]]) | flags::ACK;
            field.copy_from_slice(&asked.to_ne_bytes());
        }
        self.0.push(message(BATCH_END, flags::REQUEST, &batch_header(), &Attributes::new()));
        self.0
    }

    fn push(&mut self, kind: u16, more: u16, attributes: &Attributes) {
        self.0.push(message(SUBSYSTEM << 8 | kind, flags::REQUEST | more, &header(), attributes));
    }
}

/// Asks for the number that each change of any rule set makes larger.
pub(super) fn get_generation() -> Vec<u8> {
    message(SUBSYSTEM << 8 | GET_GENERATION, flags::REQUEST | flags::ACK, &header(), &Attributes::new())
}

pub(super) fn read_generation(payload: &[u8]) -> Result<Option<u32>, Malformed> {
    Ok(fields(payload)?.number(1))
}

/// Asks for a table; refused with ENOENT where there is none.
pub(super) fn get_table(table: &str) -> Vec<u8> {
    let name = Attributes::new().text(1, table);
    message(SUBSYSTEM << 8 | GET_TABLE, flags::REQUEST | flags::ACK, &header(), &name)
}

pub(super) fn read_table(payload: &[u8]) -> Result<Table, Malformed> {
    let fields = fields(payload)?;
    Ok(Table { flags: fields.number(2).unwrap_or(0), owner: fields.number(7) })
}

/// Asks for the chains of all tables.
pub(super) fn get_chains() -> Vec<u8> {
    message(SUBSYSTEM << 8 | GET_CHAIN, flags::REQUEST | flags::DUMP, &header(), &Attributes::new())
}

/// Nothing where it is of another table.
pub(super) fn read_chain(payload: &[u8], table: &str) -> Result<Option<KernelChain>, Malformed> {
    let fields = fields(payload)?;
    if fields.text(1) != table {
        return Ok(None);
    }
    let place = Fields::read(fields.get(4))?;
    let kind = ["nat", "filter"].into_iter().find(|kind| fields.text(7) == *kind);
    let hook = match (kind, place.number(1), place.number(2)) {
        (Some(kind), Some(number), Some(priority)) if fields.number(5) == Some(ACCEPT) => {
            Some(Hook { kind, number, priority: priority.cast_signed() })
        }
        _ => None,
    };
    Ok(Some(KernelChain { name: fields.text(3), hook }))
}

/// Asks for the rules of all chains of a table, in order.
pub(super) fn get_rules(table: &str) -> Vec<u8> {
    let name = Attributes::new().text(1, table);
    message(SUBSYSTEM << 8 | GET_RULE, flags::REQUEST | flags::DUMP, &header(), &name)
}

pub(super) fn read_rule(payload: &[u8]) -> Result<KernelRule, Malformed> {
    let fields = fields(payload)?;
    let steps = fields.get(RULE_EXPRESSIONS);
    let comment = comment_of(fields.get(RULE_COMMENT));
    Ok(KernelRule { chain: fields.text(2), steps: decode(steps)?, comment, packets: packets(steps)? })
}

fn fields(payload: &[u8]) -> Result<Fields<'_>, Malformed> {
    Fields::read(payload.get(HEADER..).unwrap_or_default())
}

fn header() -> [u8; HEADER] {
    [INET, 0, 0, 0]
}

/// For all families; the resource is the subsystem, in network byte order.
fn batch_header() -> [u8; HEADER] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

/// The table that a notification of a change is about.
pub(super) fn changed_table(kind: u16, payload: &[u8]) -> Option<String> {
    // Tables, chains and rules all name their table in their first attribute.
    let of_ours = kind >> 8 == SUBSYSTEM && (NEW_TABLE..=DELETE_RULE).contains(&(kind & 0xff));
    let inet = payload.first() == Some(&INET);
    if of_ours && inet { fields(payload).ok().map(|fields| fields.text(1)) } else { None }
}

fn comment_of(bytes: &[u8]) -> String {
    match bytes {
        [0, _, text @ ..] => String::from_utf8_lossy(text).trim_end_matches('\0').to_owned(),
        _ => String::new(),
    }
}

/// As `nft` keeps a comment: type 0, length, text with its NUL (libnftnl's udata). At most 128 bytes are shown.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let text: String = comment.chars().take(100).collect();
    let length = u8::try_from(text.len() + 1).unwrap_or(0);
    if length == 0 { Vec::new() } else { [&[0, length], text.as_bytes(), &[0]].concat() }
}
