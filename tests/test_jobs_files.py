"""Callables and file processing as jobs: their bodies, called directly."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import NotRetryable
from tasks.call import call
from tasks.files import stamp


def test_a_callable_is_called_with_its_arguments() -> None:
    assert call("math:hypot", [3, 4]) == 5
    assert call("json:dumps", [{"b": 1, "a": 2}], {"sort_keys": True}) == '{"a": 2, "b": 1}'
    assert call("datetime:date.fromordinal", [1]).year == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("math", "not of the form"),
        ("math:", "not of the form"),
        ("math:no_such_thing", "cannot be found"),
        ("no_such_module:main", "cannot be found"),
        ("math:pi", "a float, nothing that can be called"),
    ],
)
def test_a_callable_that_does_not_exist_is_not_tried_again(path: str, reason: str) -> None:
    with pytest.raises(NotRetryable, match=reason):
        call(path)


def test_an_error_in_a_callable_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        call("operator:truediv", [1, 0])


def test_a_file_is_stamped_by_each_job_with_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("content\n")
    answers = [stamp(str(path)) for _ in range(2)]
    assert path.read_text().splitlines() == ["content", *(answer["line"] for answer in answers)]
    assert "job=local-" in answers[0]["line"]
    assert "worker=local" in answers[0]["line"]


def test_work_on_a_file_takes_its_time(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.touch()
    stamp(str(path), seconds=0.15)
    assert len(path.read_text().splitlines()) == 1


def test_a_deleted_file_is_an_ordinary_error_and_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    with pytest.raises(FileNotFoundError):
        stamp(str(path))
    assert not path.exists()
