"""The networks of a policy, registered by name or given as modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmpolicy.networks.mlp import ConditionalMLP
from cmpolicy.networks.picture_encoder import PictureEncoder
from cmpolicy.plugins import find, registering

Make = Callable[..., nn.Module]

# (action_dim, condition_dim, **network_options) → F(x (B, action_dim), c_noise (B,), condition
# (B, condition_dim)) → (B, action_dim). One with an `embedding` is given levels embedded by it.
NETWORKS: dict[str, Make] = {"mlp": ConditionalMLP}
# (obs_dim, **encoder_options) → normalised observations (B, obs_dim) → features (B, n)
# One may have `units`, what entries are normalised by, and `augment`, what training does to them.
ENCODERS: dict[str, Make] = {"conv": PictureEncoder}
REGISTRIES = {"network": NETWORKS, "encoder": ENCODERS}

register_network = registering("network", NETWORKS)
register_encoder = registering("encoder", ENCODERS)


def name_of(kind: str, module: nn.Module) -> str:
    """Give the name by which a module is saved: the registered one, else ``package:Class``."""
    for name, made in REGISTRIES[kind].items():
        if made is type(module):
            return name
    return f"{type(module).__module__}:{type(module).__qualname__}"


def check_name(kind: str, name: str) -> None:
    """Raise ValueError unless a network or an encoder has that name, or it is of a class."""
    if ":" not in name:
        find(kind, REGISTRIES[kind], name)


def make_module(kind: str, name: str, *dims: int, **options: Any) -> nn.Module:
    """Make a registered network or encoder.

    Raises:
        ValueError: if it is not registered, or takes no such options.
    """
    if ":" in name:
        raise ValueError(
            f"its {kind} is the class {name}, which is not registered; give {kind}=MODULE, or "
            f"decorate the class by @register_{kind}"
        )
    try:
        return find(kind, REGISTRIES[kind], name)(*dims, **options)
    except TypeError as error:
        raise ValueError(f"{kind}_options do not fit {kind} {name!r}: {error}") from None


@torch.no_grad()
def width_of(encoder: nn.Module, obs_dim: int) -> int:
    """How many features an encoder gives.

    Raises:
        ValueError: unless it gives a vector for each observation.
    """
    training = encoder.training
    features = encoder.eval()(torch.zeros(2, obs_dim))
    encoder.train(training)
    if features.ndim != 2 or len(features) != 2:
        raise ValueError(
            f"the encoder maps observations (2, {obs_dim}) to {tuple(features.shape)}, expected "
            "(2, features)"
        )
    return int(features.shape[1])


def check_sizes(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a configuration asks for networks of the size of these weights.

    It comes before the networks, which would take whatever memory a file asks for.
    """
    obs_dim, action_dim = len(state["obs_mean"]), len(state["bound.low"])
    history, horizon = (arguments.get(key, 1) for key in ("history", "horizon"))
    sizes: dict[str, Any] = {"obs_dim": obs_dim / history, "action_dim": action_dim / horizon}
    network, encoder = arguments.get("network", "mlp"), arguments.get("encoder")
    if network == "mlp":
        layers = range(len(arguments["hidden"]))
        sizes["hidden"] = [len(state[f"network.layers.{2 * i}.bias"]) for i in layers]
    for name, size in sizes.items():
        if arguments[name] != size:
            raise ValueError(f"its weights have {name} = {size}, not {arguments[name]}")
    with torch.device("meta"):  # where tensors have shapes and no memory
        width = obs_dim
        if isinstance(encoder, str):
            made = make_module("encoder", encoder, obs_dim, **arguments["encoder_options"])
            width = width_of(made, obs_dim)
            check_shapes("encoder", made, state)
        if isinstance(network, str) and network != "mlp":
            options = arguments["network_options"]
            made = make_module("network", network, action_dim, width, **options)
            check_shapes("network", made, state)


def check_shapes(prefix: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weights below `prefix` have the shapes of those of `module`."""
    for name, tensor in module.state_dict().items():
        found = state[f"{prefix}.{name}"].shape
        if found != tensor.shape:
            raise ValueError(
                f"its weights {prefix}.{name} have shape {tuple(found)}, not {tuple(tensor.shape)}"
            )
