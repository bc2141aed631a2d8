"""Images as rows of data: from a folder or from arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Inputs
from .rows import Rows, row_numbers
from .sources import digest
from .tensors import check_labels, hash_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..network import Network

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Pictures:
    """Where images come from: read(i) gives image i, digest() a hash of all; labels: one for each, or None."""

    n: int
    read: Callable[[int], Image]
    digest: Callable[[], str]
    labels: list[int] | None
    classes: list[str]


@dataclass(frozen=True)
class Preparation:
    """How images become inputs, and a text that says so."""

    said: str
    run: Callable[[list[Image]], Inputs]


@dataclass(frozen=True, eq=False, repr=False)
class ImageData(Rows):
    """Images as inputs of a network; labels: int64 for each image of the whole, or None; classes: their names."""

    pictures: Pictures
    preparation: Preparation
    labels: Tensor | None

    @property
    def classes(self) -> list[str]:
        return self.pictures.classes

    def image(self, row: int) -> Image:
        """The image of a row as it was before it was prepared."""
        self._check(row)
        return self.pictures.read(int(self.index[row]))

    def _read(self, whole: np.ndarray) -> tuple[Inputs, Tensor | None, Tensor | None]:
        inputs = self.preparation.run([self.pictures.read(int(i)) for i in whole])
        return inputs, None, None if self.labels is None else self.labels[torch.from_numpy(whole)]

    def _identity(self) -> str:
        labels = None if self.labels is None else self.labels.tolist()
        return repr((self.pictures.digest(), self.preparation.said, labels))


def images(source: str | Path | np.ndarray | Tensor, net: Network, labels: Any = None, *,
           size: int | tuple[int, int] | None = None, name: str | None = None) -> ImageData:
    """Images as rows of data for a network, read and prepared batch by batch.

    source: a folder of images, in one subfolder for each class or without subfolders; or an array [n, h, w],
        [n, h, w, c] or [n, c, h, w] with whole numbers from 0 to 255 or fractions from 0 to 1.
    labels: [n] whole numbers, for arrays, or for a folder in the order of the files' paths. Left out, images in
        subfolders get their class: its number in the network's own list if all are in it, else in alphabetical order.
    size: height and width that the network wants, where neither its processor nor its configuration says so; given, it
        is used instead of them.

    Images are prepared by the network's own image processor. Where it has none they are resized (bilinear, not cropped)
    to the configuration's `image_size` and scaled to (x / 255 - 0.5) / 0.5. They become colour or grey as the network
    wants. Raises FileNotFoundError without the folder, and ValueError for no images, one that cannot be read, pixels
    out of range, or labels of another length.
    """
    preparation = _preparation(net, size)
    if isinstance(source, str | Path):
        pictures, name = _folder(Path(source).expanduser(), net), name or str(source)
    else:
        pictures, name = _arrays(source), name or "images"
    rows = row_numbers(pictures.n, name)
    chosen = pictures.labels if labels is None else labels
    tensor = None if chosen is None else _labels(chosen, net, pictures.n, name)
    return ImageData(name, rows, pictures, preparation, tensor)


def _labels(values: Any, net: Network, n: int, name: str) -> Tensor:
    """Labels as int64, if they are one for each image and classes that the network knows."""
    labels = torch.as_tensor(values)
    check_labels(labels, n, name)
    if labels.ndim != 1 or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"the labels of images are whole numbers [n]; found {kind} {list(labels.shape)}.")
    classes = range(net.config.num_labels) if net.kind == "image" and net.config is not None else None
    wrong = [label for label in labels.unique().tolist() if classes is not None and label not in classes]
    if wrong:
        raise ValueError(f"{name} has the label {wrong[0]}, but {net.name} tells {len(classes or [])} classes apart, "
                         "whose labels start at 0.")
    return labels.long()


# --- where images come from -------------------------------------------------------------------------------------------

def _folder(folder: Path, net: Network) -> Pictures:
    from PIL import Image, UnidentifiedImageError
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give a folder of images, or arrays.")
    ends = {end for end, form in Image.registered_extensions().items() if form in Image.OPEN}
    parts = sorted(path.relative_to(folder).parts for path in folder.rglob("*") if path.suffix.lower() in ends)
    parts = [names for names in parts if not any(name.startswith(".") for name in names)]
    paths = [folder.joinpath(*names) for names in parts]
    if not paths:
        raise ValueError(f"{folder} holds no images; put them into it, or into one subfolder for each class.")
    flat = [len(part) == 1 for part in parts]
    if any(flat) and not all(flat):
        raise ValueError(f"{folder} holds images in subfolders and beside them ({parts[flat.index(True)][0]}); sort "
                         "all into subfolders, or none.")
    classes = [] if flat[0] else sorted({part[0] for part in parts})
    own = getattr(net.config, "label2id", None) or {}
    if classes and all(name in own for name in classes):
        numbers, classes = own, sorted(own, key=own.__getitem__)
    else:
        numbers = {name: i for i, name in enumerate(classes)}

    def read(i: int) -> Image.Image:
        try:
            with Image.open(paths[i]) as image:
                return image.convert("RGB") if image.mode not in MODES.values() else image.copy()
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{paths[i]} cannot be read as an image; repair it or leave it out.") from error

    labels = [numbers[part[0]] for part in parts] if classes else None
    names = "\n".join("/".join(part) for part in parts)
    return Pictures(len(paths), read, cache(lambda: digest(paths, names)), labels, classes)


def _arrays(values: np.ndarray | Tensor) -> Pictures:
    from PIL import Image
    x = _as_bytes(values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values))

    def read(i: int) -> Image.Image:
        return Image.fromarray(x[i])

    return Pictures(len(x), read, cache(lambda: hash_of(torch.from_numpy(x))), None, [])


def _as_bytes(x: np.ndarray) -> np.ndarray:
    """Images as uint8 [n, h, w] or [n, h, w, 3]."""
    if x.ndim == 4 and x.shape[-1] not in MODES and x.shape[1] in MODES:
        x = x.transpose(0, 2, 3, 1)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in MODES):
        raise ValueError("images have the shape [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels; found "
                         f"{list(x.shape)}.")
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    if x.dtype != np.uint8 and x.size:
        top = 1 if np.issubdtype(x.dtype, np.floating) else 255
        low, high = x.min(), x.max()
        if not (low >= 0 and high <= top):
            raise ValueError(f"pixels are whole numbers from 0 to 255 or fractions from 0 to 1; found {x.dtype} "
                             f"from {low} to {high}, so scale them, or give prepared inputs with cw.arrays.")
        x = np.round(x * (255 // top))
    return np.ascontiguousarray(x.astype(np.uint8))


# --- how they become inputs -------------------------------------------------------------------------------------------

def _preparation(net: Network, size: int | tuple[int, int] | None) -> Preparation:
    if net.kind in ("causal", "masked", "encoder", "sentence"):
        raise ValueError(f"{net.name} reads text, not images.")
    channels = _channels(net)
    if channels not in MODES:
        raise ValueError(f"{net.name} takes images of {channels} channels; give them prepared, with cw.arrays.")

    def coloured(pictures: list[Image]) -> list[Image]:
        return [picture.convert(MODES[channels]) for picture in pictures]

    def processed(pictures: list[Image]) -> Inputs:
        return dict(net.processor(images=coloured(pictures), return_tensors="pt"))

    if net.processor is not None and size is None:
        return Preparation(net.processor.to_json_string(), processed)
    size = size if size is not None else getattr(net.config, "image_size", None)
    if size is None:
        raise ValueError(f"{net.name} does not say how large its images are; give size=, such as size=224.")
    height, width = (size, size) if isinstance(size, int) else size

    def resized(pictures: list[Image]) -> Inputs:
        from PIL.Image import Resampling
        scaled = [np.asarray(picture.resize((width, height), Resampling.BILINEAR)) for picture in coloured(pictures)]
        x = torch.from_numpy(np.stack(scaled)).reshape(len(scaled), height, width, channels).permute(0, 3, 1, 2)
        x = (x.float() / 255 - 0.5) / 0.5
        return x.contiguous() if net.config is None else {"pixel_values": x.contiguous()}

    return Preparation(f"{channels} x {height} x {width}, bilinear, (x / 255 - 0.5) / 0.5", resized)


def _channels(net: Network) -> int:
    """Channels by the configuration, else by the first convolution, else colour."""
    convolutions = (module.in_channels for module in net.module.modules() if isinstance(module, nn.Conv2d))
    return getattr(net.config, "num_channels", None) or next(convolutions, 3)
