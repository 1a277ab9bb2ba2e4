"""Reads a page of metrics from stdin as OpenMetrics says, with the strict parser of Prometheus' own client library, and
writes the families as JSON: {"NAME": {"type": ..., "samples": [[name, {label: value}, number], ...]}}."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    if not family.documentation:
        sys.exit(f"{family.name} has no help")
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    families[family.name] = {"type": family.type, "samples": samples}
json.dump(families, sys.stdout)
