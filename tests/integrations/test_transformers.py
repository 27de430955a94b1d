"""Boosted networks of transformers: boosted, trained by its Trainer, saved, loaded, exported.

The networks are tiny and have random weights. What is compared with is transformers itself: the
same network before boosting, after an uninterrupted training, or before saving.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import gates
from support.transformers_networks import (
    DETR,
    EXAMPLE,
    NETWORKS,
    WITHOUT_SITES,
    detector,
    outputs,
    resnet,
    small_resnet,
    t,
)

import accuracy_booster as ab
from accuracy_booster.integrations import transformers as ours
from accuracy_booster.integrations.transformers_saving import GUARD
from accuracy_booster.surgery import attached

pytestmark = [
    pytest.mark.filterwarnings("ignore:the network has .* attention modules already"),
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
]
SIDE = 16


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    t.logging.set_verbosity_error()
    t.logging.disable_progress_bar()
    yield
    t.logging.set_verbosity_warning()
    t.logging.enable_progress_bar()


def boosted(model=None, block="ab", **options):
    """A network (the small ResNet by default) with gates of random weights, in eval mode."""
    model = small_resnet() if model is None else model
    return gates.stir(ab.boost(model, block, example=EXAMPLE, **options)).eval()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(outputs(one), outputs(other), strict=True))


def config_of(folder):
    return json.loads((Path(folder) / "config.json").read_text())


# --- every network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_boosted_saved_and_loaded(name, tmp_path):
    build, count = NETWORKS[name]
    model = build().eval()
    before, keys = outputs(model), list(model.state_dict())
    config = model.config.to_dict()
    ab.boost(model, "ab", init="identity", example=EXAMPLE)
    assert len(attached(model)) == count
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(model), strict=True))
    assert [key for key in model.state_dict() if ".recalibrate." not in key] == keys

    gates.stir(model)
    model.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert {n: str(g) for n, g in attached(loaded).items()} == {
        n: str(g) for n, g in attached(model).items()
    }
    assert not loaded.training
    assert same(loaded, model)
    assert all(p.requires_grad for p in ab.added_parameters(loaded))
    written = config_of(tmp_path)
    assert written["model_type"] == config["model_type"]
    assert written["transformers_weights"] == GUARD


@pytest.mark.parametrize("name", WITHOUT_SITES)
def test_a_network_without_residual_branches_of_maps_says_so(name):
    with pytest.raises(ValueError, match="has no residual branch"):
        ab.boost(WITHOUT_SITES[name](), "ab", example=EXAMPLE)


def test_gates_in_place_of_attention(tmp_path):
    model = boosted(NETWORKS["regnet"][0](), "se", where="attention")
    model.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert same(loaded, model)


# the part that is boosted, and the gates that it gets
PARTS = {
    "detr": [("model.backbone.model", 4), ("model", 4)],
    "upernet_resnet": [("backbone", 4)],
    "timm_wrapper": [("timm_model", 4)],
    "resnet": [("resnet", 2), ("resnet.encoder.stages.0", 1)],
}


@pytest.mark.parametrize(
    ("name", "part", "count"), [(n, part, k) for n, rows in PARTS.items() for part, k in rows]
)
def test_a_boosted_part_is_saved_with_the_whole(name, part, count, tmp_path):
    model = NETWORKS[name][0]().eval()
    example = torch.zeros(1, 8, 16, 16) if "stages" in part else EXAMPLE
    gates.stir(ab.boost(model.get_submodule(part), "ab", example=example))
    model.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(tmp_path)
    assert len(attached(loaded)) == len(attached(model)) == count
    assert same(loaded, model)


def test_a_gate_on_a_module_without_weights(tmp_path):
    """The first parameter of this network is never on the meta device."""
    model = NETWORKS["deformable_detr"][0]()
    where = ["model.backbone.model.encoder.stages.0.layers.0.activation"]
    boosted(model, where=where).save_pretrained(tmp_path)
    assert same(ours.from_pretrained(tmp_path), model)


# --- from_pretrained

OPTIONS = {
    "dtype": {"dtype": torch.float16},
    "device map": {"device_map": "auto"},
    "other classes": {"num_labels": 5, "ignore_mismatched_sizes": True},
    "info": {"output_loading_info": True},
    "an Auto class": {"cls": t.AutoModelForImageClassification},
    "a class": {"cls": t.ResNetForImageClassification},
    "the base": {"cls": t.AutoModel},
    "a given configuration": {"config": "of the folder"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(a boosted ResNet, the folder around the folder "sub" in which it is saved in shards)"""
    folder = tmp_path_factory.mktemp("saved")
    model = boosted(small_resnet(num_labels=3))
    model.save_pretrained(folder / "sub", max_shard_size="4KB")
    assert (folder / "sub" / "model.safetensors.index.json").exists()
    return model, folder


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("subfolder", [False, True])
def test_options_of_from_pretrained_pass_through(options, subfolder, saved):
    model, folder = saved
    options = {k: v for k, v in options.items() if k != "config"} | (
        {"config": t.AutoConfig.from_pretrained(folder / "sub")} if "config" in options else {}
    )
    where = {"subfolder": "sub"} if subfolder else {}
    result = ours.from_pretrained(folder if subfolder else folder / "sub", **options, **where)
    loaded, info = result if isinstance(result, tuple) else (result, None)
    assert (info is not None) == ("output_loading_info" in options)
    assert loaded.dtype == options.get("dtype", torch.float32)
    assert type(loaded) is (
        t.ResNetModel if options.get("cls") is t.AutoModel else t.ResNetForImageClassification
    )
    assert getattr(loaded, "num_labels", 3) == options.get("num_labels", 3)
    state = loaded.state_dict()
    assert not any(value.is_meta for value in state.values())
    found = 0
    for key, value in model.state_dict().items():
        own = key if key in state else key.removeprefix("resnet.")
        if not key.startswith("classifier"):
            assert torch.equal(state[own].cpu(), value.to(state[own].dtype).cpu()), key
            found += ".recalibrate." in key
    assert found == 12


def test_a_network_that_is_partly_on_disk(saved, tmp_path):
    model, folder = saved
    parts = {"resnet.embedder": "cpu", "resnet.encoder": "disk", "resnet.pooler": "cpu"}
    loaded = ours.from_pretrained(
        folder / "sub", device_map={**parts, "classifier": "cpu"}, offload_folder=tmp_path / "off"
    )
    assert all(p.is_meta for p in ab.added_parameters(loaded))
    assert same(loaded, model)


def test_a_base_network_gives_its_gates_to_one_with_a_head(saved, tmp_path):
    model, folder = saved
    base = ours.from_pretrained(folder / "sub", t.ResNetModel)
    base.save_pretrained(tmp_path)
    whole = ours.from_pretrained(tmp_path, t.ResNetForImageClassification)
    assert attached(whole).keys() == attached(model).keys()
    assert torch.equal(base(EXAMPLE + 1).pooler_output, whole.resnet(EXAMPLE + 1).pooler_output)


def test_transformers_itself_builds_the_gates_in_a_process_that_has_some(saved):
    model, folder = saved
    for cls in (t.AutoModelForImageClassification, t.ResNetForImageClassification):
        assert same(cls.from_pretrained(folder / "sub"), model)
    pipe = t.pipeline(
        "image-classification",
        model=str(folder / "sub"),
        image_processor=t.ConvNextImageProcessor(),
        device="cpu",
    )
    assert same(pipe.model, model)


def test_a_network_from_a_configuration_has_gates_at_their_start(saved):
    config = t.AutoConfig.from_pretrained(saved[1] / "sub")
    torch.manual_seed(0)
    model = t.AutoModelForImageClassification.from_config(config)
    for gate in attached(model).values():
        first = ab.Recalibrate(gate.channels, gate.recipe).state_dict()
        shapes = {key: value.shape for key, value in first.items()}
        assert {key: value.shape for key, value in gate.state_dict().items()} == shapes
        assert torch.equal(gate.state_dict()["0.bn.weight"], first["0.bn.weight"])
    assert len(attached(model)) == 2


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
@pytest.mark.parametrize("block", ["ab", "se", "cbam"])
def test_transformers_leaves_the_values_of_gates_alone(name, block):
    model = boosted(NETWORKS[name][0](), block, init="identity")
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_base_weights_in_a_boosted_configuration_start_the_gates_anew(saved, tmp_path):
    small_resnet(num_labels=3).save_pretrained(tmp_path)
    config = t.AutoConfig.from_pretrained(saved[1] / "sub")
    with pytest.warns(UserWarning, match="gates of this ResNetForImageClassification.* start anew"):
        model = t.ResNetForImageClassification.from_pretrained(tmp_path, config=config)
    norm = attached(model)["resnet.encoder.stages.0.layers.0.layer.1.normalization"][0].bn
    assert torch.equal(norm.running_var, torch.ones(8))
    assert torch.equal(norm.weight, torch.ones(8))


# --- nothing is lost in silence


def test_errors_of_from_pretrained(saved, tmp_path):
    plain = small_resnet()
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no gates were saved .* ab\.boost"):
        ours.from_pretrained(tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no config\.json .*give the folder"):
        ours.from_pretrained(tmp_path / "empty")
    boosted(plain).save_pretrained(tmp_path / "gates")
    config = config_of(tmp_path / "gates")
    own = config | {"architectures": ["MyNetwork"]}
    (tmp_path / "gates" / "config.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match=r"names the classes \['MyNetwork'\].* give .* cls="):
        ours.from_pretrained(tmp_path / "gates")
    del config["accuracy_booster"], config["transformers_weights"]  # as a tool that writes its own
    (tmp_path / "gates" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="12 tensors of gates were saved for which"):
        t.AutoModelForImageClassification.from_pretrained(tmp_path / "gates")


def test_a_configuration_that_was_changed_after_saving(saved):
    changed = {"hidden_sizes": [8, 32], "ignore_mismatched_sizes": True}
    with pytest.raises(ValueError, match=r"'accuracy_booster'\) that do not fit .* 32 channels"):
        ours.from_pretrained(saved[1] / "sub", **changed)


def test_a_folded_network_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="save the network that it was folded from"):
        ab.fold(boosted(), example=EXAMPLE).save_pretrained(tmp_path)


def test_gates_that_were_taken_off_leave_no_trace(tmp_path):
    small_resnet().save_pretrained(tmp_path / "plain")
    model = boosted()
    model.save_pretrained(tmp_path / "gates")
    ab.unboost(model).save_pretrained(tmp_path / "off")
    assert config_of(tmp_path / "off") == config_of(tmp_path / "plain")
    loaded = t.AutoModelForImageClassification.from_pretrained(tmp_path / "off")
    assert same(loaded, model)


def test_saving_leaves_a_shared_configuration_as_it_was(tmp_path):
    config = t.ResNetConfig(**small_resnet().config.to_dict())
    for trial in ("first", "second"):  # a search for hyper-parameters builds from one configuration
        model = t.AutoModelForImageClassification.from_config(config)
        boosted(model).save_pretrained(tmp_path / trial)
        assert not hasattr(config, "accuracy_booster")
        assert len(attached(ours.from_pretrained(tmp_path / trial))) == 2


class OwnConfig(t.PreTrainedConfig):
    model_type = "own_network"


class OwnNetwork(t.PreTrainedModel):
    """A network of a user, which boosts itself."""

    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.resnet = small_resnet()
        ab.boost(
            self.resnet, "ab", where=["resnet.encoder.stages.0.layers.0.layer.1.normalization"]
        )
        self.post_init()

    def forward(self, x):
        return self.resnet(x)


def test_a_class_that_boosts_itself_needs_no_record(tmp_path):
    model = gates.stir(OwnNetwork(OwnConfig())).eval()
    model.save_pretrained(tmp_path)
    assert not {"accuracy_booster", "transformers_weights"} & config_of(tmp_path).keys()
    assert same(OwnNetwork.from_pretrained(tmp_path), model)


def test_files_of_adapters_hold_no_gates(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft", exc_type=ImportError)
    config = peft.LoraConfig(target_modules=r".*layer\.\d\.convolution", r=2)
    model = peft.get_peft_model(small_resnet().eval(), config)
    boosted(model)
    with pytest.warns(UserWarning, match=r"files of an adapter hold no gates; ab\.save"):
        model.save_pretrained(tmp_path)
    ab.save(model, tmp_path / "gates")
    base = small_resnet()
    base.load_state_dict(
        {
            key.removeprefix("base_model.model.").replace(".base_layer", ""): value
            for key, value in model.state_dict().items()
            if "lora" not in key and "recalibrate" not in key
        }
    )
    again = peft.PeftModel.from_pretrained(base.eval(), tmp_path)
    assert same(ab.load(again, tmp_path / "gates"), model)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert same(ours.from_pretrained(tmp_path / "merged"), merged)


def test_norms_that_detr_replaces_keep_their_gates():
    from transformers.models.detr.modeling_detr import replace_batch_norm

    model = boosted(t.AutoBackbone.from_config(resnet(4)))
    before = outputs(model)
    with torch.no_grad():
        replace_batch_norm(model)
    with pytest.warns(UserWarning, match=r"a tool rebuilt .* ab\.repair"):
        after = outputs(model)
    assert len(attached(model)) == 4
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_norms_that_timm_freezes_keep_their_gates():
    config = t.TimmBackboneConfig(
        backbone="resnet10t", use_pretrained_backbone=False, out_indices=(1, 2)
    )
    model = boosted(t.AutoBackbone.from_config(config))
    before = outputs(model)
    model.freeze_batch_norm_2d()
    assert len(attached(model)) == 2
    for a, b in zip(before, outputs(model), strict=True):
        torch.testing.assert_close(a, b)


def test_a_detector_built_around_a_boosted_backbone_keeps_its_gates(tmp_path):
    config = boosted(t.AutoBackbone.from_config(resnet(4))).config
    model = detector("Detr", backbone_config=config, use_timm_backbone=False, **DETR).eval()
    assert sum(".recalibrate." in key for key in model.state_dict()) == 4 * 6
    gates.stir(model).save_pretrained(tmp_path)
    assert "accuracy_booster" not in config_of(tmp_path)["backbone_config"]
    loaded = ours.from_pretrained(tmp_path)
    assert len(attached(loaded)) == 4
    assert same(loaded, model)


# --- training


def samples(count=48):
    images = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(images)]


def trainer(folder, model=None, **options):
    arguments = {
        "per_device_train_batch_size": 16, "num_train_epochs": 2, "learning_rate": 0.05,
        "save_strategy": "steps", "save_steps": 2, "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "logging_strategy": "no", "weight_decay": 0.1,
    }  # fmt: skip
    init = options.pop("model_init", None)
    return t.Trainer(
        model=model,
        model_init=init,
        args=t.TrainingArguments(str(folder), **arguments | options),
        train_dataset=samples(),
        eval_dataset=samples(),
        compute_metrics=lambda p: {"accuracy": np.mean(p.predictions.argmax(-1) == p.label_ids)},
    )


def fresh():
    torch.manual_seed(0)
    model = small_resnet(num_labels=3)
    return ab.boost(model, "ab", init="identity", example=torch.zeros(1, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the trainer after six steps, its folder), with checkpoints after two, four and six."""
    folder = tmp_path_factory.mktemp("trained")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = trainer(
            folder,
            fresh(),
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
        )
        runner.train()
    runner.save_model(folder / "best")
    return runner, folder


def state_in(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_a_training_changes_and_saves_the_gates(trained):
    runner, folder = trained
    start = fresh().state_dict()
    for step in (2, 4, 6):
        state = state_in(folder / f"checkpoint-{step}")
        assert state.keys() == start.keys()
        changed = [k for k in state if ".recalibrate." in k and not torch.equal(state[k], start[k])]
        assert len(changed) > 6
    best = state_in(runner.state.best_model_checkpoint)
    assert runner.model.state_dict().keys() == best.keys()
    assert all(torch.equal(v, best[k]) for k, v in runner.model.state_dict().items())
    loaded = ours.from_pretrained(folder / "best")
    loss = trainer(folder / "again", loaded).evaluate()["eval_loss"]
    assert loss == runner.evaluate()["eval_loss"] == runner.state.best_metric


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(trained, tmp_path):
    _, folder = trained
    runner = trainer(tmp_path, fresh())
    runner.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    expected = state_in(folder / "checkpoint-6")
    state = runner.model.state_dict()
    assert runner.state.global_step == 6
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_a_network_that_the_trainer_makes(trained, tmp_path):
    runner = trainer(tmp_path, model_init=fresh, max_steps=2, torch_compile=True,
                     torch_compile_backend="eager")  # fmt: skip
    runner.train()
    expected = state_in(trained[1] / "checkpoint-2")
    state = state_in(tmp_path / "checkpoint-2")
    assert state.keys() == expected.keys()
    assert len(attached(runner.model)) == 2


def test_the_trainer_decays_gates_as_it_decays_norms(trained):
    runner, _ = trained
    decayed = set(runner.get_decay_parameter_names(runner.model))
    names = [n for n, _ in runner.model.named_parameters() if ".recalibrate." in n]
    assert {n for n in names if n not in decayed} == {n for n in names if n.endswith("bias")}
    assert any(n.endswith("normalization.weight") for n in decayed)


def test_gradient_checkpointing_of_a_detector():
    model = boosted(NETWORKS["detr"][0]()).train()
    model.gradient_checkpointing_enable()
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4)}] * 2
    model(torch.randn(2, 3, 64, 64), labels=labels).loss.backward()
    assert all(p.grad is not None for p in ab.added_parameters(model))


def test_a_pipeline_takes_a_boosted_network(saved):
    model, _ = saved
    processor = t.ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=1.0)
    pipe = t.pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    image = Image.fromarray(np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3))
    with torch.no_grad():
        expected = model(**processor(image, return_tensors="pt")).logits.softmax(-1)[0]
    found = [result["score"] for result in pipe(image)]
    assert found == pytest.approx(sorted(expected.tolist(), reverse=True), rel=1e-5)


# --- a new process, and export

NEW_PROCESS = """
import sys
import torch
from transformers import AutoConfig, AutoModelForImageClassification, ResNetForImageClassification

folder, result = sys.argv[1:]
errors = []
for cls in (AutoModelForImageClassification, ResNetForImageClassification):
    try:
        cls.from_pretrained(folder)
        errors.append(None)
    except Exception as e:
        errors.append(f"{type(e).__name__}: {e}")
kind = AutoConfig.from_pretrained(folder).model_type
assert "accuracy_booster" not in sys.modules
import accuracy_booster as ab

model = ab.integrations.transformers.from_pretrained(folder)
x = torch.linspace(-2, 2, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
with torch.no_grad():
    logits = model(x).logits
torch.save((errors, kind, type(model).__name__, logits), result)
"""


def test_a_new_process(trained, tmp_path):
    runner, folder = trained
    result = tmp_path / "result.pt"
    root = str(Path(ab.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, folder / "best", result],
        check=True,
        env={**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    errors, kind, name, logits = torch.load(result)
    for error in errors:
        assert error.startswith("ValueError")
        assert GUARD in error
    assert (kind, name) == ("resnet", "ResNetForImageClassification")
    x = torch.linspace(-2, 2, 2 * 3 * SIDE * SIDE).reshape(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(runner.model.eval()(x).logits, logits)


def test_onnx(saved, tmp_path):
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    model, _ = saved
    x = torch.randn(2, 3, SIDE, SIDE)
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(x).logits)
