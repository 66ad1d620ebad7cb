import base64
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from dsg.config import load, load_with_sources, to_yaml
from dsg.metrics.distribution import FID
from dsg.metrics.image import COLUMNS
from dsg.runs.prepare import build
from dsg.suites import tables
from dsg.suites.report.entries import frame_of, read_entries, tell_apart
from dsg.suites.report.main import main
from dsg.suites.report.page import ASSETS, SCRIPTS, settings
from dsg.types import Column

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "a<b>&'\"</script><img src=x onerror=alert(1)>"
KNOWN = (
    *COLUMNS.values(), Column("residual", "residual", 4), FID.column,
    Column("sliced_wasserstein", "sliced W2 to the posterior [std]", 3, False),
)  # fmt: skip
IDS = ("00000", "00001", "00002")


def write_run(out, *chosen, psnr=20.0, passes=(20, 20), set_metrics=None, ids=IDS, prompt=None, columns=()):
    """A finished run as the runner leaves it, with images that were not sampled."""
    config, sources = load_with_sources(["task=inpaint", "wandb.mode=disabled", *chosen])
    sampler = build(config.sampler)
    rows = [
        {"id": name, "image": name, "sample": 0, "input": "x", "seconds": 0.5, "network_evaluations": passes[0],
         "backward_passes": passes[1], "code": "abc", "psnr": psnr + k, "ssim": 0.5 + k / 10, "residual": 0.05,
         **({"prompt": prompt} if prompt else {})}
        for k, name in enumerate(ids)
    ]  # fmt: skip
    for folder in ("images", "condition", "truth"):
        (out / folder).mkdir(parents=True)
        for k, name in enumerate(ids):
            level = {"condition": 40, "truth": 200, "images": int(3 * psnr)}[folder] + k
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(out / folder / f"{name}.png")
    (out / "config.yaml").write_text(to_yaml(config, sources) + "identity:\n  seed: 0\n")
    with open(out / "per_image.csv", "w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "images": len(ids),
        "metrics": {
            "residual": {"mean": 0.05, "low": 0.05, "high": 0.05},
            "psnr": {"mean": psnr + 1, "low": psnr, "high": psnr + 2},
            "ssim": {"mean": 0.6, "low": 0.5, "high": 0.7},
        },
        "set_metrics": set_metrics or {}, "seconds_per_image": 0.5, "network_evaluations": float(passes[0]),
        "backward_passes": float(passes[1]), "failures": [], "image_ids": list(ids), "versions": {"code": ["abc"]},
        "columns": {**{c.name: asdict(c) for c in KNOWN}, **dict(columns)}, "overrides": sources.overrides,
        "method": {name: getattr(sampler, name) for name in ("label", "base_method", "control", "guided")},
    }  # fmt: skip
    (out / "metrics.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Two methods at two numbers of steps, one run with a value of its own, a baseline, a run that was stopped."""
    out = tmp_path_factory.mktemp("suite") / "mine"
    runs = out / "runs/inpaint"
    write_run(runs / "dps-20", "sampler=dps", "sampler.steps=20", "data.limit=3")
    fid = {"fid": {"value": 31.25, "images": 3, "weights": "6726825d", "resize": "tensorflow"}}
    write_run(runs / "dps_dsg-20", "sampler=dps_dsg", "sampler.steps=20", psnr=24.0, passes=(20, 19), set_metrics=fid)
    write_run(runs / "dps_dsg-100", "sampler=dps_dsg", "sampler.steps=100", psnr=27.0, passes=(100, 99))
    write_run(runs / "dps-20-1.5", "sampler=dps", "sampler.steps=20", "sampler.step_size=1.5", psnr=22.0)
    (runs / "baseline/images").mkdir(parents=True)
    (runs / "baseline/per_image.csv").write_text(
        "image,psnr,seconds,network_evaluations,backward_passes\n00000,10,0,0,0\n00001,12,0,0,0\n"
    )
    none = {"seconds_per_image": 0.0, "network_evaluations": 0.0, "backward_passes": 0.0, "set_metrics": {}}
    about = {"images": 2, "failures": [], "versions": {}, "method": {"label": "A^T y", "guided": False}}
    psnr = {"mean": 11.0, "low": None, "high": None}
    (runs / "baseline/metrics.json").write_text(json.dumps({**none, **about, "metrics": {"psnr": psnr}}))
    shutil.copytree(runs / "dps-20", runs / "stopped")
    (runs / "stopped/metrics.json").unlink()
    return out


@pytest.fixture(scope="module")
def page(suite, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert main([str(suite), "--out", str(out), "--tables"]) == 0
    return out


def data_of(page):
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(block[1])


def test_page_has_every_run_with_the_numbers_of_its_metrics_json(suite, page):
    runs = {run["path"]: run for run in data_of(page)["runs"]}
    assert set(runs) == {f"inpaint/{n}" for n in ("dps-20", "dps_dsg-20", "dps_dsg-100", "dps-20-1.5", "baseline")}
    for path, run in runs.items():
        if path != "inpaint/baseline":
            summary = json.loads((suite / "runs" / path / "metrics.json").read_text())
            assert {name: run["metrics"][name] for name in summary["metrics"]} == summary["metrics"]
            assert run["compute"] == summary["network_evaluations"] + 2 * summary["backward_passes"]
            assert run["images"] == summary["images"]
    assert runs["inpaint/baseline"]["metrics"]["psnr"]["mean"] == 11
    assert runs["inpaint/baseline"]["method"] == "A^T y"


def test_settings_of_a_set_metric_are_told(page):
    run = next(run for run in data_of(page)["runs"] if run["path"] == "inpaint/dps_dsg-20")
    assert run["metrics"]["fid"] == {"mean": 31.25, "low": None, "high": None}
    assert run["settings"] == ["FID: of 3 images; weights 6726825d; resize tensorflow"]


def test_stopped_run_is_named_as_missing(page):
    assert "inpaint/stopped: not finished" in page.read_text()


def test_command_names_choices_and_what_the_user_gave(page):
    commands = {run["path"]: run["command"] for run in data_of(page)["runs"]}
    start = "python run.py model=avatars64 task=inpaint sampler=dps sampler.steps=20"
    assert commands["inpaint/dps-20"].replace(" wandb.mode=disabled", "").startswith(f"{start} data.limit=3")
    assert "sampler.step_size" not in commands["inpaint/dps-20"]
    assert "sampler.step_size=1.5" in commands["inpaint/dps-20-1.5"]
    assert commands["inpaint/baseline"] is None


@pytest.mark.parametrize(
    "chosen",
    [
        ["task=super_resolution", "sampler=mpgd_dsg", "sampler.steps=20", "sampler.window=[100,900]", "seed=3"],
        ["task=clip_text", "sampler=freedom", 'task.prompt=it\'s "red", # override <b>', "samples=2"],
        ["metrics=[psnr]", "sampler.steps=7", "data.limit=null"],
    ],
)
def test_command_gives_the_same_config_again(chosen, tmp_path):
    write_run(tmp_path / "run", *chosen)
    ((entry,), _) = read_entries([tmp_path / "run"])
    words = shlex.split(entry.command)[2:]
    assert load(words) == load(["task=inpaint", "wandb.mode=disabled", *chosen])


def test_user_text_is_escaped(tmp_path):
    out = tmp_path / "a<i>&b"
    write_run(out, f"wandb.group={NASTY}", prompt=NASTY, ids=("x<b>&'\"",))
    assert main([str(out), "--title", NASTY, "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in text and "x<b>" not in text and "a<i>" not in text
    assert text.count("</script>") == len(SCRIPTS) + 1
    run = data_of(tmp_path / "page.html")["runs"][0]
    assert (
        run["path"] == "a<i>&b"
        and run["shown"][0]["prompt"] == NASTY
        and NASTY in run["command"].replace("'\"'\"'", "'")
    )


def test_single_run_has_a_page_in_its_folder(suite):
    out = suite / "runs/inpaint/dps-20"
    assert main([str(out)]) == 0
    assert [run["path"] for run in data_of(out / "report.html")["runs"]] == ["dps-20"]
    (out / "report.html").unlink()


def test_embedded_images_are_the_saved_ones(suite, page):
    data, embedded = data_of(page), 0
    for run in data["runs"]:
        for one in run["shown"]:
            if one["restored"]:
                embedded += 1
                content = base64.b64decode(data["pictures"][one["restored"]].partition(",")[2])
                saved = suite / "runs" / run["path"] / "images" / f"{one['id']}.png"
                assert np.array_equal(Image.open(io.BytesIO(content)), Image.open(saved))
    assert embedded == 4 * len(IDS)  # of four runs


def test_truth_of_all_runs_is_embedded_once(page):
    data = data_of(page)
    assert len({one["truth"] for run in data["runs"] for one in run["shown"] if one["truth"]}) == len(IDS)


def test_number_of_images_is_limited_and_told(suite, tmp_path):
    assert main([str(suite), "--images", "2", "--out", str(tmp_path / "page.html")]) == 0
    assert all(len(run["shown"]) == 2 for run in data_of(tmp_path / "page.html")["runs"])
    assert "The first 2 of 3 images of each run" in (tmp_path / "page.html").read_text()
    assert main([str(suite), "--megabytes", "0.0001", "--out", str(tmp_path / "page.html")]) == 0
    assert all(len(run["shown"]) == 1 for run in data_of(tmp_path / "page.html")["runs"])


def test_a_metric_of_the_whole_set_may_have_an_interval(tmp_path):
    distance = {"value": 0.5, "low": 0.4, "high": 0.6, "floor": 0.2}
    write_run(tmp_path / "run", set_metrics={"sliced_wasserstein": distance})
    ((entry,), _) = read_entries([tmp_path / "run"])
    assert entry.metrics["sliced_wasserstein"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert settings(entry) == ["sliced W2 to the posterior [std]: floor 0.2"]


def test_a_metric_of_one_s_own_has_the_title_and_direction_that_its_run_recorded(tmp_path):
    mine = {"name": "brightness", "title": "mean level", "digits": 1, "larger_is_better": True}
    write_run(tmp_path / "run", set_metrics={"brightness": {"value": 0.5}}, columns={"brightness": mine})
    ((entry,), _) = read_entries([tmp_path / "run"])
    assert entry.columns["brightness"] == Column(**mine)


def test_a_number_that_is_not_finite_is_left_out(tmp_path):
    write_run(tmp_path / "exact")
    rows = (tmp_path / "exact/per_image.csv").read_text().replace("20.0,", "inf,")
    (tmp_path / "exact/per_image.csv").write_text(rows)
    assert main([str(tmp_path / "exact")]) == 0
    (run,) = data_of(tmp_path / "exact/report.html")["runs"]
    assert ["psnr" in one["numbers"] for one in run["shown"]] == [False, True, True]


def test_missing_and_damaged_images_are_told_and_the_rest_is_shown(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run/images/00000.png").unlink()
    (tmp_path / "run/truth/00001.png").write_bytes(b"no image")
    assert main([str(tmp_path / "run")]) == 0
    shown = data_of(tmp_path / "run/report.html")["runs"][0]["shown"]
    assert shown[0]["restored"] is None and shown[1]["truth"] is None and shown[1]["restored"]
    assert "2 image files cannot be read" in (tmp_path / "run/report.html").read_text()


def test_page_asks_for_nothing_outside(page):
    text = page.read_text()
    markup = text.split('<script type="application/json"')[0]
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", markup)
    assert "sourceMappingURL" not in text
    assert "default-src 'none'" in markup


def test_assets_have_licences_and_are_small():
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 700_000
    licences = (ASSETS / "LICENSES.txt").read_text()
    for library in ("tabulator-tables 6.5.3", "uplot 1.6.32", "img-comparison-slider 8.0.7"):
        assert library in licences
    assert licences.count("Permission is hereby granted") == 3


def test_folder_without_runs_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


# --- tables


@pytest.fixture(scope="module")
def entries(suite):
    return read_entries([suite])[0]


@pytest.fixture(scope="module")
def made(entries):
    columns = {name: column for entry in entries for name, column in entry.columns.items()}
    return tables.papers(frame_of(entries), columns, {entry.method.name: entry.method for entry in entries})


def test_tables_have_one_part_per_number_of_steps_and_the_methods_own_values(made):
    assert [table.caption for table in made] == ["avatars64, 20 steps", "avatars64, own number of steps"]
    assert list(made[0].rows) == ["A^T y", "DPS", "DPS + DSG"]
    assert {column.name for _, column in made[0].columns} == {"psnr", "ssim", "fid"}


def test_runs_that_would_have_one_label_are_told_apart(entries):
    one = next(entry for entry in entries if entry.is_run)
    pair = [replace(one, options={}), replace(one, options={}, samples=4)]
    tell_apart(pair)
    images = one.summary["images"]
    assert [e.label for e in pair] == [f"{one.method.label}, images {images}, samples {n}" for n in (1, 4)]
    copies = [replace(one, options={}, path=path) for path in "ab"]
    tell_apart(copies)
    assert [e.options["folder"] for e in copies] == ["a", "b"]
    other = [replace(one, options={}), replace(one, options={"eta": 0.5})]
    tell_apart(other)
    assert [e.options for e in other] == [{}, {"eta": 0.5}]


def test_best_of_a_table_is_bold(made):
    assert re.search(r"\| DPS \+ DSG +\| +\*\*25.00\*\* \[24.00, 26.00\]", tables.paper_markdown(made))
    assert r"DPS + DSG & \textbf{25.00} & 0.600 & 31.25" in tables.latex(made) or r"\textbf{25.00}" in tables.latex(
        made
    )


def test_latex_is_balanced_and_escaped(made):
    text = tables.latex(made)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert tables.tex("a_b & 50 % {x} #1 $2 \\") == r"a\_b \& 50 \% \{x\} \#1 \$2 \textbackslash{}"
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert body and all(not re.search(r"(?<!\\)[_#%]", line) for line in body)


def test_tables_are_written_next_to_the_page_and_never_over_it(page, made, suite, tmp_path):
    assert page.with_suffix(".md").read_text() == tables.paper_markdown(made)
    assert page.with_suffix(".tex").exists() and page.with_suffix(".csv").exists()
    assert main([str(suite), "--tables", "--out", str(tmp_path / "x.md"), "--images", "0"]) == 0
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "x.md").read_text() == tables.paper_markdown(made)


# --- in a browser


def browse(page, script, tmp_path):
    """The page in headless Chromium after `script`: what it wrote into #result, and the lines of the console."""
    text = page.read_text().replace(
        "</body>",
        '<pre id="result"></pre><script>addEventListener("load", () => setTimeout(async () => {'
        f"const result = await (async () => {{{script}}})();"
        'document.getElementById("result").textContent = "[" + JSON.stringify(result) + "]";'
        "}, 300))</script></body>",
    )
    (tmp_path / "tested.html").write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=8000"]
    flags += ["--window-size=1280,2000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", (tmp_path / "tested.html").as_uri()],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    found = re.search(r'<pre id="result">\[(.*)\]</pre>', done.stdout, re.DOTALL)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert found, done.stderr
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
METHODS = '[...document.querySelectorAll("#table .tabulator-row")].map((r) => r.innerText.split("\\n")[0].trim())'


@in_browser
def test_page_opens_without_errors_and_sorts_by_mouse_and_keyboard(page, tmp_path):
    script = f"""
    const heading = document.querySelector('[tabulator-field="metric psnr"]');
    const before = {METHODS};
    heading.querySelector(".tabulator-col-content").click();
    const down = {METHODS};
    heading.dispatchEvent(new KeyboardEvent("keydown", {{ key: "Enter", bubbles: true }}));
    return {{ before, down, up: {METHODS}, focusable: heading.tabIndex, plots: plots.length }};
    """
    result, console = browse(page, script, tmp_path)
    assert console == []
    assert result["before"][0] == "A^T y" and len(result["before"]) == 5
    assert result["down"][0] == "DPS + DSG" and result["down"][-1] == "A^T y"
    assert result["up"] == result["down"][::-1]
    assert result["focusable"] == 0 and result["plots"] == 1


@in_browser
def test_filters_slider_and_command_window_work(page, tmp_path):
    script = """
    const choose = document.getElementById("choose").elements;
    const dps = report.runs.find((run) => run.path === "inpaint/dps-20");
    const pick = (name, value) => { choose[name].value = value; choose[name].dispatchEvent(new Event("change")); };
    pick("image", "00001"); pick("left", "truth"); pick("right", dps.index);
    const slider = document.querySelector("img-comparison-slider");
    const sources = [...slider.querySelectorAll("img")].map((img) => img.src);
    slider.value = 10;
    const wanted = [dps.shown[1].truth, dps.shown[1].restored].map((digest) => report.pictures[digest]);
    filters.elements.steps.value = "100";
    filters.elements.steps.dispatchEvent(new Event("change"));
    const rows = document.querySelectorAll("#table .tabulator-row").length;
    document.querySelector("#table .tabulator-row:last-child button").click();
    const dialog = document.getElementById("run");
    const rendered = slider.classList.contains("rendered");
    const command = dialog.querySelector("pre").textContent;
    return { same: sources.join() === wanted.join(), value: slider.value, rendered, rows, open: dialog.open, command };
    """
    result, console = browse(page, script, tmp_path)
    assert console == []
    assert result["same"] and result["value"] == 10 and result["rendered"]
    assert result["rows"] == 2  # of 100 steps, and the baseline
    assert result["open"] and "sampler.steps=100" in result["command"]


@in_browser
def test_text_of_users_stays_text_in_the_browser(tmp_path):
    write_run(tmp_path / "run<b>", f"wandb.group={NASTY}", prompt=NASTY, ids=("x<b>&'\"", "y"))
    assert main([str(tmp_path / "run<b>"), "--title", NASTY, "--out", str(tmp_path / "page.html")]) == 0
    script = """
    openRun(report.runs[0]);
    const count = (selector) => document.querySelectorAll(selector).length;
    const folder = document.querySelector("dialog dd").textContent;
    return { title: document.title, images: count('img[src="x"]'), bold: count("dialog b, h1 b, option b"), folder };
    """
    result, console = browse(tmp_path / "page.html", script, tmp_path)
    assert console == []
    assert result == {"title": NASTY, "images": 0, "bold": 0, "folder": "run<b>"}


# --- groups


def test_the_report_of_a_group_is_of_its_suites_that_have_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("dsg.suites.suite.FOLDER", tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(f"out: {tmp_path / name}\njobs: {{}}\n")
    (tmp_path / "group.yaml").write_text(f"suites: [a, b, c]\nout: {tmp_path / 'together'}\n")
    assert main(["group"]) == 2  # none yet
    for name, psnr in (("a", 20.0), ("c", 22.0)):
        write_run(tmp_path / name / "runs/inpaint/dps-20", "sampler=dps", "sampler.steps=20", psnr=psnr)
    assert main(["group", "--images", "0"]) == 0
    runs = data_of(tmp_path / "together/report.html")["runs"]
    assert sorted(run["metrics"]["psnr"]["mean"] for run in runs) == [21.0, 23.0]
