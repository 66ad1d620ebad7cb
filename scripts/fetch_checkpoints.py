"""Fetch pretrained weights into checkpoints/.

    python scripts/fetch_checkpoints.py ffhq256 imagenet256

A file appears under its name only when whole; a broken download goes on where it stopped. Its size and SHA-256 are written beside it (`<file>.json`) at the first fetch;
a later call checks the file against them, so that everybody who shares the record has the same weights.
"""

import argparse
import hashlib
import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import gdown
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY, file_hash, first_line

SOURCES = {  # name: (file or folder, where; "gdrive:" is a Google Drive id, "hub:" a repository on the Hugging Face hub)
    "ffhq256": ("ffhq_10m.pt", "gdrive:1BGwhRWUoguF-D8wlZ65tf227gp3cDUDh"),
    "imagenet256": (
        "256x256_diffusion_uncond.pt",
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
    ),
    "celebahq256": ("celebahq256", "hub:google/ddpm-ema-celebahq-256"),
    "sd14": ("sd14", "hub:CompVis/stable-diffusion-v1-4"),
    "arcface": ("model_ir_se50.pth", "gdrive:1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn"),  # pixel2style2pixel's link
    "clip": ("clip-vit-base-patch16", "hub:openai/clip-vit-base-patch16"),
    "lraspp": (
        "lraspp_mobilenet_v3_large-d234d4ea.pth",
        "https://download.pytorch.org/models/lraspp_mobilenet_v3_large-d234d4ea.pth",
    ),
}

NOT_NEEDED = ("fp16", "non_ema", "safety_checker", "onnx")  # other precisions, parts and runtimes of a hub repository


def download(source: str, temporary: Path) -> None:
    """Download `source` to `temporary`; what is there already is continued.

    Raises:
        OSError: what arrived is not whole, or no checkpoint.
    """
    if source.startswith("hub:"):
        return download_snapshot(source.removeprefix("hub:"), temporary)
    if source.startswith("gdrive:"):
        gdown.download(id=source.removeprefix("gdrive:"), output=str(temporary), resume=True)
        if not temporary.exists():
            raise OSError("Google Drive sent no file (a quota, perhaps: try again later, or in a browser)")
    else:
        download_http(source, temporary)
    with open(temporary, "rb") as f:
        start = f.read(1)
    if start in (b"", b"<"):
        temporary.unlink()
        raise OSError("the server sent an empty file" if not start else "the server sent a web page, not a checkpoint")


def download_snapshot(repository: str, temporary: Path) -> None:
    """The configs, tokenizers and PyTorch weights of a hub repository, safetensors where a folder has both kinds.

    What is there already is continued.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = [f for f in HfApi().list_repo_files(repository) if not any(word in f for word in NOT_NEEDED)]
        safe = {f.rpartition("/")[0] for f in files if f.endswith(".safetensors")}  # the kinds' names may differ
        pickled = [f for f in files if f.endswith(".bin") and f.rpartition("/")[0] not in safe]
        wanted = [f for f in files if f.endswith((".json", ".txt", ".safetensors"))] + pickled
        snapshot_download(repository, local_dir=temporary, allow_patterns=wanted)
    except Exception as error:  # the client's own errors, and those of the HTTP library beneath it, which changes
        raise OSError(f"hub:{repository}: {first_line(error)}") from None
    shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the client's own notes


def download_http(url: str, temporary: Path) -> None:
    have = temporary.stat().st_size if temporary.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        opened = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return  # nothing is left to send: it was whole already, and is checked next
    with opened as response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(temporary, "ab" if have else "wb") as f,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=temporary.stem) as bar,
        ):
            while block := response.read(1 << 20):
                f.write(block)
                bar.update(len(block))
    received = temporary.stat().st_size
    if total and received != total:
        raise OSError(f"the connection closed after {received} of {total} bytes: call again to go on from there")


def describe(path: Path) -> dict:
    """Size and SHA-256 of a file; of a folder, the sum, and the SHA-256 of its files' names and sums."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    files = sorted(f for f in path.rglob("*") if f.is_file())
    lines = "".join(f"{f.relative_to(path).as_posix()} {file_hash(f)}\n" for f in files)
    return {"bytes": sum(f.stat().st_size for f in files), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def check_or_record(path: Path, record_file: Path) -> str:
    """Compare the file with its record, or write the record. Returns what was done.

    Raises:
        ValueError: the file differs from the record.
    """
    found = describe(path)
    if not record_file.exists():
        record_file.write_text(json.dumps(found, indent=1) + "\n")
        return f"recorded {found['bytes']} bytes, SHA-256 {found['sha256']}"
    recorded = json.loads(record_file.read_text())
    if recorded != found:
        raise ValueError(
            f"{path} is not the file that was recorded: {found['bytes']} bytes, SHA-256 {found['sha256']}; "
            f"recorded {recorded['bytes']} bytes, {recorded['sha256']}. Remove the file to fetch it again, "
            f"or {record_file.name} to accept it"
        )
    return f"as recorded ({found['bytes']} bytes, SHA-256 {found['sha256']})"


def fetch(name: str, folder: Path, source: str | None = None) -> None:
    file, default = SOURCES[name]
    path = folder / file
    folder.mkdir(parents=True, exist_ok=True)
    record_file = path.with_name(path.name + ".json")
    if path.exists():
        print(f"{name}: {path} {check_or_record(path, record_file)}")
        return
    temporary = path.with_name(path.name + ".partial")
    download(source or default, temporary)
    try:
        checked = check_or_record(temporary, record_file)
    except ValueError:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        raise
    temporary.rename(path)
    print(f"{name}: {path} {checked}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="name", help=", ".join(SOURCES))
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "checkpoints")
    parser.add_argument(
        "--source", help="another source for the (single) name: a URL, for instance of a mirror, or hub:<owner>/<name>"
    )
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in SOURCES]
    if unknown:
        parser.error(f"unknown checkpoint {unknown[0]!r}: one of {', '.join(SOURCES)}")
    if args.source and len(args.names) > 1:
        parser.error("--source is for one name")
    failed = False
    for name in args.names:
        try:
            fetch(name, args.folder, args.source)
        except (OSError, ValueError, urllib.error.URLError, gdown.exceptions.DownloadError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
