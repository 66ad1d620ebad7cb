"""The download script against a server on this machine."""

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT, compose_config
from fetch_checkpoints import SOURCES
from hydra.utils import instantiate

BODY = b"PK" + bytes(range(256)) * 5000


class Server(BaseHTTPRequestHandler):
    """/good: the file, by ranges too; /cut: closes in the middle of it; /page: HTML; anything else is missing."""

    def do_GET(self):
        if self.path not in ("/good", "/cut", "/page"):
            return self.send_error(404)
        body = b"<html>quota</html>" if self.path == "/page" else BODY
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : len(body) // 2] if self.path == "/cut" else body[start:])
        self.server.sent.append((self.path, start))

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.sent = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def fetch(folder, server=None, path="/good", name="ffhq256"):
    source = [f"--source=http://127.0.0.1:{server.server_port}{path}"] if server else []
    command = [sys.executable, str(ROOT / "scripts/fetch_checkpoints.py"), name, f"--folder={folder}", *source]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_file_arrives_whole_and_is_recorded(tmp_path, server):
    done = fetch(tmp_path, server)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ffhq_10m.pt").read_bytes() == BODY
    record = json.loads((tmp_path / "ffhq_10m.pt.json").read_text())
    assert record == {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    assert fetch(tmp_path).returncode == 0 and len(server.sent) == 1  # nothing is fetched twice
    (tmp_path / "ffhq_10m.pt").write_bytes(BODY[:-1])
    changed = fetch(tmp_path)
    assert changed.returncode == 1 and "is not the file that was recorded" in changed.stderr


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, server):
    cut = fetch(tmp_path, server, "/cut")
    assert cut.returncode == 1 and f"{len(BODY) // 2} of {len(BODY)} bytes" in cut.stderr
    assert not (tmp_path / "ffhq_10m.pt").exists()
    assert fetch(tmp_path, server).returncode == 0
    assert server.sent[-1] == ("/good", len(BODY) // 2)
    assert (tmp_path / "ffhq_10m.pt").read_bytes() == BODY


def test_a_file_that_differs_from_the_record_never_gets_the_name(tmp_path, server):
    (tmp_path / "ffhq_10m.pt.json").write_text(json.dumps({"bytes": 3, "sha256": "0"}))
    done = fetch(tmp_path, server)
    assert done.returncode == 1 and "recorded 3 bytes" in done.stderr
    assert not (tmp_path / "ffhq_10m.pt").exists()


@pytest.mark.parametrize("path, words", [("/none", "404"), ("/page", "web page")])
def test_what_is_no_checkpoint_is_refused(tmp_path, server, path, words):
    done = fetch(tmp_path, server, path)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_list_the_choices(tmp_path):
    done = fetch(tmp_path, name="nope")
    assert done.returncode == 2 and "ffhq256, imagenet256" in done.stderr


@pytest.mark.parametrize("name, task", [("arcface", "faceid"), ("lraspp", "segmentation"), ("clip", "clip_text")])
def test_a_guide_lands_where_its_task_looks_for_it(tmp_path, name, task):
    config = compose_config("model=celebahq256", f"task={task}").task
    assert config.guide.checkpoint == f"checkpoints/{SOURCES[name][0]}"
    config.guide.checkpoint = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=f"nothing; get it with: python scripts/fetch_checkpoints.py {name}$"):
        instantiate(config).check((3, 256, 256))


HUB = {
    "config.json": b'{"_class_name": "UNet2DModel"}',
    "scheduler_config.json": b"{}",
    "diffusion_pytorch_model.safetensors": BODY,
    "diffusion_pytorch_model.bin": BODY * 2,
    "picture.png": b"no weights",
    "diffusion_pytorch_model.fp16.safetensors": BODY,
}


class Hub(BaseHTTPRequestHandler):
    """What the Hugging Face hub answers about one repository, as far as its client asks."""

    def answer(self, with_body):
        commit, files, name = "0" * 40, self.server.files, self.path.removeprefix(f"/owner/name/resolve/{'0' * 40}/")
        if self.path.startswith("/api/models/owner/name/tree"):
            tree = [{"type": "file", "path": f, "size": len(b), "oid": str(hash(b))} for f, b in files.items()]
            body = json.dumps(tree).encode()
        elif self.path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": f} for f in files]
            body = json.dumps({"id": "owner/name", "sha": commit, "siblings": siblings}).encode()
        elif name in files:
            body = files[name]
            self.server.sent.append(name)
        else:
            return self.send_error(404)
        self.send_response(200)
        for key, value in (("Content-Length", len(body)), ("X-Repo-Commit", commit), ("ETag", f'"{hash(body)}"')):
            self.send_header(key, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.sent, server.files = [], HUB
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()


def fetch_from_hub(folder, source="hub:owner/name", name="celebahq256"):
    command = [sys.executable, str(ROOT / "scripts/fetch_checkpoints.py"), name, f"--folder={folder}"]
    return subprocess.run([*command, f"--source={source}"], capture_output=True, text=True)


def test_a_hub_repository_comes_whole_and_is_recorded(hub, tmp_path):
    done = fetch_from_hub(tmp_path)
    assert done.returncode == 0, done.stderr
    files = {f.name: f.read_bytes() for f in (tmp_path / "celebahq256").iterdir()}
    # configs and weights, safetensors where there are both
    wanted = ("config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")
    assert files == {name: HUB[name] for name in wanted}
    assert json.loads((tmp_path / "celebahq256.json").read_text())["bytes"] == sum(map(len, files.values()))
    asked = len(hub.sent)
    assert "as recorded" in fetch_from_hub(tmp_path).stdout and len(hub.sent) == asked
    (tmp_path / "celebahq256/config.json").write_text("{}")
    changed = fetch_from_hub(tmp_path)
    assert changed.returncode == 1 and "is not the file that was recorded" in changed.stderr


def test_a_hub_that_does_not_answer_is_named(hub, tmp_path):
    done = fetch_from_hub(tmp_path, "hub:owner/other")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "celebahq256: " in done.stderr
    assert not (tmp_path / "celebahq256").exists()


CLIP = {  # the files of openai/clip-vit-base-patch16, and of a repository that keeps its weights in all formats
    **{f: b"{}" for f in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")},
    **{f: b"{}" for f in ("special_tokens_map.json", "vocab.json")},
    "merges.txt": b"#version: 0.2",
    "pytorch_model.bin": BODY,
}
OTHERS = {
    "README.md": b"#",
    "flax_model.msgpack": BODY,
    "tf_model.h5": BODY,
    "onnx/model.onnx": BODY,
    "onnx/config.json": b"{}",
}


@pytest.mark.parametrize("safe", [False, True])
def test_clip_comes_with_its_tokenizer_and_one_kind_of_weights(hub, tmp_path, safe):
    hub.files = CLIP | OTHERS | ({"model.safetensors": BODY[:-1]} if safe else {})
    done = fetch_from_hub(tmp_path, name="clip")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "clip-vit-base-patch16"
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    weights = {"model.safetensors": BODY[:-1]} if safe else {"pytorch_model.bin": BODY}
    assert files == {name: body for name, body in CLIP.items() if name != "pytorch_model.bin"} | weights
