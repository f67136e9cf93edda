"""State lives in one folder, named by the environment or by the platform."""

from pathlib import Path

import pytest

from tickserve.home import home


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path / "state"))
    assert home() == tmp_path / "state"
    monkeypatch.setenv("TICKSERVE_HOME", "~/state")
    assert home() == Path.home() / "state"


def test_a_relative_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TICKSERVE_HOME", ".tickserve")
    assert home() == tmp_path / ".tickserve"


@pytest.mark.parametrize("value", [None, ""])
def test_without_one_the_platform_decides(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("TICKSERVE_HOME", raising=False)
    else:
        monkeypatch.setenv("TICKSERVE_HOME", value)
    assert home().is_absolute()
    assert home().name == "tickserve"
