"""W&B: what a run logs, and what trouble with it does to the run."""

import json
import shutil
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import FAST, prepared

from dsg.config import load_with_sources
from dsg.runs import main, tracking
from dsg.runs.tracking import log
from dsg.types import Column


def failing(*args, **kwargs):
    raise SystemExit("cannot reach the server\nand more lines")


def test_trouble_with_wandb_is_one_warning_and_the_next_call_logs(finished, monkeypatch, capsys):
    import wandb

    run = prepared(finished)
    run.config.wandb.mode = "offline"
    init = wandb.init
    monkeypatch.setattr(wandb, "init", failing)
    log(run)
    assert capsys.readouterr().err == (
        "warning: W&B could not log this run (cannot reach the server); the next call tries again\n"
    )
    calls = []
    monkeypatch.setattr(wandb, "init", lambda **options: (calls.append(options), init(**options))[1])
    log(run)
    log(run)  # nothing is new
    assert len(calls) == 1 and capsys.readouterr().err == ""
    assert calls[0]["name"] == "avatars64/inpaint/dps_dsg/3" and calls[0]["resume"] == "allow"
    assert list((finished / "wandb").glob("offline-run-*"))


def test_the_panels_of_a_report_ask_for_what_is_logged(finished, tmp_path, monkeypatch):
    import wandb

    workspace = pytest.importorskip("dsg.suites.report.workspace", reason='needs the extra "report"')
    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    summary = json.loads((tmp_path / "o/metrics.json").read_text())
    summary["set_metrics"] = {"fid": {"value": 3.0}, "sliced_wasserstein": {"value": 0.5, "low": 0.4, "high": 0.6}}
    (tmp_path / "o/metrics.json").write_text(json.dumps(summary))
    run, kept = prepared(tmp_path / "o"), {}
    run.config.wandb.mode = "offline"
    nothing = {"log": lambda _: None, "finish": lambda: None, "define_metric": lambda *_, **__: None}
    logged = SimpleNamespace(summary=kept, **nothing)
    monkeypatch.setattr(wandb, "init", lambda **_: logged)
    log(run)
    assert kept[workspace.summary_key(Column("fid", "FID", 2, False))] == 3.0
    assert kept[workspace.summary_key(Column("psnr", "PSNR", 2, True))] == summary["metrics"]["psnr"]["mean"]
    assert (kept["sliced_wasserstein/low"], kept["sliced_wasserstein/high"]) == (0.4, 0.6)


def test_a_file_where_wandb_wants_a_folder_is_one_warning_and_the_next_call_logs(finished, tmp_path, capfd):
    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    (tmp_path / "o/wandb").write_text("in the way")
    run = prepared(tmp_path / "o")
    run.config.wandb.mode = "offline"
    log(run)
    (said,) = capfd.readouterr().err.strip().splitlines()
    assert said.startswith("warning: W&B could not log this run") and "Not a directory" in said
    (tmp_path / "o/wandb").unlink()
    log(run)
    assert (tmp_path / "o" / tracking.MARK).exists() and capfd.readouterr().err == ""


def test_an_error_while_logging_is_one_warning_without_wandb_s_traceback(finished, tmp_path, capfd, monkeypatch):
    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    run = prepared(tmp_path / "o")
    run.config.wandb.mode = "offline"

    def full(results):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracking, "_sheets", full)
    log(run)
    (said,) = capfd.readouterr().err.strip().splitlines()
    assert "No space left on device" in said and not (tmp_path / "o" / tracking.MARK).exists()


def test_a_home_that_cannot_be_written_and_a_mode_that_wandb_does_not_know_do_not_matter(
    finished, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("WANDB_MODE", "nonsense")  # ours is said explicitly
    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    run = prepared(tmp_path / "o")
    run.config.wandb.mode = "offline"
    log(run)
    assert capfd.readouterr().err == "" and (tmp_path / "o" / tracking.MARK).exists()


class RefusesKeys(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    """Address of a W&B server that knows no key."""
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusesKeys) as server:
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("server, reason", [("unreachable", "deadline exceeded"), ("refusing", "not logged in")])
def test_a_wandb_server_that_is_not_there_or_refuses_the_key_fails_no_run(
    finished, tmp_path, refusing, capfd, monkeypatch, server, reason
):
    """A warning, exit code 0; the next call logs."""
    import wandb

    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    monkeypatch.setattr(tracking, "PATIENCE", 2)
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_BASE_URL", refusing if server == "refusing" else "http://127.0.0.1:9")
    wandb.teardown()  # it remembers the server
    run = load_with_sources([*FAST, f"out={tmp_path / 'o'}", "wandb.mode=online"])
    assert main.run_one(*run) == 0
    (said,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: the residual")]
    assert said.startswith("warning: W&B could not log this run (") and reason in said
    monkeypatch.undo()
    wandb.teardown()
    assert main.run_one(*load_with_sources([*FAST, f"out={tmp_path / 'o'}", "wandb.mode=offline"])) == 0
    assert capfd.readouterr().err.count("W&B") == 0 and (tmp_path / "o" / tracking.MARK).exists()


def test_wandb_s_waiting_is_bounded(finished, monkeypatch):
    """A server that stops answering between the first request and the last holds nobody up."""
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: (asked.append(options["settings"]), failing()))
    run = prepared(finished)
    run.config.wandb.mode = "online"
    log(run)
    assert asked[0].init_timeout <= 30 and 0 < asked[0].finish_timeout <= 60 and asked[0].finish_timeout_raises


def test_an_extended_run_is_logged_again_under_the_same_id(finished, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(tracking, "_log", lambda run: logged.append(run.results.summary()["images"]))
    shutil.copytree(finished, tmp_path / "o")
    (tmp_path / "o" / tracking.MARK).unlink(missing_ok=True)
    for limit in (3, 3, 4, 4):
        run = prepared(tmp_path / "o", f"data.limit={limit}")
        run.config.wandb.mode = "offline"
        run.execute()
        log(run)
    assert logged == [3, 4]


# --- what is in the offline files


def offline_records(out):
    """The records of the run's only offline folder, as `wandb sync` reads them: LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (out / "wandb").glob("offline-run-*/*.wandb")
    data, at, message, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        message = (message if kind in (3, 4) else b"") + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(message))
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run with a rate of its own that was extended, and logged twice; what went to stderr, and its records."""
    out = tmp_path_factory.mktemp("logged") / "o"
    own = ["sampler.guidance_rate=0.5", "task=super_resolution", "wandb.mode=offline", "wandb.entity=we"]
    own += ["wandb.tags=[first,try]", "wandb.notes=what we think", "wandb.group=ours", f"out={out}", "metrics=[psnr]"]
    for limit in (1, 2):
        assert main.run_one(*load_with_sources([*FAST, *own, f"data.limit={limit}"])) == 0
    return out, offline_records(out)


def test_an_offline_run_says_what_it_is(logged):
    (run,) = [record.run for record in logged[1] if record.HasField("run")]
    assert run.display_name.startswith("avatars64/super_resolution/dps_dsg/3 guidance_rate=0.5")
    assert "wandb" not in run.display_name and "out" not in run.display_name
    assert (run.entity, run.run_group, list(run.tags), run.notes) == ("we", "ours", ["first", "try"], "what we think")


def test_the_loss_and_the_residual_are_curves_of_all_images(logged):
    out, records = logged
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in r.history.item} for r in records]
    steps = [{k: json.loads(v) for k, v in row.items()} for row in rows if "steps/taken" in row]
    assert [step["steps/taken"] for step in steps] == [0, 1, 2]
    assert [step["steps/t"] for step in steps] == sorted((step["steps/t"] for step in steps), reverse=True)
    assert steps[0]["steps/residual"] > steps[-1]["steps/residual"] > 0
    ratio = {round(step["steps/loss"] / step["steps/residual"], 2) for step in steps}
    assert len(ratio) == 1  # the root of how many numbers are observed


def test_images_are_one_panel_and_the_contact_sheet_and_an_extended_run_has_one_folder(logged):
    out, records = logged
    keys = {[*i.nested_key, i.key][0].partition("/")[0] for record in records for i in record.history.item}
    assert {"images", "grid", "per_image"} <= keys
    media = sorted(path.name.split("_")[0] for path in out.rglob("media/images/*.png"))
    assert media == ["grid", "images"]
    assert json.loads((out / "metrics.json").read_text())["images"] == 2


def test_nothing_of_wandb_s_is_printed(finished, tmp_path, capfd):
    shutil.copytree(finished, tmp_path / "o", ignore=shutil.ignore_patterns("wandb*"))
    assert main.run_one(*load_with_sources([*FAST, f"out={tmp_path / 'o'}", "wandb.mode=offline"])) == 0
    said = capfd.readouterr()
    assert "wandb" not in (said.out + said.err).lower().replace(str(tmp_path).lower(), "")


def test_a_sweep_is_a_group(tmp_path, monkeypatch):
    from dsg.suites import sweep

    groups = []
    monkeypatch.setattr(sweep, "conclude", lambda run: groups.append(run.config.wandb.group))
    monkeypatch.chdir(tmp_path)
    shared = ["sampler.steps=2,3", "data.limit=1", "wandb.mode=disabled", "metrics=[psnr]"]
    assert sweep.sweep(shared, workers=1) == 0
    assert len(groups) == 2 and len(set(groups)) == 1 and groups[0].startswith("sweep-")
    groups.clear()
    assert sweep.sweep([*shared, "wandb.group=mine", "seed=1"], workers=1) == 0
    assert set(groups) == {"mine"}
