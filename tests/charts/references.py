"""What the objects of a release say about each other: whatever is named exists, and means what is said."""
import re

from chart import of_kind, pods, title

# Secrets and ConfigMaps that the values files name as the operator's own.
OUTSIDE = {("Secret", "mlms-servers"), ("Secret", "mlms-keys"), ("Secret", "play-tls"), ("Secret", "registry"), ("ConfigMap", "mlms-jwt"), ("ConfigMap", "own-authorities")}
HOOK = "helm.sh/hook"


def matches(selector: dict, labels: dict) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value, wanted = labels.get(expression["key"]), expression.get("values", [])
        holds = {"In": value in wanted, "NotIn": value not in wanted, "Exists": value is not None, "DoesNotExist": value is None}
        if not holds[expression["operator"]]:
            return False
    return True


def is_hook(document: dict) -> bool:
    return HOOK in document["metadata"].get("annotations", {})


def before_install(document: dict) -> bool:
    return "pre-install" in document["metadata"].get("annotations", {}).get(HOOK, "")


def problems(documents) -> list[str]:
    found: list[str] = []
    objects = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    if len(objects) != len(documents):
        found.append("two objects of one kind share a name")
    found += names(documents)
    everything = pods(documents)
    labels_of = [(workload, pod["metadata"].get("labels", {})) for workload, pod in everything]
    found += named_objects(objects, everything)
    found += [problem for workload, pod in everything for problem in containers(workload, pod)]
    found += services(documents, everything)
    found += autoscalers(documents, objects)
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for document in of_kind(documents, kind):
            selector = document["spec"].get("selector" if kind == "PodDisruptionBudget" else "podSelector")
            if not any(matches(selector, labels) for _, labels in labels_of) and "-test" not in document["metadata"]["name"]:
                found.append(f"{title(document)} selects no pod")
    found += policies(documents, everything)
    for document in of_kind(documents, "Deployment", "StatefulSet"):
        chosen = [workload for workload, labels in labels_of if matches(document["spec"]["selector"], labels)]
        if chosen != [document]:
            found.append(f"{title(document)} selects {[title(other) for other in chosen]}, not just its own pods")
    for document in of_kind(documents, "StatefulSet"):
        service = objects.get(("Service", document["spec"]["serviceName"]))
        if service is None:
            found.append(f"{title(document)} names a Service {document['spec']['serviceName']} that does not exist")
        elif not selects(service, document["spec"]["template"]):
            found.append(f"{title(document)} names a Service that does not select its pods")
    return found


def names(documents) -> list[str]:
    """What the API server says of names, and no schema does."""
    # A CronJob's Jobs and a StatefulSet's revisions get eleven characters more.
    longest = {"CronJob": 52, "StatefulSet": 52, "Service": 63, "Pod": 63, "Job": 63, "Deployment": 63}
    found = []
    for document in documents:
        name, most = document["metadata"]["name"], longest.get(document["kind"], 253)
        if len(name) > most:
            found.append(f"{title(document)} has a name of {len(name)} characters, at most {most} are allowed")
        if document["kind"] == "Service" and not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
            found.append(f"{title(document)} has a name that no Service may have")
        for key, value in document["metadata"].get("labels", {}).items():
            if not re.fullmatch("([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", str(value)):
                found.append(f"{title(document)} has a label {key} of {value}, which no label may be")
    return found


def selects(service: dict, pod: dict) -> bool:
    return matches({"matchLabels": service["spec"]["selector"]}, pod["metadata"].get("labels", {}))


def port_names(pod: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}


def named_objects(objects: dict, everything: list) -> list[str]:
    """Secrets, ConfigMaps and ServiceAccounts that pods name, and when they are there."""
    found = []
    for workload, pod in everything:
        named: list[tuple[str, str, str | None]] = []
        account = pod["spec"].get("serviceAccountName")
        if account not in (None, "default"):
            named.append(("ServiceAccount", account, None))
        named += [("Secret", secret["name"], None) for secret in pod["spec"].get("imagePullSecrets", [])]
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                named.append(("ConfigMap", volume["configMap"]["name"], None))
            if "secret" in volume:
                named.append(("Secret", volume["secret"]["secretName"], None))
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                    if field in source:
                        named.append((kind, source[field]["name"], source[field]["key"]))
        for kind, name, key in named:
            target = objects.get((kind, name))
            if target is None:
                if (kind, name) not in OUTSIDE:
                    found.append(f"{title(workload)} names {kind} {name}, which does not exist")
            elif key is not None and key not in target.get("data", {}):
                found.append(f"{title(workload)} names key {key} of {kind} {name}, which does not have it")
            elif before_install(workload) and not before_install(target):
                found.append(f"{title(workload)} runs before the install, and {kind} {name} does not exist yet")
            elif not is_hook(workload) and is_hook(target):
                found.append(f"{title(workload)} names {kind} {name}, which goes with a hook")
    return found


def containers(workload: dict, pod: dict) -> list[str]:
    """What holds inside a pod: mounts have volumes, probes have ports, doors are shut, its end is long enough."""
    found = []
    spec, about = pod["spec"], title(workload)
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in workload.get("spec", {}).get("volumeClaimTemplates", [])}
    ports = port_names(pod)
    if spec.get("automountServiceAccountToken") is not False:
        found.append(f"{about} gets a token of the Kubernetes API")
    if spec.get("enableServiceLinks") is not False:
        found.append(f"{about} gets variables of every Service")
    if not spec.get("securityContext", {}).get("runAsNonRoot") or spec["securityContext"].get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append(f"{about} may run as root or without seccomp")
    for container in spec["containers"]:
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{about}: {container['name']} keeps privileges")
        if security.get("readOnlyRootFilesystem") is not True and container["name"] not in ("mariadb", "rabbitmq"):
            found.append(f"{about}: {container['name']} may write its root")
        if "requests" not in container.get("resources", {}):
            found.append(f"{about}: {container['name']} has no requests")
        found += [f"{about} mounts {mount['name']}, no such volume" for mount in container.get("volumeMounts", []) if mount["name"] not in volumes]
        names = [variable["name"] for variable in container.get("env", [])]
        found += [f"{about} sets {name} twice" for name in set(names) if names.count(name) > 1]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            request = container.get(probe, {}).get("httpGet")
            if request is None:
                continue
            if request["port"] not in ports:
                found.append(f"{about}: {probe} asks port {request['port']}, which no container has")
            allowed = ("/ready",) if probe == "readinessProbe" else ("/live",)
            if request["path"] not in allowed:
                found.append(f"{about}: {probe} asks {request['path']}, not {allowed[0]}")
        found += ending(about, spec, container)
    return found


def ending(about: str, spec: dict, container: dict) -> list[str]:
    """The kubelet waits for the sleep, the drain and the last writes, and less than ten minutes."""
    drain = next((int(variable["value"]) for variable in container.get("env", []) if variable["name"] == "MLMS_DRAIN_SECONDS"), None)
    if drain is None:
        return []
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = spec.get("terminationGracePeriodSeconds", 30)
    if grace < sleep + drain + 15:
        return [f"{about} is killed after {grace} s, in the middle of its drain ({sleep} + {drain} + 15 s)"]
    if grace >= 600:
        return [f"{about} takes up to {grace} s to end, more than ten minutes"]
    return []


def services(documents, everything: list) -> list[str]:
    found = []
    objects = {document["metadata"]["name"]: document for document in of_kind(documents, "Service")}
    for service in objects.values():
        chosen = [(workload, pod) for workload, pod in everything if selects(service, pod)]
        if not chosen:
            found.append(f"{title(service)} selects no pod")
        for workload, pod in chosen:
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if target not in port_names(pod) and target not in port_names(pod).values():
                    found.append(f"{title(service)} leads to port {target}, which {title(workload)} does not have")
        public = service["spec"].get("clusterIP") != "None" and service["metadata"]["labels"]["app.kubernetes.io/component"] == "broker"
        if public and any(port["name"] == "admin" for port in service["spec"]["ports"]):
            found.append(f"{title(service)} shows the admin listener to players")
    for document in of_kind(documents, "Ingress"):
        for rule in document["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                known = {port["name"] for port in objects.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]}
                if backend["port"]["name"] not in known:
                    found.append(f"{title(document)} leads to {backend['name']}:{backend['port']['name']}, which does not exist")
    for document in of_kind(documents, "HTTPRoute"):
        for rule in document["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                known = {port["port"] for port in objects.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]}
                if backend["port"] not in known:
                    found.append(f"{title(document)} leads to {backend['name']}:{backend['port']}, which does not exist")
    for document in of_kind(documents, "ServiceMonitor"):
        chosen = [service for service in objects.values() if matches(document["spec"]["selector"], service["metadata"]["labels"])]
        serving = {title(workload) for workload, pod in everything if "admin" in port_names(pod)}
        scraped = [title(workload) for service in chosen for workload, pod in everything if selects(service, pod)]
        seen = set(scraped)
        found += [f"{title(document)} scrapes {one} twice" for one in seen if scraped.count(one) > 1]
        if seen != serving:
            found.append(f"{title(document)} scrapes {sorted(seen)}, but {sorted(serving)} have metrics")
        for endpoint in document["spec"]["endpoints"]:
            for service in chosen:
                if endpoint["port"] not in {port["name"] for port in service["spec"]["ports"]}:
                    found.append(f"{title(document)} asks port {endpoint['port']}, which {title(service)} does not have")
    for document in documents:
        for word in str(document.get("spec", "")).split("'"):
            if word.startswith("http://") and ":9080/scale" in word:
                name = word.removeprefix("http://").split(".")[0]
                if "admin" not in {port["name"] for port in objects.get(name, {"spec": {"ports": []}})["spec"]["ports"]}:
                    found.append(f"{title(document)} asks {word}, where nothing listens")
    return found


def autoscalers(documents, objects: dict) -> list[str]:
    found = []
    for document in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
        target = document["spec"]["scaleTargetRef"]
        workload = objects.get((target["kind"], target["name"]))
        if workload is None:
            found.append(f"{title(document)} scales {target['kind']} {target['name']}, which does not exist")
            continue
        if "replicas" in workload["spec"]:
            found.append(f"{title(document)} and {title(workload)} both say how many pods there are")
        for container in workload["spec"]["template"]["spec"]["containers"]:
            if "cpu" not in container["resources"].get("requests", {}):
                found.append(f"{title(document)} looks at CPU in per cent of a request that {title(workload)} does not make")
        least, most = (document["spec"].get(name, document["spec"].get(name.replace("Replicas", "ReplicaCount"))) for name in ("minReplicas", "maxReplicas"))
        if least > most:
            found.append(f"{title(document)}: at least {least}, at most {most}")
    scaled = {(d["spec"]["scaleTargetRef"]["kind"], d["spec"]["scaleTargetRef"]["name"]) for d in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")}
    for document in of_kind(documents, "Deployment", "StatefulSet"):
        if "replicas" not in document["spec"] and (document["kind"], document["metadata"]["name"]) not in scaled:
            found.append(f"{title(document)}: nobody says how many pods there are")
    return found


def policies(documents, everything: list) -> list[str]:
    """Named ports of policies exist at the pods they are about; every pod of ours is under the default denial."""
    found = []
    all_policies = of_kind(documents, "NetworkPolicy")
    if not all_policies:
        return []
    for document in all_policies:
        for way, peers in (("ingress", "from"), ("egress", "to")):
            for rule in document["spec"].get(way, []):
                if way == "ingress":
                    about = [pod for _, pod in everything if matches(document["spec"]["podSelector"], pod["metadata"]["labels"])]
                else:
                    selectors = [peer["podSelector"] for peer in rule.get(peers, []) if "podSelector" in peer and "namespaceSelector" not in peer]
                    about = [pod for _, pod in everything if any(matches(one, pod["metadata"]["labels"]) for one in selectors)]
                for port in rule.get("ports", []):
                    known = [known for pod in about for known in (*port_names(pod), *port_names(pod).values())]
                    known += [port["port"] for service in of_kind(documents, "Service") for port in service["spec"]["ports"]]
                    if (isinstance(port["port"], str) or way == "egress" and selectors) and port["port"] not in known:
                        found.append(f"{title(document)} opens port {port['port']}, which none of its pods has")
                    if way == "egress" and isinstance(port["port"], str):
                        found.append(f"{title(document)} goes out to a port by its name, {port['port']}, which not all who enforce policies know")
    for workload, pod in everything:
        over = [p for p in all_policies if matches(p["spec"]["podSelector"], pod["metadata"]["labels"])]
        if not any("ingress" not in p["spec"] and "egress" not in p["spec"] for p in over):
            found.append(f"{title(workload)} is not under the default denial")
    return found
