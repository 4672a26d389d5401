/// What the runtime says in variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    pub verb: String,
    pub container_id: String,
    pub netns: String,
    pub namespace: String,
    pub name: String,
    /// Of the Pod object; empty when the runtime does not tell.
    pub uid: String,
    pub infra_container_id: String,
}

impl Call {
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Call {
        let text = |name: &str| variable(name).unwrap_or_default();
        let args = text("CNI_ARGS");
        Call {
            verb: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            namespace: argument(&args, "K8S_POD_NAMESPACE"),
            name: argument(&args, "K8S_POD_NAME"),
            uid: argument(&args, "K8S_POD_UID"),
            infra_container_id: argument(&args, "K8S_POD_INFRA_CONTAINER_ID"),
        }
    }

    /// Whether this is about a pod: other users of the node's CNI configuration have no labels to be captured by.
    pub fn is_pod(&self) -> bool {
        !self.namespace.is_empty() && !self.name.is_empty()
    }

    /// For messages.
    pub fn subject(&self) -> String {
        match self.is_pod() {
            true => format!("pod {}/{}", self.namespace, self.name),
            false if self.container_id.is_empty() => "this node".to_owned(),
            false => format!("container {}", self.container_id),
        }
    }
}

/// `A=1;B=2`: the value of `name`, empty when it is not there.
fn argument(args: &str, name: &str) -> String {
    let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .next_back()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(variables: &[(&str, &str)]) -> Call {
        Call::from_environment(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn reads_the_pod_out_of_the_arguments_of_a_kubelet() {
        let args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u-1";
        let call = call(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "ab"), ("CNI_NETNS", "/n"), ("CNI_ARGS", args)]);
        let (verb, netns) = ("ADD".to_owned(), "/n".to_owned());
        let [container_id, infra_container_id] = ["ab".to_owned(), "ab".to_owned()];
        let [namespace, name, uid] = ["shop".to_owned(), "web-0".to_owned(), "u-1".to_owned()];
        assert_eq!(call, Call { verb, container_id, netns, namespace, name, uid, infra_container_id });
        assert_eq!(call.subject(), "pod shop/web-0");
    }

    #[test]
    fn a_container_that_is_no_pod_is_told_by_its_arguments() {
        for args in ["", "IgnoreUnknown=1", "K8S_POD_NAMESPACE=;K8S_POD_NAME=a", "K8S_POD_NAME", ";;=;=="] {
            let call = call(&[("CNI_CONTAINERID", "cafe"), ("CNI_ARGS", args)]);
            assert!(!call.is_pod(), "{args}");
            assert_eq!(call.subject(), "container cafe");
        }
    }
}
