//! How a server is spoken to by rustls: verified unless the user says otherwise.

use std::path::Path;
use std::sync::Arc;

use celeriac_error::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::TlsSettings;

/// How one server is spoken to.
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_hostname: Option<String>,
}

impl Tls {
    pub(crate) fn new(url: &str, settings: TlsSettings) -> Result<Self> {
        let config = config(&settings).map_err(|reason| Error::InvalidUrl { url: url.to_owned(), reason })?;
        Ok(Self { config: Arc::new(config), server_hostname: settings.server_hostname })
    }
}

fn config(settings: &TlsSettings) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let authorities = if settings.verify {
        let roots = Arc::new(roots(settings.ca_certs.as_deref())?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| format!("the authorities cannot be used: {error}"))?)
    } else {
        None
    };
    let verifier = Verifier {
        authorities,
        check_hostname: settings.check_hostname,
        schemes: provider.signature_verification_algorithms,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(certfile), Some(keyfile)) = (&settings.certfile, &settings.keyfile) else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(keyfile)
        .map_err(|error| format!("there is no private key in the file {}: {error}", keyfile.display()))?;
    builder
        .with_client_auth_cert(certificates(certfile)?, key)
        .map_err(|error| format!("the client's certificate cannot be used: {error}"))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = file.display();
    let wrong = |error| format!("there are no certificates in the file {name}: {error}");
    let all: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if all.is_empty() { Err(format!("there are no certificates in the file {name}")) } else { Ok(all) }
}

fn roots(ca_certs: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_certs {
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .map_err(|error| format!("the file {} has no usable certificate: {error}", file.display()))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "this system has no certificate authorities: name a file of them with ca_certs".to_owned()
            );
        }
    }
    Ok(roots)
}

/// Verifies as far as it is told to.
#[derive(Debug)]
struct Verifier {
    /// None where anybody is believed.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    check_hostname: bool,
    schemes: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_hostname => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}
