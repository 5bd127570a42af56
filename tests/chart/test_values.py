"""values.yaml, its schema, the templates and the program name the same keys."""

import re

import helm_python as helm
import pytest

from chart import CHART, DEFAULTS, EXAMPLES, SCHEMA, example, manifests, program_keys, refuses, render, with_changed
from samples import leaves, objects, resolved, sample

EVERYTHING = sample(SCHEMA)
# What the chart sets itself, out of the other values or of the pod.
SET_BY_THE_CHART = {
    "amqp_url", "amqp_url_file", "redis_url", "redis_url_file", "redis_cluster", "s3_bucket", "s3_prefix", "s3_endpoint",
    "s3_region", "s3_access_key", "s3_secret_key", "s3_secret_key_file", "s3_session_token", "s3_session_token_file", "s3_profile",
    "reference_s3_access_key", "reference_s3_secret_key", "reference_s3_secret_key_file", "reference_s3_profile",
    "s3_path_style", "s3_readable", "ca_file", "listen",
    "insecure", "tokens_file", "scratch", "pools", "pool", "worker", "max_idle", "metrics_listen", "model",
}  # fmt: skip


def misspelt(key):
    return key[:-2] + key[-1] + key[-2] if len(key) > 2 and key[-1] != key[-2] else key + "s"


def test_the_schema_takes_one_of_each_key():
    assert not refuses(EVERYTHING)


@pytest.mark.parametrize(("path", "keys"), list(objects(SCHEMA, EVERYTHING)), ids=lambda at: ".".join(map(str, at)))
def test_every_key_that_is_misspelt_is_refused(path, keys):
    taken = []
    for key in keys:
        wrong = misspelt(key)
        values = with_changed(EVERYTHING, (*path, wrong), lambda at, name: at.update({name: at[key]}))
        if wrong not in keys and not refuses(values):
            taken.append(wrong)
    assert not taken


def test_every_map_of_the_schema_is_closed_or_says_what_its_values_are():
    def open_maps(schema, path):
        if isinstance(schema, dict):
            if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
                yield path
            for key, inner in schema.items():
                yield from open_maps(inner, f"{path}/{key}")

    assert list(open_maps(SCHEMA, "")) == []


def test_values_yaml_and_the_schema_have_the_same_keys():
    def differing(schema, value, path):
        schema = resolved(schema)
        named = schema.get("properties")
        # Kubernetes' own objects, and the program's settings, are given whole or not at all.
        if named and value and path[-1:] not in [("podSecurityContext",), ("securityContext",)] + OF_KUBERNETES:
            yield from (".".join((*path, key)) for key in set(named) ^ set(value))
            for key in set(named) & set(value):
                yield from differing(named[key], value[key], (*path, key))

    assert list(differing(SCHEMA, DEFAULTS, ())) == []


OF_KUBERNETES = [("resources",), ("scratch",), ("seccompProfile",), ("capabilities",)]


def test_the_settings_that_the_schema_takes_are_those_of_the_program():
    settings = {role: set(SCHEMA["definitions"][f"{role}Config"]["properties"]) for role in ("coordinator", "worker")}
    assert settings["coordinator"] == program_keys("coordinator.toml") - SET_BY_THE_CHART
    # How the services are reached is declared for both in the coordinator's file.
    assert settings["worker"] == program_keys("worker.toml") - SET_BY_THE_CHART | {"amqp_heartbeat"}
    assert set(SCHEMA["definitions"]["config"]["properties"]) == settings["coordinator"] & settings["worker"]


def outcome(values):
    try:
        return manifests(values)
    except helm.HelmError as error:
        return str(error)


@pytest.fixture(scope="module")
def untouched():
    return [(values, outcome(values)) for values in map(example, ["keda", "kind", "everything"])]


def differs(path, schema, value, bases):
    """Whether another value there makes another release, of any of the examples."""
    other = sample(schema, other_than=value)
    for values, before in bases:
        if outcome(with_changed(values, path, lambda at, key: at.update({key: other}))) != before:
            return True
    return False


def test_every_value_changes_what_is_rendered(untouched):
    without_effect = [
        ".".join(path) for path, schema, value in leaves(SCHEMA, DEFAULTS) if not differs(path, schema, value, untouched)
    ]
    # Alerts and dashboards are looked at by test_monitoring.py, which brings files of its own.
    of_files = {"monitoring.rules", "monitoring.dashboards.enabled", "monitoring.dashboards.labels"}
    assert set(without_effect) - of_files - {"monitoring.dashboards.annotations"} == set()


# What the templates call parts of the values.
NAMES = {
    ".Values": (), "$.Values": (), "$root.Values": (), ".root.Values": (),
    "$services": ("services",), "$s3": ("services", "s3"), "$policy": ("networkPolicy",), "$token": ("tests", "token"),
    "$model": ("workerDefaults", "model"),
}  # fmt: skip


def test_every_value_that_a_template_names_is_in_values_yaml():
    named = re.compile(r"(?<![\w.$])((?:\$|\$root|\.root)?\.Values|\$\w+)\.([A-Za-z0-9.]+)")
    missing = []
    for template in sorted(CHART.glob("templates/**/*.*")):
        own = {"$values": ("coordinator",) if template.parent.name == "coordinator" else ("workerDefaults",)}
        for name, path in named.findall(template.read_text()):
            start = (NAMES | own | {"$pool": ("workerDefaults",), "$own": ("image",)}).get(name)
            if start is None:
                continue
            at = DEFAULTS
            for step in (*start, *path.rstrip(".").split(".")):
                if not isinstance(at, dict) or (at and step not in at):
                    missing.append(f"{template.name}: {name}.{path}")
                    break
                at = at.get(step)
    assert missing == []


@pytest.mark.parametrize("key", ["amqp_url", "redis_url", "s3_access_key", "s3_secret_key", "s3_session_token", "reference_s3_secret_key", "token"])
def test_no_value_takes_a_credential(key):
    base = example("everything")
    homes = [("config",), ("coordinator", "config"), ("workerDefaults", "config"), ("workers", "always", "config"),
             ("services",), ("services", "s3"), ("services", "amqpUrl")]  # fmt: skip
    taken = [home for home in homes if not refuses(with_changed(base, (*home, key), lambda at, at_key: at.update({at_key: "canary"})))]
    assert taken == []


@pytest.mark.parametrize("missing", [("services", "amqpUrl", "secret"), ("services", "redisUrl", "secret"),
                                     ("services", "s3", "bucket"),
                                     ("coordinator", "tokens", "secret")], ids=".".join)  # fmt: skip
def test_what_a_fleet_cannot_do_without_is_asked_for(missing):
    assert refuses(with_changed(example("kind"), missing, lambda at, key: at.pop(key)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("workers", "default", "model"), {}, "exactly one of"),
        (("workers", "default", "model"), {"path": "/a", "existingClaim": "b"}, "exactly one of"),
        (("workers", "default", "scaling"), {"mode": "job"}, "keda.enabled"),
        (("workers", "default", "scaling"), {"min": 9}, "min is more than max"),
    ],
)
def test_a_pool_that_cannot_work_is_refused_with_its_name(path, value, message):
    values = with_changed(example("kind"), path, lambda at, key: at.update({key: value}))
    with pytest.raises(helm.HelmError, match=rf"workers\.default.*{message}"):
        render(values)


def test_there_are_examples():
    assert [path.stem for path in EXAMPLES] == ["everything", "keda", "kind"]
