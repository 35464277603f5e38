// Package kube tests the application in a Kubernetes cluster. Its tests deploy it with the tools that operators use,
// have people use it through the cluster's ingress controller as they use `turnstile dev`, and do to it what happens in
// clusters: rolling updates, killed containers, deleted pods, other settings, more and fewer replicas. In the end they
// read in the databases whether every event has had its effect exactly once.
//
// They need a cluster and leave nothing in it:
//
//	KUBECONFIG      the cluster; without it, the tests are skipped: go test says so in this folder, or with -v
//	KO_DOCKER_REPO  where images are pushed to, and pulled from by the nodes
//	KO_DEFAULTBASEIMAGE
//	                what programs are put on, if not ko's own choice
//	INGRESS         host:port of the ingress controller, from here; if it is not set, some usual ones are tried
//	NODE_COMMAND    runs a command on the only node, such as "docker exec kind-control-plane"; what kills containers
//	                there is skipped without
//
// kubectl, ko and skaffold must be in the PATH. By default the tests take some minutes; flags make them do more:
//
//	go test ./e2e/kube -v -run TestRollingUpdate -rounds 50 -timeout 2h
package kube
