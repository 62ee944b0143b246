"""The page of speed.py."""

from __future__ import annotations

from typing import Any

from speed_peers import BATCH, D3RLPY, FQL, PEER

OF_OTHERS = (
    "Every update includes the drawing of its batch. d3rlpy and FQL have networks of their own: "
    "layers of 256, two of them in TD3+BC and IQL, three in ReBRAC; four of 512 in FQL, with ten "
    "steps of its flow. TD3+BC and ReBRAC update the actor every second time."
)


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Speed of training", "", "| | computed in | ms | a second | ratio |"]
    lines.append("|---|---|---|---|---|")
    for r in result["rows"]:
        share = "–" if r["of_peer"] is None else f"{r['of_peer']:.2f}"
        lines.append(
            f"| {r['case']} | {r['computed'] or '–'} | {r['ms']:.2f} "
            f"| {r['updates_per_second']:.0f} | {share} |"
        )
    lines.append("")
    for c in result["claims"]:
        verdict = "holds" if c["holds"] else "does not hold"
        lines.append(
            f"- {c['case']}: at least {c['factor']} times {c['base']}: {c['ratio']:.2f}, {verdict}."
        )
    loading, evaluation = result["loading"], result["evaluation"]
    lines += ["", "| loading | ours, s | the loop, s | ratio |", "|---|---|---|---|"]
    for kind, f in loading["files"].items():
        lines.append(f"| {kind} | {f['ours_s']:.3f} | {f['loop_s']:.1f} | {f['ratio']:.0f} |")
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines += [
        "",
        f"Loading: {loading['steps']:,} steps of a D4RL-layout file to what training draws from, "
        "the best of three, against reading the same file and the plain loop of "
        "`d4rl.qlearning_dataset`; both give the same transitions.",
        "",
        f"Evaluation: {evaluation['steps_per_second']:,.0f} steps/s in ten environments with one "
        f"call of the policy a step; ten episodes that last 1,000 steps take "
        f"{100 * evaluation['share']:.1f} % of a run that makes 10,000 updates between them.",
        "",
        *(
            []
            if "cuda" in result["machine"]
            else ["Measured without a CUDA device: graphs are not in the table.", ""]
        ),
        '"Products of" are the matrix products of one update alone, with their floating-point '
        "operations, which tell how fast the machine is. The ratio is how many updates "
        f"a case makes while {PEER} makes one. Hopper's sizes, batches of {BATCH}.",
        *(["", OF_OTHERS] if {FQL, *D3RLPY} & {r["case"] for r in result["rows"]} else []),
        "",
        f"Written by `benchmarks/speed.py` on {result['date']}: {result['rounds']} turns of "
        f"{result['calls']} updates; {result['machine']}, shared with other work; {versions}.",
    ]
    return "\n".join(lines) + "\n"
