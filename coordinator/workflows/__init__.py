"""Workflows: jobs of several steps that hold their models together."""

from __future__ import annotations

from coordinator.workflows.definitions import Step, Workflow, workflow_of
from coordinator.workflows.plans import Plan, plan_of
from coordinator.workflows.templates import UNKNOWN

__all__ = ["UNKNOWN", "Plan", "Step", "Workflow", "plan_of", "workflow_of"]
