//! The world that the demo and every end-to-end suite run in: hosts that are network namespaces, two sites of them,
//! an emulated link between the sites, and ordinary programs as workloads.
//!
//! Nothing outside of the process's own namespaces is touched, and nothing is left: a namespace lives as long as a
//! thread or a file descriptor of ours holds it, children get a death signal, files are in a temporary directory.
//!
//! It uses none of the other crates. What it knows of the mesh is what a user's network would know: nothing.
//!
//! The start of a program that uses it, before any thread exists:
//!
//! ```no_run
//! fn main() -> Result<(), isthmus_world::Error> {
//!     isthmus_world::child_entry();
//!     isthmus_world::privilege::enter()?;
//!     let world = isthmus_world::World::two_sites().build()?;
//!     println!("{}", world.host("web").address());
//!     Ok(())
//! }
//! ```

pub mod apps;
mod awake;
mod child;
mod clock;
mod command;
mod error;
pub mod find;
mod host;
pub mod lines;
pub mod link;
pub mod mesh;
mod net;
pub mod otlp;
mod output;
mod pair;
mod port;
pub mod privilege;
mod process;
mod site;
mod world;

pub use awake::Awake;
pub use child::child_entry;
pub use clock::monotonic_ns;
pub use command::Command;
pub use error::Error;
pub use host::{Host, Task};
pub use link::{Link, LinkShape, LinkStats};
pub use pair::Pair;
pub use port::Port;
pub use process::{Finished, Process};
pub use site::Site;
pub use world::{CLOUD, ON_PREM, World, WorldBuilder};
