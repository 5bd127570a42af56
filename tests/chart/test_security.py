"""Pod Security `restricted`, credentials by name only, and an environment that the program knows."""

import pytest

from chart import CHART, EXAMPLES, containers, example, pod_templates, program_keys, render

PODS = [(f"{path.stem}: {name}", pod) for path in EXAMPLES for name, pod in pod_templates(render(example(path.stem)))]
by_pod = pytest.mark.parametrize("pod", [pod for _, pod in PODS], ids=[name for name, _ in PODS])

# https://kubernetes.io/docs/concepts/security/pod-security-standards/, `restricted`, and `baseline` below it.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image"}
CAPABILITIES = {"NET_BIND_SERVICE"}


def violations(pod):
    """What `restricted` does not allow, each as its field."""
    spec = pod["spec"]
    own = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    if own.get("sysctls") or own.get("windowsOptions", {}).get("hostProcess") or own.get("seLinuxOptions"):
        yield "securityContext"
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volumes.{volume['name']}"
    for container in containers(pod):
        context = container.get("securityContext", {})
        at = container["name"]
        if context.get("privileged") or context.get("procMount", "Default") != "Default" or context.get("seLinuxOptions"):
            yield f"{at}.privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{at}.allowPrivilegeEscalation"
        if "ALL" not in context.get("capabilities", {}).get("drop", []):
            yield f"{at}.capabilities.drop"
        if not set(context.get("capabilities", {}).get("add", [])) <= CAPABILITIES:
            yield f"{at}.capabilities.add"
        if context.get("runAsNonRoot", own.get("runAsNonRoot")) is not True:
            yield f"{at}.runAsNonRoot"
        if context.get("runAsUser", own.get("runAsUser")) == 0:
            yield f"{at}.runAsUser"
        if context.get("seccompProfile", own.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{at}.seccompProfile"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{at}.hostPort"


@by_pod
def test_every_pod_is_restricted(pod):
    assert list(violations(pod)) == []


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"podSecurityContext": {"runAsNonRoot": False}}, {"runAsNonRoot"}),
        ({"podSecurityContext": {"runAsUser": 0}}, {"runAsUser"}),
        ({"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}, {"seccompProfile"}),
        ({"securityContext": {"allowPrivilegeEscalation": True}}, {"allowPrivilegeEscalation"}),
        ({"securityContext": {"privileged": True}}, {"privileged"}),
        ({"securityContext": {"capabilities": {"drop": []}}}, {"drop"}),
        ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, {"add"}),
    ],
)
def test_a_pod_that_is_less_than_restricted_is_found(values, fields):
    for _, pod in pod_templates(render(example("kind") | values)):
        assert {field.rpartition(".")[2] for field in violations(pod)} == fields


@by_pod
def test_every_pod_runs_as_the_images_user_with_a_read_only_root_and_no_token_of_the_cluster(pod):
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False and spec["securityContext"]["runAsUser"] == 65532
    assert all(each["securityContext"]["readOnlyRootFilesystem"] is True for each in containers(pod))
    assert all("memory" in each["resources"]["limits"] for each in containers(pod))


@by_pod
def test_home_and_temporary_files_are_in_a_volume_with_a_limit(pod):
    limited = {volume["name"] for volume in pod["spec"]["volumes"] if "sizeLimit" in volume.get("emptyDir", {})}
    for container in containers(pod):
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in limited}
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert {variables["HOME"], variables["TMPDIR"]} <= writable


@by_pod
def test_the_program_knows_every_variable(pod):
    files = ("coordinator.toml", "worker.toml", "diorama.toml")
    known = {f"DIORAMA_{key.upper()}" for key in program_keys(*files)} | {"DIORAMA_LOG"}
    for container in containers(pod):
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names))
        assert set(names) - {"HOME", "TMPDIR", "OMP_WAIT_POLICY"} <= known


@by_pod
def test_credentials_come_from_secrets_and_never_stand_in_a_pod(pod):
    for container in containers(pod):
        given = {each["name"] for each in container["env"] if "value" in each}
        assert not given & {"DIORAMA_AMQP_URL", "DIORAMA_REDIS_URL", "DIORAMA_S3_ACCESS_KEY", "DIORAMA_S3_SECRET_KEY", "DIORAMA_TOKEN"}
        from_secrets = {each["name"] for each in container["env"] if "secretKeyRef" in each.get("valueFrom", {})}
        assert from_secrets <= {"DIORAMA_S3_ACCESS_KEY", "DIORAMA_REFERENCE_S3_ACCESS_KEY"}
    for container in containers(pod):
        files = {each["value"] for each in container["env"] if each["name"].endswith("_FILE")}
        mounted = [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")]
        assert all(any(file.startswith(f"{path}/") for path in mounted) for file in files)


def keys_of(values, component):
    """The Secrets with keys of the object store that a pod of this component reads, and its ServiceAccount."""
    (pod,) = [pod for name, pod in pod_templates(render(values)) if component in name]
    variables = {each["name"]: each["valueFrom"]["secretKeyRef"]["name"] for each in containers(pod)[-1]["env"] if "secretKeyRef" in each.get("valueFrom", {})}
    (volume,) = [volume["projected"]["sources"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets"]
    mounted = {item["path"]: source["secret"]["name"] for source in volume for item in source["secret"]["items"]}
    names = {key.removeprefix("DIORAMA_"): name for key, name in variables.items()}
    assert mounted.get("s3-secret-key") == names.get("S3_ACCESS_KEY")
    assert mounted.get("reference-s3-secret-key") == names.get("REFERENCE_S3_ACCESS_KEY")
    return names, pod["spec"]["serviceAccountName"]


def test_coordinators_workers_and_references_have_keys_of_their_own():
    both = {"REFERENCE_S3_ACCESS_KEY": "reader-key"}
    values = example("everything")
    assert keys_of(values, "-coordinator") == ({"S3_ACCESS_KEY": "services", **both}, "pictures")
    assert keys_of(values, "-worker-load") == ({"S3_ACCESS_KEY": "worker-key", **both}, "pictures")
    assert keys_of(example("kind"), "-worker-default") == ({"S3_ACCESS_KEY": "diorama-services"}, "demo-diorama")


def test_a_fleet_with_roles_needs_no_key_and_its_workers_have_a_role_of_their_own():
    values = example("keda")
    assert keys_of(values, "-coordinator") == ({}, "demo-diorama")
    assert keys_of(values, "-worker-sd15") == ({}, "demo-diorama-worker")
    roles = {found["metadata"]["name"]: found["metadata"]["annotations"] for found in render(values) if found["kind"] == "ServiceAccount"}
    assert {name: role["eks.amazonaws.com/role-arn"].rpartition("/")[2] for name, role in roles.items()} == {
        "demo-diorama": "diorama-coordinator", "demo-diorama-worker": "diorama-worker",
    }  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_the_chart_makes_no_secret_and_reads_none(name):
    assert "Secret" not in {found["kind"] for found in render(example(name))}
    assert not [path for path in CHART.glob("templates/**/*.*") if "lookup " in path.read_text()]
