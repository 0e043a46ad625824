"""Where the published weights of our own backbones lie, and how they reach this machine. Imports no torch.

MiT: the encoders of SegFormer, trained on ImageNet-1k, as the Hugging Face Hub has them (``nvidia/mit-b0`` to ``mit-b5``: classifiers of
transformers, whose ``segformer.encoder.*`` is read). MSCAN: the authors (github.com/Visual-Attention-Network/SegNeXt) keep their
ImageNet-1k weights on a cloud drive for browsers, and have no Hub repository; OpenMMLab serves a copy, which mmsegmentation's SegNeXt
configurations name.

A file that is in the cache already is taken as it is, without asking the network: the cache of huggingface_hub (``HF_HOME``,
``HF_HUB_CACHE``) or of torch.hub (``TORCH_HOME``). Weights of timm's models are timm's affair.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from typing_extensions import override

from nasseg.errors import WeightsError

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of a Hub repository's weights, the one that needs no unpickling first."""
OPENMMLAB = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A published file on this machine. ``source`` says which: ``nvidia/mit-b0@COMMIT/pytorch_model.bin``, or a URL; ``digest`` holds the
    first 16 hex digits of its SHA-256."""

    path: Path
    source: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Origin(ABC):
    """Where a backbone's published weights come from. ``licence`` is the publisher's for the weights."""

    licence: str

    @property
    @abstractmethod
    def name(self) -> str:
        """In words, for tables and errors."""

    @property
    @abstractmethod
    def cache(self) -> Path:
        """The folder that is looked in first, and that a download goes to."""

    @abstractmethod
    def cached(self) -> Path | None:
        """The file in the cache, None where it is not there."""

    @abstractmethod
    def download(self) -> Path:
        """Fetch the file into the cache; raises whatever the client raises."""

    @abstractmethod
    def source(self, path: Path) -> str:
        """:attr:`WeightsFile.source` of the file at ``path``."""


@dataclass(frozen=True, kw_only=True)
class HubRepository(Origin):
    """A model repository of the Hugging Face Hub, at its main branch."""

    repository: str

    @property
    @override
    def name(self) -> str:
        return f"{self.repository} on the Hugging Face Hub"

    @property
    @override
    def cache(self) -> Path:
        return Path(huggingface_hub.constants.HF_HUB_CACHE)

    @override
    def cached(self) -> Path | None:
        for name in HUB_FILES:
            with contextlib.suppress(LocalEntryNotFoundError):
                return Path(huggingface_hub.hf_hub_download(self.repository, name, local_files_only=True))
        return None

    @override
    def download(self) -> Path:
        first, second = HUB_FILES
        with _quiet():
            try:
                return Path(huggingface_hub.hf_hub_download(self.repository, first))
            except LocalEntryNotFoundError:  # no network: the other name would wait for it as long again
                raise
            except EntryNotFoundError:
                return Path(huggingface_hub.hf_hub_download(self.repository, second))

    @override
    def source(self, path: Path) -> str:
        return f"{self.repository}@{path.parent.name}/{path.name}"


@dataclass(frozen=True, kw_only=True)
class Download(Origin):
    """One file behind a URL, kept where torch.hub keeps such files."""

    url: str
    whose: str

    @property
    @override
    def name(self) -> str:
        return f"{self.whose}: {self.url}"

    @property
    @override
    def cache(self) -> Path:
        # torch takes seconds to import; who lists origins needs none of it.
        import torch  # noqa: PLC0415

        return Path(torch.hub.get_dir()) / "checkpoints"

    @override
    def cached(self) -> Path | None:
        path = self.cache / self.url.rpartition("/")[2]
        return path if path.is_file() else None

    @override
    def download(self) -> Path:
        import torch  # noqa: PLC0415

        path = self.cache / self.url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(path))
        return path

    @override
    def source(self, path: Path) -> str:
        return self.url


def _mit(size: int) -> HubRepository:
    return HubRepository(repository=f"nvidia/mit-b{size}", licence="NVIDIA Source Code License for SegFormer (non-commercial use)")


def _mscan(file: str) -> Download:
    return Download(url=f"{OPENMMLAB}/{file}", whose="OpenMMLab's copy of SegNeXt's encoder", licence="Apache-2.0")


ORIGINS: dict[str, Origin] = {
    **{f"mit_b{size}": _mit(size) for size in range(6)},
    "mscan_t": _mscan("mscan_t_20230227-119e8c9f.pth"),
    "mscan_s": _mscan("mscan_s_20230227-f33ccdf2.pth"),
    "mscan_b": _mscan("mscan_b_20230227-3ab7d230.pth"),
    "mscan_l": _mscan("mscan_l_20230227-cef260d4.pth"),
}
"""Published encoders of our own backbones. MSCAN's names are those of mmsegmentation's configs/segnext."""


def origin_of(backbone: str) -> Origin | None:
    """The origin of one of our own backbones, whatever arguments stand behind its name; None for timm's."""
    return ORIGINS.get(backbone.strip().partition("?")[0])


def fetch(backbone: str) -> WeightsFile:
    """The published weights of one of our own backbones: from the cache, else downloaded into it.

    Raises :class:`WeightsError` where neither can be: it names the origin, the cache folder, the reason, and ``--weights``.
    """
    origin = ORIGINS[backbone.strip().partition("?")[0]]
    path = origin.cached()
    if path is None:
        try:
            path = origin.download()
        except Exception as error:  # the clients raise a dozen kinds: no network, no such file, refused, torn download, full disk
            raise WeightsError(
                f"{backbone}: its published weights ({origin.name}) are not in the cache {origin.cache} and could not be fetched "
                f"({_reason(error)}); fill that folder where there is a network, or give a file with --weights FILE"
            ) from error
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return WeightsFile(path=path, source=origin.source(path), digest=digest)


def identities(backbones: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """``{"digest": {backbone: …}, "source": {backbone: …}}`` of those with an origin of ours, for what a run or a study writes down; empty
    where none has one."""
    found = {name: fetch(name) for name in backbones if origin_of(name) is not None}
    if not found:
        return {}
    return {"digest": {n: file.digest for n, file in found.items()}, "source": {n: file.source for n, file in found.items()}}


def _reason(error: BaseException) -> str:
    """The innermost error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client logs every failed attempt; the last one reaches the user as an error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
