"""The chart against the binary: it sets only what exists, starts only what exists, and the numbers that autoscalers,
dashboards and alerts ask for are exported."""
import json
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import tomllib

import service
from chart import CHART, VALUES, of_kind, pods, rendered, title
from monitoring_tests import metrics_of_expression, queries
from player import Player
from suite import case, nothing

# Counted only when something goes wrong in a way that this test does not bring about; the name must still be in the binary.
RARE = {
    "mlms_broker_node_failures_total", "mlms_link_resets_total", "mlms_unreadable_total", "mlms_connections_refused_total", "mlms_moves_total",
}


# Counted by a role that is not started here; the name must be in the binary.
ELSEWHERE = {"mlms_achievements_events_total", "mlms_achievements_awards_total"}


@case("pods set only variables that the binary knows")
def variables() -> None:
    nothing([
        f"{values.name}: {title(document)} sets {variable['name']}"
        for values in VALUES
        for document, pod in pods(rendered(values))
        for container in pod["spec"]["containers"]
        for variable in container.get("env", [])
        if variable["name"].startswith("MLMS_") and variable["name"] not in service.variables()
    ])


@case("pods run only commands that the binary has")
def commands() -> None:
    found = set()
    for values in VALUES:
        for document, pod in pods(rendered(values)):
            for container in pod["spec"]["containers"]:
                if "mlms" in container["image"] and "command" not in container:
                    found.add(tuple(container["args"]))
    # Read as far as possible: the flag ends every command before it does anything.
    nothing([f"mlms {' '.join(arguments)}: {done.stderr.strip()}" for arguments in sorted(found) if (done := service.run(*arguments, "--help")).returncode])


@case("the binary accepts the settings of every role with every values file")
def settings() -> None:
    roles = re.findall(r"possible values: ([^\]]+)", service.run("check-config", "--help").stdout)
    for values in VALUES:
        documents = rendered(values)
        with tempfile.TemporaryDirectory() as folder:
            config = service.settings_file(documents, folder)
            components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(documents)}
            for role in components & set(roles[0].split(", ")):
                environment = {**service.environment(documents, role), "MLMS_CONFIG": config}
                if "MLMS_JWT_PUBLIC_KEY_FILE" in environment:
                    key = f"{folder}/jwt.pem"
                    with open(key, "w") as file:
                        file.write("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n")
                    environment["MLMS_JWT_PUBLIC_KEY_FILE"] = key
                done = service.run("check-config", "--role", role, environment={k: v for k, v in environment.items() if k.startswith("MLMS_")})
                assert done.returncode == 0, f"{values.name}, {role}: {done.stderr}"
                for variable in ("MLMS_LISTEN", "MLMS_ADMIN_LISTEN", "MLMS_NODE_LISTEN"):
                    assert environment.get(variable, "0.0.0.0").startswith(("0.0.0.0", "[::]")), f"{role} listens on {environment[variable]}"


def chat(fleet: service.Fleet) -> None:
    """Two players meet and chat, and one does a few things wrong."""
    ann, bob = (Player(fleet.listen, fleet.token(user), "/ws?lobby=lounge") for user in ("ann", "bob"))
    assert (ann.status, bob.status) == (101, 101), (ann.status, bob.status)
    for player in (ann, bob):
        player.until(lambda frame: frame.get("ev") == "snapshot")
    assert "ok" in ann.ask(op="send", lobby="lounge", kind="chat", body="hello", nonce="n1")
    bob.until(lambda frame: frame.get("ev") == "message" and frame.get("body") == "hello")
    assert "ok" in ann.ask(op="send", lobby="lounge", kind="game", body={"x": 1})
    assert "ok" in ann.ask(op="send", lobby="lounge", kind="pos", body=1, **{"class": "ephemeral"})
    refused = ann.ask(op="leave", lobby="elsewhere")
    assert "err" in refused, refused
    forger = Player(fleet.listen, "x.y.z")
    assert forger.status == 401, forger.status
    bob.leave()
    # A frame without a command in it: the node closes.
    clumsy = Player(fleet.listen, fleet.token("clumsy"))
    clumsy.send()
    try:
        clumsy.until(lambda frame: False)
    except EOFError:
        clumsy.leave()
    fleet.ann = ann


@case("started as the chart starts them, two players chat, and every metric that anything asks for is exported")
def exported() -> None:
    documents = rendered(CHART / "ci/autoscaled-values.yaml")
    with service.Fleet(documents) as fleet:
        fleet.ready()
        helm_test(fleet, documents)
        chat(fleet)
        for role in fleet.admin:
            assert fleet.ask(role, "/live")[0] == 200
            assert fleet.ask(role, "/health")[0] == 200
            # The reading is taken every two seconds.
            service.wait("a reading", lambda role=role: json.loads(fleet.ask(role, "/scale")[1])["connections"] >= 1)
        scale = json.loads(fleet.ask("broker", "/scale")[1])
        assert scale["connections_max"] == 20000 and 0 <= scale["saturation"] <= 1, scale
        pages = {role: fleet.ask(role, "/metrics")[1] for role in fleet.admin}
        names = {role: {re.sub(r"[{ ].*", "", line) for line in page.splitlines() if not line.startswith("#")} for role, page in pages.items()}

        for document in of_kind(documents, "HorizontalPodAutoscaler"):
            role = document["metadata"]["labels"]["app.kubernetes.io/component"]
            for metric in document["spec"]["metrics"]:
                if metric["type"] == "Pods":
                    assert metric["pods"]["metric"]["name"] in names[role], f"{role} does not export {metric['pods']['metric']['name']}"
        adapter = next(document for document in of_kind(documents, "ConfigMap") if document["metadata"]["name"].endswith("-prometheus-adapter"))
        served = set(re.findall(r"seriesQuery: '(\w+)", adapter["data"]["config.yaml"]))
        assert served == {"mlms_connections", "mlms_saturation_ratio"}, served

        everywhere = set().union(*names.values())
        with open(service.BINARY, "rb") as file:
            code = file.read()
        problems = []
        for where, expression in queries():
            for name in metrics_of_expression(expression):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                if name in everywhere or base in RARE | ELSEWHERE and base.encode() in code:
                    continue
                problems.append(f"{where} asks for {name}, which is not exported")
        nothing(problems)
        labels = {name: set(re.findall(r'(\w+)="', line)) for page in pages.values() for line in page.splitlines() for name in [line.split("{")[0]] if "{" in line}
        nothing([
            f"{where} goes by the label {label}, which {name} does not have"
            for where, expression in queries()
            for name in metrics_of_expression(expression) & labels.keys()
            for label in re.findall(name + r"\{([^}]*)\}", expression)
            for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", label)
            if label not in labels[name] | {"namespace", "pod", "instance", "job"}
        ])
        ended(fleet)


def helm_test(fleet: service.Fleet, documents) -> None:
    """What `helm test` runs, with its own arguments and variables, but for the addresses."""
    pod = next(document for document in of_kind(documents, "Pod") if document["metadata"]["name"].endswith("-test-chat"))
    scenarios = next(document for document in of_kind(documents, "ConfigMap") if document["metadata"]["name"].endswith("-test"))
    (container,) = pod["spec"]["containers"]
    arguments = list(container["args"])
    assert (arguments[1], arguments[3], arguments[4:]) == ("/scenarios/chat.toml", "ws://t-mlms-broker:80", ["--wait", "120"]), arguments
    arguments[1], arguments[3] = f"{fleet.folder}/chat.toml", f"ws://127.0.0.1:{fleet.listen}"
    with open(arguments[1], "w") as file:
        file.write(scenarios["data"]["chat.toml"])
    assert [variable["name"] for variable in container["env"]] == ["LOADTEST_SECRET"]
    done = subprocess.run([service.LOADTEST, *arguments], capture_output=True, text=True, env={"LOADTEST_SECRET": service.SECRET}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@case("a changed ConfigMap is taken up by running processes, a bad one is refused, and what is in force is shown")
def live() -> None:
    with service.Fleet(rendered(CHART / "ci/external-values.yaml")) as fleet:
        fleet.ready()
        file = pathlib.Path(fleet.folder, "mlms.toml")
        plain = file.read_text()

        def swap(text: str) -> None:
            # As a kubelet does it: the file is another one from one moment to the next.
            new = pathlib.Path(fleet.folder, "new.toml")
            new.write_text(text)
            new.rename(file)

        def shown(role: str) -> dict:
            return tomllib.loads(fleet.ask(role, "/admin/config")[1])

        def welcomed(user: str) -> int:
            player = Player(fleet.listen, fleet.token(user))
            limit = player.until(lambda frame: frame.get("ev") == "welcome")["limits"]["chats_per_s"]
            player.leave()
            return limit

        assert welcomed("ann") == 10
        swap(plain.replace("[limits]", "[limits]\nchats_per_s = 33"))
        for role in fleet.admin:
            service.wait(f"{role} takes it up", lambda role=role: shown(role)["limits"]["chats_per_s"] == 33)
        assert welcomed("bob") == 33
        assert service.SECRET not in fleet.ask("broker", "/admin/config")[1]
        # A mistake changes nothing, and the log says what it is.
        swap(plain.replace("[limits]", "[limits]\nchats_per_s = 7\nchat_bytes_max = 'many'"))
        log = pathlib.Path(fleet.folder, "lobby-node.log")
        service.wait("the mistake is reported", lambda: "the old ones stay" in log.read_text())
        assert "chat_bytes_max" in log.read_text()
        assert shown("lobby-node")["limits"]["chats_per_s"] == 33
        # A SIGHUP is heard, too; without it the process would end.
        swap(plain.replace("[limits]", "[limits]\nchats_per_s = 44"))
        fleet.processes["lobby-node"].send_signal(signal.SIGHUP)
        service.wait("the node takes it up", lambda: shown("lobby-node")["limits"]["chats_per_s"] == 44)
        assert welcomed("cid") == 44


@case("the MariaDB inside the release is started with options that MariaDB has")
def mariadb() -> None:
    document = next(d for d in of_kind(rendered(CHART / "ci/trial-values.yaml"), "StatefulSet") if d["metadata"]["name"].endswith("-mariadb"))
    (container,) = document["spec"]["template"]["spec"]["containers"]
    done = subprocess.run([shutil.which("mariadbd") or "/usr/sbin/mariadbd", "--no-defaults", *container["args"], "--verbose", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "collation-server" in done.stdout, done.stderr


@case("the scenarios of the chart and of minikube's demonstrations are accepted by the load test")
def scenarios() -> None:
    files = [*CHART.glob("scenarios/*.toml"), *(service.ROOT / "minikube/scenarios").glob("*.toml")]
    assert len(files) >= 3
    for path in files:
        # Nobody listens there: the scenario has been read and found good when that is the complaint.
        done = subprocess.run([service.LOADTEST, "run", path, "--target", "ws://127.0.0.1:1"], capture_output=True, text=True, env={"LOADTEST_SECRET": service.SECRET}, check=False)
        assert done.returncode == 1 and "cannot be reached" in done.stderr, f"{path.name}: {done.stdout}{done.stderr}"
    presets = subprocess.run([service.LOADTEST, "presets"], capture_output=True, text=True, check=True).stdout
    assert "game-100" in presets


def ended(fleet: service.Fleet) -> None:
    """A pod's end: the node says so, lets its player go, and exits by itself before the kubelet loses its patience."""
    node = fleet.processes["lobby-node"]
    node.send_signal(15)
    bye = fleet.ann.until(lambda frame: frame.get("ev") == "bye")
    assert bye["reconnect"] in ("now", "window"), bye
    fleet.ann.leave()
    assert node.wait(timeout=90) == 0
    assert fleet.stop("broker") == 0
