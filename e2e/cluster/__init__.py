"""A real Kubernetes cluster on one machine: nodes are namespaces with a containerd, a kubelet and a kube-proxy each."""
