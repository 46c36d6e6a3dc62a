"""The training loop: schedule, learning, resuming to equal weights, one augmentation per triple, invalid labels."""

import copy
import csv
import pickle
import re
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from d3d import kernels, training
from d3d.datasets import Scene, find_triples
from d3d.datasets import samples as samples_module
from d3d.datasets.augment import Augmentation, shift_hue, unflip
from d3d.datasets.samples import Cache, EpochBatches, LabelSamples, TripleSamples
from d3d.errors import ConfigError, DataError
from d3d.kernels import Adam
from d3d.losses import LOSSES, self_supervised_loss
from d3d.models import create_model
from d3d.pipeline.config import TrainConfig
from d3d.prediction import DepthStore, network_depth
from d3d.training import (
    CURVE,
    STATE,
    WEIGHTS,
    DistillTask,
    PretrainTask,
    batch_loss,
    learning_rate,
    select_device,
    train,
)

SIZE = (32, 64)


class Wall(Scene):
    """A textured wall 2 m in front of a camera that moves sideways, 7 cm a frame."""

    def __init__(self, n=10):
        T = np.tile(np.eye(4), (n, 1, 1))
        T[:, 0, 3] = 0.07 * np.arange(n)
        super().__init__("wall", [f"{i:03d}" for i in range(n)], T, SIZE, True)

    def _read_image(self, i):
        y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
        X, Y = (x - 31.5) / 40 * 2 + 0.07 * i, (y - 15.5) / 40 * 2
        image = [
            0.5 + 0.25 * np.sin(9 * X + k) * np.cos(8 * Y - k) + 0.2 * np.sin(23 * X * (k + 1))
            for k in range(3)
        ]
        return (np.stack(image, -1).clip(0, 1) * 255).astype(np.uint8)

    def _read_K(self, i):
        return np.array([[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]])

    def _read_depth(self, i):
        return np.full(SIZE, 2.0, np.float32)


class TinyNet(nn.Module):
    """A small network with the interface of the paper's networks, for tests."""

    arch, min_depth, max_depth = "monodepth2", 0.1, 10.0
    train_size = train_focal_px = None

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Conv2d(8, 1, 3, padding=1)
        nn.init.constant_(self.head.bias, -3.0)

    def forward(self, image, scales=(0, 1, 2, 3)):
        disp = torch.sigmoid(self.head(self.body(image)))
        return {s: nn.functional.avg_pool2d(disp, 2**s) if s else disp for s in scales}


def samples(n=10, augment=True, size_hw=SIZE):
    scene = Wall(n)
    return TripleSamples(
        [scene], [find_triples(scene.world_T_cams, every=1)], size_hw, seed=3, augment=augment
    )


def labels_of(depth_m, size_hw=SIZE):
    label = np.full(size_hw, depth_m, np.float32)
    return LabelSamples([Wall()], [(0, i) for i in range(8)], partial(_constant, label), size_hw)


def _constant(label, scene, i):
    return label


def config(**values):
    base = {"epochs": 4, "milestones": (3,), "batch_size": 4, "learning_rate": 1e-2, "pretrained": False}
    return TrainConfig(**(base | values))


def test_rate_drops_after_its_epochs_and_warms_up():
    paper = TrainConfig()
    rates = [learning_rate(paper, 7 * e + k, 7 * 41) for e in range(41) for k in range(7)]
    assert rates[: 7 * 26] == [1e-4] * 7 * 26  # 26 epochs at the full rate
    assert rates[7 * 26 : 7 * 36] == pytest.approx([1e-5] * 70)
    assert rates[7 * 36 :] == pytest.approx([1e-6] * 35)
    warm = TrainConfig(warmup_steps=4)
    assert [learning_rate(warm, s, 100) / 1e-4 for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_a_length_in_steps_keeps_the_shares_of_the_drops():
    short = TrainConfig(steps=1000)
    assert short.total_steps(300) == 1000
    assert short.drops(1000) == (634, 878)  # 26 and 36 of 41
    assert TrainConfig().total_steps(300) == 12300
    assert TrainConfig().drops(12300) == (7800, 10800)
    assert short.scaled(41) == TrainConfig()  # epochs take the place of steps


def frame(scene):
    return torch.from_numpy(scene.image(4).transpose(2, 0, 1)).float()[None] / 255


def test_training_finds_the_wall_and_leaves_its_files(tmp_path):
    task = PretrainTask(samples(), scales=(0,))
    torch.manual_seed(0)
    model = train(TinyNet, task, config(epochs=60, milestones=(50,)), tmp_path, seed=1)
    depth = network_depth(model.eval(), frame(Wall()))
    assert 1.7 < depth.median() < 2.3  # metric, from poses alone
    rows = list(csv.DictReader((tmp_path / CURVE).open()))
    assert len(rows) == 60
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert (tmp_path / WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("length", "stop_after"),
    [({}, 2), ({}, 6), ({"steps": 7, "checkpoint_steps": 3}, 3), ({"steps": 7, "checkpoint_steps": 3}, 6)],
)
def test_a_resumed_training_ends_at_the_same_weights(tmp_path, length, stop_after):
    """The kill comes after an epoch (two steps) or in the middle of one."""

    class Killed(Exception):
        pass

    def stop(step):
        if step == stop_after:
            raise Killed

    task = PretrainTask(samples(), scales=(0, 1))
    whole = train(TinyNet, task, config(**length), tmp_path / "a", seed=1)
    with pytest.raises(Killed):
        train(TinyNet, task, config(**length), tmp_path / "b", seed=1, on_checkpoint=stop)
    torch.rand(7)  # whatever else used the generator in between
    resumed = train(TinyNet, task, config(**length), tmp_path / "b", seed=1)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "a" / CURVE).read_text() == (tmp_path / "b" / CURVE).read_text()


def test_how_often_a_training_is_checkpointed_changes_nothing(tmp_path):
    task = PretrainTask(samples(), scales=(0,))
    often = train(TinyNet, task, config(steps=5, checkpoint_steps=1), tmp_path / "a", seed=1)
    seldom = train(TinyNet, task, config(steps=5, checkpoint_steps=100), tmp_path / "b", seed=1)
    for a, b in zip(often.state_dict().values(), seldom.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    rows = list(csv.DictReader((tmp_path / "a" / CURVE).open()))
    assert [row["steps"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["epoch"]) for row in rows] == [0.5, 1, 1.5, 2, 2.5]
    assert len(list(csv.DictReader((tmp_path / "b" / CURVE).open()))) == 1


def test_a_real_network_resumes_to_the_same_weights(tmp_path):
    """MonoViT has drop path and batch statistics, which a resume can easily get wrong."""

    class Killed(Exception):
        pass

    def stop(step):
        raise Killed

    def factory():
        return create_model("monovit", pretrained=False, init_depth_m=2.0)

    task = PretrainTask(samples(size_hw=(64, 64)), scales=(0,))
    short = config(epochs=2, milestones=(1,), steps=2, checkpoint_steps=1, batch_size=2, precision="bf16")
    whole = train(factory, task, short, tmp_path / "a", seed=1)
    with pytest.raises(Killed):
        train(factory, task, short, tmp_path / "b", seed=1, on_checkpoint=stop)
    resumed = train(factory, task, short, tmp_path / "b", seed=1)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_damaged_state_names_its_file(tmp_path):
    task = PretrainTask(samples(), scales=(0,))
    train(TinyNet, task, config(epochs=1), tmp_path, seed=1)
    for damaged in ((tmp_path / STATE).read_bytes()[:500], b"not a state at all", b""):
        (tmp_path / STATE).write_bytes(damaged)
        with pytest.raises(DataError, match=r"training_state\.pt"):
            train(TinyNet, task, config(epochs=2), tmp_path, seed=1)


def test_a_loss_that_is_not_finite_stops_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECK_S", np.inf)  # a busy machine does not check in between
    task = PretrainTask(samples(), scales=(0,))
    task.smoothness = float("inf")
    with pytest.raises(DataError, match=r"loss is (inf|nan) in steps 1 to 2"):
        train(TinyNet, task, config(), tmp_path, seed=1)
    assert not (tmp_path / STATE).exists()


def test_a_loss_that_is_not_finite_is_found_long_before_the_checkpoint(tmp_path, monkeypatch):
    """In profile paper a checkpoint is an epoch of hours."""
    monkeypatch.setattr(training, "CHECK_S", np.inf)
    task = PretrainTask(samples(), scales=(0,), smoothness=float("inf"))
    long = config(steps=1000, checkpoint_steps=1000)
    with pytest.raises(
        DataError, match=r"pretrain: the loss is (inf|nan) in steps 1 to 10\. Check that poses"
    ):
        train(TinyNet, task, long, tmp_path, seed=1)

    class Later(PretrainTask):
        """A loss that is finite for twelve steps only."""

        def loss(self, disps, batch):
            seen.append(batch)
            loss, parts = super().loss(disps, batch)
            return loss * (float("nan") if len(seen) > 12 else 1), parts

    seen = []
    monkeypatch.setattr(training, "CHECK_S", 0.0)
    with pytest.raises(DataError, match=r"the loss is nan in steps 1 to 13"):
        train(TinyNet, Later(samples(), scales=(0,)), long, tmp_path, seed=1)


@pytest.mark.parametrize(
    ("free_mb", "said"),
    [
        (100, ""),
        (3, r"2 loading processes need 4 MB .* has 3 MB\. Therefore 2 of them prepare 2 batches each"),
        (0.3, "the training process loads the images itself. The result is the same"),
    ],
)
def test_a_small_shared_memory_needs_no_setting(tmp_path, monkeypatch, capsys, free_mb, said):
    """64 MB is Docker's default; profile paper needs gigabytes."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: usage(0, 0, int(free_mb * 2**20)))
    short = config(steps=2, checkpoint_steps=2, workers=2)
    train(TinyNet, PretrainTask(samples(), scales=(0,)), short, tmp_path, seed=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "/dev/shm" in line]
    assert len(lines) == bool(said)
    assert re.search(said, "".join(lines))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (
            RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error."),
            "ran out of shared memory",
        ),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "--shm-size"),
        (RuntimeError("another"), "^another$"),
    ],
)
def test_the_end_of_shared_memory_is_an_error_that_says_what_to_do(tmp_path, monkeypatch, raised, expected):
    def full(*args, **kwargs):
        raise raised
        yield

    monkeypatch.setattr(training, "DataLoader", full)
    with pytest.raises(RuntimeError, match=expected):
        train(TinyNet, PretrainTask(samples()), config(), tmp_path)


def test_an_error_in_a_loading_process_is_one_line(tmp_path):
    with pytest.raises(DataError) as raised:
        train(TinyNet, DistillTask(labels_of(np.nan)), config(workers=1), tmp_path)
    assert str(raised.value).startswith("label of scene wall, frame 00")
    assert "Traceback" not in str(raised.value)


def test_distillation_learns_its_label(tmp_path):
    scene = Wall()
    label = np.full(SIZE, 3.0, np.float32)
    task = DistillTask(LabelSamples([scene], [(0, i) for i in range(8)], lambda s, i: label, SIZE))
    model = train(TinyNet, task, config(epochs=40, milestones=(35,)), tmp_path, seed=1)
    assert (network_depth(model.eval(), frame(scene)) - 3.0).abs().mean() < 0.15


@pytest.mark.parametrize(
    ("label", "message"),
    [(np.full(SIZE, np.nan, np.float32), "not finite"), (np.ones((8, 8), np.float32), "but the network has")],
)
def test_a_label_that_is_none_is_named(label, message):
    bad = LabelSamples([Wall()], [(0, 3)], lambda s, i: label, SIZE)
    with pytest.raises(DataError, match=f"scene wall, frame 003.*{message}"):
        bad[0, 0]
    with pytest.raises(DataError, match="no frames"):
        LabelSamples([Wall()], [], lambda s, i: label, SIZE)


def test_a_cache_reads_once_and_never_takes_more_than_its_share(monkeypatch):
    monkeypatch.setattr(samples_module, "CACHE_BYTES", 2**20)
    read = []

    def load(scene, frame):
        read.append((scene, frame))
        return np.full(2**18, frame, np.uint8)  # four in a megabyte

    cache = Cache(load, items=6, item_bytes=2**18)
    for frame in (0, 1, 2, 3, 0, 4, 3, 4):
        assert cache(7, frame)[0] == frame
    assert read == [(7, f) for f in (0, 1, 2, 3, 4, 4)]  # there is no room for the 4th
    assert Cache(load, items=17, item_bytes=2**18).capacity == 0, "rarely a hit"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Cache(load, items=6, item_bytes=2**18).capacity == 2


class Capacity(torch.utils.data.Dataset):
    """Return the number of cached items in the calling process."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return Cache(None, items=2**15, item_bytes=2**16).capacity


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_processes_share_the_memory_of_the_machine(workers):
    """Issue 12, 1.9: eight processes kept 768 MB each."""
    kept = list(torch.utils.data.DataLoader(Capacity(), batch_size=None, num_workers=workers))
    assert kept == [2**15 // max(1, workers)] * 4


def test_samples_can_be_sent_to_a_process_that_was_not_forked(tmp_path):
    store = DepthStore(tmp_path)
    store.write_scene("wall", [("003", np.full(SIZE, 2.0))])
    labelled = LabelSamples([Wall()], [(0, 3)], store.read_of, SIZE)
    for data in (samples(), labelled):
        copy = pickle.loads(pickle.dumps(data))
        for name, value in data[1, 0].items():
            assert torch.equal(copy[1, 0][name], value), name


def test_one_draw_is_the_same_change_for_every_frame_of_a_triple():
    rng = np.random.default_rng(0)
    draws = [Augmentation.draw(rng) for _ in range(400)]
    assert 0.4 < np.mean([d.flip for d in draws]) < 0.6
    assert 0.4 < np.mean([d.jitter is not None for d in draws]) < 0.6
    jittered = next(d for d in draws if d.jitter is not None)
    frame = torch.rand(3, 8, 8)
    assert torch.equal(jittered(frame), jittered(frame.clone()))
    assert (jittered(frame) - frame).abs().max() > 0.01
    factors = np.array([d.jitter for d in draws if d.jitter is not None])
    assert factors[:, :3].min() >= 0.8
    assert factors[:, :3].max() <= 1.2
    assert np.abs(factors[:, 3]).max() <= 0.1
    assert np.abs(factors[:, 3]).max() > 0.05


def test_the_network_sees_the_augmented_image_and_the_loss_the_plain_one():
    data, plain = samples(), samples(augment=False)
    seen_flip = seen_jitter = False
    for epoch in range(6):
        item, reference = data[epoch, 2], plain[epoch, 2]
        for name in ("target", "sources", "K", "source_T_target"):
            assert torch.equal(item[name], reference[name])
        restored = unflip(item["input"][None], item["flip"][None])[0]
        seen_flip |= bool(item["flip"]) and not torch.equal(item["input"], restored)
        seen_jitter |= not torch.equal(restored, item["target"])
        assert torch.equal(data[epoch, 2]["input"], item["input"])  # depends on nothing but its key
    assert seen_flip
    assert seen_jitter


def test_batches_cover_an_epoch_once_and_differ_between_epochs():
    batches = EpochBatches(10, 4, seed=0)
    first = [i for b in batches for e, i in b]
    assert batches.per_epoch == len(batches) == 2
    assert len(set(first)) == 8
    second = list(EpochBatches(10, 4, seed=0, first=2, last=4))
    assert {e for b in second for e, i in b} == {1}
    assert [i for b in second for e, i in b] != first
    assert list(EpochBatches(10, 4, seed=0, first=1, last=4)) == [*list(batches)[1:], *second]
    assert len(EpochBatches(3, 8, seed=0)) == 1  # fewer samples than a batch still train


def test_asking_for_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="no GPU"):
        select_device("cuda")
    assert select_device("auto").type == "cpu"


def test_snapshots_are_the_weights_of_the_second_half_and_change_nothing(tmp_path):
    from safetensors.torch import load_file

    plain, kept = config(snapshots=0), config(snapshots=3)
    total = 8  # two steps an epoch
    assert kept.snapshot_steps(total) == (4, 5, 6)
    a = train(TinyNet, PretrainTask(samples()), plain, tmp_path / "plain")
    b = train(TinyNet, PretrainTask(samples()), kept, tmp_path / "kept")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    files = sorted((tmp_path / "kept").glob("snapshot-*.safetensors"))
    assert [f.name for f in files] == [f"snapshot-{k:06}.safetensors" for k in (4, 5, 6)]
    assert not list((tmp_path / "plain").glob("snapshot-*"))
    states = [load_file(f) for f in (*files, tmp_path / "kept" / WEIGHTS)]
    assert len({s["head.bias"].item() for s in states}) == 4, "each is of another step"


@pytest.mark.parametrize("kind", [*LOSSES, "distill"])
def test_a_step_reads_nothing_back_from_its_device(kind):
    """Reading a value makes Python wait for the GPU. No step may do this."""
    asks = {
        torch.ops.aten._local_scalar_dense.default,  # item(), float(), a comparison in an if
        torch.ops.aten._linalg_check_errors.default,  # torch.linalg.inv
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    }
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in asks or (
                func is torch.ops.aten.index.Tensor
                and any(i is not None and i.dtype == torch.bool for i in args[1])
            ):
                seen.append(func)
            return func(*args, **(kwargs or {}))

    label = np.full(SIZE, 3.0, np.float32)
    data = samples() if kind != "distill" else LabelSamples([Wall()], [(0, 3)], lambda s, i: label, SIZE)
    task = DistillTask(data) if kind == "distill" else PretrainTask(data, loss_name=kind)
    batch = torch.utils.data.default_collate([data[0, 0]])
    with Recorder():
        loss, _ = batch_loss(TinyNet(), task, batch, config(precision="bf16"))
        loss.backward()
        assert not seen
        torch.linalg.inv(torch.eye(3))  # it would have been noticed
        assert seen


def test_the_loss_can_be_compiled_as_one_graph():
    """Without a compiler, `compile` is an error. The backend that only traces needs no compiler."""
    batch = torch.utils.data.default_collate([samples(size_hw=(64, 64))[0, 0]])
    disps = {s: torch.full((1, 1, 64 >> s, 64 >> s), 0.03 + 0.01 * s) for s in (0, 1)}
    args = (disps, batch["target"], batch["sources"].transpose(0, 1), batch["K"])
    poses = batch["source_T_target"].transpose(0, 1)
    for options in ({}, {"automask": True}, {"loss": "triplet"}, {"loss": "triplet-stop", "margin": -0.5}):
        traced = torch.compile(self_supervised_loss, backend="eager", fullgraph=True, dynamic=False)
        # traced is the plain form, which a GPU runs; called directly here, the one of a CPU
        loss, _ = traced(*args, poses, **options)
        assert loss.item() == pytest.approx(self_supervised_loss(*args, poses, **options)[0].item(), rel=1e-5)


def test_the_hue_turns_as_torchvision_turns_it():
    import torchvision.transforms.functional as TF

    image = torch.rand(3, 16, 24)
    image[:, 0] = 0.4  # grey: no hue to turn
    image[:2, 1], image[2, 1] = 1, 0  # two channels alike, at both ends
    image[:, 2] = 0
    for shift in (-0.1, 0.0, 0.07, 0.1):
        assert (shift_hue(image, shift) - TF.adjust_hue(image, shift)).abs().max() < 1e-5
        assert torch.equal(
            shift_hue(torch.stack((image, image)), shift)[1], shift_hue(image, shift)
        )  # batches, too


def test_adam_gives_its_kernel_one_memory_layout(monkeypatch):
    """On a GPU the fused kernel refuses gradients with other strides than their weights, which HR-Depth has."""
    model = create_model("hrdepth", pretrained=False).train()
    sum(disp.mean() for disp in model(torch.rand(2, 3, 64, 64)).values()).backward()
    assert any(p.grad.stride() != p.stride() for p in model.parameters() if p.grad is not None)
    seen = []
    monkeypatch.setattr(kernels, "adam", lambda *tensors, **options: seen.append((tensors, options)))
    Adam(model.parameters(), lr=config().learning_rate).step()
    ((*tensors, _, steps), options) = seen[0]
    for parameter, *others in zip(*tensors, steps, strict=True):
        assert {t.stride() for t in others[:-1]} == {parameter.stride()} == {(1,)}
        assert others[-1].device == parameter.device
    assert options["fused"]


@pytest.mark.parametrize("read", [False, True], ids=["new", "read"])
def test_adam_in_one_kernel_is_torchs_own_whatever_lies_how_in_memory(read):
    """Weights in channels-last memory, a gradient and, where it was read, a state that are not."""
    torch.manual_seed(0)
    weights = torch.rand(6, 4, 3, 3), torch.rand(6, 4, 1, 1), torch.rand(6)
    optimizers = []
    for kind in (torch.optim.Adam, Adam):
        parameters = [nn.Parameter(w.clone()) for w in weights]
        if not read:
            parameters[0].data = parameters[0].data.contiguous(memory_format=torch.channels_last)
        optimizers.append(
            kind([*parameters, nn.Parameter(torch.ones(2))], lr=0.1)
        )  # the last gets no gradient
    for step in range(4):
        for optimizer in optimizers:
            generator = torch.Generator().manual_seed(step)
            for p in optimizer.param_groups[0]["params"][:3]:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        if read and step == 1:
            theirs, ours = optimizers
            weight = ours.param_groups[0]["params"][0]
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    theirs, ours = (o.param_groups[0]["params"] for o in optimizers)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(ours[0], weights[0], atol=0.1)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
