"""Where a reproduction's files are: results, runs, data sets and weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from accuracy_booster.data import BUILT_IN
from accuracy_booster.reproduction.specs import Spec

RESULTS, WORK = "results", os.path.join("runs", "reproduce")
LAYOUTS = {
    "cifar10": "a directory of Parquet files, as Hugging Face has it",
    "cifar100": "a directory of Parquet files, as Hugging Face has it",
    "imagenet": "train/ and val/, each with a folder of images for each of the 1,000 classes",
    "coco": "train2017/, val2017/ and annotations/instances_{train,val}2017.json",
}


@dataclass(frozen=True)
class Weights:
    """Public weights that a table starts from."""

    sha256: str
    source: str


WEIGHTS = {
    "resnet20_cifar10.th": Weights(
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
        "resnet20-12fca82f.th of github.com/akamaster/pytorch_resnet_cifar10",
    )
}


@dataclass(frozen=True)
class Places:
    """Directories.

    Attributes:
        results: the JSON files, one a run.
        work: the runs themselves, with their weights, and the queue's lock.
        data: a folder of each data set by its name; cifar10 and cifar100 may be missing and are
            then downloaded.
        weights: public weights.
    """

    results: Path = Path(RESULTS)
    work: Path = Path(WORK)
    data: Path | None = None
    weights: Path | None = None

    def absolute(self) -> Places:
        """The same from every working directory."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return Places(**{n: Path(os.path.abspath(p.expanduser())) for n, p in given.items()})

    def to_json(self) -> dict[str, str | None]:
        return {n: None if v is None else str(v) for n, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, str | None]) -> Places:
        return cls(**{n: Path(v) for n, v in value.items() if v is not None})

    def run(self, spec: Spec) -> Path:
        """The directory of a run."""
        return self.work / spec.name

    def data_of(self, name: str) -> str:
        """What `ab.train` takes as the data of this name.

        Raises:
            ValueError: if they are not at hand, with how they are laid out.
        """
        here = None if self.data is None else self.data / name
        if here is not None and here.is_dir() and any(here.iterdir()):
            return str(here)
        if name in BUILT_IN:
            return name
        where = f"{here} is not there" if here is not None else "no --data-dir is given"
        raise ValueError(
            f"the data set {name} is not at hand ({where}); put it into DIR/{name}, with "
            f"{LAYOUTS[name]}, and give --data-dir DIR"
        )

    def weights_of(self, name: str) -> Path:
        """The file of public weights.

        Raises:
            ValueError: if it is not at hand, or is another file.
        """
        known = WEIGHTS[name]
        if self.weights is None or not (self.weights / name).is_file():
            where = (
                "no --weights-dir is given" if self.weights is None else f"not in {self.weights}"
            )
            raise ValueError(
                f"the weights {name} are not at hand ({where}); they are {known.source}; put the "
                f"file under this name into a folder DIR and give --weights-dir DIR"
            )
        content = (self.weights / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != known.sha256:
            raise ValueError(
                f"{self.weights / name} is not the public file: its SHA-256 is not "
                f"{known.sha256}; it is {known.source}"
            )
        return self.weights / name

    def missing_for(self, spec: Spec) -> str:
        """What a run needs and is not at hand, or ""."""
        try:
            if name := spec.options.get("data"):
                self.data_of(str(name))
            if weights := spec.options.get("weights"):
                self.weights_of(str(weights))
        except (OSError, ValueError) as e:
            return str(e)
        return ""
