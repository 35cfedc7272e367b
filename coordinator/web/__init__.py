"""The HTTP API: every route calls one method of the work queue. Needs the extra ``web``.

``application.create`` makes the app that a server runs. Pages join it as further routers: they find the same
``Service`` in ``app.state.service`` and the same callers in ``access``.
"""
