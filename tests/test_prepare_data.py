"""Evaluation sets from small synthetic folders and archives."""

import io
import runpy
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, script
from PIL import Image

from dsg import image_files as images

SCRIPT = ROOT / "scripts/prepare_data.py"
prepare_data = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
FFHQ, IMAGENET, CELEBAHQ = (prepare_data.DATASETS[name] for name in ("ffhq", "imagenet", "celebahq"))
candidates, choose, damaged, opened = (getattr(prepare_data, n) for n in ("candidates", "choose", "damaged", "opened"))
prepare_image, read_manifest, write_images = (
    getattr(prepare_data, name) for name in ("prepare_image", "read_manifest", "write_images")
)


def encoded(width=20, height=16, seed=0, kind="PNG", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


FACES = {f"images/{i // 2:05}/{i:05}.png": encoded(seed=i) for i in range(4)}


def as_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path, files):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def prepared(source, out, protocol="crop", size=8, dataset=FFHQ, count=3):
    with opened(source) as entries:
        names = candidates(entries, dataset)
        chosen = choose(entries, names, dataset, None, count)
        write_images(entries, {key: names[key] for key in chosen}, out, dataset.name, protocol, size)
    return out


def pixels_of(file):
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("pack, name", [(as_folder, "f"), (as_zip, "f.zip"), (as_tar, "f.tar"), (as_tar, "f.tar.gz")])
def test_folders_and_archives_give_the_same_images(tmp_path, pack, name):
    out = prepared(pack(tmp_path / name, FACES), tmp_path / "out")
    assert sorted(f.name for f in out.iterdir()) == ["00000.png", "00001.png", "00002.png", "manifest.csv"]
    for key, row in read_manifest(out).items():
        expected = prepare_image(FACES[row["source"]], "crop", 8, "x")
        assert row["source"].endswith(f"{key}.png") and (pixels_of(out / f"{key}.png") == expected).all()
    assert damaged(out) == []


def test_crop_is_what_a_run_does_with_the_original(tmp_path):
    """So that data.root may also be the original images."""
    data = encoded(30, 21, kind="JPEG", exif=_turned())
    (tmp_path / "a.jpg").write_bytes(data)
    assert (prepare_image(data, "crop", 8, "a") == images.read(tmp_path / "a.jpg", 8)).all()


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif.tobytes()


def test_released_squashes_the_whole_image_with_a_bilinear_filter():
    data = encoded(30, 21)
    expected = Image.open(io.BytesIO(data)).resize((8, 8), Image.Resampling.BILINEAR)
    assert (prepare_image(data, "released", 8, "a") == np.asarray(expected)).all()
    assert (prepare_image(data, "released", 8, "a") != prepare_image(data, "crop", 8, "a")).any()


@pytest.mark.parametrize("data", [b"", b"text", encoded()[:-300], encoded(6, 20), b"GIF89a"])
def test_what_cannot_be_prepared_is_named(data):
    with pytest.raises(ValueError, match="the_file cannot be prepared"):
        prepare_image(data, "crop", 8, "the_file")


def test_a_broken_image_of_imagenet_is_named():
    names = [f"ILSVRC2012_val_{i:08}.JPEG" for i in (1, 2)]
    entries = {names[0]: lambda: encoded(300, 300), names[1]: lambda: b"text"}
    with pytest.raises(ValueError, match=f"^{names[1]} cannot be prepared: it is no image$"):
        choose(entries, candidates(entries, IMAGENET), IMAGENET, None, 2)


def test_a_damaged_archive_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000.png", bytes(10_000))
    data = bytearray((tmp_path / "f.zip").read_bytes())
    data[39:45] = b"\xff" * 6  # behind the header of 30 bytes and the name: the deflate stream
    (tmp_path / "f.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"f.zip cannot be read: "), opened(tmp_path / "f.zip") as entries:
        entries["00000.png"]()


def test_images_and_files_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setitem(prepare_image.__globals__, "PIXELS", 100)
    with pytest.raises(ValueError, match="too many"):
        prepare_image(encoded(), "crop", 8, "x")
    monkeypatch.setitem(prepare_image.__globals__, "LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000.png", bytes(10_000))
    with opened(tmp_path / "bomb.zip") as entries, pytest.raises(ValueError, match="no image of this data set"):
        entries["00000.png"]()


def test_names_in_an_archive_only_choose_ids(tmp_path):
    files = {"../../00000.png": encoded(), "/00001.png": encoded(seed=1), "a/00002.png": encoded(seed=2)}
    out = prepared(as_tar(tmp_path / "x.tar", files), tmp_path / "deep/er/out", count=2)
    assert sorted(tmp_path.rglob("*.png")) == [out / "00001.png", out / "00002.png"]


def test_links_in_an_archive_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("00000.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with opened(tmp_path / "x.tar") as entries:
        assert entries == {}


@pytest.mark.parametrize("name, data", [("x.zip", b"PK\3\4broken"), ("x.tar", b"text"), ("none.zip", None)])
def test_what_is_no_archive_is_one_line(tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name), opened(tmp_path / name):
        pass


# --- which images


def test_hidden_files_do_not_count_and_doubles_are_refused():
    entries = dict.fromkeys(("a/00000.png", "__MACOSX/00001.png", "a/._00002.png", "00003.txt", "0004.png"))
    assert candidates(entries, FFHQ) == {"00000": "a/00000.png"}
    with pytest.raises(ValueError, match="both 00000: choose by --within"):
        candidates({**entries, "b/00000.png": None}, FFHQ)
    assert candidates({**entries, "b/00000.png": None}, FFHQ, "b/") == {"00000": "b/00000.png"}
    with pytest.raises(ValueError, match="no images of imagenet"):
        candidates(entries, IMAGENET)


def imagenet(sizes):
    files = {f"val/ILSVRC2012_val_{i:08}.JPEG": encoded(*size, kind="JPEG") for i, size in enumerate(sizes, 1)}
    return {name: (lambda data=data: data) for name, data in files.items()}


def test_imagenet_s_are_the_first_with_both_sides_large_enough():
    entries = imagenet([(256, 300), (255, 300), (300, 256), (256, 256)])
    names = candidates(entries, IMAGENET)
    expected = ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"]
    assert choose(entries, names, IMAGENET, None, 2) == expected == choose(entries, names, IMAGENET, expected, 2)
    with pytest.raises(ValueError, match="only 3 images of imagenet there, 4 are wanted"):
        choose(entries, names, IMAGENET, None, 4)
    with pytest.raises(ValueError, match="val_00000002 is in the list of ids, but smaller than 256"):
        choose(entries, names, IMAGENET, ["ILSVRC2012_val_00000002"], 1)
    with pytest.raises(ValueError, match="val_00000009 is missing"):
        choose(entries, names, IMAGENET, ["ILSVRC2012_val_00000009"], 1)


def test_celebahq_s_are_celeba_s_test_images_by_number():
    mapping = "idx orig_idx orig_file\n0 119613 119614.jpg\n2 182637 182638.jpg\n10 202000 202001.jpg\n1 182636 x.jpg\n"
    entries = {f"CelebA-HQ-img/{i}.jpg": None for i in (10, 2, 1, 0)}
    entries["CelebA-HQ-to-CelebA-mapping.txt"] = lambda: mapping.encode()
    names = candidates(entries, CELEBAHQ)
    assert choose(entries, names, CELEBAHQ, None, 2) == ["00002", "00010"]
    del entries["CelebA-HQ-to-CelebA-mapping.txt"]
    with pytest.raises(ValueError, match="or give --ids FILE"):
        choose(entries, names, CELEBAHQ, None, 2)


def test_the_list_of_ids_of_ffhq_ships():
    assert (ROOT / "data/ids/ffhq.txt").read_text().split() == [f"{i:05}" for i in range(1000)]


# --- goes on, and overwrites nothing


def test_a_set_that_was_stopped_goes_on(tmp_path, monkeypatch):
    source, out = as_folder(tmp_path / "f", FACES), tmp_path / "out"
    save, saved = images.save, []

    def stop_at_the_second(path, image):
        if len(saved) == 1:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, image)

    monkeypatch.setattr(images, "save", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepared(source, out)
    monkeypatch.setattr(images, "save", save)
    with open(out / "manifest.csv", "a") as file:
        file.write("00002,cut sho")
    before = (out / "00000.png").stat().st_mtime_ns
    prepared(source, out)
    assert (out / "00000.png").stat().st_mtime_ns == before and damaged(out) == []
    assert (out / "manifest.csv").read_text() == (prepared(source, tmp_path / "at_once") / "manifest.csv").read_text()


def test_a_finished_set_is_left_alone(tmp_path):
    source = as_folder(tmp_path / "f", FACES)
    out = prepared(source, tmp_path / "out")
    before = {f: f.stat().st_mtime_ns for f in out.iterdir()}
    assert {f: f.stat().st_mtime_ns for f in prepared(source, out).iterdir()} == before


def test_files_from_elsewhere_are_not_overwritten(tmp_path):
    source = as_folder(tmp_path / "f", FACES)
    out = prepared(source, tmp_path / "out")
    with pytest.raises(ValueError, match="protocol=crop: choose another folder"):
        prepared(source, out, "released")
    with pytest.raises(ValueError, match="size=8"):
        prepared(source, out, size=4)
    with pytest.raises(ValueError, match="does not belong to this set"):
        prepared(source, out, count=2)
    other = as_folder(tmp_path / "other", {"00000.png": b"mine"})
    with pytest.raises(ValueError, match="not overwritten"):
        prepared(source, other)
    assert (other / "00000.png").read_bytes() == b"mine"


def test_damage_is_found_by_the_hash(tmp_path):
    out = prepared(as_folder(tmp_path / "f", FACES), tmp_path / "out")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out / "00001.png")
    (out / "00002.png").unlink()
    assert damaged(out) == ["00001", "00002"]


# --- the command line


def command(*arguments):
    return script("scripts/prepare_data.py", *arguments)


def test_the_command_prepares_and_checks(tmp_path):
    source = as_zip(tmp_path / "f.zip", FACES)
    done = command("ffhq", source, "--size=8", "--count=3", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert command("ffhq", "--check", f"--out={tmp_path / 'out'}").returncode == 0
    (tmp_path / "out/00001.png").write_bytes(b"")
    done = command("ffhq", "--check", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1 and "00001.png is missing or damaged" in done.stderr


def test_the_command_says_what_is_wrong_in_a_line(tmp_path):
    done = command("ffhq", as_zip(tmp_path / "f.zip", FACES), f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and "ffhq 00004 is missing, and 995 more" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert command("ffhq", tmp_path / "none").returncode == 2
    skipped = command("ffhq", as_zip(tmp_path / "f.zip", FACES), "--skip=1")
    assert skipped.returncode == 2 and "give --out" in skipped.stderr


def test_validation_images_are_those_after_the_test_images(tmp_path):
    source = as_zip(tmp_path / "f.zip", FACES)
    done = command("ffhq", source, "--size=8", "--skip=1", "--count=2", f"--out={tmp_path / 'val'}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.stem for path in (tmp_path / "val").glob("*.png")) == sorted(Path(n).stem for n in FACES)[1:3]
