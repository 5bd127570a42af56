"""Alerts and dashboards are what lies in the chart's folders, letter by letter."""

import json
import shutil

import pytest
import yaml

from chart import CHART, example, render
from test_objects import unknown_keys

RULES = """# What is wrong.
groups:
  - name: diorama
    rules:
      - alert: NoWorkers
        expr: max by (pool) (diorama_workers) == 0
        for: 5m
        annotations: {summary: "Pool {{ $labels.pool }} has no workers"}
"""
DASHBOARD = {"title": "Fleet", "templating": {"list": []}, "panels": [{"legendFormat": "{{pool}}"}]}


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chart") / "diorama"
    shutil.copytree(CHART, folder)
    for kind in ("alerts", "dashboards"):
        shutil.rmtree(folder / kind)
        (folder / kind).mkdir()
    (folder / "alerts" / "fleet.yaml").write_text(RULES)
    (folder / "dashboards" / "fleet.json").write_text(json.dumps(DASHBOARD, indent=2))
    return folder


def only(kind, objects):
    (found,) = [found for found in objects if found["kind"] == kind]
    return found


def test_alerts_are_passed_on_as_they_stand(chart):
    rule = only("PrometheusRule", render(example("everything"), chart=chart))
    assert rule["spec"] == yaml.safe_load(RULES) and unknown_keys(rule) == []
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_dashboards_are_passed_on_as_they_stand(chart):
    dashboard = only("ConfigMap", render(example("everything"), chart=chart))
    assert json.loads(dashboard["data"]["fleet.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["annotations"] == {"grafana_folder": "Diorama"}


def test_both_are_left_out_where_they_are_not_asked_for(chart):
    assert not {"PrometheusRule", "ConfigMap"} & {found["kind"] for found in render(example("kind"), chart=chart)}


def test_what_lies_in_the_charts_own_folders_is_rendered():
    objects = render(example("everything"))
    kinds = [found["kind"] for found in objects]
    assert kinds.count("PrometheusRule") == len(list(CHART.glob("alerts/*.yaml")))
    assert kinds.count("ConfigMap") == len(list(CHART.glob("dashboards/*.json")))
    assert all(unknown_keys(found) == [] for found in objects if found["kind"] == "PrometheusRule")
