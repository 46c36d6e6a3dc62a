"""Packed weights: the error of each channel, the files, and the errors of damaged files."""

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


SHAPES = [(3, 9, 3, 3), (3, 80, 1, 1), (3, 70)]  # of a 3x3 and a 1x1 convolution and a linear layer


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.lists(st.integers(-20, 8), min_size=3, max_size=3),
    shape=st.sampled_from(SHAPES),
)
def test_the_error_is_less_than_a_step_of_the_channel_and_sums_are_met(seed, exponents, shape):
    size = (10.0 ** torch.tensor(exponents, dtype=torch.float64)).float().reshape(3, *[1] * (len(shape) - 1))
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    packed = pack({"w": kernel}, "int8")
    assert packed["w"].dtype == torch.int8
    assert packed["w"].shape == kernel.shape
    error = (unpack(packed, "a file")["w"] - kernel).double()
    step = kernel.abs().flatten(1).amax(1).double() / 127
    assert (error.flatten(1).abs().amax(1) < step * (1 + 1e-4)).all()
    sums = error.flatten(2).sum(2) if shape[-2:] == (3, 3) else error.flatten(1).sum(1, keepdim=True)
    assert (sums.abs() <= step[:, None] * (0.5 + 1e-3)).all()
    # the largest weight of a channel is met: a large channel takes nothing from a small one
    assert (packed["w"].abs().flatten(1).amax(1) == 127).all()


def test_rounding_by_itself_would_miss_the_sum():
    """A kernel whose weights all lie 0.4 steps above a whole number."""
    kernel = torch.full((1, 8, 3, 3), 10.4)
    kernel[0, 0, 0, 0] = 127.0
    steps = pack({"w": kernel}, "int8")["w"][0, 1]
    assert int(steps.sum()) == round(9 * 10.4)
    assert set(steps.flatten().tolist()) == {10, 11}


def test_a_channel_of_zeros_stays_zero():
    kernel = torch.zeros(2, 64)
    kernel[1, 1] = -5.0
    assert torch.equal(unpack(pack({"w": kernel}, "int8"), "")["w"], kernel)


def test_biases_norms_counters_and_depthwise_kernels_stay_as_they_are(networks):
    state = networks["lite"].state_dict()
    for stored_as in models.packing.STORED_AS:
        packed = pack(state, stored_as)
        small = [n for n, t in state.items() if t.ndim < 2 or t.shape[1] == 1]
        assert len([n for n in small if "conv_dw" in n]) == 16
        assert all(packed[n] is state[n] for n in small)


def test_half_precision_keeps_eleven_bits():
    kernel = torch.randn(50, 70)
    packed = pack({"w": kernel}, "float16")
    assert packed["w"].dtype == torch.float16
    assert ((unpack(packed, "")["w"] / kernel - 1).abs() <= 2**-11).all()


@pytest.mark.parametrize(("stored_as", "value"), [("int8", torch.inf), ("float16", 1e6), ("int8", torch.nan)])
def test_a_weight_that_cannot_be_held_is_refused(stored_as, value):
    with pytest.raises(DataError, match=f"conv.weight cannot be stored as {stored_as}"):
        pack({"conv.weight": torch.cat((torch.ones(1, 63), torch.tensor([[value]])), 1)}, stored_as)


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
    count = sum(p.numel() for p in model.parameters())
    # names, scales, biases and norms: 2 % in Monodepth2, more in a small network of many thin layers
    assert 1 <= path.stat().st_size / (count * bytes_a_weight) < (1.2 if arch == "lite" else 1.05)
    loaded = models.load_model(path)
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert theirs.dtype == ours.dtype, name
        if stored_as == "float32" or ours.ndim < 2 or ours[0].numel() < 64:
            assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("stored_as", models.packing.STORED_AS)
def test_what_was_packed_once_is_packed_without_a_further_loss(networks, stored_as, tmp_path):
    path = models.save_weights(networks["lite"], tmp_path / "w.safetensors", stored_as)
    again = models.save_weights(networks["lite"], tmp_path / "again.safetensors", stored_as)
    assert path.read_bytes() == again.read_bytes()
    loaded = models.load_model(path)
    twice = models.load_model(models.save_weights(loaded, tmp_path / "twice.safetensors", stored_as))
    start = models.create_model("lite", weights=path)  # a start for training, too
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
