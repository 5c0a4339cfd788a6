//! A TCP relay that can be cut: what is on its way is dropped with RST, and nobody comes through until it is mended.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One port that leads to another.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// # Errors
    /// When no port can be had.
    pub fn to(to: SocketAddr) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (cut, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { to, cut, over, open: Mutex::default() });
        let accepting = shared.clone();
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || accept(&listener, &accepting))?;
        Ok(Relay { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends what is open, and everything that comes.
    pub fn cut(&self) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.cut.store(true, Ordering::SeqCst);
        for stream in open.drain(..) {
            // Closed by the other end already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        // The one who waits in accept() looks up.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(near) = stream else { continue };
        if shared.cut.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(far) = TcpStream::connect(shared.to) else { continue };
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
        {
            let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
            // It came while the relay was cut: nobody would end it any more.
            if shared.cut.load(Ordering::SeqCst) {
                continue;
            }
            open.extend([near.try_clone(), far.try_clone()].into_iter().flatten());
        }
        std::thread::spawn(move || carry(near, far_too));
        std::thread::spawn(move || carry(far, near_too));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Already closed is as good.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
