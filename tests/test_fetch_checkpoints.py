"""Downloads against servers on this machine."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT, compose_config, script
from hydra.utils import instantiate

from dsg import weights
from dsg.downloads import SLOWEST, fetch
from dsg.metrics.image import BACKBONES
from dsg.weights import Source, check_record, describe, sources, write_record

SOURCES = sources()
README = (ROOT / "checkpoints/README.md").read_text()


def archive(seed=0, size=30_000, zipped=True) -> bytes:
    """A state dict as torch saves it."""
    buffer = io.BytesIO()
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    torch.save({"weight": weight}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


BODY, OTHER = archive(), archive(seed=1, size=40_000)
HALF = len(BODY) // 2
KNOWN = Source("weights.pt", "unused", "tests", "none", len(BODY), hashlib.sha256(BODY).hexdigest())
UNKNOWN = dataclasses.replace(KNOWN, size=None, sha256=None)


LENGTHS = {  # of an answer that stops in the middle
    "/cut": {"Content-Length": len(BODY)},
    "/nolength": {},
    "/negative": {"Content-Length": "-5"},
    "/cutchunks": {"Transfer-Encoding": "chunked"},
    "/huge": {"Content-Length": 10**15},
}
REDIRECTS = {
    "/elsewhere": "file:///etc/passwd",
    "/away": "ftp://someone:secret@host/x?secret",
    "/loop": "/loop",
    "/moved": "/good",
}


class Server(BaseHTTPRequestHandler):
    """Sends server.body, or what else the path says."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path in LENGTHS:
            self.send(LENGTHS[path], self.server.body[:HALF])
        elif path in REDIRECTS:
            self.send({"Location": REDIRECTS[path]}, b"", 302)
        else:
            {"/none": self.none, "/page": self.page, "/nonsense": self.nonsense, "/drip": self.drip}.get(
                path, self.file
            )()

    def send(self, headers, body, status=200):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)

    def file(self):
        """A file of server.files, by its name, or the body; slowly, if there is a delay."""
        body = self.server.files.get(self.path.lstrip("/"), self.server.body)
        time.sleep(self.server.delay)
        self.send({"Content-Length": len(body)}, body)

    def drip(self):
        self.send({"Content-Length": len(self.server.body)}, b"")
        for i in range(200):
            self.wfile.write(self.server.body[i : i + 1])
            time.sleep(0.02)

    def none(self):
        self.send_error(404)

    def page(self):
        page = b"\r\n <html>quota</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def nonsense(self):
        self.wfile.write(b"what?\r\n\r\n")

    def log_message(self, *_):
        pass


def served(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.body, server.url = [], BODY, f"http://127.0.0.1:{server.server_port}"
    server.files, server.delay = {}, 0
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    return server


def files_in(folder):
    """Names of the files in a folder, but for locks."""
    return sorted(file.name for file in folder.iterdir() if file.suffix != ".lock")


@pytest.fixture
def server():
    server = served(Server)
    yield server
    server.shutdown()


def command(*arguments):
    return script("scripts/fetch_checkpoints.py", *arguments)


# --- the command line


def test_a_file_arrives_whole_and_is_recorded(tmp_path, server):
    assert KNOWN.sha256 in fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert (tmp_path / "weights.pt").read_bytes() == BODY
    record = json.loads((tmp_path / "weights.pt.json").read_text())
    assert record == {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    assert files_in(tmp_path) == ["weights.pt", "weights.pt.json"]
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
    assert files_in(tmp_path) == []


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


def test_a_broken_download_is_refused_and_the_next_starts_anew(tmp_path, server):
    with pytest.raises(OSError, match=f"{HALF} of {len(BODY)} bytes"):
        fetch(KNOWN, tmp_path, f"{server.url}/cut")
    assert not (tmp_path / "weights.pt").exists()
    server.body = OTHER
    with pytest.raises(OSError, match="are published"):
        fetch(KNOWN, tmp_path, f"{server.url}/good")
    server.body = BODY
    fetch(KNOWN, tmp_path, f"{server.url}/moved")
    assert (tmp_path / "weights.pt").read_bytes() == BODY


def test_fetches_of_one_file_at_once_all_succeed(tmp_path, server):
    server.delay = 0.1
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: fetch(KNOWN, tmp_path, f"{server.url}/good"), range(4)))
    assert sum("as published" in line for line in said) == 3 and server.asked == ["/good"]
    assert (tmp_path / "weights.pt").read_bytes() == BODY


def test_processes_that_fetch_one_file_at_once_all_succeed(tmp_path, server):
    server.delay = 0.3
    forked = multiprocessing.get_context("fork")  # they import nothing anew
    running = [forked.Process(target=fetch, args=(KNOWN, tmp_path, f"{server.url}/good")) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0]
    assert (tmp_path / "weights.pt").read_bytes() == BODY and server.asked == ["/good"]


# --- a mirror


def test_a_served_copy_of_the_folder_is_a_mirror_for_all_names(tmp_path, server, monkeypatch):
    repository = Source("celebahq256", "hub:owner/name", "tests", "none")
    folder = tmp_path / "celebahq256"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/config.json").write_text("{}")
    (folder / "weights.bin").write_bytes(BODY)
    record = describe(folder)
    server.files = {
        "copy/celebahq256.json": json.dumps(record).encode(),
        "copy/celebahq256/unet/config.json": b"{}",
    }
    mirror = f"{server.url}/copy/"
    fetch(KNOWN, tmp_path / "out", mirror=mirror)
    fetch(repository, tmp_path / "out", mirror=mirror)
    assert describe(tmp_path / "out/celebahq256") == record
    server.files["copy/celebahq256/weights.bin"] = bytes(len(BODY))
    server.files["copy/celebahq256/weights.bin"] = b"PK" + server.files["copy/celebahq256/weights.bin"][2:]
    with pytest.raises(ValueError, match="not the file that the mirror states"):
        fetch(repository, tmp_path / "again", mirror=mirror)
    server.files["copy/celebahq256.json"] = b'{"files": {"../outside.json": {"bytes": 2, "sha256": "0"}}}'
    with pytest.raises(OSError, match="it has a file ../outside.json"):
        fetch(repository, tmp_path / "outside", mirror=mirror)
    server.files["copy/celebahq256.json"] = b"{}"
    with pytest.raises(OSError, match="lists no files"):
        fetch(repository, tmp_path / "none", mirror=mirror)
    monkeypatch.setenv("DSG_MIRROR", server.url)
    done = command("lraspp", f"--folder={tmp_path}")
    assert done.returncode == 1 and "published d234d4ea" in done.stderr


def test_credentials_are_never_printed(tmp_path, server):
    with_password = server.url.replace("http://", "http://someone:secret@")
    urls = [f"{with_password}{path}?token=secret" for path in ("/none", "/loop", "/away", "/page", "/cut")]
    urls += ["http://someone:secret@127.0.0.1:1/x?token=secret", "ftp://someone:secret@127.0.0.1/x"]
    for url in urls:
        with pytest.raises((OSError, ValueError)) as refused:
            fetch(KNOWN, tmp_path, url)
        assert "secret" not in str(refused.value) and "\n" not in str(refused.value)
    for option in (f"--mirror={with_password}/copy", "--source=http://someone:secret@127.0.0.1:1/x?token=secret"):
        done = command("lraspp", f"--folder={tmp_path}", option)
        assert done.returncode == 1 and "secret" not in done.stdout + done.stderr


# --- what is refused


@pytest.mark.parametrize(
    "path, words",
    [
        ("/none", "404"),
        ("/page", "web page"),
        ("/nolength", "does not say how long"),
        ("/cutchunks", "connection broke"),
        ("/negative", "does not say how long"),
        ("/huge", "sends more than|has a file of"),
        ("/loop", "redirects more than 10 times"),
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


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"])
def test_a_silent_server_is_given_up(tmp_path, monkeypatch, first):
    monkeypatch.setattr(weights, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=drip_headers, args=(silent, first), daemon=True).start()
        with pytest.raises(OSError, match="does not answer in time"):
            fetch(KNOWN, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/x")


def drip_headers(silent, first):
    """Take a call, and go on with a header that has no end."""
    try:
        connection, _ = silent.accept()
        connection.sendall(first)
        for _ in range(100):
            connection.sendall(b"x" if first else b"")
            time.sleep(0.05)
    except OSError:
        pass


def test_a_server_that_drips_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT", 0.2)
    with pytest.raises(OSError, match="the server is too slow: [0-9]+ bytes"):
        fetch(KNOWN, tmp_path, f"{server.url}/drip")
    assert SLOWEST >= 1000 and not (tmp_path / "weights.pt").exists()


def test_an_endless_answer_is_cut_at_the_size_that_is_published(tmp_path):
    class Endless(Server):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send({"Transfer-Encoding": "chunked"}, b"")
            try:
                while True:
                    self.wfile.write(b"1000\r\n" + b"PK".ljust(4096) + b"\r\n")
            except OSError:
                self.close_connection = True

    endless = served(Endless)
    for source in (KNOWN, dataclasses.replace(UNKNOWN, about=50_000)):
        with pytest.raises(OSError, match="the server sends more than"):
            fetch(source, tmp_path, f"{endless.url}/x")
    endless.shutdown()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_500_000


@pytest.mark.parametrize("body", [b"PK" + bytes(range(256)) * 50, BODY[:-1000], archive(zipped=False)[:-1000], b"text"])
def test_what_cannot_be_opened_never_gets_the_name(tmp_path, server, body):
    server.body = body
    with pytest.raises(ValueError, match="weights.pt cannot be opened"):
        fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert files_in(tmp_path) == []


def test_both_of_torch_s_formats_open(tmp_path, server):
    server.body = archive(zipped=False)
    fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert (tmp_path / "weights.pt").read_bytes() == server.body


def test_a_file_that_differs_from_the_record_never_gets_the_name(tmp_path, server):
    write_record(tmp_path / "weights.pt", {"bytes": 3, "sha256": "0"})
    with pytest.raises(ValueError, match="recorded 3 bytes"):
        fetch(UNKNOWN, tmp_path, f"{server.url}/good")
    assert files_in(tmp_path) == ["weights.pt.json"]


@pytest.mark.parametrize("sha256", ["0" * 64, "0" * 8])
def test_a_file_that_differs_from_the_published_one_never_gets_the_name(tmp_path, server, sha256):
    with pytest.raises(ValueError, match=f"published .*{sha256}"):
        fetch(dataclasses.replace(KNOWN, sha256=sha256), tmp_path, f"{server.url}/good")
    assert files_in(tmp_path) == []


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
        name = self.path.removeprefix(f"/owner/name/resolve/{'0' * 40}/")
        if self.path.startswith("/api/models/owner/name/tree/"):
            stated = [self.stated(f, b) for f, b in self.server.files.items()]
            listed = [{"type": "file", "path": f["rfilename"], "oid": f["blobId"], **f} for f in stated]
            return self.answer(json.dumps(listed).encode())
        if self.path.partition("?")[0] in ("/api/models/owner/name", f"/api/models/owner/name/revision/{'0' * 40}"):
            siblings = [self.stated(f, b) for f, b in self.server.files.items()]
            return self.answer(json.dumps({"id": "owner/name", "sha": "0" * 40, "siblings": siblings}).encode())
        if name not in self.server.files:
            return self.send_error(404)
        self.answer(self.server.sends.get(name, self.server.files[name]), name)

    do_HEAD = do_GET

    def answer(self, body, name=None):
        self.send_response(200)
        tag = self.stated(name, self.server.files[name]) if name else {"blobId": "0"}
        self.send_header("ETag", f'"{tag["lfs"]["sha256"] if "lfs" in tag else tag["blobId"]}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.server.asked.append(name)

    def stated(self, name, body):
        blob = hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
        about = {"rfilename": name, "size": len(body), "blobId": blob}
        if name.endswith((".bin", ".safetensors")):
            digest = hashlib.sha256(body).hexdigest()
            about["lfs"] = {"sha256": digest, "oid": digest, "size": len(body), "pointerSize": 130}
        return about

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
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "refused" in done.stderr
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
