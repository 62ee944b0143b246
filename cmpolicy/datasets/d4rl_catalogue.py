"""D4RL's files: where they lie, how long they are, and what they hash to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple


class D4RLFile(NamedTuple):
    """One file of D4RL, below `D4RL_BASE_URL`."""

    path: str
    bytes: int | None = None  # None: not known
    sha256: str | None = None
    max_episode_steps: int | None = None  # where the file has no timeouts: D4RL's registration

    @property
    def name(self) -> str:
        """Name under which `d4rl` keeps the file on disk."""
        return PurePosixPath(self.path).name


D4RL_BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"

# task, bytes and SHA-256: the checksums of TensorFlow Datasets, which has none for relocate and
# kitchen
CHECKSUMS = """
halfcheetah-random 237338037 25407aef85b5d16c0f36b4149341edb4acc6a9e88c1db529b2de19e7464874ba
halfcheetah-medium 237727262 41324e8487a9556d8cfa4538827f8937f4d63dae3030825ebc9f3a726ed08ca0
halfcheetah-medium-replay 59448533 48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683
halfcheetah-medium-expert 474567252 015db75dae5bbe8e94029b71fa0bafc2073365df0c94744e71031189f3f79c06
halfcheetah-expert 237464597 d9fe53bb994eb1e20a99b4fa3412cd76a1bb7966a7ff55e0fcbdd6081bd2965f
hopper-random 152525345 63103ef7059db4c0819bd054f4e83ff339030b50bcdb46bdbe50385f234b5054
hopper-medium 152756557 5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0
hopper-medium-replay 75854457 e121c5f7c9857a307baa9edc6a2c3b48e85fedb9ac316ecddd0f48ca7ef4e39b
hopper-medium-expert 304537315 9d51ad87f8c905be3880d84c6140bcdb7fbf39a19e046a237f238ba34fec9e26
hopper-expert 152427435 01aa219a5f8eea5e639eccdc636ec2bf40e317159a95cf4bf6e985f16909941b
walker2d-random 216109364 4e863bb6090cf4a461548bd470564b32f1ae5b32ef3085f816b2ede7f092e7fa
walker2d-medium 232254996 cf00f43add04c17fdfc2958dd581dea0851b2e5bedbe6fda073758a8f841aeda
walker2d-medium-replay 86323963 e75de96a4f77acf7d4e0d6fdf0d7ccb177c26c44bb4388e4fd99f543ccfa18db
walker2d-medium-expert 462197079 6b8d7f868c45bbaedf460be797fb7271b46dee6ebe45fe7a64319f2005b59a04
walker2d-expert 230567195 2985dc3d436a8baa10e8f43f946fe1d7c6337a4e4fbc65def70618093b18c59a
pen-human 2040573 209e345b2150b633f30a11612612c60f49e941f127ce6c4dc0cd790501c46f9f
pen-cloned 155074191 6d1a982cee1950501bedebbddedbcbb377e6284d379986c83abac8a6c0be0c22
pen-expert 262040663 3791b8ca6a802061770af2977c051ac3ae261488210ce73788760a5b8308f374
hammer-human 5606475 3e42f3f49b5c92a901601dfe867c6c62a9651cbe79f6760ec8b402a15816a498
hammer-cloned 446616879 e48d75b159bdd72f51d3f01448d3eca4d38275714e11e995c14a36f6cf159db3
hammer-expert 557047483 1c069a0f6e4852493023c77dc3b3a12d8d5ac2e3a034827fea3ab8a161e7185f
door-human 3121206 f9691288c3ddf2b4e7b31bdae0d8444b80ba035515495f8a902d60c43ee09370
door-cloned 294356136 1f6a60ecc4d2a2e5c02f41dd3412be61bb265a33dcf120ceee9e9682d4fe4d48
door-expert 536056678 66df4cd4e0a1e0b72ea72653ce088e29ecbfa99bac3cd2b52e64092e9a0aaab4
relocate-human - -
relocate-cloned - -
relocate-expert - -
antmaze-umaze 232532949 5ef15257771c50ef4d23c7de001750e96c8bb5d9b6a5e4a821dcfb3065fbd130
antmaze-umaze-diverse 230854272 c771dd63963cd7d9f55f24a6d809064f6b82250a6aeac4c9d13f9a1d06e8c932
antmaze-medium-play 231110764 c9fec1c1daad97c71d61bd47f4ccc9f74faa855b8a2d2e8107d5378018827e5b
antmaze-medium-diverse 231095166 ad9dcbac05d1f8744a7a216083f513662f43f64f28a4a5eb225e9811902dfae7
antmaze-large-play 230880653 6d353df2457829925d7f9d4b0215587469908bd57478ea76f16417cfa944f471
antmaze-large-diverse 231183710 84f775eb7956ea9cc766704710dc520a8ab357adc7522ade47f556f0e335e284
kitchen-complete - -
kitchen-partial - -
kitchen-mixed - -
"""

# the rest of this file: D4RL's `infos.py`
MAZES = {  # task: size of the maze, and whether starts and goals are many
    "antmaze-umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "antmaze-umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "antmaze-medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "antmaze-medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "antmaze-large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "antmaze-large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
KITCHENS = {
    "kitchen-complete": "mini_kitchen_microwave_kettle_light_slider",
    "kitchen-partial": "kitchen_microwave_kettle_light_slider",
    "kitchen-mixed": "kitchen_microwave_kettle_bottomburner_light",
}


def _entry(task: str, size: str, sha256: str) -> tuple[str, D4RLFile]:
    """Give the D4RL id of a task, and its file."""
    known = (None if size == "-" else int(size), None if sha256 == "-" else sha256)
    if task in MAZES:
        return f"{task}-v2", D4RLFile(
            f"ant_maze_v2/Ant_maze_{MAZES[task]}_sparse_fixed.hdf5", *known
        )
    if task in KITCHENS:
        return f"{task}-v0", D4RLFile(f"kitchen/{KITCHENS[task]}-v0.hdf5", *known, 280)
    body, _, behaviour = task.partition("-")
    if body in ("halfcheetah", "hopper", "walker2d"):
        name = f"{body}_{behaviour.replace('-', '_')}-v2.hdf5"
        return f"{task}-v2", D4RLFile(f"gym_mujoco_v2/{name}", *known)
    return f"{task}-v1", D4RLFile(f"hand_dapg_v1/{task}-v1.hdf5", *known)


D4RL_FILES: dict[str, D4RLFile] = dict(
    _entry(*line.split()) for line in CHECKSUMS.strip().splitlines()
)


def recognised(path: Path) -> str | None:
    """Find the D4RL id of a file on disk by its name and size; None for other files."""
    for dataset_id, file in D4RL_FILES.items():
        if path.name in (file.name, f"{dataset_id}.hdf5"):
            return dataset_id if file.bytes in (None, path.stat().st_size) else None
    return None
