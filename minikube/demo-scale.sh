#!/usr/bin/env bash
# Shows that Kubernetes adds and removes lobby nodes while players chat: a load test inside the cluster is busy, then
# quiet; the autoscaler grows and shrinks the nodes; and the load test, which checks every delivery, finds nothing lost.
#
#   minikube/demo-scale.sh [--dry-run] [--profile mlms] [--namespace mlms] [--release play]
#
# Takes about ten minutes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

options "$@"
no_more_arguments
need_tools
need_cluster

least=$(if [[ -n $dry_run ]]; then echo 1; else kube get hpa "$release-mlms-lobby-node" -o 'jsonpath={.spec.minReplicas}'; fi)
wait_for_nodes "the nodes are at their least, $least" most "$least"
start_load scale
wait_for_nodes "the load brings more nodes than $least" least $((least + 1))
wait_for_nodes "the quiet takes them away again" most "$least"
load_verdict
say "The nodes came and went, and nobody lost a message"
