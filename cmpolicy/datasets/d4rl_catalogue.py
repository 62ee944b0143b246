"""Where D4RL's files lie, how long they are, and what they hash to."""

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
        """The file's name, under which `d4rl` keeps it on disk."""
        return PurePosixPath(self.path).name


D4RL_BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"

# paths: D4RL's `infos.py`; sizes and hashes: the checksums of TensorFlow Datasets, which has none
# for relocate and kitchen
D4RL_FILES: dict[str, D4RLFile] = {
    "halfcheetah-random-v2": D4RLFile(
        "gym_mujoco_v2/halfcheetah_random-v2.hdf5",
        237_338_037,
        "25407aef85b5d16c0f36b4149341edb4acc6a9e88c1db529b2de19e7464874ba",
    ),
    "halfcheetah-medium-v2": D4RLFile(
        "gym_mujoco_v2/halfcheetah_medium-v2.hdf5",
        237_727_262,
        "41324e8487a9556d8cfa4538827f8937f4d63dae3030825ebc9f3a726ed08ca0",
    ),
    "halfcheetah-medium-replay-v2": D4RLFile(
        "gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5",
        59_448_533,
        "48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683",
    ),
    "halfcheetah-medium-expert-v2": D4RLFile(
        "gym_mujoco_v2/halfcheetah_medium_expert-v2.hdf5",
        474_567_252,
        "015db75dae5bbe8e94029b71fa0bafc2073365df0c94744e71031189f3f79c06",
    ),
    "halfcheetah-expert-v2": D4RLFile(
        "gym_mujoco_v2/halfcheetah_expert-v2.hdf5",
        237_464_597,
        "d9fe53bb994eb1e20a99b4fa3412cd76a1bb7966a7ff55e0fcbdd6081bd2965f",
    ),
    "hopper-random-v2": D4RLFile(
        "gym_mujoco_v2/hopper_random-v2.hdf5",
        152_525_345,
        "63103ef7059db4c0819bd054f4e83ff339030b50bcdb46bdbe50385f234b5054",
    ),
    "hopper-medium-v2": D4RLFile(
        "gym_mujoco_v2/hopper_medium-v2.hdf5",
        152_756_557,
        "5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0",
    ),
    "hopper-medium-replay-v2": D4RLFile(
        "gym_mujoco_v2/hopper_medium_replay-v2.hdf5",
        75_854_457,
        "e121c5f7c9857a307baa9edc6a2c3b48e85fedb9ac316ecddd0f48ca7ef4e39b",
    ),
    "hopper-medium-expert-v2": D4RLFile(
        "gym_mujoco_v2/hopper_medium_expert-v2.hdf5",
        304_537_315,
        "9d51ad87f8c905be3880d84c6140bcdb7fbf39a19e046a237f238ba34fec9e26",
    ),
    "hopper-expert-v2": D4RLFile(
        "gym_mujoco_v2/hopper_expert-v2.hdf5",
        152_427_435,
        "01aa219a5f8eea5e639eccdc636ec2bf40e317159a95cf4bf6e985f16909941b",
    ),
    "walker2d-random-v2": D4RLFile(
        "gym_mujoco_v2/walker2d_random-v2.hdf5",
        216_109_364,
        "4e863bb6090cf4a461548bd470564b32f1ae5b32ef3085f816b2ede7f092e7fa",
    ),
    "walker2d-medium-v2": D4RLFile(
        "gym_mujoco_v2/walker2d_medium-v2.hdf5",
        232_254_996,
        "cf00f43add04c17fdfc2958dd581dea0851b2e5bedbe6fda073758a8f841aeda",
    ),
    "walker2d-medium-replay-v2": D4RLFile(
        "gym_mujoco_v2/walker2d_medium_replay-v2.hdf5",
        86_323_963,
        "e75de96a4f77acf7d4e0d6fdf0d7ccb177c26c44bb4388e4fd99f543ccfa18db",
    ),
    "walker2d-medium-expert-v2": D4RLFile(
        "gym_mujoco_v2/walker2d_medium_expert-v2.hdf5",
        462_197_079,
        "6b8d7f868c45bbaedf460be797fb7271b46dee6ebe45fe7a64319f2005b59a04",
    ),
    "walker2d-expert-v2": D4RLFile(
        "gym_mujoco_v2/walker2d_expert-v2.hdf5",
        230_567_195,
        "2985dc3d436a8baa10e8f43f946fe1d7c6337a4e4fbc65def70618093b18c59a",
    ),
    "pen-human-v1": D4RLFile(
        "hand_dapg_v1/pen-human-v1.hdf5",
        2_040_573,
        "209e345b2150b633f30a11612612c60f49e941f127ce6c4dc0cd790501c46f9f",
    ),
    "pen-cloned-v1": D4RLFile(
        "hand_dapg_v1/pen-cloned-v1.hdf5",
        155_074_191,
        "6d1a982cee1950501bedebbddedbcbb377e6284d379986c83abac8a6c0be0c22",
    ),
    "pen-expert-v1": D4RLFile(
        "hand_dapg_v1/pen-expert-v1.hdf5",
        262_040_663,
        "3791b8ca6a802061770af2977c051ac3ae261488210ce73788760a5b8308f374",
    ),
    "hammer-human-v1": D4RLFile(
        "hand_dapg_v1/hammer-human-v1.hdf5",
        5_606_475,
        "3e42f3f49b5c92a901601dfe867c6c62a9651cbe79f6760ec8b402a15816a498",
    ),
    "hammer-cloned-v1": D4RLFile(
        "hand_dapg_v1/hammer-cloned-v1.hdf5",
        446_616_879,
        "e48d75b159bdd72f51d3f01448d3eca4d38275714e11e995c14a36f6cf159db3",
    ),
    "hammer-expert-v1": D4RLFile(
        "hand_dapg_v1/hammer-expert-v1.hdf5",
        557_047_483,
        "1c069a0f6e4852493023c77dc3b3a12d8d5ac2e3a034827fea3ab8a161e7185f",
    ),
    "door-human-v1": D4RLFile(
        "hand_dapg_v1/door-human-v1.hdf5",
        3_121_206,
        "f9691288c3ddf2b4e7b31bdae0d8444b80ba035515495f8a902d60c43ee09370",
    ),
    "door-cloned-v1": D4RLFile(
        "hand_dapg_v1/door-cloned-v1.hdf5",
        294_356_136,
        "1f6a60ecc4d2a2e5c02f41dd3412be61bb265a33dcf120ceee9e9682d4fe4d48",
    ),
    "door-expert-v1": D4RLFile(
        "hand_dapg_v1/door-expert-v1.hdf5",
        536_056_678,
        "66df4cd4e0a1e0b72ea72653ce088e29ecbfa99bac3cd2b52e64092e9a0aaab4",
    ),
    "relocate-human-v1": D4RLFile("hand_dapg_v1/relocate-human-v1.hdf5"),
    "relocate-cloned-v1": D4RLFile("hand_dapg_v1/relocate-cloned-v1.hdf5"),
    "relocate-expert-v1": D4RLFile("hand_dapg_v1/relocate-expert-v1.hdf5"),
    "antmaze-umaze-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
        232_532_949,
        "5ef15257771c50ef4d23c7de001750e96c8bb5d9b6a5e4a821dcfb3065fbd130",
    ),
    "antmaze-umaze-diverse-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
        230_854_272,
        "c771dd63963cd7d9f55f24a6d809064f6b82250a6aeac4c9d13f9a1d06e8c932",
    ),
    "antmaze-medium-play-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
        231_110_764,
        "c9fec1c1daad97c71d61bd47f4ccc9f74faa855b8a2d2e8107d5378018827e5b",
    ),
    "antmaze-medium-diverse-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
        231_095_166,
        "ad9dcbac05d1f8744a7a216083f513662f43f64f28a4a5eb225e9811902dfae7",
    ),
    "antmaze-large-play-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
        230_880_653,
        "6d353df2457829925d7f9d4b0215587469908bd57478ea76f16417cfa944f471",
    ),
    "antmaze-large-diverse-v2": D4RLFile(
        "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
        231_183_710,
        "84f775eb7956ea9cc766704710dc520a8ab357adc7522ade47f556f0e335e284",
    ),
    "kitchen-complete-v0": D4RLFile(
        "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        max_episode_steps=280,
    ),
    "kitchen-partial-v0": D4RLFile(
        "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5",
        max_episode_steps=280,
    ),
    "kitchen-mixed-v0": D4RLFile(
        "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        max_episode_steps=280,
    ),
}


def recognised(path: Path) -> str | None:
    """The D4RL id of a file on disk, by its name and size, or None."""
    for dataset_id, file in D4RL_FILES.items():
        if path.name in (file.name, f"{dataset_id}.hdf5"):
            return dataset_id if file.bytes in (None, path.stat().st_size) else None
    return None
