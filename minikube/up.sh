#!/usr/bin/env bash
# Starts MLMS in minikube, with everything it needs, and waits until it takes players. Run again it changes only what
# is different: a changed tree is built and rolled out.
#
#   minikube/up.sh [--dry-run] [--profile mlms] [--namespace mlms] [--release play]
#                  [--cpus 4] [--memory 6g] [--driver …] [--values FILE]
#
# Needs minikube, kubectl, helm, and 4 cores and 6 GiB for them. The image is built with docker where there is one,
# else inside minikube.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

options "$@"
cpus=4 memory=6g driver='' values=()
set -- "${arguments[@]}"
arguments=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --cpus | --memory | --driver) printf -v "${1#--}" '%s' "${2:?$1 takes a value}"; shift ;;
        --values)
            [[ -r ${2:-} ]] || die "--values takes a readable file"
            values+=(--values "$2")
            shift
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
no_more_arguments
need_tools

if runs; then
    say "The profile $profile runs already"
else
    say "Starting the profile $profile"
    start=(minikube --profile "$profile" start --cpus "$cpus" --memory "$memory" --keep-context)
    if [[ -n $driver ]]; then start+=(--driver "$driver"); fi
    run "${start[@]}"
fi

say "The autoscaler needs metrics"
run minikube --profile "$profile" addons enable metrics-server

# The tree's own name, so that another tree is another image, and the same one is not built twice.
tag=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo dev)
if [[ -n $(git -C "$root" status --porcelain 2>/dev/null) ]]; then
    tag=$tag-$(git -C "$root" diff HEAD 2>/dev/null | cksum | cut -d ' ' -f 1)
fi
image=mlms:$tag
if [[ -z $dry_run ]] && minikube --profile "$profile" image ls 2>/dev/null | grep -qE "(^|/)$image\$"; then
    say "The image $image is there"
else
    say "Building the image $image (this takes a while, the first time)"
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        run docker build --tag "$image" --build-arg "REVISION=$tag" "$root"
        run minikube --profile "$profile" image load "$image"
    else
        run minikube --profile "$profile" image build --tag "$image" "$root"
    fi
fi

say "Installing the release $release"
run helm --kube-context "$profile" upgrade --install "$release" "$root/charts/mlms" \
    --namespace "$namespace" --create-namespace \
    --values "$root/minikube/values.yaml" "${values[@]}" \
    --set "image.tag=$tag" --wait --timeout 10m
wait_for_rollout

say "MLMS runs. Next:"
cat <<TEXT
  minikube/smoke.sh         two players chat
  minikube/demo-scale.sh    load comes and goes, nodes come and go, no message is lost
  minikube/demo-chaos.sh    pods are killed under load, no message is lost
  minikube/down.sh          removes everything

  kubectl --context $profile -n $namespace port-forward service/$release-mlms-broker 8080:80
  then open http://localhost:8080
TEXT
