"""Packed weights: the error of each channel, the files, and what a damaged file says."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors.torch import load_file, save_file

from d3d import models
from d3d.errors import ConfigError, DataError
from d3d.models import ARCHITECTURES
from d3d.models.packing import SCALE, pack, unpack


@pytest.fixture(scope="module")
def networks():
    return {arch: models.create_model(arch, pretrained=False).eval() for arch in ARCHITECTURES}


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1), exponents=st.lists(st.integers(-20, 8), min_size=1, max_size=6)
)
def test_the_error_of_a_weight_is_at_most_half_a_step_of_its_own_channel(seed, exponents):
    size = 10.0 ** torch.tensor(exponents, dtype=torch.float32)
    kernel = (
        torch.randn(len(exponents), 3, 2, generator=torch.Generator().manual_seed(seed)) * size[:, None, None]
    )
    packed = pack({"w": kernel}, "int8")
    assert packed["w"].dtype == torch.int8
    assert packed["w"].shape == kernel.shape
    error = (unpack(packed, "a file")["w"] - kernel).abs().flatten(1).amax(1)
    largest = kernel.abs().flatten(1).amax(1)
    assert (error <= largest / 127 / 2 * (1 + 1e-5)).all()
    # the largest weight of a channel is met, and a large channel takes nothing from a small one
    assert (packed["w"].abs().flatten(1).amax(1) == 127).all()


def test_a_channel_of_zeros_stays_zero():
    kernel = torch.zeros(2, 3)
    kernel[1, 1] = -5.0
    assert torch.equal(unpack(pack({"w": kernel}, "int8"), "")["w"], kernel)


def test_biases_norms_and_counters_stay_as_they_are(networks):
    state = networks["lite"].state_dict()
    for stored_as in models.packing.STORED_AS:
        packed = pack(state, stored_as)
        small = [n for n, t in state.items() if t.ndim < 2]
        assert len(small) > 100
        assert all(packed[n] is state[n] for n in small)


def test_half_precision_keeps_eleven_bits():
    kernel = torch.randn(50, 60)
    packed = pack({"w": kernel}, "float16")
    assert packed["w"].dtype == torch.float16
    assert ((unpack(packed, "")["w"] / kernel - 1).abs() <= 2**-11).all()


@pytest.mark.parametrize(("stored_as", "value"), [("int8", torch.inf), ("float16", 1e6), ("int8", torch.nan)])
def test_a_weight_that_cannot_be_held_is_refused(stored_as, value):
    with pytest.raises(DataError, match=f"conv.weight has weights that {stored_as} cannot hold"):
        pack({"conv.weight": torch.tensor([[1.0, value]])}, stored_as)


def test_an_unknown_kind_of_storage():
    with pytest.raises(ConfigError, match="Did you mean 'int8'"):
        pack({}, "int")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("stored_as", "bytes_a_weight"), [("int8", 1), ("float16", 2), ("float32", 4)])
def test_every_network_is_small_on_disk_and_loads_the_same_way(
    networks, arch, stored_as, bytes_a_weight, tmp_path
):
    model = networks[arch]
    path = models.save_weights(model, tmp_path / "w.safetensors", stored_as)
    again = models.save_weights(model, tmp_path / "again.safetensors", stored_as)
    assert path.read_bytes() == again.read_bytes()
    count = sum(p.numel() for p in model.parameters())
    # names, scales, biases and norms: 2 % in Monodepth2, more in a small network of many thin layers
    assert 1 <= path.stat().st_size / (count * bytes_a_weight) < (1.12 if arch == "lite" else 1.05)
    loaded = models.load_model(path)
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert theirs.dtype == ours.dtype, name
        if stored_as == "float32" or ours.ndim < 2:
            assert torch.equal(ours, theirs), name
    # what was packed once is packed without a further loss, and is a start for training
    twice = models.load_model(models.save_weights(loaded, tmp_path / "twice.safetensors", stored_as))
    start = models.create_model(arch, weights=path)
    for a, b, c in zip(*(m.state_dict().values() for m in (loaded, twice, start)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
        assert torch.equal(a, c)


def test_an_older_d3d_is_told_to_update_only_if_it_must(networks, tmp_path):
    versions = {
        kind: models.read_metadata(models.save_weights(networks["lite"], tmp_path / "w.safetensors", kind))
        for kind in ("float32", "float16", "int8")
    }
    assert {kind: about["format_version"] for kind, about in versions.items()} == {
        "float32": 1,
        "float16": 2,
        "int8": 2,
    }


def test_damaged_scales_are_named(networks, tmp_path):
    path = models.save_weights(networks["lite"], tmp_path / "w.safetensors", "int8")
    tensors, about = load_file(path), models.checkpoints._metadata(path)
    name = "decoder.heads.0.conv.weight"

    def load(changed):
        save_file(changed, path, metadata=about)
        return models.load_model(path)

    assert load(tensors).arch == "lite"
    with pytest.raises(
        DataError, match=rf"w\.safetensors: {name} needs {name}\.scale, float32 of shape \(1,\)"
    ):
        load({n: t for n, t in tensors.items() if n != name + SCALE})
    with pytest.raises(DataError, match=r"needs .* of shape"):
        load(tensors | {name + SCALE: torch.ones(2)})
    for damage in (-1.0, torch.nan, torch.inf):
        with pytest.raises(DataError, match=f"{name}.scale is damaged"):
            load(tensors | {name + SCALE: torch.full((1,), damage)})
    with pytest.raises(DataError, match=rf"{name}\.scale not expected"):  # a scale without its int8 tensor
        load(tensors | {name: torch.zeros(1, 16, 3, 3)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="perhaps truncated"):
        models.load_model(path)
