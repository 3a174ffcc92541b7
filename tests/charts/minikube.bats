#!/usr/bin/env bats
# The scripts of minikube/ with stubs for minikube, kubectl, helm and docker: in which order they call them, that a second run
# changes nothing, that --dry-run changes nothing at all, and what they say when something is missing or fails.

bats_require_minimum_version 1.5.0

setup() {
    scripts=$BATS_TEST_DIRNAME/../../minikube
    export STATE=$BATS_TEST_TMPDIR MINIKUBE_LOOK_EVERY=0 MINIKUBE_PATIENCE=3
    export PATH=$BATS_TEST_DIRNAME/stubs:/usr/bin:/bin
    : >"$STATE/calls"
}

# What was called that changes something.
changes() {
    grep -vE '^(minikube|kubectl|helm) version|status|image ls|docker info| get |rollout status' "$STATE/calls" || true
}

up() {
    touch "$STATE/running" "$STATE/installed"
}

# $1, $2: two patterns; the first call of one comes before the first call of the other.
in_order() {
    local first second
    first=$(grep -nE -- "$1" "$STATE/calls" | head -n 1 | cut -d : -f 1)
    second=$(grep -nE -- "$2" "$STATE/calls" | head -n 1 | cut -d : -f 1)
    [[ -n $first && -n $second && $first -lt $second ]] || {
        echo "not $1 before $2 in:"
        cat "$STATE/calls"
        return 1
    }
}

@test "up starts, builds, installs and waits, in this order" {
    run "$scripts/up.sh"
    [ "$status" -eq 0 ]
    in_order 'minikube --profile mlms start' 'addons enable metrics-server'
    in_order 'addons enable metrics-server' 'image build --tag mlms:'
    in_order 'image build' 'helm --kube-context mlms upgrade --install play'
    in_order 'helm .*upgrade' 'kubectl --context mlms --namespace mlms rollout status deployment/play-mlms-broker'
    [[ $output == *minikube/smoke.sh* ]]
}

@test "up builds with docker where there is one" {
    touch "$STATE/docker"
    run "$scripts/up.sh"
    [ "$status" -eq 0 ]
    in_order 'docker build --tag mlms:' 'minikube --profile mlms image load mlms:'
    run ! grep -q 'image build' "$STATE/calls"
}

@test "up run again starts nothing and builds nothing" {
    "$scripts/up.sh"
    : >"$STATE/calls"
    run "$scripts/up.sh"
    [ "$status" -eq 0 ]
    run ! grep -qE ' start |image build|image load' "$STATE/calls"
    grep -q 'helm --kube-context mlms upgrade --install play' "$STATE/calls"
}

@test "up takes another profile, namespace, release, size and values" {
    run "$scripts/up.sh" --profile p --namespace n --release r --cpus 8 --memory 12g --driver kvm2 --values "$scripts/values.yaml"
    [ "$status" -eq 0 ]
    grep -q 'minikube --profile p start --cpus 8 --memory 12g --keep-context --driver kvm2' "$STATE/calls"
    grep -q "helm --kube-context p upgrade --install r .* --namespace n .*--values .*--values $scripts/values.yaml" "$STATE/calls"
    grep -q 'kubectl --context p --namespace n rollout status statefulset/r-mlms-lobby-node' "$STATE/calls"
}

@test "with --dry-run no script changes anything, and each shows what it would do" {
    for script in up smoke demo-scale demo-chaos down; do
        run "$scripts/$script.sh" --dry-run
        [ "$status" -eq 0 ]
        [[ $output == *"+ "* ]]
    done
    [ -z "$(changes)" ]
}

@test "with --dry-run on a running cluster nothing is changed either" {
    up
    for script in up smoke demo-scale demo-chaos; do "$scripts/$script.sh" --dry-run; done
    "$scripts/down.sh" --dry-run --keep-cluster
    [ -z "$(changes)" ]
}

@test "a missing tool is named, with the version that is needed" {
    mkdir "$STATE/bin"
    ln -s "$BATS_TEST_DIRNAME/stubs/minikube" "$BATS_TEST_DIRNAME/stubs/helm" "$STATE/bin/"
    for tool in bash basename cat dirname grep sort head sed; do ln -s "$(command -v $tool)" "$STATE/bin/"; done
    PATH=$STATE/bin run bash "$scripts/up.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"kubectl is not installed; it is needed in version 1.29.0 or newer"* ]]
}

@test "a tool that is too old is named, with both versions" {
    echo v1.9.4 >"$STATE/minikube-version"
    run "$scripts/up.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"minikube is 1.9.4, but 1.32.0 or newer is needed"* ]]
    echo v1.32.0 >"$STATE/minikube-version"
    echo v3.9.0+g7ceeda6 >"$STATE/helm-version"
    run "$scripts/smoke.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"helm is 3.9.0, but 3.14.0 or newer is needed"* ]]
    [ -z "$(changes)" ]
}

@test "an unknown option is refused before anything happens" {
    for script in up smoke demo-scale demo-chaos down; do
        run "$scripts/$script.sh" --nonsense
        [ "$status" -eq 2 ]
        [[ $output == *"unknown: --nonsense"* ]]
        run "$scripts/$script.sh" --profile
        [ "$status" -eq 2 ]
    done
    [ ! -s "$STATE/calls" ]
}

@test "every script explains itself" {
    for script in up smoke demo-scale demo-chaos down; do
        run "$scripts/$script.sh" --help
        [ "$status" -eq 0 ]
        [[ $output == *"minikube/$script.sh [--dry-run]"* ]]
    done
}

@test "a release that does not install fails the script" {
    echo 'helm --kube-context mlms upgrade' >"$STATE/fail"
    run "$scripts/up.sh"
    [ "$status" -ne 0 ]
    run ! grep -q 'rollout status' "$STATE/calls"
}

@test "the others say when there is no cluster, or no release in it" {
    for script in smoke demo-scale demo-chaos; do
        run "$scripts/$script.sh"
        [ "$status" -eq 1 ]
        [[ $output == *"start it with minikube/up.sh"* ]]
    done
    touch "$STATE/running"
    run "$scripts/smoke.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"the release play is not installed in mlms"* ]]
}

@test "smoke passes with helm's test and fails with it" {
    up
    run "$scripts/smoke.sh"
    [ "$status" -eq 0 ]
    grep -q 'helm --kube-context mlms test play --namespace mlms --logs' "$STATE/calls"
    echo 'helm --kube-context mlms test' >"$STATE/fail"
    run "$scripts/smoke.sh"
    [ "$status" -ne 0 ]
}

@test "demo-scale sees nodes come and go, and the verdict" {
    up
    printf '%s\n' 2 2 3 5 4 3 2 >"$STATE/nodes"
    printf '%s\n' / / 1/ >"$STATE/verdicts"
    run "$scripts/demo-scale.sh"
    [ "$status" -eq 0 ]
    [[ $output == *"nobody lost a message"* ]]
    grep -q 'image: "mlms:abc1234"' "$STATE/applied"
    grep -q 'ws://play-mlms-broker:80' "$STATE/applied"
    run ! grep -q '@' "$STATE/applied"
}

@test "demo-scale fails when no node comes" {
    up
    echo 2 >"$STATE/nodes"
    echo / >"$STATE/verdicts"
    MINIKUBE_LOOK_EVERY=1 run "$scripts/demo-scale.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"it is not so that the load brings more nodes than 2"* ]]
}

@test "demo-scale fails when a message was lost" {
    up
    printf '%s\n' 2 3 2 >"$STATE/nodes"
    printf '%s\n' / /1 >"$STATE/verdicts"
    run "$scripts/demo-scale.sh"
    [ "$status" -eq 1 ]
    [[ $output == *"the load test failed"* ]]
}

@test "demo-chaos kills a node, a broker and Redis, rolls the nodes, and asks for the verdict" {
    up
    printf '%s\n' 1/ >"$STATE/verdicts"
    run "$scripts/demo-chaos.sh"
    [ "$status" -eq 0 ]
    in_order 'apply -f -' 'delete pod/play-mlms-lobby-node-0 --grace-period=0 --force'
    in_order 'delete pod/play-mlms-lobby-node-0' 'delete pod/play-mlms-broker-0 --grace-period=0 --force'
    in_order 'delete pod/play-mlms-broker-0' 'delete pod/play-mlms-redis-0'
    in_order 'delete pod/play-mlms-redis-0' 'rollout restart statefulset/play-mlms-lobby-node'
    in_order 'rollout restart' 'get job mlms-loadtest'
}

@test "down removes the profile, and again without complaint" {
    up
    run "$scripts/down.sh"
    [ "$status" -eq 0 ]
    grep -q 'minikube delete --profile mlms' "$STATE/calls"
    run "$scripts/down.sh"
    [ "$status" -eq 0 ]
}

@test "down --keep-cluster removes the release and its data, and again without complaint" {
    up
    run "$scripts/down.sh" --keep-cluster
    [ "$status" -eq 0 ]
    grep -q 'helm --kube-context mlms uninstall play --namespace mlms' "$STATE/calls"
    grep -q 'delete pvc,secret,job,configmap -l app.kubernetes.io/instance=play' "$STATE/calls"
    run ! grep -q 'minikube delete' "$STATE/calls"
    run "$scripts/down.sh" --keep-cluster
    [ "$status" -eq 0 ]
    [[ $output == *"is not installed"* ]]
}
