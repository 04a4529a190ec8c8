"""Which of a repository's files is the model that was meant, where none was named. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from broker.catalogue import FileError

QUANTIZATION = "Q4_K_M"
"""What is taken of several: the usual compromise of size and quality, and what the catalogue has of most models."""
NO_MODELS = re.compile(r"mmproj|imatrix|(^|[-_.])(lora|adapter|mtp|draft|vocab)([-_.]|$)", re.IGNORECASE)
"""In the names of what repositories have beside a model: projectors, measurements, adapters, heads that draft."""
MAX_TOLD = 40


class ChooseAFile(FileError):
    """There is not one that is meant; `sizes` has those that there are, in bytes, by name."""

    def __init__(self, repository: str, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        if not sizes:
            super().__init__(repository, "has no GGUF file of a model; --file names another one")
            return
        by_size = sorted(sizes.items(), key=lambda one: one[1])
        told = ", ".join(f"{name} ({size / 1e9:.2f} GB)" for name, size in by_size[:MAX_TOLD])
        more = f" and {len(sizes) - MAX_TOLD} more" if len(sizes) > MAX_TOLD else ""
        super().__init__(
            repository, f"has {len(sizes)} models, and not one that is {QUANTIZATION}: name one by --file: {told}{more}"
        )


def chosen(repository: str, sizes: Mapping[str, int], parts: Mapping[str, list[str]]) -> str:
    """The one model of a repository, or the one in QUANTIZATION; raises ChooseAFile, with the sizes of all.

    `sizes` has all files of the repository; `parts` the files of a model by the name of each, all of those that there
    should be.
    """
    models: dict[str, int] = {}
    for name in sorted(sizes):
        files = parts.get(name, [name])
        is_model = name.lower().endswith(".gguf") and not NO_MODELS.search(PurePosixPath(name).name)
        if is_model and name == files[0]:
            models[name] = sum(sizes.get(one, 0) for one in files)
    usual = [name for name in models if re.search(rf"(^|[-_./]){QUANTIZATION}([-_.]|$)", name, re.IGNORECASE)]
    for found in (list(models), usual):
        if len(found) == 1:
            return found[0]
    raise ChooseAFile(repository, models)
