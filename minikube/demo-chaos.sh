#!/usr/bin/env bash
# Kills what can be killed while players chat: a lobby node and a broker without warning, Redis (its data stays), and
# then all nodes are rolled. The load test, which checks every delivery, finds nothing lost.
#
#   minikube/demo-chaos.sh [--dry-run] [--profile mlms] [--namespace mlms] [--release play]
#
# Takes about five minutes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

options "$@"
no_more_arguments
need_tools
need_cluster

pause=$((look_every * 6))
rest() {
    wait_for_rollout
    if [[ -z $dry_run ]]; then sleep "$pause"; fi
}
first() { if [[ -n $dry_run ]]; then echo "pod/the-first-$1"; else kube get pod -l "app.kubernetes.io/instance=$release,app.kubernetes.io/component=$1" -o name | head -n 1; fi; }

start_load chaos
if [[ -z $dry_run ]]; then sleep "$pause"; fi
for component in lobby-node broker; do
    say "Killing a $component without warning"
    pod=$(first "$component")
    [[ -n $pod ]] || die "there is no pod of the $component"
    run kube delete "$pod" --grace-period=0 --force
    rest
done
say "Killing Redis; its data stays"
run kube delete "pod/$release-mlms-redis-0" --grace-period=0 --force
run kube rollout status "statefulset/$release-mlms-redis" --timeout=5m
rest
say "Rolling all nodes"
run kube rollout restart "statefulset/$release-mlms-lobby-node"
rest
load_verdict
say "Everything was killed once, and nobody lost a message"
