//! Where the API server is, and who we are to it.

use std::path::{Path, PathBuf};

use heliograph_cni::fnv1a;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use tower::util::MapRequestLayer;

use super::failure;

/// The variables that a pod finds its API server by, and the files of these names that can be given instead.
const ENDPOINT: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig; `None`: as KUBECONFIG says, or as a pod is given.
    pub kubeconfig: Option<PathBuf>,
    /// A folder with files `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which say where the API server is in
    /// place of the pod's variables. Where they aren't there, these count.
    pub endpoint: Option<PathBuf>,
}

impl Access {
    /// Finds the API server. A client for it, and its address.
    ///
    /// # Errors
    /// What is missing, in words.
    pub async fn connect(&self) -> Result<(Client, String), String> {
        let mut config = self.config().await.map_err(|error| {
            format!(
                "there is no way to an API server: {error}; set KUBECONFIG, or run as a pod with a ServiceAccount"
            )
        })?;
        // What fails is tried again where it can be told of.
        config.default_retry = false;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let client = client(config)
            .map_err(|error| format!("can't speak with {server}: {}", failure::chain(&error)))?;
        Ok((client, server))
    }

    /// What tells the cluster from others, also while its API server is away: the certificate authorities that we know it
    /// by, of which a rotation replaces one after the other. Empty: it is not known by any of its own.
    pub async fn cluster(&self) -> Vec<String> {
        let authorities = self.config().await.ok().and_then(|config| config.root_cert).unwrap_or_default();
        authorities.iter().map(|certificate| format!("{:016x}", fnv1a(certificate))).collect()
    }

    async fn config(&self) -> Result<kube::Config, String> {
        if let Some(path) = &self.kubeconfig {
            return from_file(path).await.map_err(|error| failure::chain(&error));
        }
        let mut config = kube::Config::infer().await.map_err(|error| failure::chain(&error))?;
        if let Some(address) = self.endpoint.as_deref().and_then(endpoint) {
            config.cluster_url =
                address.parse().map_err(|error| format!("{address} is no address: {error}"))?;
        }
        Ok(config)
    }
}

/// A client that reads the token for each request anew where it is in a file, as a pod's is. The kubelet replaces it long
/// before it expires, but when it was refused there is no reason to show it again for a minute, as kube would.
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

/// Who we are by the token in a file. Without one the API server answers 401, or 403 where it lets anybody ask; what that
/// means is said where it fails.
fn authorization(file: &Path) -> Option<HeaderValue> {
    let token = std::fs::read_to_string(file).ok()?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn from_file(path: &Path) -> Result<kube::Config, KubeconfigError> {
    kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// The API server's address by the files of a folder, if they are there.
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
    fn a_token_is_that_in_its_file_now() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for token in ["first", "second\n"] {
            std::fs::write(file.path(), token).unwrap();
            let shown = authorization(file.path()).unwrap();
            assert_eq!(shown.to_str().unwrap(), format!("Bearer {}", token.trim()));
            assert!(shown.is_sensitive());
        }
        assert_eq!(authorization(Path::new("/nowhere")), None);
    }

    #[tokio::test]
    async fn a_cluster_is_known_by_its_authorities() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let access = Access { kubeconfig: Some(file.path().into()), endpoint: None };
        assert_eq!(access.cluster().await, [""; 0]);
        let certificate =
            |octets: &str| format!("-----BEGIN CERTIFICATE-----\n{octets}\n-----END CERTIFICATE-----\n");
        let mut known = Vec::new();
        for pem in [certificate("AAAA"), certificate("AAAA") + &certificate("BBBB"), certificate("BBBB")] {
            let authority = serde_json::json!(k8s_openapi::ByteString(pem.into_bytes()));
            let kubeconfig = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1",
                    "certificate-authority-data": authority}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
            std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
            known.push(access.cluster().await);
        }
        assert_eq!((known[0].len(), known[1].len(), known[2].len()), (1, 2, 1));
        assert_eq!(known[1], [known[0].clone(), known[2].clone()].concat());
    }

    #[test]
    fn a_folder_says_where_the_api_server_is() {
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
