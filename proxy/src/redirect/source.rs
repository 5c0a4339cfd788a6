//! The way back from an app that sees its caller's address (`sourceAddress: preserve`).
//!
//! The proxy dials the app from the caller's address (IP_TRANSPARENT), so the app answers to an address that is not on
//! this host. Its packets must come back to the proxy's socket and not leave by the wire. The proxy's socket carries a
//! mark, conntrack keeps it for the connection (one rule), packets in the reply direction get it back (another), and a
//! routing rule sends what bears it to a table in which every address is local. All of it goes when this value is
//! dropped. Where the process is killed, the kernel takes the rules away with the socket that owns them; the routing
//! rules stay, and a mark that no socket uses any more matches nothing.

use std::io;

use isthmus_netlink::{Attributes, Family, NetlinkError, Socket, flags, message};

/// On the proxy's sockets that speak from a caller's address, and on what comes back to them.
pub const SOURCE_MARK: u32 = 0x4953_0001;
/// The routing table, and the priority of the rule that leads to it: before the main table's 32766.
const ROUTES: u32 = 15_006;
const PRIORITY: u32 = 15_006;
const TABLE: &str = "isthmus_source";

const CHANGE: u16 = flags::REQUEST | flags::ACK;
const MAKE: u16 = CHANGE | flags::CREATE | flags::EXCLUSIVE;
const EEXIST: i32 = 17;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LOOPBACK_INDEX: u32 = 1;

/// In force for as long as this lives.
#[derive(Debug)]
pub struct SourceRouting {
    routes: Socket,
    /// Owns the rules.
    rules: Socket,
    families: Vec<u8>,
}

impl SourceRouting {
    /// Puts the rules in force in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's; EPERM without CAP_NET_ADMIN.
    pub fn open() -> Result<SourceRouting, NetlinkError> {
        let mut rules = Socket::open(Family::Netfilter)?;
        let mut routes = Socket::open(Family::Route)?;
        rules.transaction(&marking())?;
        let mut families = Vec::new();
        for family in [AF_INET, AF_INET6] {
            match add_routing(&mut routes, family) {
                Ok(()) => families.push(family),
                // A host without IPv6.
                Err(_) if family == AF_INET6 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(SourceRouting { routes, rules, families })
    }
}

impl Drop for SourceRouting {
    fn drop(&mut self) {
        // Best effort: the kernel takes the rules away as well, once no child of a fork has the socket any more, and what
        // stays of the routes leads packets with our mark only.
        let _ = self.rules.transaction(&unmarking());
        for family in &self.families {
            let _ = self.routes.change(rule(DELETE_RULE, CHANGE, *family));
            let _ = self.routes.change(route(DELETE_ROUTE, CHANGE, *family));
        }
    }
}

fn add_routing(routes: &mut Socket, family: u8) -> Result<(), NetlinkError> {
    for change in [route(NEW_ROUTE, MAKE, family), rule(NEW_RULE, MAKE, family)] {
        match routes.change(change) {
            Err(error) if error.errno() == Some(EEXIST) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;

/// `local default dev lo table 15006` (linux/rtnetlink.h, rtmsg).
fn route(kind: u16, change: u16, family: u8) -> Vec<u8> {
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    let fixed = [family, 0, 0, 0, 0, PROTOCOL_STATIC, SCOPE_HOST, LOCAL, 0, 0, 0, 0];
    message(kind, change, &fixed, &Attributes::new().number(4, LOOPBACK_INDEX).number(15, ROUTES))
}

/// `fwmark 0x49530001 lookup 15006` (linux/fib_rules.h).
fn rule(kind: u16, change: u16, family: u8) -> Vec<u8> {
    const TO_TABLE: u8 = 1;
    let fixed = [family, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let attributes = Attributes::new().number(6, PRIORITY).number(10, SOURCE_MARK).number(16, u32::MAX);
    message(kind, change, &fixed, &attributes.number(15, ROUTES))
}

const NF_TABLES: u16 = 10;
const REGISTER: u32 = 1;

/// nfgenmsg: family (NFPROTO_INET), version, resource.
const INET: [u8; 4] = [1, 0, 0, 0];

fn nf(kind: u16, more: u16, attributes: &Attributes) -> Vec<u8> {
    message(NF_TABLES << 8 | kind, flags::REQUEST | more, &INET, attributes)
}

/// NFNL_MSG_BATCH_BEGIN or _END.
fn batch(kind: u16) -> Vec<u8> {
    message(kind, flags::REQUEST, &[0, 0, 0, 10], &Attributes::new())
}

/// One transaction: the table, and with it all that is in it.
fn unmarking() -> Vec<Vec<u8>> {
    const DELETE_TABLE: u16 = 2;
    vec![batch(0x10), nf(DELETE_TABLE, flags::ACK, &Attributes::new().text(1, TABLE)), batch(0x11)]
}

/// One transaction: the table (again, from nothing), its chain, two rules.
fn marking() -> Vec<Vec<u8>> {
    const OWNER: u32 = 2;
    const LOCAL_OUT: u32 = 3;
    // After conntrack (-200), where `mangle` sits; a mark that changes here makes the kernel look the route up again.
    const MANGLE: i32 = -150;
    const ACCEPT: u32 = 1;
    let hook = Attributes::new().number_be(1, LOCAL_OUT).number_be(2, MANGLE.cast_unsigned());
    let table = Attributes::new().text(1, TABLE).number_be(2, OWNER);
    let chain = Attributes::new().text(1, TABLE).text(3, "replies").nest(4, &hook);
    let chain = chain.number_be(5, ACCEPT).text(7, "route");
    let rule = |steps: &[Attributes]| {
        let list = steps.iter().fold(Attributes::new(), |list, step| list.nest(1, step));
        Attributes::new().text(1, TABLE).text(2, "replies").nest(4, &list)
    };
    let mark = SOURCE_MARK.to_ne_bytes();
    // meta mark M ct mark set M
    let keep = rule(&[meta_load(), equal(&mark), load(&mark), ct_set_mark()]);
    // ct direction reply ct mark M meta mark set M
    let give_back =
        rule(&[ct_load(CT_DIRECTION), equal(&[1]), ct_load(CT_MARK), equal(&mark), load(&mark), meta_set_mark()]);
    vec![
        batch(0x10),
        nf(0, flags::CREATE, &table),
        nf(3, flags::CREATE, &chain),
        nf(6, flags::CREATE | flags::APPEND, &keep),
        nf(6, flags::CREATE | flags::APPEND | flags::ACK, &give_back),
        batch(0x11),
    ]
}

const META_MARK: u32 = 3;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;

fn step(name: &str, data: &Attributes) -> Attributes {
    Attributes::new().text(1, name).nest(2, data)
}

fn meta_load() -> Attributes {
    step("meta", &Attributes::new().number_be(1, REGISTER).number_be(2, META_MARK))
}

fn meta_set_mark() -> Attributes {
    step("meta", &Attributes::new().number_be(2, META_MARK).number_be(3, REGISTER))
}

fn ct_load(key: u32) -> Attributes {
    step("ct", &Attributes::new().number_be(1, REGISTER).number_be(2, key))
}

fn ct_set_mark() -> Attributes {
    step("ct", &Attributes::new().number_be(2, CT_MARK).number_be(4, REGISTER))
}

fn equal(bytes: &[u8]) -> Attributes {
    let value = Attributes::new().bytes(1, bytes);
    step("cmp", &Attributes::new().number_be(1, REGISTER).number_be(2, 0).nest(3, &value))
}

fn load(bytes: &[u8]) -> Attributes {
    step("immediate", &Attributes::new().number_be(1, REGISTER).nest(2, &Attributes::new().bytes(1, bytes)))
}

impl SourceRouting {
    /// Whether this process may bind to an address that is not on this host.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN or CAP_NET_RAW.
    pub fn permitted() -> io::Result<()> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_ip_transparent_v4(true)?;
        socket.set_mark(SOURCE_MARK)
    }
}
