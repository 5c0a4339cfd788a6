//! Messages to bytes and back, with small buffers: of every open stream the library keeps one buffer in each direction, as
//! large as what was sent at once, for as long as the stream is open. A control plane has a stream per proxy, idle nearly
//! all of the time.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// To begin with; a larger message makes it larger.
const BUFFER: usize = 512;
/// Small messages that are ready together leave together, up to this.
const TOGETHER: usize = 1 << 10;

/// What the generated clients and servers use.
#[derive(Debug)]
pub struct Lean<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Lean<T, U> {
    fn default() -> Self {
        Lean(PhantomData)
    }
}

impl<T, U> Codec for Lean<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }
}
