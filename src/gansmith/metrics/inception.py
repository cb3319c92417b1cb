"""The extra `gansmith[inception]`: published FID, KID and precision/recall by torch-fidelity, from weights that a user has.

Nothing is downloaded: weights are files that the caller names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import CheckpointError, DataError, MissingExtra, UsageError

FEWEST = 50  # pictures of a side
KID_SUBSET = 1000
INCEPTION, VGG = "pt_inception-2015-12-05-6726825d.pth", "vgg16-397923af.pth"  # the published files
GUARD = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
KEYS = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "precision": "precision",
    "recall": "recall",
}


class _Pictures(Dataset[Tensor]):
    """Pictures uint8 [n, 1 or 3, H, W] as torch-fidelity wants them, one by one, in colour."""

    def __init__(self, x: np.ndarray, role: str):
        if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3):
            raise DataError(f"Inception wants {role} as uint8 [n, 1 or 3, H, W]; got {x.dtype} {list(x.shape)}.")
        if len(x) < FEWEST:
            raise DataError(f"Inception distances want at least {FEWEST} {role}; got {len(x)}.")
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        picture = torch.from_numpy(np.ascontiguousarray(self.x[index]))
        return picture.expand(3, -1, -1).contiguous()


def published(
    fakes: np.ndarray,
    reals: np.ndarray,
    weights: str | os.PathLike[str],
    vgg: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """fid and kid of pictures uint8 [n, 1 or 3, H, W], as papers print them; with VGG-16's weights precision and recall too.

    weights: the file of Inception v3 (INCEPTION); vgg: that of VGG-16 (VGG), whose features Kynkaanniemi et al. 2019 use.
    KID's subsets have 1,000 pictures, or as many as there are. Raises MissingExtra, UsageError, CheckpointError, DataError.
    """
    paths = {"inception-v3-compat": _file(weights, INCEPTION)}
    if vgg is not None:
        paths["vgg16"] = _file(vgg, VGG)
    ours = {"input1": _Pictures(fakes, "fakes"), "input2": _Pictures(reals, "real pictures")}
    calculate: Any = _torch_fidelity().calculate_metrics
    found: dict[str, Any] = {}
    for extractor, path in paths.items():
        first = extractor != "vgg16"
        asked = {
            "fid": first,
            "kid": first,
            "prc": not first,
            "kid_subset_size": min(KID_SUBSET, len(fakes), len(reals)),
        }
        quiet = {"cache": False, "verbose": False, "save_cpu_ram": True, "cuda": device == "cuda"}
        try:
            with _data_only():
                found |= calculate(
                    feature_extractor=extractor, feature_extractor_weights_path=str(path), **ours, **asked, **quiet
                )
        except Exception as error:  # damaged or foreign weights raise nearly anything
            raise CheckpointError(f"torch-fidelity cannot use {path}: {str(error).splitlines()[0]}") from error
    return {key: float(found[name]) for key, name in KEYS.items() if name in found}


def _file(path: str | os.PathLike[str], published_as: str) -> Path:
    if not os.path.isfile(path):
        raise UsageError(
            f"There is no file {os.fspath(path)!r}. gansmith downloads no weights: fetch {published_as} and give its path."
        )
    return Path(path)


def _torch_fidelity() -> Any:
    try:
        return import_module("torch_fidelity")
    except (ImportError, RuntimeError, AttributeError) as error:  # torchvision of another torch raises the latter two
        raise MissingExtra("The published FID", "inception") from error


@contextmanager
def _data_only() -> Iterator[None]:
    """torch-fidelity unpickles weights with everything allowed; this variable overrules it: tensors alone."""
    before = os.environ.get(GUARD)
    os.environ[GUARD] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[GUARD]
        else:
            os.environ[GUARD] = before
