//! The address of the API server, and the credentials for it.

use std::path::{Path, PathBuf};

use heliograph_cni::fnv1a;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use tower::util::MapRequestLayer;

use super::ApiClient;
use super::error::chain;

/// The environment variables with the API server's address in a pod, and the files that can replace them.
const ENDPOINT: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// The address of the API server, and the credentials for it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The path of a kubeconfig. `None`: that of KUBECONFIG, or a pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// A folder with files `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, whose contents replace the pod's
    /// environment variables. Without the files the variables are used.
    pub endpoint: Option<PathBuf>,
}

impl Access {
    /// Returns a client for the API server, and its address.
    ///
    /// # Errors
    /// There is no valid configuration. The message has the remedy.
    pub async fn connect(&self) -> Result<(ApiClient, String), String> {
        let mut config = self.config().await.map_err(|error| {
            format!(
                "no API server is configured: {error}; set KUBECONFIG, or run as a pod with a ServiceAccount"
            )
        })?;
        // Callers retry themselves, and report each error.
        config.default_retry = false;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let client =
            client(config).map_err(|error| format!("can't make a client for {server}: {}", chain(&error)))?;
        Ok((ApiClient::new(client), server))
    }

    /// Returns the identity of the cluster, which is available without its API server, too: the hashes of its certificate
    /// authorities, of which a rotation replaces one after the other. Empty: it has none of its own.
    pub async fn cluster(&self) -> Vec<String> {
        let authorities = self.config().await.ok().and_then(|config| config.root_cert).unwrap_or_default();
        authorities.iter().map(|certificate| format!("{:016x}", fnv1a(certificate))).collect()
    }

    async fn config(&self) -> Result<kube::Config, String> {
        if let Some(path) = &self.kubeconfig {
            return from_file(path).await.map_err(|error| chain(&error));
        }
        let mut config = kube::Config::infer().await.map_err(|error| chain(&error))?;
        if let Some(address) = self.endpoint.as_deref().and_then(endpoint) {
            config.cluster_url =
                address.parse().map_err(|error| format!("{address} is no address: {error}"))?;
        }
        Ok(config)
    }
}

/// Returns a client. It reads a token that is in a file, as a pod's is, for each request. The kubelet replaces it long
/// before it expires; but after a 401 kube would send the old token for up to a minute more.
fn client(mut config: kube::Config) -> kube::Result<Client> {
    let Some(file) = config.auth_info.token_file.take() else { return Client::try_from(config) };
    let authorize = MapRequestLayer::new(move |mut request: Request<Body>| {
        if let Some(value) = authorization(Path::new(&file)) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&authorize).build())
}

/// Returns the header with the token in a file. Without it the API server answers 401, or 403 where it allows anonymous
/// requests; the error of the request has the remedy.
fn authorization(file: &Path) -> Option<HeaderValue> {
    let token = std::fs::read_to_string(file).ok()?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn from_file(path: &Path) -> Result<kube::Config, KubeconfigError> {
    kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// Returns the API server's address from the files of a folder, if they exist.
fn endpoint(folder: &Path) -> Option<String> {
    let [host, port] = ENDPOINT.map(|name| std::fs::read_to_string(folder.join(name)).ok());
    let (host, port) = (host?, port?);
    let (host, port) = (host.trim(), port.trim());
    let bare = host.contains(':') && !host.starts_with('[');
    Some(if bare { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_read_from_its_file_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for token in ["first", "second\n"] {
            std::fs::write(file.path(), token).unwrap();
            let header = authorization(file.path()).unwrap();
            assert_eq!(header.to_str().unwrap(), format!("Bearer {}", token.trim()));
            assert!(header.is_sensitive());
        }
        assert_eq!(authorization(Path::new("/nowhere")), None);
    }

    #[tokio::test]
    async fn certificate_authorities_identify_a_cluster() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let access = Access { kubeconfig: Some(file.path().into()), endpoint: None };
        assert_eq!(access.cluster().await, [""; 0]);
        let certificate =
            |octets: &str| format!("-----BEGIN CERTIFICATE-----\n{octets}\n-----END CERTIFICATE-----\n");
        let mut identities = Vec::new();
        for pem in [certificate("AAAA"), certificate("AAAA") + &certificate("BBBB"), certificate("BBBB")] {
            let authority = serde_json::json!(k8s_openapi::ByteString(pem.into_bytes()));
            let kubeconfig = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1",
                    "certificate-authority-data": authority}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
            std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
            identities.push(access.cluster().await);
        }
        assert_eq!(identities.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(identities[1], [identities[0].clone(), identities[2].clone()].concat());
    }

    #[test]
    fn the_address_is_read_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(endpoint(folder.path()), None);
        write(ENDPOINT[0], "fd00::1\n");
        assert_eq!(endpoint(folder.path()), None);
        write(ENDPOINT[1], "6443");
        assert_eq!(endpoint(folder.path()).as_deref(), Some("https://[fd00::1]:6443"));
        write(ENDPOINT[0], "api.example");
        assert_eq!(endpoint(folder.path()).as_deref(), Some("https://api.example:6443"));
    }
}
