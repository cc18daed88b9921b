//! Clients of the server that a URL names.

use std::path::Path;
use std::time::Duration;

use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates,
};
use celeriac_error::{Error, Result};

use super::{RedisAddress, RedisUrl};
use crate::tls::TlsSettings;

/// How long what was sent over TCP may be unconfirmed before the connection counts as lost.
pub(super) const UNHEARD_OF: Duration = Duration::from_secs(30);

/// How long nothing passes before the other side is asked whether it is there (`redis_socket_keepalive`). With the
/// repetitions this takes as long as [`UNHEARD_OF`].
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How often it is asked again. Where this cannot be set, the system decides.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How many times it is asked.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
const KEEPALIVE_RETRIES: u32 = 3;

impl RedisUrl {
    /// A client for this server and database. Nothing is connected yet; the files that TLS needs are read.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the TLS option whose file cannot be used.
    pub fn client(&self) -> Result<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.database)
            .set_lib_name("celeriac", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let tls = match &self.address {
            RedisAddress::Tcp { tls, .. } => tls.as_ref(),
            RedisAddress::Socket(_) => None,
        };
        let address = match &self.address {
            RedisAddress::Tcp { host, port, tls: None } => ConnectionAddr::Tcp(host.clone(), *port),
            RedisAddress::Tcp { host, port, tls: Some(tls) } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: !tls.verify,
                tls_params: None,
            },
            RedisAddress::Socket(path) => ConnectionAddr::Unix(path.clone()),
        };
        let invalid =
            |error: RedisError| Error::InvalidUrl { url: self.masked.clone(), reason: error.to_string() };
        let mut info = address
            .into_connection_info()
            .map_err(invalid)?
            .set_redis_settings(settings)
            .set_tcp_settings(tcp_settings());
        let Some(tls) = tls else { return Client::open(info).map_err(invalid) };
        // rustls panics when it is used without one; another part of the process may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if tls.ca_certs.is_some() || tls.certfile.is_some() {
            let unusable = |error: RedisError| Error::InvalidArgument {
                what: "ssl_ca_certs, ssl_certfile, ssl_keyfile".to_owned(),
                reason: error.to_string(),
            };
            let client = Client::build_with_tls(info, certificates(tls)?).map_err(unusable)?;
            info = client.get_connection_info().clone();
        }
        if !tls.check_hostname {
            let mut address = info.addr().clone();
            address.set_danger_accept_invalid_hostnames(true);
            info = info.set_addr(address);
        }
        Client::open(info).map_err(invalid)
    }
}

/// So that a peer that has gone without a word is noticed by the kernel, also while nobody calls.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    // What is written is complete: nothing is gained by waiting for more of it.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let settings = settings.set_user_timeout(UNHEARD_OF);
    settings
}

fn certificates(tls: &TlsSettings) -> Result<TlsCertificates> {
    let read = |what: &str, path: &Path| {
        std::fs::read(path).map_err(|error| Error::InvalidArgument {
            what: what.to_owned(),
            reason: format!("cannot read {}: {error}", path.display()),
        })
    };
    let root_cert = tls.ca_certs.as_ref().map(|path| read("ssl_ca_certs", path)).transpose()?;
    let client_tls = match &tls.certfile {
        None => None,
        Some(certfile) => Some(ClientTlsConfig {
            client_cert: read("ssl_certfile", certfile)?,
            client_key: read("ssl_keyfile", tls.keyfile.as_ref().unwrap_or(certfile))?,
        }),
    };
    Ok(TlsCertificates { client_tls, root_cert })
}
