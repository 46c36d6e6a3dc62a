"""Tables 2 to 6: known means of hand-made scores, refusals, marks, three formats, storage, the README."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from d3d import io, tables
from d3d.cli import main, parser
from d3d.errors import ConfigError, DataError, RunError
from d3d.metrics import METRICS
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import make_config
from d3d.tables import Evaluation, Scores
from d3d.tables.from_runs import without_seed
from d3d.tables.text import ranks

LISTS = {
    "Reflection": frozenset({("s", "0"), ("s", "1"), ("s", "not scored")}),
    "NoReflection": frozenset({("s", "2")}),
    "Mirror": frozenset({("s", "3")}),
}


def per_image(values, **columns):
    """Make scores of frames "0", "1", ... of one scene: one value for each image, the same for every metric."""
    rows = [
        {"scene": "s", "frame": str(i), "pixels": "all", "count": 7, **dict.fromkeys(METRICS, v), **columns}
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def evaluation(values=(1, 2, 3, 4), arch="monodepth2", labels="", seed=0, **more):
    at = {"profile": "laptop", "trained_on": "glossyrooms", "dataset": "glossyrooms", "split": "val"}
    return Evaluation(arch, labels, seed, **{**at, "per_image": per_image(values), **more})


def on_scannet(*args, **more):
    return evaluation(*args, **{"trained_on": "scannet", "dataset": "scannet", **more})


def scores(*evaluations):
    lists = {(e.dataset, e.split): LISTS for e in evaluations}
    return Scores(evaluations, lists)


def rows(frame, **where):
    """Select the rows whose columns have these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def only(frame, **where):
    (row,) = rows(frame, **where).to_dict("records")
    return row


# what stands in a table


def test_means_over_images_then_over_seeds_with_the_sample_deviation():
    three = [evaluation((v, v, v, 9), labels="uncer", seed=k) for k, v in enumerate((1.0, 2.0, 6.0))]
    row = only(
        tables.make_table(scores(*three), "3"),
        architecture="Monodepth2",
        training="3D Distillation",
    )
    assert row["set"] == "GlossyRooms-Reflection Val Set"
    assert (row["n"], row["seeds"], row["images"]) == (3, "0 1 2", 2)
    assert [row[m] for m in METRICS] == [3.0] * 7
    assert row["sq_rel_std"] == pytest.approx(np.sqrt(7))  # ((1-3)² + (2-3)² + (6-3)²) / (3 - 1)
    whole = only(
        tables.make_table(scores(*three), "2"), architecture="Monodepth2", training="3D Distillation"
    )
    assert (whole["images"], whole["abs_rel"]) == (4, 4.5)


def test_one_seed_has_no_deviation_and_is_printed_without():
    table = tables.paper_table(scores(evaluation(), evaluation((1, 1, 1, 1), labels="pred")), "2")
    assert rows(table.frame, n=1)[[f"{m}_std" for m in METRICS]].isna().all(axis=None)
    for make in (tables.markdown, tables.latex):
        assert "±" not in make(table)
        assert r"\pm" not in make(table)
    assert "one seed (0)" in table.caption


def test_only_highlights_are_not_counted_as_images():
    both = pd.concat([per_image((1, 3)), per_image((100, 100), pixels="highlight")], ignore_index=True)
    row = only(tables.make_table(scores(evaluation(per_image=both)), "2"), n=1)
    assert (row["images"], row["rmse"]) == (2, 2.0)


@pytest.mark.parametrize("key", ["2", "3", "4"])
def test_rows_are_the_papers_in_its_order(key):
    part = tables.make_table(scores(evaluation(arch="monovit"), evaluation(labels="uncer")), key)
    paper = rows(
        tables.paper_tables(),
        table=int(key),
        split=f"ScanNet{'' if key == '2' else '-Reflection' if key == '3' else '-NoReflection'} Val Set",
    )
    ours = part[["architecture", "training"]].to_numpy().tolist()
    assert ours == paper[["architecture", "training"]].to_numpy().tolist()


@pytest.fixture
def lists_of_the_paper(monkeypatch):
    """The hand-made lists are as long as the paper's."""
    sizes = {"reflection_val": 2, "reflection_test": 2, "noreflection_val": 1}
    monkeypatch.setattr("d3d.tables.paper.PAPER_IMAGES", sizes)


def test_a_list_of_the_papers_name_but_not_its_length_is_another_one():
    frame = tables.make_table(scores(on_scannet(labels="uncer")), "3")
    assert set(frame["source"]) == {"ours"}
    assert only(frame, architecture="Monodepth2", training="3D Distillation")["images"] == 2
    assert "paper" in set(tables.make_table(scores(on_scannet(labels="uncer")), "2")["source"])


def test_7_scenes_keep_the_papers_name_also_in_part():
    part = evaluation(
        dataset="7scenes", split="test", scale="median", provenance={"evaluation": {"in_part": True}}
    )
    frame = tables.make_table(scores(part), "5")
    assert set(frame["set"]) == {"7-Scenes"}
    assert set(frame["source"]) == {"ours"}


def test_scannet_in_part_has_no_row_of_the_paper_and_says_so():
    part = on_scannet(labels="uncer", provenance={"evaluation": {"in_part": True}})
    made = tables.paper_table(scores(part, on_scannet(labels="uncer", split="test")), "2")
    assert set(rows(made.frame, split="val")["source"]) == {"ours"}
    assert set(rows(made.frame, split="test")["source"]) == {"ours", "paper"}
    assert "Not all images of ScanNet val were scored" in made.caption
    assert "ScanNet test" not in made.caption


@pytest.mark.usefixtures("lists_of_the_paper")
def test_the_papers_rows_stand_under_ours_on_its_own_images_only():
    frame = tables.make_table(
        scores(on_scannet(labels="uncer"), on_scannet(labels="uncer", split="test")), "3"
    )
    paper = only(frame, source="paper", architecture="HR-Depth", training="3D Distillation", split="test")
    assert (paper["set"], paper["sq_rel"]) == ("ScanNet-Reflection Test Set", 0.089)
    assert (frame["source"] == "paper").sum() == 18
    assert list(frame["source"])[:2] == ["ours", "paper"]
    for other in (evaluation(labels="uncer"), on_scannet(trained_on="7scenes", dataset="7scenes")):
        for key in tables.LAYOUTS:
            frame = tables.make_table(scores(other), key)
            assert set(frame["source"]) <= {"ours"}
            assert not frame["set"].str.contains("ScanNet").any()


def with_listed(values=(1, 2, 3, 4), own=(True, False, True, True), **columns):
    """Scores of a prepared folder: frames of the split itself, and others that are on a list only."""
    return per_image(values, **columns).assign(in_split=list(own))


def test_a_whole_split_is_averaged_over_its_own_frames_and_a_list_over_listed_frames():
    made = scores(
        *(on_scannet(labels="uncer", seed=s, per_image=with_listed((1, 7, 3 + s, 5))) for s in (0, 1))
    )
    where = {"architecture": "Monodepth2", "training": "3D Distillation", "source": "ours"}
    whole = only(tables.make_table(made, "2"), **where)
    assert (whole["images"], whole["n"], whole["sq_rel"]) == (3, 2, pytest.approx((1 + 3.5 + 5) / 3))
    listed = only(tables.make_table(made, "3"), **where)
    assert (listed["images"], listed["sq_rel"]) == (
        2,
        (1 + 7) / 2,
    )  # frame 1 is on the list, not in the split
    table = tables.paper_table(made, "2")
    assert "ScanNet Val Set: 3 images" in table.caption
    assert "ScanNet Val Set (3 images)" in tables.markdown(table)


def test_listed_frames_alone_are_no_whole_split():
    made = scores(on_scannet(labels="uncer", per_image=with_listed(own=(False,) * 4)))
    assert tables.paper_table(made, "2") is None
    assert only(tables.make_table(made, "3"), n=1)["images"] == 2


def test_the_readme_counts_a_splits_own_frames(tmp_path):
    tables.write_tables(scores(evaluation(per_image=with_listed())), tmp_path)
    assert "| Val (3) | Reflection Val (2) |" in tables.readme_block(tmp_path)


def test_table_5_is_relative_depth_and_the_papers_for_what_was_trained_elsewhere():
    seven = evaluation(dataset="7scenes", split="test", scale="median", labels="pred")
    frame = tables.make_table(scores(seven), "5")
    assert set(frame["set"]) == {"7-Scenes"}
    assert only(frame, source="paper", architecture="MonoViT", training="Self-Teaching")["sq_rel"] == 0.057
    assert only(frame, n=1)["training"] == "Self-Teaching"
    assert tables.make_table(scores(seven), "2").empty
    at_home = tables.make_table(scores(replace(seven, trained_on="7scenes")), "5")
    assert set(at_home["source"]) == {"ours"}
    assert set(at_home["set"]) == {"7-Scenes Test Set"}
    absolute = tables.make_table(scores(replace(seven, scale="none")), "5")
    assert absolute.empty
    stand_in = evaluation(split="test", scale="median")
    both = tables.make_table(scores(stand_in, seven), "5")
    assert list(dict.fromkeys(both["set"])) == ["7-Scenes", "GlossyRooms Test Set"]
    assert "stand-in" in tables.paper_table(scores(stand_in), "5").caption
    assert "stand-in" not in tables.paper_table(scores(seven), "5").caption


def test_table_6_has_the_papers_names_then_ours_beyond_the_paper():
    names = ("signed", "uncer-tta", "proj_lowres", "mv", "uncer", "pred")
    made = [on_scannet(labels=n) for n in names] + [on_scannet(labels="uncer", round=2), on_scannet()]
    frame = rows(tables.make_table(scores(*made), "6"), split="val", list="")
    paper = rows(tables.paper_tables(), table=6, split="ScanNet Val Set")
    ours = rows(frame, source="ours")
    assert list(rows(ours, beyond=False)["training"]) == list(paper["training"])
    assert list(rows(frame, source="paper")["sq_rel"]) == list(paper["sq_rel"])
    assert list(ours["training"])[6:] == [
        "pred. depth + proj. depth with signed",
        "pred. depth + proj. depth with uncer-tta",
        "pred. depth + proj. depth with uncer, round 2",
    ]
    text = tables.markdown(tables.paper_table(scores(*made), "6"))
    assert text.index("| *beyond the paper* |") > text.index("with uncer |")
    assert text.index("| *beyond the paper* |") < text.index("with signed |")
    other = tables.make_table(scores(on_scannet(arch="hrdepth", labels="mv")), "6", arch="hrdepth")
    assert set(other["source"]) == {"ours"}  # the paper's ablation is Monodepth2's


def test_the_recommended_recipe_is_the_fourth_training_of_networks_that_have_it():
    made = [evaluation(labels=n, arch=a) for n in ("uncer", "robust") for a in ("monodepth2", "lite")]
    frame = tables.make_table(scores(*made), "2")
    names = frame[["architecture", "training"]].to_numpy().tolist()
    paper = ["Self-Supervised", "Self-Teaching", "3D Distillation"]
    wanted = [[a, t] for a in ("Monodepth2", "HR-Depth", "MonoViT", "Lite") for t in paper]
    wanted.insert(3, ["Monodepth2", "Distillation (robust)"])
    assert names == [*wanted, ["Lite", "Distillation (robust)"]]
    assert only(frame, architecture="Lite", training="Distillation (robust)")["n"] == 1


def test_mirrors_stand_apart():
    made = scores(evaluation((1, 1, 1, 50)))
    assert only(tables.make_table(made, "mirror"), n=1)["sq_rel"] == 50
    for key in ("2", "3", "4", "6"):
        assert "Mirror" not in set(tables.make_table(made, key)["list"])
    assert "mirrors" in tables.paper_table(made, "mirror").caption


def test_a_list_of_which_nothing_was_scored_has_no_block():
    made = Scores((evaluation((1, 1)),), {("glossyrooms", "val"): LISTS})
    assert tables.paper_table(made, "4") is None
    assert "no scored image is on the list NoReflection" in tables.missing(made, "4")[0]


# what is refused


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"profile": "demo"}, "two profiles, 'laptop' .* and 'demo'"),
        (
            {"trained_on": "scannet", "dataset": "scannet"},
            "two training sets, 'glossyrooms' .* and 'scannet'",
        ),
        ({"seed": 0}, "two evaluations of monodepth2 self-supervised, seed 0"),
        ({"settings": "other"}, "differ in more than the seed"),
        ({"per_image": per_image((1, 2))}, "4 images, .* on 2: the images differ"),
        ({"arch": "hrdepth", "per_image": per_image((1, 2, 3, 4), scene="t")}, "the images differ"),
        (
            {"per_image": per_image((1, 2, 3, 4)).assign(in_split=[True, True, False, True])},
            "the images differ",
        ),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_what_does_not_belong_together_is_refused(other, said):
    with pytest.raises(DataError, match=said):
        scores(evaluation(), evaluation(**{"seed": 1, **other}))


def test_two_splits_or_data_sets_are_never_one_mean():
    made = scores(evaluation((1, 1, 1, 1)), evaluation((5, 5, 5, 5), split="test", seed=1))
    frame = rows(tables.make_table(made, "2"), architecture="Monodepth2", training="Self-Supervised")
    assert list(zip(frame["set"], frame["n"], frame["sq_rel"], strict=True)) == [
        ("GlossyRooms Val Set", 1, 1.0),
        ("GlossyRooms Test Set", 1, 5.0),
    ]


def test_nothing_and_unknown_tables_are_errors():
    with pytest.raises(DataError, match="no evaluation"):
        Scores(())
    with pytest.raises(ConfigError, match="unknown table '7'"):
        tables.make_table(scores(evaluation()), "7")


# what is missing


def test_missing_cells_are_named_with_their_command():
    made = scores(
        *(evaluation(labels=n, seed=s) for n in ("", "pred", "uncer") for s in (0, 1)), evaluation(seed=2)
    )
    table = tables.paper_table(made, "4")
    base = "`python -m d3d evaluate --profile laptop --dataset glossyrooms --arch"
    name = "GlossyRooms-NoReflection Val Set"
    assert table.missing[:3] == (
        f"{name}, Monodepth2, Self-Teaching: {base} monodepth2 --labels pred --split val --seed 2`",
        f"{name}, Monodepth2, 3D Distillation: {base} monodepth2 --labels uncer --split val --seed 2`",
        f"{name}, HR-Depth, Self-Supervised: {base} hrdepth --labels pred --split val --seed 0` (also seed 1, 2)",
    )
    assert len(table.missing) == 6  # self-teaching of a network comes with its self-supervision
    text = tables.markdown(table)
    assert "| Monodepth2 | Self-Teaching (n = 2) |" in text
    assert "| MonoViT | 3D Distillation | – | – | – | – | – | – | – |" in text
    assert all(f"- {line}" in text for line in table.missing)
    assert all(f"% missing: {line}" in tables.latex(table) for line in table.missing)
    (test_set,) = (m for m in tables.missing(made, "2") if "Test Set" in m)
    assert (
        "--archs monodepth2,hrdepth,monovit --labels pred --split test --seed 0` (also labels uncer; seed 1, 2)"
        in test_set
    )


def test_every_command_of_a_missing_cell_is_one_that_d3d_takes():
    made = scores(evaluation(), evaluation(labels="signed", seed=1), evaluation(labels="uncer", round=2))
    lines = [m for key in tables.LAYOUTS for m in tables.missing(made, key)]
    assert len(lines) > 20
    assert any("--scale median --eval-dataset 7scenes --eval-root FOLDER --split test" in m for m in lines)
    for line in lines:
        command = re.search(r"`python -m d3d (.*)`", line)[1].split()
        arguments, rest = parser().parse_known_args(command)
        values = {
            k: v
            for k, v in vars(arguments).items()
            if k not in ("command", "archs", "seeds", "processes", "export", "stored", "readme")
        }
        assert not rest
        assert make_config(**{k: v for k, v in values.items() if v is not None}).profile == "laptop"


# marks


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ((0.3, 0.1, 0.2), False, (0, 1, 2)),
        ((0.3, 0.1, 0.2), True, (1, 0, 2)),
        ((0.1, 0.1, 0.2), False, (1, 1, 0)),  # two best leave no second
        ((0.1, 0.2, 0.2), False, (1, 2, 2)),
        ((0.1004, 0.0996, 0.2), False, (1, 1, 0)),  # equal as printed
        ((0.1, 0.1, 0.1), False, (0, 0, 0)),
        ((0.2, 0.1), False, (0, 1)),  # of two the worse is no second best
        ((0.2, np.nan, 0.1, 0.3), False, (2, 0, 1, 0)),
        ((0.2, np.nan, np.nan), False, (0, 0, 0)),
    ],
)
def test_ranks(values, higher, expected):
    assert tuple(ranks(pd.Series(values), higher)) == expected


def test_the_best_of_a_network_is_marked_in_every_format_never_the_papers():
    values = {"": 3, "pred": 2, "uncer": 1}
    made = [on_scannet((v,) * 4, labels=n) for n, v in values.items()]
    table = tables.paper_table(scores(*made, on_scannet((0, 0, 0, 0), arch="hrdepth")), "2")
    markdown = {
        line.split(" | ")[1]: line.split(" | ")[2:]
        for line in tables.markdown(table).splitlines()
        if "| Monodepth2" in line
    }
    # errors are best low, shares best high
    assert [c.strip(" |") for c in markdown["3D Distillation"]] == ["**1.000**"] * 4 + ["1.000"] * 3
    assert [c.strip(" |") for c in markdown["Self-Teaching"]] == ["*2.000*"] * 7
    assert [c.strip(" |") for c in markdown["Self-Supervised"]] == ["3.000"] * 4 + ["**3.000**"] * 3
    assert not any("*" in c for name, cells in markdown.items() if "(paper)" in name for c in cells)
    latex = tables.latex(table)
    assert latex.count(r"\textbf{") == 7
    assert latex.count(r"\underline{2.000}") == 7
    assert "**0.000**" not in tables.markdown(table)  # the only one of its network is best of nothing


def test_a_lucky_seed_is_not_ranked_with_means_of_several():
    made = [evaluation((v,) * 4, labels=n, seed=s) for n, v in (("pred", 3), ("uncer", 2)) for s in (0, 1)]
    markdown = tables.markdown(tables.paper_table(scores(*made, evaluation((1,) * 4, labels="signed")), "6"))
    assert "**2.000**" in markdown
    assert "1.000" in markdown
    assert "*1.000*" not in markdown


# LaTeX


def balanced(text):
    depth = 0
    for c in re.sub(r"\\[\\{}%]", "", text):
        depth += (c == "{") - (c == "}")
        if depth < 0:
            return False
    return depth == 0


@pytest.mark.parametrize("key", ["2", "5", "6", "mirror"])
def test_latex_is_balanced_and_every_row_has_all_columns(key):
    made = [
        on_scannet(labels=n, seed=s) for n in ("", "pred", "uncer", "signed", "proj_lowres") for s in (0, 1)
    ]
    made += [on_scannet(dataset="7scenes", split="test", scale="median", seed=s) for s in (0, 1)]
    text = tables.latex(tables.paper_table(scores(*made), key))
    code = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("%"))
    assert balanced(code)
    assert code.isascii()
    assert code.count(r"\begin{") == code.count(r"\end{") == 2
    columns = len(re.search(r"\\begin{tabular}{(\w+)}", code)[1])
    body = code.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert r"\midrule" in body
    for line in body.strip().splitlines():
        row = line.split(r" \\")[0]
        if row != r"\midrule":
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn{(\d+)}", row))
            assert row.count("&") + 1 + spanned == columns, line
    assert r"{\scriptsize$\pm$ 0.000}" in body


def test_what_is_special_in_latex_is_escaped():
    assert tables.escape("100 % of proj_lowres & {a}") == r"100 \% of proj\_lowres \& \{a\}"
    made = scores(evaluation(labels="proj_x"), evaluation(labels="a%b&c"))
    code = tables.latex(tables.paper_table(made, "6"))
    assert r"with proj\_x &" in code
    assert r"with a\%b\&c &" in code
    assert not re.search(
        r"(?<!\\)%(?! )", "".join(c for c in code.splitlines() if c[0] != "%").replace("{!}{%", "")
    )


# files


def test_files_of_every_table_that_has_something(tmp_path):
    made = scores(evaluation(labels="pred"), evaluation((2, 2, 2, 2), labels="pred", seed=1))
    names = [p.name for p in tables.write_tables(made, tmp_path)]
    stems = ["table2", "table3", "table4", "table6", "mirror"]
    assert names == [f"{s}.{kind}" for s in stems for kind in ("csv", "md", "tex")]  # nothing to compare
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    stored = pd.read_csv(tmp_path / "table2.csv")
    row = only(rows(stored, training="Self-Teaching"), n=2)
    assert (row["abs_rel"], row["profile"], row["seeds"]) == (2.25, "laptop", "0 1")
    text = (tmp_path / "table2.md").read_text()
    for said in ("GlossyRooms Val Set: 4 images", "profile laptop", "n = 2 seeds (0, 1)", "2.250 ± 0.354"):
        assert said in text
    # what there is nothing of any more goes
    tables.write_tables(Scores(made.evaluations), tmp_path)
    assert sorted(p.stem for p in tmp_path.glob("*.md")) == ["table2", "table6"]


def stored_scores():
    rng = np.random.default_rng(0)
    made = []
    for seed in (0, 1):
        for labels in ("", "uncer"):
            table = pd.concat(
                [per_image(rng.uniform(0, 1, 4), pixels=p) for p in ("all", "highlight")], ignore_index=True
            )
            provenance = {"training": {"command": "python -m d3d all", "seconds": 12.5, "seed": seed}}
            made.append(
                evaluation(labels=labels, seed=seed, per_image=table, settings="s", provenance=provenance)
            )
    return scores(*made)


def test_what_is_exported_makes_the_same_tables(tmp_path):
    made = stored_scores()
    paths = tables.export(made, tmp_path)
    assert paths[-1] == tmp_path / "index.json"
    back = tables.read(tmp_path)
    assert back.lists == made.lists
    assert set(back.evaluations) == set(made.evaluations)
    for key in ("2", "3", "6"):
        ours, theirs = tables.make_table(made, key), tables.make_table(back, key)
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3)
    (first,) = (e for e in back.evaluations if (e.labels, e.seed) == ("uncer", 1))
    (original,) = (e for e in made.evaluations if (e.labels, e.seed) == ("uncer", 1))
    pd.testing.assert_frame_equal(first.per_image, original.per_image, rtol=5e-4)
    assert first.provenance == original.provenance


def test_an_export_keeps_which_frames_are_the_splits_own(tmp_path):
    made = scores(evaluation(per_image=with_listed()))
    tables.export(made, tmp_path / "with")
    (back,) = tables.read(tmp_path / "with").evaluations
    assert list(back.per_image["in_split"]) == [True, False, True, True]
    pd.testing.assert_frame_equal(
        tables.make_table(tables.read(tmp_path / "with"), "2"), tables.make_table(made, "2")
    )
    # where all are its own, the files are as they were before there was such a column
    for name, table in (("all", with_listed(own=(True,) * 4)), ("old", per_image((1, 2, 3, 4)))):
        tables.export(scores(evaluation(per_image=table)), tmp_path / name)
    files = [p.relative_to(tmp_path / "all") for p in (tmp_path / "all").rglob("*.*")]
    assert all((tmp_path / "all" / p).read_bytes() == (tmp_path / "old" / p).read_bytes() for p in files)


def test_an_export_is_the_same_bytes_again_and_takes_in_what_is_there(tmp_path):
    made = stored_scores()
    first = {p.name: p.read_bytes() for p in tables.export(made, tmp_path)}
    assert {p.name: p.read_bytes() for p in tables.export(made, tmp_path)} == first
    more = evaluation(labels="", seed=2, per_image=made.evaluations[0].per_image, settings="s")
    tables.export(scores(more), tmp_path)
    assert len(tables.read(tmp_path).evaluations) == 5
    with pytest.raises(DataError, match=f"two profiles.* delete {tmp_path} first"):
        tables.export(scores(replace(more, profile="demo")), tmp_path)
    assert len(tables.read(tmp_path).evaluations) == 5


def test_rows_in_another_order_are_stored_with_their_images(tmp_path):
    made = stored_scores()
    first, *others = made.evaluations
    shuffled = first.per_image.sample(frac=1, random_state=1).reset_index(drop=True)
    assert not shuffled["frame"].equals(first.per_image["frame"])
    tables.export(Scores((*others, replace(first, per_image=shuffled)), made.lists), tmp_path)
    back = tables.read(tmp_path)
    pd.testing.assert_frame_equal(tables.make_table(back, "3"), tables.make_table(made, "3"), rtol=1e-3)


def test_a_damaged_or_missing_store_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no stored scores"):
        tables.read(tmp_path)
    *files, _index = tables.export(stored_scores(), tmp_path)
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{files[0].name} is missing or differs"):
        tables.read(tmp_path)
    files[0].write_bytes(content)
    (tmp_path / "index.json").write_text('{"version": 2}')
    with pytest.raises(DataError, match="format 2"):
        tables.read(tmp_path)


def test_a_whole_set_of_recorded_runs_stays_small(tmp_path):
    """480 images and three kinds of pixels with random scores. Real scores take 18 kB."""
    rng = np.random.default_rng(0)
    keys = [
        (f"val-{k // 80:04d}", f"{k % 80:06d}", p)
        for k in range(480)
        for p in ("all", "highlight", "diffuse")
    ]
    table = pd.DataFrame(keys, columns=["scene", "frame", "pixels"]).assign(
        count=rng.integers(0, 27648, 1440)
    )
    table[list(METRICS)] = rng.uniform(0, 1, (1440, 7))
    made = [evaluation(per_image=table, seed=s) for s in range(4)]
    tables.export(Scores(tuple(made)), tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.xz")) < 4 * 28_000


# the README


def with_tables(root, made):
    """A checkout whose results/glossyrooms-laptop has the tables of these scores."""
    tables.write_tables(made, root / "results" / "glossyrooms-laptop" / "tables")
    return root / "results"


def test_a_page_between_its_markers(tmp_path):
    values = {"": 3, "pred": 2, "uncer": 1, "robust": 0.5}
    made = [evaluation((v + s,) * 4, labels=n, seed=s) for n, v in values.items() for s in (0, 1)]
    results = with_tables(tmp_path, scores(*made))
    page = tmp_path / "README.md"
    begin, end = (f"<!-- results glossyrooms-laptop:{word} -->" for word in ("begin", "end"))
    page.write_text(f"before\n{begin}\nstale figures\n{end}\nafter % \\1\n")
    text = tables.page_with_blocks(page, results)
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter % \\1\n")
    assert "stale" not in text
    assert "| network | training | Val (4) | Reflection Val (2) | NoReflection Val (1) |" in text
    assert "| Monodepth2 | 3D Distillation | *1.500* ± 0.707 | *1.500* ± 0.707 | *1.500* ± 0.707 |" in text
    assert "| Monodepth2 | Distillation (robust) | **1.000** ± 0.707 |" in text
    assert "HR-Depth" not in text
    assert "GlossyRooms" in text
    assert "profile `laptop`" in text
    assert "over seeds 0, 1. Best" in text
    page.write_text(text)
    assert tables.page_with_blocks(page, results) == text
    alone = evaluation((5.0,) * 4, arch="hrdepth", labels="uncer", seed=1)
    with_tables(tmp_path, scores(*made, alone))
    assert "over seeds 0, 1 (without ±: seed 1 alone). Best" in tables.page_with_blocks(page, results)


def test_rivals_stand_beside_the_papers_loss_for_the_networks_that_have_both(tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "results"
    page.write_text("<!-- rivals glossyrooms-laptop:begin -->\n<!-- rivals glossyrooms-laptop:end -->\n")
    with_tables(tmp_path, scores(evaluation((2.0,) * 4), evaluation((3.0,) * 4, arch="hrdepth")))
    with pytest.raises(DataError, match=r"no results of another loss in .*glossyrooms-laptop-<loss>"):
        tables.page_with_blocks(page, results)
    other = evaluation((1.0,) * 4, profile="laptop --loss triplet --triplet-margin 1")
    tables.write_tables(scores(other), results / "glossyrooms-laptop-triplet-1" / "tables")
    text = tables.page_with_blocks(page, results)
    assert "| Monodepth2 | Self-Supervised | 2.000 |" in text
    assert "| Monodepth2 | Self-Supervised, loss triplet, triplet-margin 1 | **1.000** |" in text
    assert "HR-Depth" not in text


BLOCK = "<!-- results glossyrooms-laptop:begin -->"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "results FOLDER:begin --> and below it"),
        (BLOCK, "each once"),
        (f"{BLOCK.replace('begin', 'end')} {BLOCK}", "each once"),
        (f"{BLOCK} {BLOCK} {BLOCK.replace('begin', 'end')}", "each once"),
        (
            "<!-- result x:begin --> <!-- result x:end -->",
            "unknown block. Known: results, differences, rivals",
        ),
        (
            "<!-- results x:begin --> <!-- results x:end -->",
            r"no table2\.csv .*x.tables: run `python -m d3d tables",
        ),
    ],
)
def test_a_page_without_its_markers_or_tables_is_left_alone(tmp_path, text, said):
    with_tables(tmp_path, scores(evaluation()))
    for name in tables.pages.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{BLOCK} {BLOCK.replace('begin', 'end')}")
    (tmp_path / tables.pages.PAGES[-1]).write_text(text)
    with pytest.raises(DataError, match=said):
        tables.write_pages(tmp_path)
    assert (tmp_path / tables.pages.PAGES[-1]).read_text() == text
    assert "network" not in (tmp_path / "README.md").read_text()


# runs


def finished(config, arch="monodepth2", labels="", values=(1, 2, 3, 4)):
    """Write the files of `stages.evaluate` without a training."""
    with graph.open_stage(config, stages.key_of(config, "evaluate", arch, labels)) as stage:
        per_image(values).to_csv(stage.folder / "per_image.csv", index=False)
        stage.finish({"per_image.csv": io.sha256(stage.folder / "per_image.csv")})
    return stage.folder


def config_of(tmp_path, seed=0, **more):
    return make_config(**{"profile": "smoke", "runs_dir": str(tmp_path), "seed": seed, **more})


def test_gathered_is_what_runs_have_evaluated_and_nothing_is_computed(tmp_path, monkeypatch):
    from d3d.pipeline.stages import trainings

    monkeypatch.setattr(trainings, "train", lambda *a, **k: pytest.fail("trained"))
    configs = [config_of(tmp_path, s) for s in (0, 1)]
    for c in configs:
        finished(c, values=(c.seed, 2, 3, 4))
        finished(replace(c, labels="uncer-tta"), labels="uncer-tta")
        test = replace(c, evaluation=replace(c.evaluation, split="test"))
        finished(test)
        # another data set may be large and every tenth frame enough
        other = {"dataset": "glossyrooms", "scale": "median", "every": 10}
        relative = replace(test, evaluation=replace(test.evaluation, **other))
        finished(relative)
    finished(replace(configs[0], round=2), labels="uncer")
    half = runs.run_folder(configs[0]) / "evaluate" / "monovit" / "pred" / "val"
    half.mkdir(parents=True)  # killed before DONE
    (half / "per_image.csv").write_text("scene")
    made = tables.gather(configs)
    found = sorted((e.seed, e.labels, e.round, e.dataset, e.split, e.scale) for e in made.evaluations)
    assert found == sorted(
        [
            (s, *rest)
            for s in (0, 1)
            for rest in (
                ("", 1, "glossyrooms", "val", "none"),
                ("", 1, "glossyrooms", "test", "none"),
                ("", 1, "glossyrooms", "test", "median"),
                ("uncer-tta", 1, "glossyrooms", "val", "none"),
            )
        ]
        + [(0, "uncer", 2, "glossyrooms", "val", "none")]
    )
    assert made.profile == "smoke"
    assert set(made.lists["glossyrooms", "val"]) >= {"Reflection", "NoReflection"}
    (first,) = (e for e in made.evaluations if (e.seed, e.labels, e.split) == (1, "", "val"))
    assert list(first.per_image["abs_rel"]) == [1, 2, 3, 4]
    assert list(first.per_image["frame"]) == ["0", "1", "2", "3"]
    assert first.provenance["evaluation"]["seed"] == 1


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    for other in ({"profile": "demo"}, {"threshold_m": 0.7}, {"steps": 5}):
        configs = [config_of(tmp_path), config_of(tmp_path, 1, **other)]
        with pytest.raises(ConfigError, match="differ in more than the seed") as error:
            tables.gather(configs)
        assert next(iter(other)) in str(error.value)
    with pytest.raises(DataError, match="no evaluation in"):
        tables.gather([config_of(tmp_path)])


def test_a_run_of_another_configuration_or_a_changed_file_is_refused(tmp_path):
    folder = finished(config_of(tmp_path, steps=5))
    with pytest.raises(RunError, match=r"training.steps: 5 there, 6 now"):
        tables.gather([config_of(tmp_path)])
    assert len(tables.gather([config_of(tmp_path, steps=5)]).evaluations) == 1
    csv = folder / "per_image.csv"
    csv.write_text(csv.read_text().replace("7", "8"))
    with pytest.raises(RunError, match="was changed after the evaluation"):
        tables.gather([config_of(tmp_path, steps=5)])


def test_a_run_over_a_base_takes_what_is_its_own_there(tmp_path):
    base = config_of(tmp_path, run="base")
    finished(base)
    finished(base, labels="pred")
    other = config_of(tmp_path, run="other", base="base", threshold_m=0.9)
    finished(base, labels="uncer")  # of another threshold: not this run's
    assert sorted(e.labels for e in tables.gather([other]).evaluations) == ["", "pred"]


def test_an_index_names_no_folder_of_the_machine_that_made_it(tmp_path):
    config = config_of(tmp_path)
    folder = finished(config)
    path = folder / "provenance.json"
    said = json.loads(path.read_text())
    home = "/" + "home/somebody/with blank"
    said["command"] = (
        f"__main__.py all --profile smoke --runs-dir {home}/runs --seed 3 --root={home} --weights {home}/w.pth"
    )
    path.write_text(json.dumps(said))
    tables.export(tables.gather([config]), tmp_path / "results")
    text = (tmp_path / "results" / "index.json").read_text()
    assert "somebody" not in text
    assert "blank" not in text
    assert str(tmp_path) not in text
    assert (
        "python -m d3d all --profile smoke --runs-dir FOLDER --seed 3 --root FOLDER --weights FOLDER" in text
    )
    assert said["machine"]["system"] not in text


def test_settings_are_the_same_for_every_seed_and_for_nothing_else(tmp_path):
    made = []
    for more in ({}, {"seed": 5}, {"threshold_m": 0.9}):
        config = config_of(tmp_path, **{"seed": 0, "run": str(len(made)), **more})
        finished(config, labels="uncer")
        made += [e.settings for e in tables.gather([config]).evaluations]
    assert made[0] == made[1] != made[2]
    assert "seed" in json.dumps(
        stages.identity_of(config_of(tmp_path), "evaluate", "monodepth2", "uncer")["needs"]
    )


def test_identities_are_compared_without_their_seeds_however_nested():
    def identity(seed, data="a", steps=6):
        network = {"settings": {"seed": seed, "steps": steps}, "data": data, "initial": {"source": "random"}}
        needs = {"pretrain/hrdepth": network, "pretrain/monovit": network}
        student = {"settings": {"seed": seed, "labels": [{"name": "uncer", "seed": seed}]}, "needs": needs}
        return {"settings": {"scale": "none"}, "data": data, "needs": {"distill": student}}

    assert without_seed(identity(0)) == without_seed(identity(1))
    assert "seed" not in json.dumps(without_seed(identity(0)))
    for other in ({"data": "b"}, {"steps": 5}):
        assert without_seed(identity(0)) != without_seed(identity(1, **other))


def test_one_table_of_one_run(tmp_path):
    config = config_of(tmp_path)
    finished(config, labels="mv")
    assert only(tables.of_run(config, "6").frame, n=1, list="")["training"].endswith("with mv")
    with pytest.raises(DataError, match=r"no scores for table 5.*\n.*--scale median --eval-dataset 7scenes"):
        tables.of_run(config, "5")


# the command line


def test_the_command_writes_the_tables_of_several_seeds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("D3D_RUNS", str(tmp_path / "runs"))
    results = tmp_path / "results" / "glossyrooms-smoke"
    monkeypatch.setattr(tables, "results_folder", lambda config: results)
    for seed in (0, 1):
        finished(make_config(profile="smoke", seed=seed), values=(seed, 2, 3, 4))
    assert main(["tables", "--profile", "smoke", "--seeds", "0,1"]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "glossyrooms-smoke-seed0" / "tables" / "seeds-0-1"
    assert str(folder / "table2.tex") in said
    assert "--labels uncer --split val --seed 0` (also seed 1)" in said
    stored = pd.read_csv(folder / "table2.csv")
    assert only(stored, n=2)["sq_rel"] == 2.375

    assert main(["tables", "--profile", "smoke", "--seeds", "0,1", "--export"]) == 0
    assert (results / "index.json").is_file()
    (results / "tables" / "table2.csv").unlink()
    monkeypatch.setenv("D3D_RUNS", str(tmp_path / "no runs"))
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    page = "<!-- results glossyrooms-smoke:begin -->\n<!-- results glossyrooms-smoke:end -->\n"
    (tmp_path / "docs").mkdir()
    for name in tables.pages.PAGES:
        (tmp_path / name).write_text(page)
    assert main(["tables", "--profile", "smoke", "--stored", "--readme"]) == 0
    assert only(pd.read_csv(results / "tables" / "table2.csv"), n=2)["sq_rel"] == 2.375
    for name in tables.pages.PAGES:
        assert "| Monodepth2 | Self-Supervised | 2.375 ± 0.177 |" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ["evaluate", "--seeds", "0,1"], "--seeds is not an option of evaluate, but of: record, tables"),
        (2, ["all", "--readme"], "--readme is not an option of all, but of: tables"),
        (2, ["tables", "--seeds", "0,1", "--stored"], "leave out --seeds, or give --export"),
        (2, ["tables", "--split", "test", "--stored"], "leave out --split, or give --export"),
        (
            2,
            ["tables", "--no-pretrained", "--run", "r", "--readme"],
            "leave out --run, --pretrained, or give",
        ),
        (2, ["tables", "--split", "test", "--seeds", "0,1"], "leave out --split"),
        (2, ["tables", "--seeds", "0,x"], "must be whole numbers"),
        (2, ["tables", "--seeds", "0,1", "--run", "r"], "must contain {seed}"),
        (1, ["tables", "--seeds", "0,1"], "no evaluation in"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(code, words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("D3D_RUNS", str(tmp_path))
    assert main([*words, "--profile", "smoke"]) == code
    assert said in capsys.readouterr().err
