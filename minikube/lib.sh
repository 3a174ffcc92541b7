# shellcheck shell=bash
# What the scripts of this folder share: options, versions, and saying what is done. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
profile=mlms
namespace=mlms
release=play
dry_run=
# Seconds between two looks, and until somebody gives up.
look_every=${MINIKUBE_LOOK_EVERY:-5}
patience=${MINIKUBE_PATIENCE:-900}

say() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
usage() {
    # The comment at the top of the script that runs.
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Runs a command that changes something; with --dry-run only shows it.
run() {
    printf '+ %s\n' "$*"
    if [[ -z $dry_run ]]; then "$@"; fi
}

kube() { kubectl --context "$profile" --namespace "$namespace" "$@"; }

# Takes the options that all scripts know; the rest is left in `arguments`.
options() {
    arguments=()
    while [[ $# -gt 0 ]]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --profile | --namespace | --release)
                [[ -n ${2:-} ]] || { echo "$1 takes a value" >&2; exit 2; }
                printf -v "${1#--}" '%s' "$2"
                shift
                ;;
            -h | --help) usage; exit ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
}

no_more_arguments() {
    if [[ ${#arguments[@]} -ne 0 ]]; then
        echo "unknown: ${arguments[*]}; --help tells what there is" >&2
        exit 2
    fi
}

# $1: found, $2: wanted. Both as 1.2.3.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# $1: tool, $2: least version, $3…: how it is asked. Its first number is its version.
need() {
    local tool=$1 least=$2 said version
    shift 2
    command -v "$tool" >/dev/null || die "$tool is not installed; it is needed in version $least or newer"
    said=$("$@" 2>&1) || die "$tool does not tell its version: $said"
    version=$(grep -oE '[0-9]+\.[0-9]+\.[0-9]+' <<<"$said" | head -n 1)
    [[ -n $version ]] || die "$tool does not tell its version: $said"
    at_least "$version" "$least" || die "$tool is $version, but $least or newer is needed"
}

need_tools() {
    need minikube 1.32.0 minikube version --short
    need kubectl 1.29.0 kubectl version --client
    need helm 3.14.0 helm version --short
}

runs() { [[ $(minikube --profile "$profile" status --format '{{.Host}}' 2>/dev/null) == Running ]]; }

need_cluster() {
    if [[ -n $dry_run ]]; then return; fi
    runs || die "the profile $profile does not run; start it with minikube/up.sh"
    kube get deployment "$release-mlms-broker" >/dev/null 2>&1 || die "the release $release is not installed in $namespace; minikube/up.sh does it"
}

wait_for_rollout() {
    run kube rollout status "deployment/$release-mlms-broker" --timeout=5m
    run kube rollout status "statefulset/$release-mlms-lobby-node" --timeout=5m
}

# Starts the load test in the cluster. $1: name of the scenario in minikube/scenarios.
start_load() {
    local image
    say "Starting the load test: $1"
    image=$(if [[ -n $dry_run ]]; then echo mlms:dry-run; else kube get "deployment/$release-mlms-broker" -o 'jsonpath={.spec.template.spec.containers[0].image}'; fi)
    run kube delete job,configmap -l app=mlms-loadtest --ignore-not-found --wait
    run kube create configmap mlms-loadtest "--from-file=scenario.toml=$root/minikube/scenarios/$1.toml"
    run kube label configmap mlms-loadtest app=mlms-loadtest
    printf '+ kubectl apply: minikube/loadtest.yaml with the image %s\n' "$image"
    if [[ -z $dry_run ]]; then
        sed -e "s|@IMAGE@|$image|" -e "s|@RELEASE@|$release|" "$root/minikube/loadtest.yaml" | kube apply -f -
    fi
}

# The verdict of the load test: every delivery was checked by it for loss, order and doubles.
load_verdict() {
    local outcome
    say "Waiting for the load test's verdict"
    if [[ -n $dry_run ]]; then return; fi
    local end=$((SECONDS + patience))
    while ((SECONDS < end)); do
        outcome=$(kube get job mlms-loadtest -o 'jsonpath={.status.succeeded}/{.status.failed}')
        case $outcome in
            1/*)
                kube logs job/mlms-loadtest --tail=40
                say "Passed: no acknowledged message was lost, doubled or out of order"
                return
                ;;
            /*[1-9]*)
                kube logs job/mlms-loadtest --tail=60
                die "the load test failed; its verdict stands above"
                ;;
        esac
        sleep "$look_every"
    done
    die "no verdict after $patience s"
}

# Ready pods of the lobby nodes.
nodes() { kube get statefulset "$release-mlms-lobby-node" -o 'jsonpath={.status.readyReplicas}'; }

# $1: what is awaited, in words; $2: `least` or `most`; $3: how many nodes.
wait_for_nodes() {
    local now
    say "Waiting until $1"
    if [[ -n $dry_run ]]; then return; fi
    local end=$((SECONDS + patience))
    while ((SECONDS < end)); do
        now=$(nodes)
        printf '%s  %s lobby nodes\n' "$(date +%T)" "${now:-0}"
        case $2 in
            least) if ((${now:-0} >= $3)); then return; fi ;;
            most) if ((${now:-0} <= $3)); then return; fi ;;
        esac
        sleep "$look_every"
    done
    die "after $patience s it is not so that $1; look at: kubectl --context $profile -n $namespace describe hpa"
}
