"""Flower beside the coordinator: its login, its columns, and links to the console. For ``flowerconfig.py``.

Flower reads that file from the folder it is started in; ours is three lines. Everything can be overruled on Flower's
command line, and where the login comes from a provider there is no password.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coordinator.errors import CoordinatorError
from coordinator.private_file import PrivateFile
from coordinator.secret import secret_of

USER = "operator"

#: Also what BLOCKED and DELAYED jobs wait for, which is told as their result.
COLUMNS = "name,uuid,state,args,kwargs,result,received,started,runtime,worker"


def kept_login(data_dir: Path) -> tuple[str, str, Path]:
    """Return user, password and the file that keeps them; chosen once for a data folder.

    Raises:
        CoordinatorError: the file cannot be read or written, or has something else in it.
    """
    file = PrivateFile(data_dir / "flower.json")
    kept = file.create_once(lambda: {"user": USER, "password": secrets.token_urlsafe(18)})
    try:
        return kept["user"], kept["password"], file.path
    except KeyError:
        raise CoordinatorError(f"{file.path} names no user and password: remove it") from None


def login(data_dir: Path | str, arguments: Sequence[str] | None = None) -> list[str]:
    """Return what Flower's ``basic_auth`` should be; empty where another kind of login was chosen.

    ``FLOWER_BASIC_AUTH`` or the file that ``FLOWER_BASIC_AUTH_FILE`` names come first; else a password is chosen
    once, kept in the data folder, and standard error says where.

    Args:
        data_dir: the data folder.
        arguments: Flower's command line; by default this process's.

    Raises:
        CoordinatorError: the password cannot be read or kept.
    """
    arguments = sys.argv if arguments is None else arguments
    told = secret_of("FLOWER_BASIC_AUTH")
    if told:
        return told.split(",")
    names = {one.lstrip("-").partition("=")[0].replace("_", "-") for one in arguments}
    chosen = {"auth", "auth-provider", "basic-auth"}
    if names & chosen or any(
        os.environ.get(f"FLOWER_{one.upper()}") for one in ("auth", "auth_provider")
    ):
        return []
    user, password, file = kept_login(Path(data_dir))
    sys.stderr.write(f"Flower: user {user}, password in {file}\n")
    return [f"{user}:{password}"]


def link_console(url: str | None) -> None:
    """Have Flower's pages link to the console: the bar at the top, and each task to its job.

    Args:
        url: where the HTTP API and its console are; None leaves Flower's pages as they are.
    """
    if url is None:
        return
    place_of_console = _escaped(url)
    from flower.urls import settings
    from tornado.template import Loader, Template

    class Linked(Loader):
        """Flower's own templates, with a link more."""

        def _create_template(self, name: str) -> Template:
            text = (Path(self.root) / name).read_text("utf-8")
            for place, link in _LINKS.get(name, {}).items():
                text = text.replace(place, link.format(url=place_of_console, place=place), 1)
            return Template(text, name=name, loader=self)

    settings["template_loader"] = Linked(settings["template_path"])


#: By template: before what, and which link. A Flower whose pages are made otherwise has no link, and works.
_LINKS = {
    "navbar.html": {
        '<ul class="app-nav app-nav-secondary navbar-nav ms-lg-auto">': (
            '<ul class="app-nav navbar-nav"><li class="nav-item">'
            '<a class="nav-link" id="coordinator-console" href="{url}/console/">Coordinator</a></li></ul>\n{place}'
        )
    },
    "task.html": {
        '<div class="detail-actions">': (
            '{place}\n<a class="btn btn-secondary" id="coordinator-job" '
            'href="{url}/console/job?id={{{{ url_escape(task.uuid) }}}}">Coordinator: why?</a>'
        )
    },
}


def _escaped(url: str) -> str:
    return quote(url.rstrip("/"), safe=":/?&=%[]@~+,;").replace("{", "").replace("}", "")


def configured(app: str) -> Any:
    """Return the settings of an app, for the data folder and the console's place.

    Args:
        app: as ``celery -A`` takes it.
    """
    from celery.app.utils import find_app

    return find_app(app).coordination.settings
