"""Networks that ship: found by name, checked before use, and usable with the Hugging Face hub and torch.hub."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch

import d3d
from d3d import io, models
from d3d.errors import ConfigError, DataError
from d3d.models import ARCHITECTURES, DepthNetwork
from d3d.models.hub import digest
from d3d.models.lite import Lite
from d3d.models.shipped import MANIFEST, read_manifest, shipped_file


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(1)
    return {arch: models.create_model(arch, pretrained=False).eval() for arch in ARCHITECTURES}


@pytest.fixture
def shelf(networks, tmp_path, monkeypatch):
    """A folder with two networks instead of data/networks."""
    folder = tmp_path / "networks"
    entries = {}
    for name, stored_as in (("lite-distilled", "int8"), ("lite-selfsupervised", "float16")):
        path = models.save_weights(networks["lite"], folder / f"{name}.safetensors", stored_as)
        entries[name] = {
            "arch": "lite",
            "about": f"{name}, in words",
            "sha256": io.sha256(path),
            "bytes": path.stat().st_size,
            "stored_as": stored_as,
            "training": {},
            "facts": {},
        }
        path.with_suffix(".md").write_text(f"---\nlicense: mit\n---\n# {name}\n")
    io.write_json(folder / MANIFEST, {"format": 1, "networks": entries})
    monkeypatch.setenv("D3D_NETWORKS", str(folder))
    return folder


def edit(shelf, change):
    path = shelf / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- by name --------------------------------------------------------------------------------------------------


def test_the_networks_are_listed_with_a_line_each(shelf):
    assert models.available() == {
        "lite-distilled": "lite-distilled, in words",
        "lite-selfsupervised": "lite-selfsupervised, in words",
    }


def test_a_network_loads_by_its_name(shelf, networks):
    half, eight = d3d.load_model("lite-selfsupervised"), d3d.load_model("lite-distilled")
    for model, bound in ((half, 2**-11), (eight, 1 / 127)):
        assert not model.training
        for ours, theirs in zip(networks["lite"].parameters(), model.parameters(), strict=True):
            assert (ours - theirs).abs().max() <= bound * ours.abs().max()
    assert not same(half, eight)


def test_a_name_that_is_near(shelf):
    for wrong in ("lite-destilled", "lite_distilled", "Lite-Distilled"):
        with pytest.raises(
            ConfigError, match=rf"unknown network '{wrong}'. Did you mean.*'lite-distilled'.*\.safetensors"
        ):
            d3d.load_model(wrong)


def test_a_name_comes_before_a_path_and_a_path_is_always_a_path(shelf, networks, tmp_path, monkeypatch):
    """A name means the same network in every working folder."""
    monkeypatch.chdir(tmp_path)
    mine = models.create_model("monodepth2", pretrained=False)
    models.save_weights(mine, tmp_path / "lite-distilled" / "weights.safetensors")
    models.save_weights(mine, tmp_path / "my-network" / "weights.safetensors")
    assert d3d.load_model("lite-distilled").arch == "lite"
    for path in (
        "./lite-distilled",
        tmp_path / "lite-distilled",
        str(tmp_path / "lite-distilled"),
        "my-network",
    ):
        assert same(d3d.load_model(path), mine)


def test_without_networks_a_name_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("D3D_NETWORKS", str(tmp_path / "nothing"))
    assert models.available() == {}
    with pytest.raises(ConfigError, match=r"unknown network 'lite-distilled': .*nothing holds no network"):
        d3d.load_model("lite-distilled")


@pytest.mark.parametrize("wrong", ["weights", "weigths", "weights.pth", "weight.safetensors"])
def test_a_missing_path_is_answered_with_the_files_beside_it(shelf, tmp_path, wrong):
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    message = (
        rf"there is no file or folder '{tmp_path}/{wrong}'\. Did you mean '{tmp_path}/weights\.safetensors'\?"
    )
    with pytest.raises(DataError, match=rf"{message} .*ends in \.safetensors"):
        d3d.load_model(tmp_path / wrong)
    with pytest.raises(DataError, match=r"Did you mean 'lite-distilled'.*\?"):
        d3d.load_model("./lite-distiled")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "swap"])
def test_a_damaged_file_is_refused_before_it_is_read(shelf, damage):
    path = shelf / "lite-distilled.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-7] ^= 1
    elif damage == "truncate":
        del content[-1000:]
    elif damage == "empty":
        content.clear()
    else:  # a whole file of another network
        content[:] = (shelf / "lite-selfsupervised.safetensors").read_bytes()
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"'lite-distilled': .*lite-distilled\.safetensors is damaged: .*git checkout"
    ):
        d3d.load_model("lite-distilled")
    assert d3d.load_model("lite-selfsupervised").arch == "lite"


def test_a_missing_file_and_a_missing_card(shelf):
    (shelf / "lite-distilled.safetensors").unlink()
    with pytest.raises(DataError, match=r"lite-distilled\.safetensors is missing. Restore"):
        d3d.load_model("lite-distilled")
    (shelf / "lite-selfsupervised.md").unlink()
    with pytest.raises(DataError, match=r"lite-selfsupervised\.md cannot be read.*Restore"):
        d3d.load_model("lite-selfsupervised")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format=2), "format 2; this version of d3d reads format 1"),
        (lambda m: m.update(networks=[]), "networks"),
        (lambda m: m["networks"]["lite-distilled"].pop("sha256"), r"lite-distilled\.sha256: Field required"),
        (lambda m: m["networks"]["lite-distilled"].update(bytes="12"), r"lite-distilled\.bytes"),
        (lambda m: m["networks"].update({"../up": m["networks"]["lite-distilled"]}), "'../up' is no name"),
    ],
)
def test_a_bad_manifest_is_named_and_does_not_keep_files_from_loading(shelf, change, words):
    edit(shelf, change)
    for ask in (models.available, lambda: d3d.load_model("lite-distilled")):
        with pytest.raises(DataError, match=rf"manifest\.json: .*{words}.*Restore"):
            ask()
    assert d3d.load_model(shelf / "lite-distilled.safetensors").arch == "lite"


def test_a_manifest_that_is_no_json(shelf):
    (shelf / MANIFEST).write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: not readable as JSON"):
        models.available()


def test_what_ships_is_whole():
    """Every network of the repository has its file, its card and its row, and there are no other files."""
    folder = models.shipped.networks_folder()
    names = read_manifest().networks
    for name, entry in names.items():
        assert d3d.load_model(name).arch == entry.arch
        assert shipped_file(name).stat().st_size == entry.bytes
        assert f"# {name}\n" in (folder / f"{name}.md").read_text()
    if names:
        left = {p.name for p in folder.iterdir()} - {
            f"{n}{s}" for n in names for s in (".md", ".safetensors")
        }
        assert left == {MANIFEST, "README.md"}
        assert sum(entry.bytes for entry in names.values()) < 100e6


# --- the Hugging Face hub -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_save_pretrained_and_back(networks, arch, tmp_path):
    model = networks[arch]
    model.save_pretrained(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["arch"], config["max_depth"]) == (arch, 10.0)
    for cls in (DepthNetwork, type(model)):
        loaded = cls.from_pretrained(tmp_path / "saved")
        assert type(loaded) is type(model)
        assert not loaded.training
        assert digest(loaded) == digest(model)
    assert same(d3d.load_model(tmp_path / "saved"), model)
    card = huggingface_hub.ModelCard.load(tmp_path / "saved" / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "mit",
        "d3d",
        "depth-estimation",
    )


def test_what_a_network_was_built_with_travels(tmp_path):
    options = {"dropout": 0.2, "log_scale": True, "min_depth": 0.2, "max_depth": 80.0}
    model = models.create_model("lite", pretrained=False, **options)
    model.save_pretrained(tmp_path)
    loaded = DepthNetwork.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in options} == options


def test_the_model_card_travels_with_the_weights_that_it_describes(shelf, tmp_path):
    model = d3d.load_model("lite-distilled")
    model.save_pretrained(tmp_path / "same")
    assert "# lite-distilled\n" in (tmp_path / "same" / "README.md").read_text()
    with torch.no_grad():
        model.decoder.heads[0].conv.bias += 0.1
    model.save_pretrained(tmp_path / "trained-on")
    assert "Nothing more is known" in (tmp_path / "trained-on" / "README.md").read_text()


def test_push_to_hub_uploads_the_folder(networks, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, token=None):
            uploaded["token"] = token

        def create_repo(self, repo_id, **options):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **options):
            uploaded.update({p.name: p.stat().st_size for p in folder_path.iterdir()}, repo=repo_id)
            return "done"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert networks["lite"].push_to_hub("me/lite", token="t") == "done"
    assert (uploaded["repo"], uploaded["token"]) == ("me/lite", "t")
    assert uploaded["model.safetensors"] > 20e6


def test_wrong_folders_for_from_pretrained(networks, tmp_path):
    with pytest.raises(DataError, match=r"holds no model\.safetensors.*use d3d\.load_model"):
        DepthNetwork.from_pretrained(tmp_path)
    for path in (tmp_path / "gone" / "away", "./gone"):
        with pytest.raises(DataError, match=r"gone.* is neither a folder nor the id of a repository"):
            DepthNetwork.from_pretrained(path)
    networks["monodepth2"].save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown arch 'monodepth2'.*Choose from: lite"):
        Lite.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="drop_path"):
        DepthNetwork.from_pretrained(tmp_path, drop_path=0.1)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="perhaps truncated"):
        DepthNetwork.from_pretrained(tmp_path)


# --- torch.hub ------------------------------------------------------------------------------------------------


def test_torch_hub_loads_by_name_from_a_checkout(shelf, repo_dir, tmp_path):
    """The process has no d3d on its path, because torch.hub adds the checkout while it loads."""
    code = f"""
import sys, torch
sys.path = [p for p in sys.path if p not in ("", {str(repo_dir)!r})]
model = torch.hub.load({str(repo_dir)!r}, "depth", "lite-distilled", source="local")
import d3d
depth = d3d.predict(model, torch.rand(3, 64, 96))
names = sorted(torch.hub.load({str(repo_dir)!r}, "networks", source="local"))
print(model.arch, tuple(depth.shape), names, d3d.__file__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == (
        f"lite (1, 64, 96) ['lite-distilled', 'lite-selfsupervised'] {repo_dir / 'd3d' / '__init__.py'}"
    )


def test_the_entry_points_of_torch_hub(repo_dir):
    """torch.hub lists every public callable of the file, imports too."""
    spec = importlib.util.spec_from_file_location("hubconf", repo_dir / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    public = [n for n in vars(hubconf) if callable(getattr(hubconf, n)) and not n.startswith("_")]
    assert public == ["networks", "depth", "untrained"]
    assert all(importlib.util.find_spec(package) for package in hubconf.dependencies)
    assert hubconf.untrained("lite", pretrained=False).arch == "lite"


@pytest.mark.parametrize("given", [None, "", 5])
def test_what_is_neither_a_name_nor_a_path_is_one_clear_error(given):
    with pytest.raises(ConfigError, match="load_model needs a name or a path"):
        d3d.load_model(given)
    with pytest.raises(ConfigError, match="predict needs a network"):
        d3d.predict(given, np.zeros((64, 96, 3), np.uint8))


def test_a_network_that_ships_is_not_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr("d3d.models.hub.available", lambda: {"lite-distilled": ""})
    with pytest.raises(DataError, match=r"'lite-distilled' ships with d3d.*load_model"):
        DepthNetwork.from_pretrained("lite-distilled")
