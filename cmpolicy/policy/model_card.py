"""A model card: what a policy is, how it was trained and how it scored, from results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmpolicy.errors import InputError

RESULTS = "results.json"
LIBRARY = "cmpolicy"


def read_results(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read results.json: of a run directory, as a file, or a mapping that is at hand already.

    Raises:
        InputError: it is missing or damaged.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    path = path / RESULTS if path.is_dir() else path
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path} holds no results, expected what a training run writes")
    return read


def shareable(results: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of results what only the machine of the run knows: where its data were."""
    dataset = {k: v for k, v in (results.get("dataset") or {}).items() if k != "path"}
    return {**results, "dataset": dataset}


def model_card(policy: Any, name: str, results: Mapping[str, Any] | None) -> str:
    """Write README.md with the front matter that the hub reads.

    Args:
        policy: a ConsistencyPolicy.
        name: a repository's id, or a folder's name.
        results: of results.json; None if nothing is known of the training.
    """
    results = results or {}
    title = " on ".join(str(results[key]) for key in ("agent", "task") if results.get(key))
    matter = yaml.safe_dump(_front_matter(title or name, results), sort_keys=False)
    low, high = policy.bound.given_low.tolist(), policy.bound.given_high.tolist()
    parts = [
        f"---\n{matter}---\n",
        f"# {title or name}\n",
        "A consistency policy of [cmpolicy]: observations in, bounded actions out, in one or few "
        "network calls.\n",
        f"- observations: {policy.obs_dim} numbers",
        f"- actions: {policy.action_dim} numbers between {low} and {high}",
        f"- network calls an action: {len(policy.levels)}\n",
        _usage(name),
        _training(results),
        _scores(results),
        "The file holds weights and settings only; loading it executes nothing.\n",
        "[cmpolicy]: https://pypi.org/project/cmpolicy",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _front_matter(title: str, results: Mapping[str, Any]) -> dict[str, Any]:
    tags = ["reinforcement-learning", "offline-rl", "consistency-model", "robotics"]
    matter: dict[str, Any] = {"library_name": LIBRARY, "tags": tags}
    matter["pipeline_tag"] = "reinforcement-learning"
    environment, last = results.get("environment") or {}, results.get("last") or {}
    if environment.get("id") and last.get("mean_return") is not None:
        value = f"{last['mean_return']:.1f} +/- {last.get('return_standard_error') or 0:.1f}"
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        matter["model-index"] = [
            {
                "name": title,
                "results": [
                    {
                        "task": task,
                        "dataset": {"type": environment["id"], "name": environment["id"]},
                        "metrics": [{"type": "mean_reward", "name": "return", "value": value}],
                    }
                ],
            }
        ]
    return matter


def _usage(name: str) -> str:
    return (
        "```python\n"
        "import numpy as np\n"
        "from cmpolicy import ConsistencyPolicy\n\n"
        f"policy = ConsistencyPolicy.from_pretrained({name!r})\n"
        "action = policy.act(np.zeros(policy.obs_dim))\n"
        "```\n"
    )


def _training(results: Mapping[str, Any]) -> str:
    data, environment = results.get("dataset") or {}, results.get("environment") or {}
    if not data:
        return ""
    compares = "compare" if data.get("comparable") else "do **not** compare"
    versions = ", ".join(f"{k} {v}" for k, v in (results.get("versions") or {}).items())
    lines = [
        "## Training\n",
        f"- agent: `{results.get('agent')}`, seed {results.get('seed')}",
        f"- data: {data.get('dataset_id')} ({data.get('source')}), {data.get('transitions')} "
        f"transitions; scores on it {compares} with published ones",
        f"- environment: {environment.get('id') or 'none'}",
        f"- machine: {results.get('machine')}, {results.get('date')}",
        f"- versions: {versions}\n",
    ]
    return "\n".join(lines)


def _scores(results: Mapping[str, Any]) -> str:
    """Make the table of the last and the best checkpoint; the file is the last."""
    rows = []
    for which in ("last", "best"):
        score = results.get(which) or {}
        if not score.get("episodes"):
            continue
        normalized = score.get("normalized_score")
        rows.append(
            f"| {which} (update {score.get('step')}) | "
            f"{'–' if normalized is None else f'{normalized:.1f}'} | "
            f"{score['mean_return']:.1f} ± {score['return_standard_error']:.1f} | "
            f"{score['episodes']} |"
        )
    if not rows:
        return ""
    data = (results.get("dataset") or {}).get("mean_normalized_score")
    head = ["## Scores\n", "| checkpoint | normalized score | return | episodes |"]
    tail = [f"| the data | {data:.1f} | | |"] if data is not None else []
    note = "\nThis file is the averaged policy of the last checkpoint. The score of the best is an "
    note += "optimistic choice among several.\n"
    return "\n".join([*head, "|---|---|---|---|", *rows, *tail, note])
