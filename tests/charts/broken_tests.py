"""Mistakes on purpose: each one, in values or in a template, must be found, and by name."""
import shutil
import tempfile
from pathlib import Path

import references
import schemas
from chart import CHART, HELMS, Refused, template
from suite import case

GOOD = CHART / "ci/autoscaled-values.yaml"
TRIAL = CHART / "ci/trial-values.yaml"

# (settings on top of good values, what the complaint must say)
VALUES = [
    ("broker.autoscaling.minReplicas=20", "more than maxReplicas"),
    ("lobbyNode.autoscaling.connectionsPerPod=30000", "would never grow"),
    ("drain.terminationGracePeriodSeconds=60", "killed in the middle"),
    ("drain.seconds=560,drain.preStopSeconds=60", "under 600"),
    ("redis.url=redis://cache:6379", "redis is named more than once"),
    ("database.existingSecret=", "database is not named"),
    ("amqp.existingSecret=", "achievements.enabled needs domain events"),
    ("jwt.existingSecret=", "tokens cannot be verified"),
    ("jwt.generate=true", "named more than once"),
    ("clusterKey.value=MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "cluster's key is named twice"),
    ("gateway.enabled=true", "needs gateway.parentRefs"),
    ("lobbyNode.resources.requests.cpu=null", "which is not set"),
    ("jwt.existingSecret=,jwt.hs256Secret=short", "can be guessed"),
    ("jwt.existingSecret=,config.jwt.jwks_url=https://id.example.com/keys", "acts as an admin"),
    ("consul.existingSecret=mlms-keys", "config.consul.url names"),
    ("trace.existingSecret=mlms-keys", "config.trace.otlp_url names"),
    ("config.trace.otlp_url=collector:4318", "no such address"),
    ("config.log.gelf=http://graylog:12201", "no such address"),
    ("config.statsd.address=statsd", "no such address"),
    ("fullnameOverride=1play", "begins with a letter"),
    ("fullnameOverride=my.play", "letters, digits and dashes only"),
    # What the schema says.
    ("config.consul.token=hush", "token"),
    ("config.maintenance.enabled=perhaps", "enabled"),
    ("config.trace.sample_ratio=some", "sample_ratio"),
    ("broker.replica=3", "replica"),
    ("config.limits.chats_per_second=20", "chats_per_second"),
    ("config.limits.chats_per_s=fast", "chats_per_s"),
    ("config.redis.url=redis://leaked", "url"),
    ("autoscaling.engine=vpa", "engine"),
    ("broker.autoscaling.saturation=70", "saturation"),
    ("broker.service.port=99999", "port"),
    ("redis.existingSecret=,redis.url=http://cache", "url"),
    ("image.digest=latest", "digest"),
    ("drain.seconds=0", "seconds"),
    ("jobs.purgeHistory.olderThan=ninety", "olderThan"),
    ("clusterKey.existingSecret=,clusterKey.value=secret", "value"),
    ("lobbyNode.publicUrl=https://play.example.com", "publicUrl"),
]

# (template, what stands in it, what is put there, what the complaint must say)
TEMPLATES = [
    ("_pod.tpl", "path: /ready", "path: /health", "asks /health"),
    ("_pod.tpl", "{path: /live, port: admin}", "{path: /live, port: probes}", "asks port probes"),
    ("_pod.tpl", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "token of the Kubernetes API"),
    ("_helpers.tpl", ".Values.drain.seconds 25", ".Values.drain.seconds 0", "killed"),
    ("broker.yaml", "targetPort: http", "targetPort: https", "leads to port https"),
    ("broker.yaml", "{{- if not .Values.broker.autoscaling.enabled }}", "{{- if true }}", "both say how many pods"),
    ("lobby-node.yaml", "serviceName: {{ $service }}", "serviceName: {{ $service }}s", "names a Service"),
    ("lobby-node.yaml", "podManagementPolicy: Parallel", "podManagement: Parallel", "podManagement"),
    ("autoscaling.yaml", '(ternary "Deployment" "StatefulSet" (eq $component "broker"))', '"Deployment"', "which does not exist"),
    ("autoscaling.yaml", "averageUtilization:", "averageUtilisation:", "averageUtilisation"),
    ("disruption.yaml", "unhealthyPodEvictionPolicy: AlwaysAllow", "unhealthyPodEviction: AlwaysAllow", "unhealthyPodEviction"),
    ("disruption.yaml", '(printf "-%s" $component)', '"-budget"', "share a name"),
    ("network-policies.yaml", "{port: node, protocol: TCP}", "{port: nodes, protocol: TCP}", "opens port nodes"),
    ("network-policies.yaml", "{port: 8090, protocol: TCP}", "{port: 8091, protocol: TCP}", "opens port 8091"),
    ("monitoring.yaml", 'mlms/scrape: "true"', 'mlms/scrape: "yes"', "scrapes"),
    ("monitoring.yaml", "matchNames:", "names:", "names"),
    ("route.yaml", "port: {name: http}", "port: {name: web}", "leads to"),
    ("secret.yaml", '"cluster-key" $key', '"clusterkey" $key', "key cluster-key"),
    ("_pod.tpl", "{name: authorities, mountPath", "{name: roots, mountPath", "no such volume"),
    ("migration.yaml", '(omit $spec "serviceAccountName")', "$spec", "does not exist yet"),
    ("jobs.yaml", "startingDeadlineSeconds: 3600", "startingDeadline: 3600", "startingDeadline"),
    ("in-chart-servers.yaml", "key: {{ $key }}", "key: {{ $key }}s", "which does not have it"),
    ("_helpers.tpl", 'define "mlms.grace"', 'define "mlms.graze"', "mlms.grace"),
]


def complaint(values: Path, *more: object, chart: Path = CHART, version: str = "helm4") -> str:
    try:
        documents = template(version, "--values", values, *more, chart=chart)
    except Refused as refused:
        return str(refused)
    found = [problem for document in documents for problem in schemas.problems(document, schemas.NEWEST)]
    return "\n".join(found + references.problems(documents))


@case("good values give no complaint")
def good() -> None:
    for values in (GOOD, TRIAL):
        assert complaint(values) == "", complaint(values)


def of_values(change: str, words: str):
    def check() -> None:
        for version in HELMS:
            said = complaint(GOOD, "--set", change, version=version)
            assert words in said, f"{version} says: {said or 'nothing'}"

    return check


def of_template(file: str, right: str, wrong: str, words: str):
    def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(shutil.copytree(CHART, Path(folder) / "mlms"))
            path = chart / "templates" / file
            text = path.read_text()
            assert right in text, f"{file} has no {right}"
            path.write_text(text.replace(right, wrong))
            said = complaint(TRIAL, chart=chart) + complaint(GOOD, chart=chart)
            assert words in said, f"found: {said or 'nothing'}"

    return check


for change, words in VALUES:
    case(f"broken values are found: {change}")(of_values(change, words))
for file, right, wrong, words in TEMPLATES:
    case(f"a broken template is found: {file}, {wrong}")(of_template(file, right, wrong, words))
