"""`Places`: where the files are that a reproduction reads and writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from accuracy_booster.data import BUILT_IN
from accuracy_booster.reproduction.choices import RESULTS, WORK
from accuracy_booster.reproduction.known_data import KNOWN, coco_fault, coco_files, fault
from accuracy_booster.reproduction.specs import Spec

# how each data set is laid out, for messages and the report
LAYOUTS = {
    "cifar10": "a directory of Parquet files, as Hugging Face has it",
    "cifar100": "a directory of Parquet files, as Hugging Face has it",
    "imagenet": "folders train/ and val/, each with a folder of images for each of 1,000 classes",
    "coco": "folders train2014/, val2014/ and annotations/instances_{train,val}2014.json; or the "
    "same of 2017",
    "coco_tiny": "any small data set in COCO's format",
}


def _not_at_hand(name: str, reason: str) -> str:
    return (
        f"the data set {name} is not at hand ({reason}); put it into DIR/{name}, as "
        f"{LAYOUTS[name]}, and give --data-dir DIR"
    )


@dataclass(frozen=True)
class Weights:
    """Public weights that a table starts from: the hash of the file, and where it comes from."""

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
    """The directories of a reproduction.

    Attributes:
        results: holds a JSON file for each run.
        work: holds the runs themselves with their weights, and the lock of the process that works.
        data: holds a folder for each data set, named after it. CIFAR may also lie in it as
            torchvision stores it, and is downloaded into it where it is missing.
        weights: holds public weights.
    """

    results: Path = Path(RESULTS)
    work: Path = Path(WORK)
    data: Path | None = None
    weights: Path | None = None

    def absolute(self) -> Places:
        """The same directories as absolute paths, which hold in any working directory."""
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

    def log(self, name: str) -> Path:
        """The file that receives what the process of this run prints."""
        return self.work / f"{name}.log"

    def result(self, name: str) -> Path:
        """The result file of this run."""
        return self.results / f"{name}.json"

    def data_of(self, name: str) -> dict[str, str]:
        """The arguments of a training that name a data set. CIFAR is downloaded if it is missing.

        Raises:
            ValueError: if the data set is not at hand, or the folder holds another one. The message
                says how the folder must be laid out.
        """
        if self.data is not None and not self.data.is_dir():
            raise ValueError(f"there is no folder {self.data}; give --data-dir one that is there")
        here = None if self.data is None else self.data / name
        root = {} if self.data is None else {"data_dir": str(self.data)}
        if here is not None and here.is_dir() and any(here.iterdir()):
            found = {"data": str(here)}
        elif name in BUILT_IN:
            found = {"data": name, **root}
        else:
            where = f"{here} is not there" if here is not None else "no --data-dir is given"
            raise ValueError(_not_at_hand(name, where))
        reason = ""
        if name in KNOWN:
            reason = fault(name, found["data"], found.get("data_dir"))
        elif name == "coco":
            reason = coco_fault(Path(found["data"]))
            found |= coco_files(Path(found["data"]))
        if reason:
            raise ValueError(_not_at_hand(name, reason))
        return found

    def weights_of(self, name: str) -> Path:
        """The file of public weights, whose hash is checked.

        Raises:
            ValueError: if it is not at hand, or has another content.
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
        """What a run needs that is not at hand, as a message; "" if nothing is missing."""
        try:
            if weights := spec.options.get("weights"):
                self.weights_of(str(weights))
            if name := spec.options.get("data"):
                self.data_of(str(name))
        except (OSError, ValueError) as e:
            return str(e)
        return "" if spec.parent is None else self.missing_for(spec.parent)
