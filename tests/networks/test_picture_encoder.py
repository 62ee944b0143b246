"""The encoder of pictures: layouts, histories, shifts."""

from __future__ import annotations

import pytest
import torch

from cmpolicy import ConsistencyPolicy
from cmpolicy.networks.picture_encoder import PictureEncoder


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_channels_first_and_last_are_the_same_picture() -> None:
    last = PictureEncoder(2 * 300, (10, 10, 3), channels=(4, 4), features=5)
    first = PictureEncoder(2 * 300, (3, 10, 10), channels=(4, 4), features=5)
    first.load_state_dict(last.state_dict())
    pictures = torch.randn(6, 2, 10, 10, 3)
    given = pictures.flatten(1), pictures.movedim(-1, 2).flatten(1)
    torch.testing.assert_close(last(given[0]), first(given[1]))


def test_vectors_pass_beside_the_features_of_pictures() -> None:
    encoder = PictureEncoder(2 * (48 + 3), (4, 4, 3), vector=3, channels=(4,), features=10)
    x = torch.randn(5, 2 * 51)
    features = encoder(x)
    assert features.shape == (5, 10)
    assert torch.equal(features[:, 4:], torch.cat((x[:, 48:51], x[:, 99:]), dim=1))


@pytest.mark.parametrize("shape", [(6, 5, 3), (3, 6, 5)])
def test_a_shift_moves_whole_pictures_and_repeats_their_edges(shape: tuple[int, ...]) -> None:
    encoder = PictureEncoder(2 * 92, shape, vector=2, channels=(4,), shift=2)
    x = torch.arange(40 * 2 * 92).float().view(40, -1)
    moved = encoder.augment(x)
    assert torch.equal(encoder.parts(moved)[1], encoder.parts(x)[1])
    before, after = (encoder.parts(each)[0] for each in (x, moved))
    before, after = (p if encoder.channels_last else p.movedim(2, -1) for p in (before, after))
    seen = set()
    for old, new in zip(before, after, strict=True):
        for down in range(-2, 3):
            for right in range(-2, 3):
                rows = (torch.arange(6) + down).clamp(0, 5)
                columns = (torch.arange(5) + right).clamp(0, 4)
                if torch.equal(old[:, rows][:, :, columns], new):
                    seen.add((down, right))
    assert len(seen) > 10  # of 25; each picture was moved in one of these ways
    assert not torch.equal(before, after)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not whole pictures"):
        PictureEncoder(100, (4, 4, 3))


def test_a_policy_learns_which_way_a_picture_points() -> None:
    pictures = torch.zeros(64, 8, 8, 1, dtype=torch.uint8)
    side = torch.arange(64) % 2
    pictures[torch.arange(64), 2:6, 1 + 5 * side] = 255
    observations, actions = pictures.flatten(1).float(), (side.float() - 0.5)[:, None]
    options = {"shape": [8, 8, 1], "channels": [8, 8], "features": 8, "shift": 1}
    policy = ConsistencyPolicy(64, 1, encoder="conv", encoder_options=options, hidden=[32])
    policy.fit_normalizers(observations, actions)
    assert policy.obs_mean.unique().tolist() == [127.5]
    adam = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(150):
        adam.zero_grad()
        policy.loss(observations, actions).backward()
        adam.step()
    acted = torch.from_numpy(policy.act(observations, mode_of=8))
    assert (acted - actions).abs().max() < 0.15
