"""Names of any release and any pools are short enough, and no two objects share one."""

import itertools

from chart import example, render

LONGEST = "a-release-whose-name-has-all-53-letters-that-helm-let"
POOLS = ["a", "b-a", "a-b", "worker", "coordinator", "doctor", "egress", "p" * 20]


def of_pools(names, mode):
    values = example("everything")
    pool = {"model": {"path": "/a"}, "scaling": {"mode": mode}}
    return values | {"workers": {name: pool for name in names}, "serviceAccount": {}}


def named(objects):
    return [(found["kind"], found["metadata"]["name"]) for found in objects]


def labels(found):
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("labels", "matchLabels"):
                yield from value.values()
            else:
                yield from labels(value)
    elif isinstance(found, list):
        for value in found:
            yield from labels(value)


def test_every_name_and_label_of_the_longest_release_fits():
    assert len(LONGEST) == 53
    for mode in ("fixed", "job", "deployment"):
        objects = render(of_pools(POOLS, mode), release=LONGEST)
        # What Kubernetes, KEDA and the Job's controller add where they make objects of these.
        added = {"ScaledObject": len("keda-hpa-"), "ScaledJob": len("-abcde")}
        assert all(len(name) + added.get(kind, 0) <= 63 for kind, name in named(objects))
        assert all(len(value) <= 63 for found in objects for value in labels(found))


def test_objects_of_different_pools_and_parts_never_share_a_name_or_a_pod():
    for mode in ("fixed", "job", "deployment"):
        objects = render(of_pools(POOLS, mode))
        assert len(set(named(objects))) == len(objects)
        selectors = [found["spec"]["selector"]["matchLabels"] for found in objects if found["kind"] == "Deployment"]
        for one, other in itertools.permutations(selectors, 2):
            assert not one.items() <= other.items()


def test_releases_whose_long_names_begin_alike_never_share_an_object():
    releases = [render(of_pools(POOLS, "job"), release=name) for name in (LONGEST, LONGEST[:-1], LONGEST[:-1] + "x")]
    for one, other in itertools.combinations(releases, 2):
        assert not set(named(one)) & set(named(other))


def test_a_release_that_is_called_diorama_is_not_called_so_twice():
    assert ("Service", "diorama-coordinator") in named(render(example("kind"), release="diorama"))
