from __future__ import annotations

import numpy as np
import pytest

from cmpolicy.datasets import normalized_score, reference_scores
from cmpolicy.errors import InputError


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        *((f"Hopper-v{version}", (-20.272305, 3234.3)) for version in (2, 3, 4, 5)),
        ("HalfCheetah-v5", (-280.178953, 12135.0)),
        ("Walker2d-v4", (1.629008, 4592.3)),
        ("AdroitHandPen-v1", (96.262799, 3076.8331)),
        *((f"AdroitHand{task}-v1", None) for task in ("Hammer", "Door", "Relocate")),
        ("hammer-human-v1", (-274.856578, 12794.1348)),
        ("door-cloned-v0", (-56.512833, 2880.5693)),
        ("relocate-expert-v1", (-6.425911, 4233.8778)),
        ("own:Hopper-v5", None),
        ("Hopper-v6", None),
        ("HumanoidStandup/hopper", None),
        ("my-hopper-medium-v2", None),
        ("AntMaze_UMaze-v4", (0.0, 1.0)),
        ("AntMaze_Large_Diverse_GR-v5", (0.0, 1.0)),
        ("FrankaKitchen-v1", (0.0, 4.0)),
        ("hopper-medium-replay-v2", (-20.272305, 3234.3)),
        ("mujoco/walker2d/simple-v0", (1.629008, 4592.3)),
        ("D4RL/pen/human-v2", (96.262799, 3076.8331)),
        ("antmaze-umaze-diverse-v2", (0.0, 1.0)),
        ("kitchen-mixed-v0", (0.0, 4.0)),
        ("Pendulum-v1", None),
        ("InvertedPendulum-v5", None),
        ("Ant-v5", None),
        ("AdroitHandPenSparse-v1", None),
        ("PointMaze_UMaze-v3", None),
    ],
)
def test_references(env_id, expected):
    assert reference_scores(env_id) == expected


def test_random_is_zero_and_expert_a_hundred():
    assert normalized_score("Hopper-v5", -20.272305) == 0.0
    assert normalized_score("Hopper-v5", 3234.3) == 100.0
    assert normalized_score("hopper-medium-v2", 1557.1639) == pytest.approx(48.468, abs=1e-3)
    assert isinstance(normalized_score("Hopper-v5", 1), float)
    np.testing.assert_allclose(normalized_score((0.0, 4.0), [[0, 1], [2, 4]]), [[0, 25], [50, 100]])


def test_unknown_references_are_refused():
    with pytest.raises(InputError, match="no reference scores for 'Pendulum-v1', expected one of"):
        normalized_score("Pendulum-v1", 1.0)
    with pytest.raises(InputError, match=r"both 2\.0"):
        normalized_score((2.0, 2.0), 1.0)
