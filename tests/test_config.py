"""Every configuration composes; wrong names, types and ranges are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.agents import AGENTS, AgentConfig, Spaces
from cmpolicy.agents.ac import ACConfig
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.datasets import REWARDS
from cmpolicy.evaluate import EvaluateConfig
from cmpolicy.images.config import ImageConfig, SampleConfig
from cmpolicy.images.unet import UNet
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.task import build_agent
from cmpolicy.rl.tasks import TASKS

NAMES = {
    group: sorted(path.stem for path in (Path(CONFIG_PATH) / group).glob("*.yaml"))
    for group in ("agent", "loss", "data", "image_loss")
}


def compose(*overrides: str, config: str = "rl") -> Any:
    """What a command would be given."""
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        return OmegaConf.to_object(hydra.compose(config, list(overrides)))


def test_every_configuration_file_is_known_here() -> None:
    found = {p.relative_to(CONFIG_PATH).as_posix() for p in Path(CONFIG_PATH).rglob("*.yaml")}
    commands = {"rl", "toy", "image", "evaluate", "select", "export", "sample", "edit"}
    known = {f"{command}.yaml" for command in commands}
    known |= {f"{group}/{name}.yaml" for group in NAMES for name in NAMES[group]}
    assert found == known
    assert set(AGENTS) == set(NAMES["agent"])


@pytest.mark.parametrize("env", TASKS)
def test_every_task_composes_with_every_agent(env: str) -> None:
    """And the agent that it describes can be built; of ours one setting is for all tasks."""
    for name in NAMES["agent"]:
        config = compose(f"env={env}", f"agent={name}")
        assert isinstance(config, RLConfig)
        assert config.env.name == env
        assert config.env.reward in REWARDS
        assert isinstance(config.agent, AgentConfig)
        assert (config.agent.algorithm, config.agent.name) == (name, name)
        assert type(config.agent) is AGENTS[name].Config
        assert config.agent == AGENTS[name].Config() or name in ("ac_ding_jin", "diffusion_ql")
        if env in ("hopper-medium", "door-human"):
            agent = build_agent(config, Spaces(4, [-1.0] * 2, [1.0] * 2))
            assert type(agent) is AGENTS[name]
        again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))  # config.yaml
        assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), again)) == config


SHAPES = {"digits": (1, 8, 8)} | dict.fromkeys(
    ("cifar10", "cifar10_small", "folder", "npz"), (3, 32, 32)
)
COPIES = 9  # of a network in a checkpoint of DMD2: student, teacher, their averages, fake, Adam's


@pytest.mark.parametrize("data", NAMES["data"])
def test_every_image_set_composes_with_every_loss(data: str) -> None:
    """And its network fits its images."""
    assert set(NAMES["image_loss"]) == {"ct", "ict", "ect", "sct", "cd", "scd", "dmd2", "edm"}
    root = ["data.root=there"] if data in ("folder", "npz") else []
    for name in NAMES["image_loss"]:
        config = compose(f"data={data}", f"image_loss={name}", *root, config="image")
        assert isinstance(config, ImageConfig)
        assert (config.data.name, config.loss.name) == (data.removesuffix("_small"), name)
        assert not config.loss.stable_target
        again = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
        assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), again)) == config
    small = dataclasses.replace(config.network, channels=8)
    UNet(SHAPES.get(data, (1, 28, 28)), 10, small)


def test_the_small_cifar10_has_checkpoints_of_at_most_15_megabytes() -> None:
    network = compose("data=cifar10_small", config="image").network
    weights = sum(p.numel() for p in UNet(SHAPES["cifar10"], 10, network).parameters())
    assert 10e6 < COPIES * weights * 4 < 15e6


def test_the_default_agent() -> None:
    assert compose("env=hopper-medium").agent == ACConfig()


def test_overrides_arrive_with_their_types() -> None:
    config = compose("env=hopper-medium", "agent=bc", "agent.policy.hidden=[8,4]", "steps=7")
    assert config.agent.policy.hidden == [8, 4]
    assert (config.steps, config.env.d4rl_id, config.run_dir) == (7, "hopper-medium-v2", None)
    evaluation = compose("run=here", "best_of=4", config="evaluate")
    assert isinstance(evaluation, EvaluateConfig)
    assert (evaluation.run, evaluation.best_of, evaluation.checkpoint) == ("here", 4, "last")
    sampling = compose("run=here", "ts=[0,22,39]", "ema=0.5", config="sample")
    assert isinstance(sampling, SampleConfig)
    assert (sampling.ts, sampling.levels, sampling.ema) == ([0, 22, 39], None, 0.5)


WRONG = [
    *("agent.critic_ensemble=0", "agent.candidates=0", "agent.n_step=0", "agent.n_step=2"),
    *(
        "steps=0",
        "steps=-1",
        "steps=many",
        "steps=1.5",
        "steps=null",
        "batch_size=0",
        "log_every=0",
    ),
    *("checkpoint_every=0", "eval.every=0", "eval.episodes=0", "eval.final_episodes=0", "seed=x"),
    *("seeds=0", "seeds=[]", "seeds=[1,1]", "seeds=[-1]", "seeds=x", "seeds=1.5", "seeds=true"),
    *("progress=perhaps", "env.reward=[1]", "env.colour=red", "agent.colour=red", "colour=red"),
    *("agent.radius=high", "agent.radius=-1", "agent.warm_up=1", "agent.ramp=0", "agent.eta=1"),
    *("agent.tau=0", "agent.discount=1", "agent.learning_rate=0", "env.eta=1"),
    *(
        "agent.ema_decay=1",
        "agent.policy.hidden=8",
        "agent.policy.hidden=[]",
        "agent.policy.steps=0",
    ),
    *("agent.policy.bound=none", "agent.policy.loss=none", "agent.policy.sigma_min=0"),
    *("agent.policy.loss_options.colour=1", "agent.policy.embedding=none", "agent.policy=deep"),
]
UNCHECKED = [
    *("threads=0", "seed=-2", "agent.critic_activation=none"),
    *("agent.critic_hidden=[0]", "agent.critic_learning_rate=0"),
    "agent.policy.levels=[1,2]",
]


@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_refused(override: str) -> None:
    with pytest.raises((OmegaConfBaseException, hydra.errors.HydraException, ValueError)):
        compose("env=hopper-medium", override)


def test_seeds_are_a_list_or_how_many() -> None:
    assert compose("env=hopper-medium").seeds is None
    assert compose("env=hopper-medium", "seeds=3").seeds == [0, 1, 2]
    config = compose("env=hopper-medium", "seeds=[7,2]", "agent.radius=0.5")
    assert [(one.seed, one.seeds, one.agent.radius) for one in config.each_seed()] == [
        (7, None, 0.5),
        (2, None, 0.5),
    ]
    with pytest.raises(ValueError, match="give seed or seeds, got seed=1 and seeds=2"):
        compose("env=hopper-medium", "seed=1", "seeds=2")
    with pytest.raises(ValueError, match=r"seeds train on data alone, got online.steps=5"):
        compose("env=hopper-medium", "online.steps=5", "seeds=2")


@pytest.mark.parametrize("override", UNCHECKED)
def test_what_fails_only_later(override: str) -> None:
    with pytest.raises((OmegaConfBaseException, hydra.errors.HydraException, ValueError)):
        compose("env=hopper-medium", override)


@pytest.mark.parametrize(
    "override", ["episodes=0", "best_of=0", "checkpoint=worst", "video=perhaps", "colour=red"]
)
def test_what_is_wrong_is_refused_by_evaluate(override: str) -> None:
    with pytest.raises((OmegaConfBaseException, hydra.errors.HydraException, ValueError)):
        compose("run=here", override, config="evaluate")
