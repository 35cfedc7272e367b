"""The repository around the code: what the README promises exists, and nothing names one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

#: With groups in the words, so that this file does not contain what it forbids.
_HOSTS = r"pypi\.(?:org)|pythonhosted\.(?:org)|registry\.(?:npmjs)|(?:index)-url *[= ] *[a-z]+:"
_FOLDERS = r"(?:root|home/\w|Users/\w|work|workspace|tmp/\w)"
FORBIDDEN = {
    "a registry's host": re.compile(_HOSTS),
    "a folder of one machine": re.compile(rf"(?<![\w.$}})~-])/{_FOLDERS}(?![\w-])"),
}


def tracked() -> list[Path]:
    """Return every text file of the repository that is, or would be, committed."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file()]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode().splitlines(), 1):
            for what, pattern in FORBIDDEN.items():
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {what}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_tests_wait_in_one_place_only() -> None:
    waiting = re.compile(r"\b(?:time|asyncio|gevent|anyio)\.sleep\(|import sleep\b")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        # The tasks of an app under test may take their time; tests may not wait like that.
        if not path.name.endswith(("app.py", "child.py")) and path not in (
            ROOT / "tests" / "helpers.py",
            Path(__file__),
        ):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                assert not waiting.search(line), f"{path}:{number}: use helpers.eventually"


def test_no_silenced_checks_without_a_reason() -> None:
    silenced = re.compile(r"#\s*(?:type:\s*ignore|noqa|pragma)\S*(.*)")
    for folder in ("coordinator", "tasks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = silenced.search(line)
                if match and path != Path(__file__):
                    assert re.search(r"[#-]\s*\w+", match[1]), f"{path}:{number}: say why"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-runtime.lock"])
def test_every_line_of_a_lock_is_a_pin_or_a_hash(lock: str) -> None:
    pin = re.compile(r"[a-z0-9-]+==[\w.!+]+(?: ; [a-z_ .<>=!'()0-9A-Z-]+)? \\")
    digest = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
    for number, line in enumerate((ROOT / lock).read_text().splitlines(), 1):
        assert pin.fullmatch(line) or digest.fullmatch(line), f"{lock}:{number}: {line}"


def pins(lock: str) -> set[str]:
    return {
        line.split(" ")[0]
        for line in (ROOT / lock).read_text().splitlines()
        if not line.startswith(" ")
    }


def test_celery_and_kombu_are_the_versions_the_transport_was_written_for() -> None:
    assert {"celery==5.7.0", "kombu==5.7.0"} <= pins("requirements.lock")


def test_containers_get_what_was_tested() -> None:
    assert pins("requirements-runtime.lock") <= pins("requirements.lock")


def test_the_lock_has_every_direct_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    direct = [*PROJECT["project"]["dependencies"], *(one for extra in extras for one in extra)]
    locked = {pin.split("==")[0] for pin in pins("requirements.lock")}
    assert {re.split(r"[\[>=<;! ]", one)[0].lower() for one in direct} <= locked


def test_make_explains_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    explained = {line.split()[1] for line in shown.splitlines()}
    assert explained == TARGETS
    assert all(len(line.split()) > 3 for line in shown.splitlines())


def test_commands_of_the_readme_exist() -> None:
    commands = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    made = [words[1] for words in commands if words[:1] == ["make"] and len(words) > 1]
    assert {"run", "test"} <= set(made)
    assert set(made) <= TARGETS


def test_ci_finds_the_readmes_test_command() -> None:
    assert "<!-- ci: test -->\n```sh\nmake test\n```" in README


def test_python_in_the_readme_is_python() -> None:
    assert blocks("python")
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_verb_of_the_command_line_is_documented() -> None:
    cli = pytest.importorskip("coordinator.cli", reason="the command line does not exist yet")
    documented = "\n".join(
        path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    )
    commands = getattr(getattr(cli, "main", None), "commands", {})
    missing = [name for name in commands if not re.search(rf"coordinator {name}\b", documented)]
    assert not missing


def test_no_password_is_written_down() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"\$\{(\w*(?:PASSWORD|AUTH)\w*)", compose):
        assert f"${{{name}:?" in compose
        assert f"${{{name}:-" not in compose
    for line in (ROOT / ".env.example").read_text().splitlines():
        if re.match(r"\w*(?:PASSWORD|AUTH)", line):
            assert line.endswith("="), "an example password is a default password"


@pytest.mark.slow
def test_what_is_installed_is_complete(tmp_path: Path) -> None:
    """A Lua file or a migration that is not packaged works in the checkout and nowhere else."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    wanted = set()
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] in ("coordinator", "tasks"):
            wanted.add(str(name))
        elif len(name.parts) > 1:
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*build, "-q", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_no_module_hides_a_public_name() -> None:
    import coordinator

    folder = Path(coordinator.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    # Imported, a module takes the place of what the package calls by its name.
    assert not modules & set(coordinator.__all__)
