"""The networks: shapes, sizes, gradients, depth range, errors, precision and our own checkpoints."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import squeeze_excite, use_plain_layers
from d3d import models
from d3d.errors import ConfigError, DataError
from d3d.models import mpvit
from d3d.models.hrdepth import AttentionNode
from d3d.models.layers import Conv3x3, Depthwise, DispHead, DropPath, SqueezeExcite, elu

ARCHS = models.ARCHITECTURES

# Published sizes without what nothing uses: ResNet's classifier (513,000), the grid's dead convolutions (32,336), and
# the last convolution and classifier of EfficientNet-Lite0 (1,693,160).
PARAMETERS = {
    "monodepth2": (11_689_512 - 513_000, 3_152_724),
    "hrdepth": (11_689_512 - 513_000, 2_924_132 - 32_336),
    "monovit": (22_603_400, 5_266_708 - 32_336),
    "lite": (4_652_008 - 1_693_160, 2_240_340),
}
GMACS = {"monodepth2": 7.21, "hrdepth": 10.10, "monovit": 18.37, "lite": 3.11}  # one image of 288x384


@pytest.fixture(scope="module")
def networks():
    """One untrained network per architecture, in eval mode; a test that changes one copies it first."""
    torch.manual_seed(0)
    return {arch: models.create_model(arch, pretrained=False).eval() for arch in ARCHS}


def image(height=64, width=96, batch=1, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def depth(disp, min_depth=0.1, max_depth=10.0):
    return 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disp)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- what comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("height", "width", "batch"), [(64, 64, 1), (64, 160, 2), (96, 128, 1)])
def test_four_disparities_finest_first(networks, arch, height, width, batch):
    with torch.no_grad():
        disps = networks[arch](image(height, width, batch))
    assert list(disps) == [0, 1, 2, 3]
    for scale, disp in disps.items():
        assert disp.shape == (batch, 1, height >> scale, width >> scale)
        assert disp.dtype == torch.float32
        assert ((disp > 0) & (disp < 1)).all()
    assert networks[arch].arch == arch


@pytest.mark.parametrize("arch", ARCHS)
def test_some_scales_are_the_same_as_all_and_compute_only_their_heads(networks, arch):
    model, x = networks[arch], image()
    called = []
    hooks = [
        head.register_forward_hook(lambda *_, scale=scale: called.append(scale))
        for scale, head in enumerate(model.decoder.heads)
    ]
    with torch.no_grad():
        everything = model(x)
        for scales in [(0,), (2, 0), (3,), (1, 2)]:
            called.clear()
            some = model(x, scales=scales)
            assert list(some) == sorted(scales)
            assert sorted(called) == sorted(scales)
            for scale in scales:
                torch.testing.assert_close(some[scale], everything[scale])
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_batch_is_its_images(networks, arch):
    x = image(batch=2)
    with torch.no_grad():
        both, second = networks[arch](x, (0,))[0], networks[arch](x[1:], (0,))[0]
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_parameter_counts(networks, arch):
    assert (count(networks[arch].encoder), count(networks[arch].decoder)) == PARAMETERS[arch]


@pytest.mark.parametrize("arch", ARCHS)
def test_multiplications(networks, arch):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        networks[arch](image(96, 128))
    assert counter.get_total_flops() / 2e9 * 9 == pytest.approx(GMACS[arch], rel=0.01)


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_gets_a_gradient(arch):
    torch.manual_seed(0)
    model = models.create_model(arch, pretrained=False, drop_path=0.0 if arch == "monovit" else None)
    sum(disp.square().mean() for disp in model(image(64, 96, 2)).values()).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead
    # A parameter can hang in the graph and still do nothing.
    still = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert not still


@pytest.mark.parametrize("arch", ARCHS)
def test_use_scales_leaves_no_trainable_parameter_without_a_gradient(networks, arch):
    model = copy.deepcopy(networks[arch]).train().use_scales((2, 0))
    disps = model(image(64, 96, 2))
    assert list(disps) == [0, 2]
    sum(disp.mean() for disp in disps.values()).backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in model.named_parameters() if p.grad is not None}
    frozen = {name for name, _ in model.named_parameters()} - trainable
    assert len(frozen) == 4  # weight and bias of two heads
    assert all(".heads.1." in name or ".heads.3." in name for name in frozen)
    model.use_scales(range(4))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("scales", [(1, 2), (), (0, 4), (-1, 0)])
def test_use_scales_refuses(networks, scales):
    with pytest.raises(ConfigError, match=r"scales"):
        networks["monodepth2"].use_scales(scales)


def test_drop_path_grows_linearly_over_the_13_layers_and_is_shared_by_the_paths():
    encoder = mpvit.MPViT(drop_path=0.2)
    per_layer = []
    for stage in encoder.stages:
        paths = [[block.drop_path.p for block in path.blocks] for path in stage.paths]
        assert all(path == paths[0] for path in paths)
        per_layer += paths[0]
    assert per_layer == pytest.approx([0.2 * i / 12 for i in range(13)])


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 3, 2)
    y = drop(x)
    assert ((y == 0).all((1, 2)) | (y == 1 / 0.75).all((1, 2))).all()
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_is_passed_on_and_only_where_there_is_one():
    model = models.create_model("monovit", pretrained=False, drop_path=0.5)
    assert model.encoder.stages[-1].paths[0].blocks[-1].drop_path.p == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="monodepth2 has no transformer"):
        models.create_model("monodepth2", pretrained=False, drop_path=0.1)
    with pytest.raises(ConfigError, match="drop_path=1"):
        models.create_model("monovit", pretrained=False, drop_path=1.0)


# --- the first prediction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("depth_m", "far"), [(2.0, 10.0), (5.0, 80.0)])
def test_init_depth(arch, depth_m, far):
    torch.manual_seed(0)
    model = models.create_model(arch, pretrained=False, init_depth_m=depth_m, max_depth=far)
    with torch.no_grad():
        for disp in model(image(batch=2)).values():
            assert depth(disp, max_depth=far).median().item() == pytest.approx(depth_m, rel=0.15)


def test_init_depth_is_exact_where_features_are_zero():
    model = models.create_model("monodepth2", pretrained=False, init_depth_m=3.0)
    for head in model.decoder.heads:
        disp = head(torch.zeros(1, head.conv.in_channels, 4, 4))
        torch.testing.assert_close(depth(disp), torch.full_like(disp, 3.0))


@pytest.mark.parametrize("arch", ARCHS)
def test_without_init_depth_the_first_prediction_is_a_fifth_of_a_metre(networks, arch):
    with torch.no_grad():
        first = depth(networks[arch](image())[0]).median().item()
    assert first == pytest.approx(0.198, rel=0.25)


@pytest.mark.parametrize("depth_m", [0.1, 10.0, -1.0, float("nan")])
def test_init_depth_outside_the_range(networks, depth_m):
    with pytest.raises(ConfigError, match=r"init_depth_m=.*min_depth=0.1"):
        networks["monodepth2"].init_depth(depth_m)


# --- precision and memory layout ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_autocast_is_finite_and_close(arch):
    torch.manual_seed(0)
    model = models.create_model(arch, pretrained=False, init_depth_m=2.0).eval()
    x = image(96, 128)
    with torch.no_grad():
        full = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    for scale in range(4):
        assert half[scale].dtype == torch.float32
        assert half[scale].isfinite().all()
        error = (depth(half[scale]) / depth(full[scale]) - 1).abs()
        assert error.max() < 0.03
        assert error.max() > 0  # it did run in another precision


def test_elu_is_torchs_own_with_its_gradient():
    x = torch.cat((torch.linspace(-20, 3, 500), -torch.logspace(-9, 0, 100), torch.zeros(1))).requires_grad_()
    ours, theirs = elu(x), F.elu(x)
    assert (ours - theirs).abs().max() < 1e-7
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-6
    low = x.detach().bfloat16()
    assert torch.allclose(elu(low), F.elu(low), rtol=2**-8, atol=1e-7)  # rounded once, at the end
    assert torch.autograd.gradcheck(elu, x.detach().double()[::40].requires_grad_())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_done_in_float32_under_autocast(stride):
    """The gradient in bfloat16 is slow on a CPU, so the layer uses float32. Its output still has the input's type."""
    layer, x = Depthwise(8, 5, stride), torch.rand(2, 8, 12, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x.float()).bfloat16())


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_convolution_to_one_channel_is_torchs_with_its_gradient(memory_format):
    layer = Conv3x3(5, 1).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    assert torch.allclose(layer(x), torch.nn.Conv2d.forward(layer, x), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x, *p: layer(x), (x, layer.weight, layer.bias))


def test_channel_attention_is_the_textbooks_with_its_gradient():
    """d3d scales the weights of the 1x1 convolution, the reference scales the map. The mean is a matrix product."""
    ours = AttentionNode(32, 4).double()
    plain = copy.deepcopy(ours)
    use_plain_layers(plain)
    results = []
    for node in (ours, plain):
        inputs = [
            torch.linspace(-1, 2, 960, dtype=torch.float64).view(2, 16, 5, 6).requires_grad_() for _ in "ab"
        ]
        y = node(inputs)
        (y * y).sum().backward()
        results.append([y, *(i.grad for i in inputs), *(p.grad for p in node.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-10), (a - b).abs().max()
    adapter = SqueezeExcite(16).double()
    x = torch.rand(2, 16, 3, 4, dtype=torch.float64)
    assert torch.allclose(adapter(x), squeeze_excite(adapter, x), rtol=1e-12)


def test_the_gradient_of_channel_attention_stays_in_channels_last_memory():
    """The plain mean made the gradient contiguous, and the layers before it slow."""
    node, strides = AttentionNode(32, 4), []
    inputs = [torch.rand(2, 16, 5, 6).to(memory_format=torch.channels_last).requires_grad_() for _ in "ab"]
    joined = [i * 1 for i in inputs]
    for x in joined:
        x.register_hook(lambda g: strides.append(g.stride()[1]))
    node(joined).sum().backward()
    assert strides == [1, 1]


def test_a_head_keeps_far_depths_apart_under_autocast():
    """In bfloat16 a logit near -4 moves in steps of 0.016 to 0.03, several centimetres at 4 m."""
    head = DispHead(16)
    torch.nn.init.constant_(head.conv.bias, -4.0)
    x = torch.rand(1, 16, 32, 32) * 0.1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        disp = head(x)
    assert disp.unique().numel() > 900


def test_attention_sums_over_tokens_in_float32_under_autocast():
    """With 40,000 tokens a softmax weight is 2.5e-5, below what float16 holds with full precision."""
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten._softmax.default, torch.ops.aten.bmm.default):
                seen.append((func.__name__.split(".")[0], args[0].dtype))
            return func(*args, **(kwargs or {}))

    attention, relative = mpvit.FactorisedAttention(64), mpvit.RelativePosition(64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Recorder():
        attention(torch.rand(1, 80, 64), (8, 10), relative)
    assert seen == [("_softmax", torch.float32), ("bmm", torch.float32), ("bmm", torch.bfloat16)]


@pytest.mark.parametrize("arch", ARCHS)
def test_channels_last_is_the_default_and_only_a_layout(networks, arch):
    model = networks[arch]
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        torch.testing.assert_close(plain(image())[0], model(image())[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_double_precision_works(networks, arch):
    with torch.no_grad():
        disp = copy.deepcopy(networks[arch]).double()(image().double(), (0,))[0]
        single = networks[arch](image(), (0,))[0]
    assert disp.dtype == torch.float64
    torch.testing.assert_close(disp.float(), single, atol=1e-4, rtol=1e-4)


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["monodepth", "MonoDepth2", "hr-depth", "monovit2"])
def test_an_unknown_architecture_names_the_near_misses(name):
    with pytest.raises(ConfigError, match="unknown arch") as caught:
        models.create_model(name, pretrained=False)
    near = {
        "monodepth": "monodepth2",
        "MonoDepth2": "monodepth2",
        "hr-depth": "hrdepth",
        "monovit2": "monovit",
    }
    assert f"Did you mean '{near[name]}'" in str(caught.value).replace(" or ", "")
    assert all(arch in str(caught.value) for arch in ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("height", "width", "nearest"),
    [
        (100, 128, ["96x128", "128x128"]),
        (480, 650, ["480x640", "480x672"]),
        (32, 64, ["64x64"]),
        (70, 20, ["64x64", "96x64"]),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest(networks, arch, height, width, nearest):
    with pytest.raises(DataError, match=f"height {height} and width {width}") as caught:
        networks[arch](torch.zeros(1, 3, height, width))
    assert all(size in str(caught.value) for size in nearest)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(3, 64, 64), "batch, 3, height, width"),
        (torch.zeros(1, 64, 64, 3), "batch, 3, height, width"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide by 255"),
    ],
)
def test_an_image_that_is_none(networks, bad, words):
    with pytest.raises(DataError, match=words):
        networks["monodepth2"](bad)


def test_scales_that_do_not_exist(networks):
    with pytest.raises(ConfigError, match=r"\(4,\)"):
        networks["monodepth2"](image(), scales=(4,))


@pytest.mark.parametrize(("low", "high"), [(0.0, 10.0), (5.0, 5.0), (-1.0, 1.0)])
def test_a_depth_range_that_makes_no_sense(low, high):
    with pytest.raises(ConfigError, match="min_depth < max_depth"):
        models.create_model("monodepth2", pretrained=False, min_depth=low, max_depth=high)


# --- our own checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_save_and_load_round_trip(networks, arch, tmp_path):
    model = copy.deepcopy(networks[arch])
    model.min_depth, model.max_depth = 0.2, 80.0
    model.train_size, model.train_focal_px = (96, 128), (106.5138868704331, 106.5)
    with torch.no_grad():  # running statistics must travel as well
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1)
    path = models.save_weights(model, tmp_path / "new folder" / "weights.safetensors")
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]
    assert models.read_metadata(path) == {
        "arch": arch,
        "min_depth": 0.2,
        "max_depth": 80.0,
        "dropout": 0.0,
        "log_scale": False,
        "format_version": 1,
        "train_size": (96, 128),
        "train_focal_px": (106.5138868704331, 106.5),
    }
    loaded = models.load_model(path)
    assert not loaded.training
    assert (loaded.min_depth, loaded.max_depth) == (0.2, 80.0)
    assert (loaded.train_size, loaded.train_focal_px) == ((96, 128), (106.5138868704331, 106.5))
    for (name, a), (_, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    with torch.no_grad():
        assert torch.equal(model(image())[0], loaded(image())[0])
    again = models.create_model(arch, weights=path)  # a whole network is also a start for training
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert again.max_depth == 80.0


def test_saving_unwraps_a_parallel_model(networks, tmp_path):
    path = models.save_weights(torch.nn.DataParallel(networks["monodepth2"]), tmp_path / "w.safetensors")
    assert models.load_model(path).arch == "monodepth2"


@pytest.mark.parametrize(("saved", "asked"), list(itertools.permutations(ARCHS, 2)))
def test_a_checkpoint_of_another_architecture_names_both(networks, saved, asked, tmp_path):
    path = models.save_weights(networks[saved], tmp_path / "w.safetensors")
    before = {name: t.clone() for name, t in networks[asked].state_dict().items()}
    with pytest.raises(DataError, match=f"'{saved}' weights, but the model is '{asked}'"):
        models.load_weights(networks[asked], path)
    assert all(torch.equal(t, before[name]) for name, t in networks[asked].state_dict().items())


def test_a_killed_save_leaves_the_old_file(networks, tmp_path, monkeypatch):
    path = models.save_weights(networks["monodepth2"], tmp_path / "w.safetensors")
    old = path.read_bytes()

    def dies(file, content):
        file.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        models.save_weights(networks["monodepth2"], path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_truncated_checkpoint_is_named(networks, tmp_path):
    path = models.save_weights(networks["monodepth2"], tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    for load in (models.load_model, lambda p: models.create_model("monodepth2", weights=p)):
        with pytest.raises(DataError, match=r"w\.safetensors is not a readable safetensors file"):
            load(path)


def test_files_that_are_no_d3d_checkpoint(networks, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(DataError, match=r"there is no file or folder .*gone\.safetensors"):
        models.load_model(tmp_path / "gone.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(DataError, match=r"foreign\.safetensors is not a d3d checkpoint"):
        models.load_model(foreign)
    pth = tmp_path / "encoder.pth"
    torch.save({}, pth)
    with pytest.raises(DataError, match="load_public_checkpoint"):
        models.load_model(pth)
    with pytest.raises(DataError, match=r"\.safetensors, not 'w\.pth'"):
        models.save_weights(networks["monodepth2"], tmp_path / "w.pth")


def test_checkpoints_that_lie(networks, tmp_path):
    from safetensors.torch import save_file

    state = {name: t.contiguous() for name, t in networks["monodepth2"].state_dict().items()}
    about = {
        "format": "d3d",
        "format_version": "1",
        "arch": "monodepth2",
        "min_depth": "0.1",
        "max_depth": "10.0",
    }

    def load(tensors, **changes):
        path = tmp_path / "w.safetensors"
        save_file(tensors, path, metadata={k: v for k, v in (about | changes).items() if v})
        return models.load_model(path)

    assert load(state).arch == "monodepth2"
    assert load(state).train_size is None  # files of older versions do not have it
    assert load(state, train_size="96 128").train_size == (96, 128)
    for damaged in ("96", "96 128 3", "96 -128", "a b"):
        with pytest.raises(DataError, match="metadata is damaged"):
            load(state, train_size=damaged)
    with pytest.raises(DataError, match="format version 3"):
        load(state, format_version="3")
    with pytest.raises(DataError, match="lacks 'max_depth'"):
        load(state, max_depth="")
    with pytest.raises(ConfigError, match="unknown arch 'dinodepth'"):
        load(state, arch="dinodepth")
    head = "decoder.heads.0.conv.weight"
    with pytest.raises(DataError, match=f"{head} missing"):
        load({name: t for name, t in state.items() if name != head})
    with pytest.raises(DataError, match=rf"{head} \(expected \(1, 16, 3, 3\), got \(1, 8, 3, 3\)\)"):
        load(state | {head: torch.zeros(1, 8, 3, 3)})
    with pytest.raises(DataError, match=r"decoder\.extra not expected"):
        load(state | {"decoder.extra": torch.zeros(1)})
