"""Where pretrained weights come from, and how to recognise them. checkpoints/README.md is the same as a table.

A SHA-256 of eight digits is the one that the publisher puts into the file's name (torch.hub's convention); a whole one
is what copies of the file at several independent places agree on. Files of a hub repository are checked against the
hashes that the hub states.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A file or folder of checkpoints/.

    Attributes:
        file: its name there.
        url: http(s), "gdrive:<id>" or "hub:<owner>/<name>" (Hugging Face).
        needed_for: by what.
        licence: of the weights; the data that they were trained on may restrict them further.
        size: in bytes, where known.
        sha256: whole, or its first digits; None: recorded at the first fetch.
        about: bytes of a hub repository's files, roughly, for tables.
    """

    file: str
    url: str
    needed_for: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    about: int | None = None


SOURCES = {
    "ffhq256": Source(
        "ffhq_10m.pt",
        "gdrive:1BGwhRWUoguF-D8wlZ65tf227gp3cDUDh",
        "model=ffhq256",
        "none stated; trained on FFHQ (CC BY-NC-SA 4.0)",
        374417833,
        "81d535743156ec6be34d8668e6920da94f0614074d7793a16c8fa9e306237faa",
    ),
    "imagenet256": Source(
        "256x256_diffusion_uncond.pt",
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        "model=imagenet256",
        "MIT",
        2211383297,
        "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    "celebahq256": Source(
        "celebahq256", "hub:google/ddpm-ema-celebahq-256", "model=celebahq256", "Apache-2.0", about=455_000_000
    ),
    "sd14": Source(
        "sd14",
        "hub:CompVis/stable-diffusion-v1-4",
        "model=sd14",
        "CreativeML Open RAIL-M",
        about=4_270_000_000,
    ),
    "arcface": Source(  # pixel2style2pixel's link
        "model_ir_se50.pth",
        "gdrive:1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn",
        "task=faceid",
        "MIT; trained on MS-Celeb-1M (research only)",
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        about=175_000_000,
    ),
    "clip": Source(
        "clip-vit-base-patch16",
        "hub:openai/clip-vit-base-patch16",
        "task=clip_text, style, text_style",
        "MIT",
        about=600_000_000,
    ),
    "lraspp": Source(
        "lraspp_mobilenet_v3_large-d234d4ea.pth",
        "https://download.pytorch.org/models/lraspp_mobilenet_v3_large-d234d4ea.pth",
        "task=segmentation",
        "BSD-3-Clause",
        sha256="d234d4ea",
        about=13_000_000,
    ),
    "bisenet": Source(  # the link of zllrunning/face-parsing.PyTorch
        "79999_iter.pth",
        "gdrive:154JgKpzCPW82qINcVieuPH3fZ2e0P812",
        "task=face_parsing",
        "MIT; trained on CelebAMask-HQ (research only)",
        53289463,
        "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
    ),
    "lpips_vgg": Source(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "metric lpips_vgg",
        "BSD-3-Clause",
        553433881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "lpips_alex": Source(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "metric lpips_alex",
        "BSD-3-Clause",
        244408911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "fid_inception": Source(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "metrics fid, kid",
        "Apache-2.0",
        95628359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
}
