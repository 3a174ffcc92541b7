#!/usr/bin/env bash
# Looks whether MLMS in minikube works: its pods are ready, and two players chat.
#
#   minikube/smoke.sh [--dry-run] [--profile mlms] [--namespace mlms] [--release play]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

options "$@"
no_more_arguments
need_tools
need_cluster

say "Pods"
wait_for_rollout
say "Two players chat"
run helm --kube-context "$profile" test "$release" --namespace "$namespace" --logs --timeout 5m
say "It works"
