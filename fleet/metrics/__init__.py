"""The launch as Prometheus metrics, through Ray's own exporter (`ray_fleet_*`)."""

from fleet.metrics.catalog import METRICS, Metric, values_of
from fleet.metrics.exporter import Exporter

__all__ = ["METRICS", "Exporter", "Metric", "values_of"]
