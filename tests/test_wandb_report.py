import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces", reason='needs the extra "report"')

import wandb_workspaces.reports.v2 as wr  # noqa: E402

from dsg.suites.methods import Method  # noqa: E402
from dsg.suites.report import workspace  # noqa: E402
from dsg.suites.report.entries import Entry  # noqa: E402
from dsg.types import Column  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/wandb_report.py"
COLUMNS = {
    "psnr": Column("psnr", "PSNR [dB]", 2, True),
    "fid": Column("fid", "FID", 2, False),
    "residual": Column("residual", "residual", 4),
}


def entry(task, steps, is_run=True):
    return Entry(Path("."), "run", "avatars64", task, Method("dps"), steps, {}, [], COLUMNS, is_run=is_run)


@pytest.fixture(scope="module")
def report():
    entries = [entry("inpaint", 100), entry("inpaint", 20), entry("gaussian_deblur", 20), entry("inpaint", 0, False)]
    return workspace.report(entries, "Title", "dsg", "team", "embedded")


def grids(report):
    return [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def test_sections_are_tasks_with_a_part_per_number_of_steps(report):
    heads = [block.text for block in report.blocks if isinstance(block, (wr.H1, wr.H2))]
    assert heads == [
        "gaussian_deblur, avatars64", "Quality against compute", "20 steps",
        "inpaint, avatars64", "Quality against compute", "20 steps", "100 steps",
    ]  # fmt: skip


def test_runs_are_chosen_by_the_names_they_are_logged_under_and_by_group(report):
    *_, pareto, first, last = [grid.runsets[0].filters for grid in grids(report)]
    assert last == "Metric('Name') in ['avatars64/inpaint/dps/100'] and Metric('Group') == 'embedded'"
    assert "['avatars64/inpaint/dps/100', 'avatars64/inpaint/dps/20']" in pareto
    assert all(runset.project == "dsg" and runset.entity == "team" for g in grids(report) for runset in g.runsets)


def test_panels_show_logged_means_of_metrics_that_have_a_direction(report):
    pareto, bars = grids(report)[0].panels, grids(report)[1].panels
    assert [panel.y.name for panel in pareto] == ["psnr/mean", "fid/mean"]
    assert all(panel.x.name == "compute" and panel.log_x for panel in pareto)
    assert [panel.metrics[0].name for panel in bars] == ["psnr/mean", "fid/mean"]
    assert all(panel.groupby is None for panel in bars)  # runs of other values are not averaged
    assert bars[1].title == "FID, smaller is better"


def test_panels_of_a_grid_do_not_overlap(report):
    for grid in grids(report):
        places = [(panel.layout.x, panel.layout.y) for panel in grid.panels]
        assert len(set(places)) == len(places)


def test_outline_names_sections_runs_and_panels(report):
    text = workspace.outline(report)
    assert text.startswith("Title: project dsg, entity team")
    assert text.count("BarPlot: PSNR [dB], larger is better") == 3
    assert text.count("ScatterPlot") == 4


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as saving a report takes."""

    saved: list = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body) if body.startswith(b"{") else {}
        answer = json.dumps({"data": self.data(asked.get("query", ""), asked.get("variables", {}))}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def data(self, query, variables):
        if "upsertView" in query:
            self.saved.append(variables)
            project = {"id": "1", "name": "dsg", "entityName": "team"}
            view = {"id": "abc", "name": "n", "displayName": variables["displayName"], "type": "runs"}
            view |= {"description": "", "spec": variables["spec"], "project": project}
            return {"upsertView": {"view": view, "inserted": True}}
        if "viewer" in query:
            return {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "ProjectInternalId" in query:
            return {"project": {"id": "1", "internalId": "1"}}
        return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def log_message(self, *words):
        pass


def script():
    spec = importlib.util.spec_from_file_location("wandb_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_report_is_saved_by_http_and_its_address_told(monkeypatch, capsys):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("BASE_URL", address), ("API_KEY", "0" * 40), ("ERROR_REPORTING", "false")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    saved = script().save(workspace.report([entry("inpaint", 20)], "Title", "dsg", "team", "embedded"))
    server.shutdown()
    assert saved == 0 and f"{address}/team/dsg/reports/Title--abc" in capsys.readouterr().out
    (saved,) = Server.saved
    kinds = [block["type"] for block in json.loads(saved["spec"])["blocks"]]
    assert saved["displayName"] == "Title" and kinds.count("panel-grid") == 2
    assert '"avatars64/inpaint/dps/20"' in saved["spec"]


def test_folder_without_runs_is_one_line(tmp_path, capsys):
    assert script().main([str(tmp_path), "--dry"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
