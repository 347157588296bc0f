"""The documents say what the results say."""

import json
import re

import pytest
from PIL import Image

from experiments import curve_plots, report
from experiments.saved import saved_rows


def test_the_tables_of_the_pages_are_those_of_the_results():
    texts = [page.read_text("utf-8") for page in report.PAGES]
    assert [report.readme(text) for text in texts] == texts, "run python -m experiments.report"
    named = re.findall(r"<!-- table: (\w+) -->", "".join(texts))
    # Each stands once.
    assert sorted(named) == sorted(report.TABLES)
    assert "".join(texts).count("<!-- end of table -->") == len(named)


def test_what_the_pages_point_to_is_there():
    for page in report.PAGES:
        text = page.read_text("utf-8")
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        links += re.findall(r"`((?:experiments/)?results/[\w/.]+)`", text)
        assert links
        assert not [link for link in links if not (page.parent / link).exists()]


def test_a_changed_figure_or_a_changed_result_is_seen(monkeypatch):
    text = report.PAGES[0].read_text("utf-8")
    assert report.readme(text.replace("84.2 (82.7", "84.3 (82.7")) == text
    changed = report.rows("quickstart")
    changed[0]["realm"]["question_recall"]["5"] = 0.0
    monkeypatch.setattr(report, "rows", lambda name, file="result.json": changed)
    shown = report.TABLES["quickstart"]()
    assert re.search(r"\| 5\d\.\d \(0\.0 to 8\d\.\d\) \|", shown)


def test_results_of_uncommitted_code_are_marked():
    """Each has a note, and stands in the table of the page."""
    page = report.PAGES[1].read_text("utf-8")
    files = [f for f in report.RESULTS.rglob("*.json") if '-dirty"' in f.read_text("utf-8")]
    assert files
    for file in files:
        note = json.loads(file.read_text("utf-8"))["note"]
        assert note and f"`results/{file.relative_to(report.RESULTS)}`" in page
        assert note in page


def test_rows_of_every_release_are_read(tmp_path):
    row = {"seed": 3}
    answers = {"stage": "ict", "seed": 3, "answers": {"f1": 1}}
    for made, wanted in (
        ({"seeds": [3], "rows": [row]}, [row]),
        ({"points": [row]}, [row]),
        ({"seeds": [row]}, [row]),
        ({"seeds": [3], "rows": {"ict": [{"f1": 1}]}}, [answers]),
        ({"rows": {"almanac": [row], "nq": [row]}}, [row, row]),
        ({"evaluation": {}}, []),
    ):
        (tmp_path / "r.json").write_text(json.dumps(made))
        assert saved_rows(tmp_path / "r.json") == wanted


def test_every_plot_is_of_the_results_beside_it():
    for name in ("curves",):
        file = report.RESULTS / name / f"{name}.json"
        plots = list(file.parent.glob("*.png"))
        assert len(plots) == len({p["curve"] for p in report.rows(name, file.name)})
        for plot in plots:
            with Image.open(plot) as image:
                drawn_from = image.info[curve_plots.SOURCE]
            assert drawn_from == report.digest(name, file.name), (
                f"{plot.name}: run python -m experiments.report"
            )


def test_curves_are_drawn(tmp_path, monkeypatch):
    points = [
        {"curve": curve, "line": line, "value": value, "seed": seed, "passages": 100 * value}
        | {"flops": 1e12 * value, "recall@5": 0.1 * value, "spans_read": 0.05 * value + 0.01 * seed}
        for curve in curve_plots.AXES
        for line in ("REALM", *(["inverse cloze alone"] if curve == "compute" else []))
        for value in (1, 3)
        for seed in (0, 1)
    ]
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "curves.json").write_text(json.dumps({"points": points}), "utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    made = report.plot_curves()
    assert [p.stem for p in made] == list(curve_plots.AXES)
    for plot in made:
        image = Image.open(plot)
        assert image.info[curve_plots.SOURCE] == report.digest("curves", "curves.json")
        assert len(set(image.convert("RGB").resize((60, 40)).get_flattened_data())) > 10


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError):
        report.readme("<!-- table: best -->\n<!-- end of table -->")
