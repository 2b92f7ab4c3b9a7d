//! How a broker is reached: by scheme, from the socket up.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[cfg(any(feature = "tls", feature = "ws"))]
use crate::address::Scheme;
use crate::config::ClientConfig;
use crate::error::Error;

/// Whatever carries the bytes. Dynamic dispatch costs one call a batch.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to the address of `config`. The caller bounds the time.
pub(crate) async fn dial(config: &ClientConfig) -> Result<Box<dyn Io>, Error> {
    let address = &config.address;
    address.check_supported()?;
    let unreachable = |source| Error::Unreachable { address: address.clone(), source: Arc::new(source) };
    #[cfg_attr(not(any(feature = "tls", feature = "ws")), expect(unused_mut, reason = "nothing goes around it then"))]
    let mut io: Box<dyn Io> = Box::new(connect(address.host(), address.port()).await.map_err(unreachable)?);
    #[cfg(feature = "tls")]
    if matches!(address.scheme(), Scheme::Tls | Scheme::Wss) {
        io = Box::new(crate::tls::connect(config, io).await?);
    }
    #[cfg(feature = "ws")]
    if matches!(address.scheme(), Scheme::Ws | Scheme::Wss) {
        io = Box::new(crate::web_socket::connect(config, io).await?);
    }
    Ok(io)
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((host, port)).await?;
    // Lines are batched here already; Nagle's algorithm would only hold the last one back.
    socket.set_nodelay(true)?;
    Ok(socket)
}
