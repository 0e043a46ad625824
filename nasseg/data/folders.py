"""Folders of people's own: three shapes, each with a folder of images and one of masks for every split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from nasseg.data.spec import DataSpec
from nasseg.data.tree import Layout, SplitFiles, Tree, fold, need_folder
from nasseg.errors import DataError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names a split's folder may have."""


@dataclass(frozen=True, slots=True)
class FolderLayout(Layout):
    """Where a split's images and masks lie below the root, ``{split}`` standing for its folder name."""

    kind: ClassVar[str] = "folder"

    name: str
    images: str
    masks: str

    @property
    def shape(self) -> str:  # type: ignore[override]
        """What is looked for."""
        return f"{self.images.format(split='train')} with {self.masks.format(split='train')}"

    def folders(self, root: Path, folder_name: str) -> tuple[Path, Path]:
        """Folder of images and folder of masks."""
        return root / self.images.format(split=folder_name), root / self.masks.format(split=folder_name)

    @override
    def fits(self, root: Path) -> bool:
        return any(self.folders(root, name)[0].is_dir() for names in SPLITS.values() for name in names)

    @override
    def read(self, spec: DataSpec) -> Tree:
        root = need_folder(spec)
        splits: dict[str, SplitFiles] = {}
        for name, folder_names in SPLITS.items():
            there = [n for n in folder_names if self.folders(root, n)[0].is_dir()]
            if len(there) > 1:
                raise DataError(f"{root}: {' and '.join(there)} both stand for the split {name}; keep one of them")
            if there:
                splits[name] = fold(name, *self.folders(root, there[0]))
        return Tree(root, self, splits, lambda split: self.folders(root, split)[0])


LAYOUTS = (
    FolderLayout("split folders", "{split}/images", "{split}/masks"),
    FolderLayout("mmsegmentation", "img_dir/{split}", "ann_dir/{split}"),
    FolderLayout("images and masks", "images/{split}", "masks/{split}"),
)
