"""The code blocks of README.md, CONTRIBUTING.md and docs/, and how they become small enough to run.

A block of Python, or a command, runs as it is printed, apart from the substitutions of `SMALLER`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from support.repository import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "bash", "text"}

# (pattern, replacement, why). They are applied in this order, to Python and to commands.
SMALLER = [
    (r"\btimm/resnet(18|50)\b", "timm/test_resnet", "networks of this size take seconds"),
    (r'timm\.create_model\("resnet18"', 'timm.create_model("test_resnet"', "the same network"),
    (r'timm\.create_model\("resnet50"', 'timm.create_model("resnet26"', "fewer bottlenecks"),
    (
        r'from_pretrained\("microsoft/resnet-18"\)',
        "from_config(transformers.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]))",
        "it would be downloaded",
    ),
    (r"torchvision/vgg11_bn", "torchvision/squeezenet1_1", "VGG has 130 million weights"),
    (
        r'detection\.train\("resnet50", ',
        'detection.train("timm/test_resnet", epochs=1, min_size=(64,), max_size=96, '
        "batch_size=2, trainable_layers=5, ",
        "a detector of this size takes hours to train",
    ),
    (r'faster_rcnn\("resnet50"', 'faster_rcnn("resnet18"', "it is built in seconds"),
    (r"\bresnet(20|50|56)\b", "resnet8", "networks of this size take hours to train"),
    (r"\b224, 224\b", "32, 32", "large images take seconds"),
    (r"\bcifar100?\b", "digits", "CIFAR would be downloaded"),
    (r"(epochs[ =])200\b", r"\g<1>1", "hours"),
    (r"(epochs[ =])300\b", r"\g<1>2", "hours"),
    (
        r"^(train (?!.*(?:--epochs|--resume)).*)$",
        r"\1 --epochs 1",
        "the default is ten epochs and more",
    ),
    (r"output=\"RUN\"", 'output="NEW"', "RUN is there already, and has ended"),
    (r"--output RUN\b", "--output NEW", "RUN is there already, and has ended"),
    (r"--output weights\.safetensors", "--output merged.safetensors", "another command reads it"),
    (r"\bruns/resnet\S+", "RUN", "the name of a run of one's own"),
    (
        r"reproduction\.work\(specs, places\)",
        "assert specs",
        "hours; tests/reproduction makes runs of one epoch",
    ),
    (
        r'data="coco8\.yaml"',
        'data="coco8.yaml", epochs=1, imgsz=32, batch=4, workers=0, device="cpu", plots=False',
        "COCO would be downloaded; a file of this name is drawn",
    ),
    (r'export\(format="onnx"', 'export(imgsz=32, format="onnx"', "640 pixels take seconds"),
    (r"^(export .*)$", r"\1 --no_timing", "18 seconds of timing"),
    (r"(ab\.export\([^)]*)\)", r"\1, batch_sizes=None)", "the same"),
    (
        r'(ab\.train\("resnet\d+", block="ab", data="\w+"), output',
        r"\1, epochs=1, output",
        "the default is ten epochs",
    ),
    (
        r'(ab\.train\("timm/\w+", weights=.*, data="photos/")\)',
        r"\1, epochs=1)",
        "the default is ten epochs and more",
    ),
    (r"reproduce counts.*$", "reproduce counts --tables 10", "all eight tables take a minute"),
]

# (pattern, why): commands whose words are parsed, and which do not run here
PARSED_ONLY = [
    (r"^compare\b", "minutes; tests/analysis and tests/cli run comparisons"),
    (r"^bench\b", "times; tests/cli/test_bench.py runs it on a small network"),
    (r"^export .*--precision int8", "one epoch is too little; tests/deploy makes int8 files"),
    (r"^export .*--format (aoti|executorch)", "a minute; tests/deploy writes and runs such files"),
    (r"^detect\b", "detectors take minutes; tests/detection runs each of these commands"),
    (r"^reproduce run\b", "hours; tests/reproduction runs the queue on one epoch of the digits"),
    (r"^reproduce report\b", "it writes into this repository; tests/reproduction runs it"),
    (r"^script\b", "somebody's script; tests/cli/test_script.py runs some"),
    (r"--pretrained\b", "it downloads weights; the page's Python runs with random ones"),
    (r"--push\b", "it uploads; tests/deploy/test_pushing.py does so to a server of its own"),
]

# what may stand at the start of a line of a block marked `bash`, and why it does not run here
OTHER_PROGRAMS = {
    "pip": "installs",
    "g++": "tests/deploy/test_ahead_of_time.py runs it",
    "TORCH=$(python": "the same",
    "./predict": "the same",
    "git": "clones",
    "cd": "enters a directory",
    ".": "enters an environment",
    "python": "the examples have tests of their own, and benchmarks take minutes to hours",
    "torchrun": "tests/training starts several processes",
    "pytest": "it is what runs these tests",
    ".ci/run": "it makes an environment and runs all tests",
    "pre-commit": "installs",
    "ulimit": "a limit of the shell",
    "yolo": "tests/integrations/test_ultralytics.py runs it in a new process",
}

# (page, pattern of a block, why it is compiled and does not run)
COMPILED_ONLY = [
    ("docs/gpu.md", r"\.cuda\(", "needs a GPU"),
    ("docs/trainers/ultralytics.md", "let_gates_learn", "tests/public trains with this callback"),
]


class Block(NamedTuple):
    """A fenced block of a page: the language that it names, its text and its first line."""

    language: str
    code: str
    line: int


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """The code blocks of a page in these languages, by default all."""
    text = page.read_text()
    found = [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]
    return [block for block in found if not languages or block.language in languages]


def lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks: continued ones joined, `a && b` as two."""
    text = "\n".join(block.code for block in blocks(page, "bash")).replace("\\\n", " ")
    parts = [part for line in text.splitlines() for part in line.split(" && ")]
    return [part.strip() for part in parts if part.strip() and not part.startswith("#")]


def commands(page: Path) -> list[list[str]]:
    """The words of each `accuracy-booster` command that a page shows, after the program's name."""
    words = [shlex.split(line, comments=True) for line in lines(page)]
    return [rest for program, *rest in words if program == "accuracy-booster"]


def smaller(text: str) -> str:
    """Code or a command with the substitutions of SMALLER."""
    for pattern, replacement, _ in SMALLER:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def commands_that_run() -> list[str]:
    """Each command of the pages that is not in PARSED_ONLY, made smaller, once."""
    every = {shlex.join(words): None for page in PAGES for words in commands(page)}
    kept = [text for text in every if not any(re.search(p, text) for p, _ in PARSED_ONLY)]
    return list(dict.fromkeys(smaller(text) for text in kept))
