"""The page that restores a photograph: what it hands on, and the page itself in a browser."""

import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from dsg.config import load_with_sources
from dsg.runs.main import run_one

pytest.importorskip("gradio")
from dsg import demo  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FACE = np.asarray(Image.open(ROOT / "data/avatars64/test/00003.png").convert("RGB"))


def editor(image, painted=None):
    layers = [] if painted is None else [np.dstack([0 * painted] * 3 + [255 * painted]).astype(np.uint8)]
    return {"background": image, "layers": layers, "composite": image}


def square_hole():
    painted = np.zeros((64, 64), np.uint8)
    painted[20:36, 20:36] = 1
    return painted


def last(*arguments):
    return list(demo.run(*arguments))[-1]


@pytest.mark.parametrize("damage", ["Fill what I paint", "Blur, then restore"])
def test_the_command_that_is_shown_makes_the_same_image(damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    restored, *_, command, _ = last(editor(FACE, square_hole()), damage, "avatars64", "mpgd_dsg", 3, 64, 7, False)
    Image.fromarray(FACE).save("image.png")
    Image.fromarray(255 * (1 - square_hole())).save("mask.png")
    words = command.split()
    assert words[:2] == ["python", "run.py"]
    options = [word.strip("'") for word in words[2:]]
    assert run_one(*load_with_sources([*options, "out=out", "metrics=[]", "wandb.mode=disabled"])) == 0
    assert np.array_equal(np.asarray(Image.open("out/images/image.png")), restored)


def test_a_method_is_compared_with_its_base_method():
    *_, pair, words, _, _ = last(editor(FACE), "Add noise, then restore", "avatars64", "dps_dsg", 3, 64, 0, True)
    assert pair["visible"] and not np.array_equal(*pair["value"])
    assert "`dps_dsg`" in words and "`dps`" in words and "3 network evaluations" in words


def test_a_photograph_is_reduced_and_what_is_painted_with_it():
    image, painted = np.zeros((300, 200, 3), np.uint8), np.zeros((300, 200), np.uint8)
    painted[:30] = 1
    reduced, mask = demo.picture(editor(image, painted), 100)
    assert reduced.shape == (100, 67, 3) and mask.shape == (100, 67)
    assert not mask[:10].any() and mask[11:].all()
    assert demo.picture(editor(np.zeros((4000, 4000, 3), np.uint8)), 10**6)[0].shape[0] == demo.LARGEST


@pytest.mark.parametrize("given, words", [(None, "open a photograph"), (editor(FACE), "paint over")])
def test_what_is_missing_is_one_line(given, words):
    with pytest.raises(Exception, match=words):
        last(given, "Fill what I paint", "avatars64", "mpgd_dsg", 3, 64, 0, False)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_the_page_works_in_a_browser_and_asks_nobody_else(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "scripts/demo.py", "--no-browser", "--port", str(port)], cwd=ROOT)
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page, asked = browser.new_page(viewport={"width": 1400, "height": 1200}), []
            page.set_default_timeout(180_000)  # a busy machine
            page.on("request", lambda request: asked.append(request.url))
            for _ in range(120):
                try:
                    page.goto(f"http://127.0.0.1:{port}/")
                    break
                except sync_api.Error:
                    time.sleep(1)
            page.wait_for_selector("#restore", timeout=60_000)
            upload = tmp_path / "face.png"
            Image.fromarray(FACE).save(upload)
            page.locator("input[type=file]").first.set_input_files(str(upload))
            page.wait_for_timeout(2000)
            page.locator("#restore").click()
            done = "document.querySelector('#words').innerText.includes('network evaluations')"
            page.wait_for_function(done, timeout=240_000)
            page.wait_for_timeout(1000)
            page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
            assert "run.py" in page.content()
            browser.close()
        outside = [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))]
        assert outside == []
    finally:
        server.terminate()
        server.wait(timeout=30)
