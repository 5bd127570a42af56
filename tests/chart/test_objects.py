"""What Helm makes of the examples: objects that Kubernetes, KEDA and the Prometheus operator take, by their own schemas."""

import helm_python as helm
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

from chart import CHART, EXAMPLES, containers, example, pod_templates, render

MODELS = {
    "ScaledJob": keda.ScaledJob,
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "PodMonitor": prometheus.PodMonitor,
    "ServiceMonitor": prometheus.ServiceMonitor,
    "PrometheusRule": prometheus.PrometheusRule,
}
# Keys of KEDA 2.17, of which there are no models yet.
NEWER = {("ScaledObject", "/spec/fallback/behavior")}

by_example = pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])


def unknown(given, kept, path=""):
    """The paths in `given` of what its model did not keep."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}/{key}"
            else:
                yield from unknown(value, kept[key], f"{path}/{key}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from unknown(value, kept[index], f"{path}/{index}")


def unknown_keys(found):
    model = MODELS[found["kind"]].model_validate(found, strict=True)
    kept = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return [key for key in unknown(found, kept) if (found["kind"], key) not in NEWER]


@by_example
def test_helm_finds_nothing_to_complain_of(name):
    result = helm.lint(str(CHART), example(name), strict=True)
    # 1 is advice: an icon.
    assert result["errors"] == [] and [found for found in result["messages"] if found["severity"] > 1] == []


@by_example
def test_kubernetes_takes_every_object(name):
    for found in render(example(name)):
        if found["kind"] not in MODELS:
            kubernetes_validate.validate(found, "1.37", strict=True)


@by_example
def test_the_operators_know_every_key_of_their_objects(name):
    wrong = {found["metadata"]["name"]: unknown_keys(found) for found in render(example(name)) if found["kind"] in MODELS}
    assert not any(wrong.values()), wrong


def test_a_key_that_an_operator_does_not_know_is_found():
    for found in render(example("everything")):
        if found["kind"] in MODELS:
            found["spec"]["misspelt"] = 1
            assert unknown_keys(found) == ["/spec/misspelt"]


def test_the_pod_of_a_scaled_job_is_held_to_the_schema_of_pods():
    for name in ("everything", "keda"):
        for owner, pod in pod_templates(render(example(name))):
            checked = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **pod["metadata"]}, "spec": pod["spec"]}
            kubernetes_validate.validate(checked, "1.37", strict=True)
            assert owner


def scaled(kind, name="everything"):
    return [found for found in render(example(name)) if found["kind"] == kind]


def test_keda_starts_jobs_by_default_and_asks_the_coordinator():
    (job,) = scaled("ScaledJob", "keda")
    (trigger,) = job["spec"]["triggers"]
    assert trigger == {
        "type": "metrics-api",
        "metadata": {
            "url": "http://demo-diorama-coordinator.prod.svc:9464/metrics",
            "format": "prometheus",
            "valueLocation": 'diorama_pool_wanted_workers{pool="sd15"}',
            "targetValue": "1",
        },
    }
    (service,) = scaled("Service", "keda")
    assert trigger["metadata"]["url"].startswith(f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:")


def test_probes_metrics_and_keda_ask_a_listener_that_no_crowd_at_the_api_reaches():
    rendered = render(example("everything"))
    (pod,) = [pod for name, pod in pod_templates(rendered) if name.endswith("-coordinator")]
    (container,) = containers(pod)
    variables = {each["name"]: each.get("value") for each in container["env"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert variables["DIORAMA_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}" and ports["metrics"] != ports["http"]
    assert {container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")} == {"metrics"}
    (service,) = [found for found in rendered if found["kind"] == "Service"]
    assert {port["name"]: port["targetPort"] for port in service["spec"]["ports"]} == {"http": "http", "metrics": "metrics"}
    (monitor,) = [found for found in rendered if found["kind"] == "ServiceMonitor"]
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["metrics"]
    (policy,) = [found for found in rendered if found["kind"] == "NetworkPolicy" and found["metadata"]["name"].endswith("-coordinator")]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["ingress"]] == [["http"], ["metrics"]]


def test_a_pool_at_rest_is_named_to_the_coordinator():
    (coordinator,) = [pod for name, pod in pod_templates(render(example("everything"))) if name.endswith("-coordinator")]
    variables = {each["name"]: each.get("value") for each in containers(coordinator)[0]["env"]}
    assert variables["DIORAMA_POOLS"] == "always,batch,elastic,load"


def test_no_change_kills_a_busy_job_and_no_disruption_counts_against_it():
    (job,) = scaled("ScaledJob")
    assert job["spec"]["rollout"] == {"strategy": "gradual"}
    target = job["spec"]["jobTargetRef"]
    rules = target["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [143] and target["template"]["spec"]["restartPolicy"] == "Never"
    assert rules[1]["onExitCodes"]["containerName"] in [each["name"] for each in containers(target["template"])]


def test_a_worker_outlives_the_waits_between_rounds_and_has_time_to_drain():
    for name in ("everything", "keda"):
        for owner, pod in pod_templates(render(example(name))):
            if "-worker-" in owner:
                variables = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
                # 5 s before the first round and 10 s before the second, as long as nobody sets retry_delay.
                assert float(variables.get("DIORAMA_MAX_IDLE", 120)) > 15
                assert ("DIORAMA_MAX_IDLE" in variables) == owner.startswith("ScaledJob")
                assert pod["spec"]["terminationGracePeriodSeconds"] > 25


def test_a_metric_that_is_missing_takes_no_worker_away():
    (deployment,) = scaled("ScaledObject")
    fallback = deployment["spec"]["fallback"]
    assert fallback["behavior"] == "currentReplicas" and fallback["replicas"] > 0
    triggers = [each["type"] for kind in ("ScaledJob", "ScaledObject") for found in scaled(kind) for each in found["spec"]["triggers"]]
    assert triggers == ["rabbitmq", "rabbitmq"]


def test_kueue_finds_its_queue_on_the_jobs():
    (job,) = scaled("ScaledJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "pictures"
