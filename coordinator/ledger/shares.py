"""Who has which share: limits in force and where they come from, and what orgs use of their queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.ledger.locks import Locks
from coordinator.resources import ORG, QUEUE, kind_of

#: Where a limit comes from, the strongest first.
OVERRIDE, OPERATOR, CONFIGURATION = "override", "operator", "configuration"


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of a resource at this moment.

    Attributes:
        resource: its name.
        value: its units, None when it has no limit.
        source: ``override`` (an operator's, until a time), ``operator``, ``configuration``, or "" for none.
        until_ms: when an override ends (Unix milliseconds), else 0.
        beneath: the limit that holds without the override.
    """

    resource: str
    value: int | None
    source: str
    until_ms: int
    beneath: int | None


class Shares(Locks):
    """Reads of limits and of what they are used for."""

    def limits(self, resources: Sequence[str]) -> dict[str, Limit]:
        """Return the limits of resources, by name."""
        prefix = self.prefix
        pipe = self.redis.pipeline(transaction=False)
        for name in ("defaults", "limits", "overrides"):
            pipe.hgetall(f"{prefix}{name}")
        for resource in resources:
            pipe.zscore(f"{prefix}ends", f"override {resource}")
        defaults, own, overrides, *ends = pipe.execute()
        found = {}
        for resource, end in zip(resources, ends, strict=True):
            configured = next(
                (defaults[name] for name in _levels(resource) if name in defaults), None
            )
            beneath = own.get(resource, configured)
            value, source = overrides.get(resource, beneath), ""
            if value is not None:
                source = OPERATOR if resource in own else CONFIGURATION
                source = OVERRIDE if resource in overrides else source
            found[resource] = Limit(
                resource,
                None if value is None else int(value),
                source,
                int(end or 0) if source == OVERRIDE else 0,
                None if beneath is None else int(beneath),
            )
        return found

    def limited(self, kind: str) -> list[str]:
        """Return the resources of a kind that an operator has set a limit of, for good or until a time."""
        names = {
            *self.redis.hkeys(f"{self.prefix}limits"),
            *self.redis.hkeys(f"{self.prefix}overrides"),
        }
        return sorted(name for name in names if kind_of(name) == kind)

    def weights(self) -> dict[str, int]:
        """Return the weights of orgs that have one, set or configured."""
        found: dict[str, str] = {}
        for name in ("defaults", "limits", "overrides"):
            found |= self.redis.hgetall(f"{self.prefix}{name}")
        return {
            name.partition(":")[2]: int(value)
            for name, value in sorted(found.items())
            if name.startswith("weight:")
        }

    def used(self) -> dict[str, int]:
        """Return how many units of their share orgs have, by resource (``org:QUEUE/ORG``)."""
        names = sorted(name for name in self.held() if kind_of(name) == ORG)
        pipe = self.redis.pipeline(transaction=False)
        for name in names:
            pipe.scard(f"{self.prefix}holders:{name}")
        return dict(zip(names, pipe.execute(), strict=True)) if names else {}

    def awaited(self, kind: str) -> dict[str, int]:
        """Return how many jobs wait that need a resource of a kind, by resource, whatever they wait for."""
        found: dict[str, int] = {}
        for needs, number in self._awaited():
            for need in needs:
                if kind_of(need) == kind:
                    found[need] = found.get(need, 0) + number
        return found

    def in_use(self, resource: str) -> int:
        """Return how many units of a resource are held."""
        return int(self.redis.scard(f"{self.prefix}holders:{resource}"))


def _levels(resource: str) -> tuple[str, ...]:
    """Return where the configured limit of a resource is looked for; as ``configured`` in capacity.lua."""
    kind = kind_of(resource)
    if kind == ORG:
        return resource.partition("/")[0], ORG
    return (resource,) if kind == QUEUE else (resource, kind)
