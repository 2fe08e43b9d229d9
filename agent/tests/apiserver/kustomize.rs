//! The manifests, as kubectl reads them.

/// `manifests/install.yaml` and the kustomization that it is made from.
pub mod install_yaml {
    use std::process::Command;

    use serde::Deserialize;
    use serde_yaml::{Deserializer, Value};

    use crate::binaries::binary;
    use crate::fixture::Fixture;
    use crate::manifests;

    pub async fn has_the_objects_of_the_kustomization(_: &mut Fixture) {
        let output =
            Command::new(binary("kubectl").unwrap()).arg("kustomize").arg(manifests()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let installed = std::fs::read_to_string(manifests().join("install.yaml")).unwrap();
        assert_eq!(sorted(&String::from_utf8(output.stdout).unwrap()), sorted(&installed));
    }

    /// Returns the documents of a file by kind, namespace and name.
    fn sorted(text: &str) -> Vec<Value> {
        let documents = Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
        let mut documents: Vec<_> = documents.filter(|document| !document.is_null()).collect();
        documents.sort_by_key(|document| {
            let part = |path: &Value| path.as_str().unwrap_or_default().to_owned();
            let metadata = &document["metadata"];
            (part(&document["kind"]), part(&metadata["namespace"]), part(&metadata["name"]))
        });
        documents
    }
}
