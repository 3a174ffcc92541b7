#!/usr/bin/env bash
# Removes what minikube/up.sh made: the whole profile, or with --keep-cluster only the release and its data.
#
#   minikube/down.sh [--dry-run] [--keep-cluster] [--profile mlms] [--namespace mlms] [--release play]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

options "$@"
keep=
set -- "${arguments[@]}"
arguments=()
while [[ $# -gt 0 ]]; do
    if [[ $1 == --keep-cluster ]]; then keep=yes; else arguments+=("$1"); fi
    shift
done
no_more_arguments
need_tools

if [[ -z $keep ]]; then
    # Without such a profile it does nothing, and says so.
    run minikube delete --profile "$profile"
    exit
fi
if ! runs; then
    say "The profile $profile does not run: nothing to remove"
    exit
fi
if helm --kube-context "$profile" status "$release" --namespace "$namespace" >/dev/null 2>&1; then
    run helm --kube-context "$profile" uninstall "$release" --namespace "$namespace" --wait
else
    say "The release $release is not installed"
fi
run kube delete pvc,secret,job,configmap -l "app.kubernetes.io/instance=$release" --ignore-not-found
run kube delete job,configmap -l app=mlms-loadtest --ignore-not-found
