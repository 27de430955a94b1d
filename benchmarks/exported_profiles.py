"""Where a runtime's time goes in an exported file: {operator: milliseconds of one run}."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

RUNS, MOST = 4, 8  # runs of which the mean is told; operators that are told


def of_file(path: Path, form: str, images: np.ndarray) -> dict[str, float]:
    """The operators that take the most time, and "all" of them together.

    Args:
        path: a file of the format `form`.
        images: [N, C, H, W].
    """
    total = _PROFILES[form](path, images)
    told = {name: round(ms, 3) for name, ms in total.most_common(MOST)}
    return {**told, "all": round(sum(total.values()), 3)}


def _onnx(path: Path, images: np.ndarray) -> Counter[str]:
    import onnxruntime

    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        for _ in range(RUNS + 1):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    second = [e["ts"] for e in events if e["name"] == "model_run"][1]
    for event in events:
        if event.get("cat") == "Node" and event["ts"] >= second:
            total[event["args"]["op_name"]] += event["dur"] / 1e3 / RUNS
    return total


def _openvino(path: Path, images: np.ndarray) -> Counter[str]:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", {**settings, "PERF_COUNT": True})
    request = compiled.create_infer_request()
    request.infer({0: images})
    total: Counter[str] = Counter()
    for _ in range(RUNS):
        request.infer({0: images})
        for node in request.profiling_info:
            total[node.node_type] += node.real_time.total_seconds() * 1e3 / RUNS
    return total


def _torch(path: Path, images: np.ndarray) -> Counter[str]:
    program, x = torch.export.load(path).module(), torch.from_numpy(images)
    with torch.no_grad():
        program(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(RUNS):
                program(x)
    total: Counter[str] = Counter()
    for event in profile.key_averages():
        total[event.key] += event.self_cpu_time_total / 1e3 / RUNS
    return total


_PROFILES = {"onnx": _onnx, "openvino": _openvino, "torch": _torch}
