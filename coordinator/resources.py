"""Resources: everything that can stop a job from running.

A resource is written ``kind:name``. A job needs one unit of each of its resources, all or nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from coordinator.errors import InvalidValue

MODEL, SERIAL, INTEGRATION, ORG, QUEUE = "model", "serial", "integration", "org", "queue"

#: The order in which the needs of a job are tried. The first that is full is where its class is parked,
#: so the scarcest come first: what blocks longest is woken least often.
KINDS = (MODEL, SERIAL, INTEGRATION, ORG, QUEUE)

#: The one resource of serialized mode.
SERIAL_RESOURCE = "serial"

MAX_NAME = 200
MAX_MODELS = 64

_FORBIDDEN = re.compile(r"[\s|\x00-\x1f\x7f\ud800-\udfff]")


def check_name(field: str, value: object) -> str:
    """Return ``value`` if it can name a model, org, queue or integration.

    Raises:
        InvalidValue: empty, longer than 200 characters, with white space or ``|``, or not a string.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_NAME or _FORBIDDEN.search(value):
        raise InvalidValue(
            field, value, f"1 to {MAX_NAME} characters without white space, control characters or |"
        )
    return value


def check_resource(field: str, value: object) -> str:
    """Return ``value`` if it is a resource whose limit or hold may be set.

    Raises:
        InvalidValue: of no known kind, or with a name that cannot be one.
    """
    kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == SERIAL and not colon:
        return kind
    if kind not in (MODEL, INTEGRATION, ORG, QUEUE) or not colon:
        allowed = "model:NAME, queue:NAME, org:QUEUE/ORG, integration:NAME or serial"
        raise InvalidValue(field, value, allowed)
    if kind == ORG:
        queue, slash, name = name.partition("/")
        if not slash:
            raise InvalidValue(field, value, "org:QUEUE/ORG")
        check_name(field, queue)
    check_name(field, name)
    return str(value)


def check_limit(field: str, value: object, least: int = 0) -> int:
    """Return ``value`` if it can be a limit.

    Raises:
        InvalidValue: no whole number, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValue(field, value, f"a whole number from {least}")
    return value


def model_resource(model: str) -> str:
    return f"{MODEL}:{model}"


def queue_resource(queue: str) -> str:
    return f"{QUEUE}:{queue}"


def org_resource(queue: str, org: str) -> str:
    # A queue's name has no slash (see needs_of), so the first one ends it.
    return f"{ORG}:{queue}/{org}"


def integration_resource(integration: str) -> str:
    return f"{INTEGRATION}:{integration}"


def is_kept(resource: str) -> bool:
    """Whether an owner keeps a unit of this from its first job to its last; see ``lua/capacity.lua``."""
    return resource == SERIAL_RESOURCE or kind_of(resource) == MODEL


def kind_of(resource: str) -> str:
    return resource.split(":", 1)[0]


def needs_of(
    queue: str,
    models: Iterable[str] = (),
    org: str | None = None,
    integration: str | None = None,
) -> tuple[str, ...]:
    """Return the resources a job needs, in the order in which they are tried.

    Args:
        queue: the queue it runs on.
        models: names of the models it needs; duplicates count once.
        org: the organisation it runs for, if any.
        integration: the integration it depends on, if any.

    Raises:
        InvalidValue: a name that cannot be one, or more than 64 models.
    """
    names = sorted({check_name("models", model) for model in models})
    if len(names) > MAX_MODELS:
        raise InvalidValue("models", f"{len(names)} models", f"at most {MAX_MODELS}")
    needs = [model_resource(name) for name in names]
    needs.append(SERIAL_RESOURCE)
    if integration is not None:
        needs.append(integration_resource(check_name("integration", integration)))
    if "/" in check_name("queue", queue):
        raise InvalidValue("queue", queue, "a name without a slash")
    if org is not None:
        needs.append(org_resource(queue, check_name("org", org)))
    needs.append(queue_resource(queue))
    return tuple(needs)


def class_of(needs: Sequence[str], priority: int, owner: str = "") -> str:
    """Return the id of the class of jobs that are interchangeable but for their order."""
    text = f"{priority} {owner} {' '.join(needs)}"
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def models_of(needs: Iterable[str]) -> tuple[str, ...]:
    """Return the model names among ``needs``."""
    return tuple(need.split(":", 1)[1] for need in needs if kind_of(need) == MODEL)


def reason_text(resource: str, code: str | None, holders: Sequence[str] = ()) -> str:
    """Return in words what stops a job."""
    kind, name = kind_of(resource), resource.partition(":")[2]
    holder = holders[0] if holders else None
    if code == "held":
        return f"{resource} is paused"
    if code == "no-worker":
        return f"Queue {name} has no live worker"
    if code == "no-slot":
        return f"Queue {name} has no free slot"
    if code == "restoring":
        return "The ledger is being restored"
    if code == "closed":
        return f"{resource} has a limit of 0"
    if code == "reserved" and holder:
        return f"Model {name} is kept for job {holder}, which has waited longest for several models"
    if kind == "model" and holder:
        return f"Model conflict: {name} in use by {owner_kind(holder)} job {holder}"
    if holder:
        return f"{resource} is at its limit, held by {owner_kind(holder)} job {holder}"
    return f"{resource}: waiting for its turn"


def owner_kind(owner: str) -> str:
    """Return ``workflow`` for a workflow execution, ``normal`` for a job."""
    return "workflow" if owner.startswith("workflow-") else "normal"
