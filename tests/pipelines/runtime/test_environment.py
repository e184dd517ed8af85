"""Environment variables that are set for a while."""

import os
from contextlib import suppress

import pytest

from pipelines.runtime.environment import environment


def test_variables_are_set_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APOLLO_A", "before")
    monkeypatch.delenv("APOLLO_B", raising=False)
    monkeypatch.delenv("APOLLO_C", raising=False)
    with suppress(ValueError), environment({"APOLLO_C": None, "APOLLO_A": "a", "APOLLO_B": "b"}):
        assert (os.environ["APOLLO_A"], os.environ["APOLLO_B"]) == ("a", "b")
        os.environ["APOLLO_C"] = "c"
        raise ValueError("after an error too")
    assert os.environ["APOLLO_A"] == "before"
    assert "APOLLO_B" not in os.environ
    assert "APOLLO_C" not in os.environ
