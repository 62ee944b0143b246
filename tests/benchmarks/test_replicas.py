"""The table of several seeds at once: which rows and columns, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_a_row_an_agent_and_a_column_a_stack(load: Any, tmp_path: Path) -> None:
    script = load("replicas")
    script.main(
        ["agents=[bc,ac]", "seeds=[1,3]", "rounds=2", "updates=1", "hidden=4", f"out={tmp_path}"]
    )
    table = (tmp_path / "replicas.md").read_text().splitlines()
    assert table[4] == "| agent | alone, ms | 1 at once | 3 at once |"
    assert [line.split(" | ")[0] for line in table[6:]] == ["| `bc`", "| `ac`"]
    for row in json.loads((tmp_path / "replicas.json").read_text()):
        assert row["gain"]["3"] > 0
        assert row["ms"]["3"] > 0


def test_compiled_stacks_have_a_table_of_their_own(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []

    def keep(graph: Any, *_: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr("torch._inductor.compile", keep)
    options = ["agents=[bc]", "seeds=[2]", "rounds=1", "updates=1", "hidden=4"]
    load("replicas").main([*options, "accelerate=compile", f"out={tmp_path}"])
    assert len(graphs) == 2  # of one seed's loss, and of two seeds'
    assert {path.name for path in tmp_path.iterdir()} == {
        "replicas_compiled.md",
        "replicas_compiled.json",
    }
    assert "alone, compiled too, so" in (tmp_path / "replicas_compiled.md").read_text()


def test_an_unknown_option_is_refused(load: Any) -> None:
    with pytest.raises(
        SystemExit, match="unknown option 'colour', expected one of accelerate, agents"
    ):
        load("replicas").main(["colour=red"])
