//! What is open counts as closed when its guard is dropped, however its task ended. Opened and closed are counted apart, on
//! the worker that took it up: neither counter ever goes down.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cells::Cell;
use super::metrics::{Direction, MeshSide};

/// An app connection that is open for as long as this lives.
#[derive(Debug)]
pub struct OpenConnection {
    cell: Arc<Cell>,
    direction: Direction,
}

impl OpenConnection {
    pub(super) fn new(cell: &Arc<Cell>, direction: Direction) -> OpenConnection {
        cell.opened[direction as usize].fetch_add(1, Relaxed);
        OpenConnection { cell: cell.clone(), direction }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.cell.closed[self.direction as usize].fetch_add(1, Relaxed);
    }
}

#[derive(Debug, Clone, Copy)]
enum Counted {
    Connection,
    Stream,
}

/// A mesh connection, or a stream on one, that is open for as long as this lives.
#[derive(Debug)]
pub struct OpenStream {
    cell: Arc<Cell>,
    side: MeshSide,
    of: Counted,
}

impl OpenStream {
    pub(super) fn connection(cell: &Arc<Cell>, side: MeshSide) -> OpenStream {
        cell.mesh_opened[side as usize].fetch_add(1, Relaxed);
        OpenStream { cell: cell.clone(), side, of: Counted::Connection }
    }

    pub(super) fn stream(cell: &Arc<Cell>, side: MeshSide) -> OpenStream {
        cell.streams_opened[side as usize].fetch_add(1, Relaxed);
        OpenStream { cell: cell.clone(), side, of: Counted::Stream }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let closed = match self.of {
            Counted::Connection => &self.cell.mesh_closed,
            Counted::Stream => &self.cell.streams_closed,
        };
        closed[self.side as usize].fetch_add(1, Relaxed);
    }
}
