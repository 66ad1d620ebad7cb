"""Downloads against servers on this machine."""

import dataclasses
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate

from dsg.downloads import fetch, transfer
from dsg.metrics.image import BACKBONES
from dsg.records import check_record, describe, write_record
from dsg.sources import SOURCES, Source

README = (ROOT / "checkpoints/README.md").read_text()


def archive(seed=0, size=30_000, zipped=True) -> bytes:
    """A state dict as torch saves it."""
    buffer = io.BytesIO()
    weights = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    torch.save({"weight": weights}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


BODY, OTHER = archive(), archive(seed=1, size=40_000)
HALF = len(BODY) // 2
KNOWN = Source("weights.pt", "unused", "tests", "none", len(BODY), hashlib.sha256(BODY).hexdigest())
UNKNOWN = dataclasses.replace(KNOWN, size=None, sha256=None)


class Server(BaseHTTPRequestHandler):
    """Sends server.body the way that the path says; the comments below say how."""

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append((start, self.headers.get("If-Range")))
        answer = {"/none": self.none, "/page": self.page, "/nonsense": self.nonsense, "/elsewhere": self.elsewhere}
        answer.get(self.path, self.file)(start)

    def file(self, start):
        """/good: by ranges too; /cut: closes in the middle; /from0: a 206 that begins at byte 0; /unnamed: no ETag;
        /nolength: closes when it is done; /cutchunks: chunked, without an end; /stubborn: ignores If-Range."""
        body, tag = self.server.body, f'"{hashlib.md5(self.server.body).hexdigest()}"'
        if self.headers.get("If-Range") not in (None, tag) and self.path != "/stubborn":
            start = 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start and self.path != "/from0":
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.path != "/unnamed":
            self.send_header("ETag", tag)
        sent = body if self.path == "/from0" else body[start:]
        if self.path == "/cutchunks":
            self.send_header("Transfer-Encoding", "chunked")
        elif self.path != "/nolength":
            self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if self.path == "/cutchunks":
            return self.wfile.write(b"%x\r\n" % len(sent) + sent[: len(sent) // 2])
        self.wfile.write(sent[: len(body) // 2] if self.path in ("/cut", "/nolength") else sent)

    def none(self, start):
        self.send_error(404)

    def page(self, start):
        page = b"\r\n <html>quota</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def nonsense(self, start):
        self.wfile.write(b"what?\r\n\r\n")

    def elsewhere(self, start):
        self.send_response(302)
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()

    def log_message(self, *_):
        pass


def served(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.body, server.url = [], BODY, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    return server


@pytest.fixture
def server():
    server = served(Server)
    yield server
    server.shutdown()


def command(*arguments):
    line = [sys.executable, str(ROOT / "scripts/fetch_checkpoints.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


# --- the command line


def test_a_file_arrives_whole_and_is_recorded(tmp_path, server):
    assert KNOWN.sha256 in fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert (tmp_path / "weights.pt").read_bytes() == BODY
    record = json.loads((tmp_path / "weights.pt.json").read_text())
    assert record == {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["weights.pt", "weights.pt.json"]
    assert "as recorded" in fetch(UNKNOWN, tmp_path) and len(server.asked) == 1  # nothing is fetched twice
    (tmp_path / "weights.pt").write_bytes(BODY[:-1])
    with pytest.raises(ValueError, match="is not the file that was recorded"):
        fetch(UNKNOWN, tmp_path)


def test_the_command_reports_failures_in_a_line_each(tmp_path, server):
    done = command("ffhq256", f"--folder={tmp_path}", f"--source={server.url}/good")
    assert done.returncode == 1 and "374417833 are published" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "ffhq_10m.pt").exists()
    done = command("lraspp", f"--folder={tmp_path}", f"--source={server.url}/good")
    assert done.returncode == 1 and "not the file that was published" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_list_the_choices(tmp_path):
    done = command("nope", f"--folder={tmp_path}")
    assert done.returncode == 2 and "ffhq256, imagenet256" in done.stderr


@pytest.mark.slow
def test_check_says_what_is_there_and_what_does_not_hold(tmp_path):
    done = command("--check", f"--folder={tmp_path}")
    assert done.returncode == 0 and done.stdout.count("missing") == len(SOURCES) == len(done.stdout.splitlines())
    (tmp_path / "celebahq256").mkdir()
    (tmp_path / "celebahq256/config.json").write_text("{}")
    assert "not recorded yet" in command("--check", "celebahq256", f"--folder={tmp_path}").stdout
    write_record(tmp_path / "celebahq256", describe(tmp_path / "celebahq256"))
    assert "as recorded" in command("--check", "celebahq256", f"--folder={tmp_path}").stdout
    (tmp_path / "celebahq256/config.json").write_text("{ }")
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"another file")
    done = command("--check", f"--folder={tmp_path}")
    assert done.returncode == 1 and done.stdout.count("WRONG") == 2 and done.stdout.count("missing") == len(SOURCES) - 2


# --- goes on, or starts anew


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, server):
    with pytest.raises(OSError, match=f"{HALF} of {len(BODY)} bytes"):
        fetch(KNOWN, tmp_path, f"{server.url}/cut")
    assert not (tmp_path / "weights.pt").exists()
    note = tmp_path / "weights.pt.source.partial"
    note.write_text(note.read_text().replace("/cut", "/good"))
    fetch(KNOWN, tmp_path, f"{server.url}/good")
    assert server.asked[-1][0] == HALF and server.asked[-1][1].startswith('"')
    assert (tmp_path / "weights.pt").read_bytes() == BODY


def left_over(folder, server, path, body, version):
    """What a broken download leaves."""
    (folder / "weights.pt.partial").write_bytes(body)
    note = {"url": f"{server.url}{path}", "version": version}
    (folder / "weights.pt.source.partial").write_text(json.dumps(note))


TAG = f'"{hashlib.md5(BODY).hexdigest()}"'


@pytest.mark.parametrize(
    "path, body, version",
    [
        ("/good", OTHER[:HALF], '"an older file"'),
        ("/stubborn", OTHER[:HALF], '"an older file"'),
        ("/good", OTHER, TAG),  # longer than the file: 416
        ("/from0", BODY[:HALF], TAG),
        ("/good", OTHER[:HALF], None),
    ],
)
def test_what_is_not_surely_of_the_same_file_is_not_continued(tmp_path, server, path, body, version):
    left_over(tmp_path, server, path, body, version)
    fetch(UNKNOWN, tmp_path, f"{server.url}{path}")
    assert (tmp_path / "weights.pt").read_bytes() == BODY


@pytest.mark.parametrize("note", [None, "{", "[]", '{"url": 3}'])
def test_a_partial_file_that_nobody_can_explain_is_not_continued(tmp_path, server, note):
    (tmp_path / "weights.pt.partial").write_bytes(OTHER[:HALF])
    if note is not None:
        (tmp_path / "weights.pt.source.partial").write_text(note)
    fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert (tmp_path / "weights.pt").read_bytes() == BODY and server.asked == [(0, None)]


def test_a_file_without_a_version_starts_anew(tmp_path, server):
    fetch(UNKNOWN, tmp_path, f"{server.url}/unnamed")
    assert (tmp_path / "weights.pt").read_bytes() == BODY


# --- what is refused


@pytest.mark.parametrize(
    "path, words",
    [
        ("/none", "404"),
        ("/page", "web page"),
        ("/nolength", "does not say how long"),
        ("/cutchunks", "connection broke"),
        ("/nonsense", "no proper answer"),
        ("/elsewhere", "file:///etc/passwd"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(tmp_path, server, path, words):
    with pytest.raises(OSError, match=words) as refused:
        fetch(UNKNOWN, tmp_path, f"{server.url}{path}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "weights.pt").exists() and not (tmp_path / "weights.pt.json").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "data:,x"])
def test_other_schemes_are_no_sources(tmp_path, url):
    with pytest.raises(ValueError, match="only http"):
        fetch(UNKNOWN, tmp_path, url)


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} cannot be reached"):
            fetch(UNKNOWN, tmp_path, f"http://127.0.0.1:{port}/x")


def test_a_silent_server_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(OSError, match="does not answer|timed out"):
            transfer(url, tmp_path / "x.partial", timeout=0.2)


@pytest.mark.parametrize("body", [b"PK" + bytes(range(256)) * 50, BODY[:-1000], archive(zipped=False)[:-1000], b"text"])
def test_what_cannot_be_opened_never_gets_the_name(tmp_path, server, body):
    server.body = body
    with pytest.raises(ValueError, match="weights.pt cannot be opened"):
        fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert list(tmp_path.iterdir()) == []


def test_both_of_torch_s_formats_open(tmp_path, server):
    server.body = archive(zipped=False)
    fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert (tmp_path / "weights.pt").read_bytes() == server.body


def test_a_file_that_differs_from_the_record_never_gets_the_name(tmp_path, server):
    write_record(tmp_path / "weights.pt", {"bytes": 3, "sha256": "0"})
    with pytest.raises(ValueError, match="recorded 3 bytes"):
        fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt.json"]


@pytest.mark.parametrize("sha256", ["0" * 64, "0" * 8])
def test_a_file_that_differs_from_the_published_one_never_gets_the_name(tmp_path, server, sha256):
    with pytest.raises(ValueError, match=f"published .*{sha256}"):
        fetch(dataclasses.replace(KNOWN, sha256=sha256), tmp_path, f"{server.url}/good")
    assert list(tmp_path.iterdir()) == []


def test_the_first_eight_digits_are_enough(tmp_path, server):
    known = dataclasses.replace(KNOWN, size=None, sha256=KNOWN.sha256[:8])
    fetch(known, tmp_path, f"{server.url}/good")
    assert "as published" in fetch(known, tmp_path)


# --- records


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bytes": null, "sha256": 3}'])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "weights.pt").write_bytes(BODY)
    (tmp_path / "weights.pt.json").write_text(text)
    with pytest.raises(ValueError, match="weights.pt.json is damaged"):
        fetch(UNKNOWN, tmp_path)
    with pytest.raises(ValueError, match="weights.pt.json is damaged"):
        check_record(tmp_path / "weights.pt")


def test_whoever_loads_a_file_holds_it_against_its_record(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(BODY)
    check_record(file)  # nothing is recorded
    write_record(file, describe(file))
    check_record(file)
    check_record(file, hashlib.sha256(BODY).hexdigest())
    with pytest.raises(ValueError, match="not the file that was recorded"):
        check_record(file, hashlib.sha256(OTHER).hexdigest())
    file.write_bytes(OTHER)
    with pytest.raises(ValueError, match="not the file that was recorded"):
        check_record(file)


# --- what the sources are


@pytest.mark.parametrize(
    "name, task",
    [("arcface", "faceid"), ("lraspp", "segmentation"), ("bisenet", "face_parsing"), ("clip", "clip_text")],
)
def test_a_guidance_network_lands_where_its_task_looks_for_it(tmp_path, name, task):
    config = compose_config("model=celebahq256", f"task={task}").task
    assert config.guidance.checkpoint == f"checkpoints/{SOURCES[name].file}"
    config.guidance.checkpoint = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=f"nothing; get it with: python scripts/fetch_checkpoints.py {name}$"):
        instantiate(config).check((3, 256, 256))


def test_what_metrics_look_for_can_be_fetched():
    assert {net: SOURCES[f"lpips_{net}"].file for net in BACKBONES} == BACKBONES
    for source in SOURCES.values():
        if source.file.endswith(".pth") and "-" in source.file:  # torch.hub's convention
            assert source.sha256.startswith(source.file.rpartition("-")[2].removesuffix(".pth"))


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_table_of_sources_has_them_all(name):
    source = SOURCES[name]
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` "))
    assert source.file in row and source.licence in row and source.needed_for in row
    assert (source.sha256 or "hub")[:8] in row


# --- the hub


HUB = {
    "config.json": b'{"_class_name": "UNet2DModel"}',
    "scheduler_config.json": b"{}",
    "diffusion_pytorch_model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
    "diffusion_pytorch_model.bin": OTHER,
    "picture.png": b"no weights",
    "diffusion_pytorch_model.fp16.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
}


class Hub(BaseHTTPRequestHandler):
    """What the Hugging Face hub answers about one repository."""

    def do_GET(self):
        commit, files, name = "0" * 40, self.server.files, self.path.removeprefix(f"/owner/name/resolve/{'0' * 40}/")
        if self.path == "/api/models/owner/name?blobs=true":
            siblings = [self.stated(f, b) for f, b in files.items()]
            body = json.dumps({"id": "owner/name", "sha": commit, "siblings": siblings}).encode()
        elif name in files:
            body = self.server.sends.get(name, files[name])
            self.server.asked.append(name)
        else:
            return self.send_error(404)
        self.send_response(200)
        for key, value in (("Content-Length", len(body)), ("ETag", f'"{hashlib.md5(body).hexdigest()}"')):
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)

    def stated(self, name, body):
        about = {"rfilename": name, "size": len(body)}
        if name.endswith((".bin", ".safetensors")):
            return {**about, "lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}}
        return {**about, "blobId": hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()}

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = served(Hub)
    server.files, server.sends = HUB, {}
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.shutdown()


REPOSITORY = Source("celebahq256", "hub:owner/name", "tests", "none")


def test_a_hub_repository_comes_whole_and_is_recorded(hub, tmp_path):
    fetch(REPOSITORY, tmp_path)
    files = {f.name: f.read_bytes() for f in (tmp_path / "celebahq256").iterdir()}
    # configs and weights, safetensors where there are both
    wanted = ("config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")
    assert files == {name: HUB[name] for name in wanted}
    assert json.loads((tmp_path / "celebahq256.json").read_text())["bytes"] == sum(map(len, files.values()))
    asked = len(hub.asked)
    assert "as recorded" in fetch(REPOSITORY, tmp_path) and len(hub.asked) == asked
    (tmp_path / "celebahq256/config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the file that was recorded"):
        fetch(REPOSITORY, tmp_path)


def test_a_hub_s_file_that_is_not_what_the_hub_states_is_refused_and_the_rest_kept(hub, tmp_path):
    hub.sends["scheduler_config.json"] = b"[]"
    with pytest.raises(OSError, match="scheduler_config.json: what arrived is not the file"):
        fetch(REPOSITORY, tmp_path)
    assert not (tmp_path / "celebahq256").exists()
    hub.sends.clear()
    (tmp_path / "celebahq256.partial/of_another_version.json").write_text("{}")
    fetch(REPOSITORY, tmp_path)
    assert hub.asked.count("config.json") == 1 and not (tmp_path / "celebahq256/of_another_version.json").exists()


def test_a_hub_s_file_cannot_land_elsewhere(hub, tmp_path):
    hub.files = {"../outside.json": b"{}"}
    with pytest.raises(OSError, match="outside"):
        fetch(REPOSITORY, tmp_path / "checkpoints")
    assert not (tmp_path / "outside.json").exists()


def test_a_hub_that_does_not_answer_is_one_line(hub, tmp_path):
    done = command("celebahq256", f"--folder={tmp_path}", "--source=hub:owner/other")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "celebahq256: hub:owner/other: " in done.stderr
    hub.shutdown()
    hub.server_close()
    done = command("celebahq256", f"--folder={tmp_path}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot be reached" in done.stderr
    assert not (tmp_path / "celebahq256").exists()


CLIP = {  # the files of openai/clip-vit-base-patch16, and of a repository that keeps its weights in all formats
    **{f: b"{}" for f in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")},
    **{f: b"{}" for f in ("special_tokens_map.json", "vocab.json")},
    "merges.txt": b"#version: 0.2",
    "pytorch_model.bin": OTHER,
}
OTHERS = {
    "README.md": b"#",
    "flax_model.msgpack": OTHER,
    "tf_model.h5": OTHER,
    "onnx/model.onnx": OTHER,
    "onnx/config.json": b"{}",
}


@pytest.mark.parametrize("safe", [False, True])
def test_clip_comes_with_its_tokenizer_and_one_kind_of_weights(hub, tmp_path, safe):
    weights = HUB["diffusion_pytorch_model.safetensors"]
    hub.files = CLIP | OTHERS | ({"model.safetensors": weights} if safe else {})
    fetch(dataclasses.replace(SOURCES["clip"], url="hub:owner/name"), tmp_path)
    folder = tmp_path / "clip-vit-base-patch16"
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    kept = {"model.safetensors": weights} if safe else {"pytorch_model.bin": OTHER}
    assert files == {name: body for name, body in CLIP.items() if name != "pytorch_model.bin"} | kept
