"""Boosted names in timm: its registry, its configs, its files, and its tools on such networks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings

import pytest
import timm
import torch
from timm import models, optim, utils
from timm.data import resolve_data_config
from timm.layers import convert_splitbn_model, convert_sync_batchnorm, freeze_batch_norm_2d
from timm.utils import CheckpointSaver, ModelEmaV2, ModelEmaV3

import accuracy_booster as ab
from accuracy_booster.integrations.boosted_names import is_block
from accuracy_booster.integrations.timm import register, why_too_old
from accuracy_booster.surgery import attached

NAME = "ab_test_resnet"
BLOCKS = ("ab", "ab_plus", "se", "eca", "cbam", "ge_theta_plus", "design_e", "ab_g4")
# the network warns that it has attention, and gates that a batch of few images is small
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:the network has", "ignore:the batch norm of", "ignore:.*norm whose weight is zero"
    ),
    pytest.mark.skipif(why_too_old() is not None, reason="boosted names need timm 1.0.31 or newer"),
]


@pytest.fixture(scope="module", autouse=True)
def names():
    return register()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def made(name=NAME, **options):
    """A boosted network of 4 classes in eval mode, whose gates and norms have random weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"num_classes": 4, **options})
    for key, parameter in model.named_parameters():
        if "recalibrate" in key or parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5 if key.endswith("bias") else 1.0, 0.3)
    return model.eval()


@pytest.fixture
def network():
    return made()


@pytest.fixture
def weights(tmp_path):
    """A file of weights of the base network, of 1000 classes."""
    torch.manual_seed(1)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "base.pth")
    return {"file": str(tmp_path / "base.pth")}


@pytest.fixture
def boosted_file(network, tmp_path):
    """A file of the weights of `network`, as a config of timm names it."""
    torch.save(network.state_dict(), tmp_path / "boosted.pth")
    return {"file": str(tmp_path / "boosted.pth"), "num_classes": 4}


def gates_of(model):
    return {name: parameter for name, parameter in model.state_dict().items() if "recalib" in name}


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert a
    assert all(torch.equal(a[key], b[key]) for key in a)


# --- the registry


def test_importing_registers_nothing_and_a_saved_network_is_unknown_without_names(
    network, tmp_path
):
    models.save_for_hf(network, tmp_path)
    code = (
        "import timm, torchvision, accuracy_booster.integrations.timm as t\n"
        "import accuracy_booster.integrations.torchvision\n"
        "assert not torchvision.models.list_models(include='ab_*')\n"
        "assert not timm.is_model('ab_test_resnet')\n"
        f"try: timm.create_model('local-dir:{tmp_path}', pretrained=True)\n"
        "except RuntimeError as e: print(e)\n"
        "t.register()\n"
        f"print(type(timm.create_model('local-dir:{tmp_path}').layer1[0].bn2).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["Unknown model (ab_test_resnet)", "GatedBatchNorm2d"]


def test_the_registry_has_the_names_and_is_otherwise_as_it_was(names):
    base = timm.list_models(exclude_filters="ab_*")
    assert not any(name.startswith("ab_") for name in base)
    assert timm.list_models("ab_*") == names == timm.list_models(module="boosted")
    assert {name.removeprefix("ab_") for name in names} <= set(base)
    assert len(names) > 800
    assert "boosted" in timm.list_modules()
    pretrained = timm.list_pretrained("ab_resnet50*")
    assert [name.removeprefix("ab_") for name in pretrained] == timm.list_pretrained("resnet50*")
    for name in ("ab_resnet50", "ab_resnet50.se", "ab_resnet50.tv2_in1k"):
        assert timm.is_model(name)
        assert timm.is_model_pretrained(name)
    assert not timm.is_model("ab_vit_tiny_patch16_224")  # tokens
    assert not timm.is_model("ab_gluon_resnet50_v1b")  # a former name
    assert timm.model_entrypoint("ab_resnet50.se").__name__ == "ab_resnet50"
    assert models.get_pretrained_cfg("ab_resnet50.se").hf_hub_id == "timm/resnet50.a1_in1k"
    assert models.get_pretrained_cfg("resnet50").architecture == "resnet50"


def test_registering_again_adds_only_what_is_new(names):
    def test_own_network(pretrained=False, **options):
        return timm.create_model("test_resnet", **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = time.process_time()
        assert register() == names
        assert time.process_time() - started < 1
    models.register_model(test_own_network)
    registry = models._registry
    try:
        assert set(register()) - set(names) == {"ab_test_own_network"}
        assert len(attached(timm.create_model("ab_test_own_network"))) == 4
    finally:
        for name in ("test_own_network", "ab_test_own_network"):
            registry._clear_model_entries(name)
            del registry._model_entrypoints[name]


def test_no_tag_means_two_things():
    tags = {name.partition(".")[2] for name in timm.list_models(include_tags=True)}
    assert len(tags) > 100
    assert not [tag for tag in tags if is_block(tag)]
    assert all(is_block(block) for block in ab.list_recipes())


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_in_the_name_or_as_an_option(block):
    by_name = timm.create_model(f"{NAME}.{block}")
    by_option = timm.create_model(NAME, block=block)
    init = "paper" if block == "design_e" else "identity"  # without weights: p is never 1
    base = ab.boost(timm.create_model("test_resnet"), block, init=init)
    for model in (by_name, by_option):
        assert {n: str(g) for n, g in attached(model).items()} == {
            n: str(g) for n, g in attached(base).items()
        }
        assert model._model_args["block"] == block
    assert by_name.pretrained_cfg["tag"] == block


def test_the_same_name_computes_the_same_with_and_without_pretrained_weights(
    weights, images, tmp_path
):
    """A script trains with --pretrained, and validates the file without it."""
    trained = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=weights).eval()
    for gate in ab.added_parameters(trained):
        torch.nn.init.normal_(gate)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    validated = timm.create_model(NAME, checkpoint_path=str(tmp_path / "trained.pth")).eval()
    assert torch.equal(trained(images), validated(images))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (f"{NAME}.nonsense", {}, "unknown tag 'nonsense'"),
        (f"{NAME}.ab", {"block": "se"}, "names two blocks"),
        (NAME, {"block": "nonsense"}, "unknown block 'nonsense'"),
        (NAME, {"block": ab.recipe("se")}, "must be a text"),
        (NAME, {"init": "zero"}, "'paper' or 'identity'"),
        (NAME, {"where": lambda *_: True}, "cannot be written"),
        (NAME, {"grammar": 99}, "install a newer one"),
        (NAME, {"scriptable": True}, "torch.jit.script cannot compile gates"),
        ("ab_levit_128s", {}, "ab_levit_128s: Levit"),
        ("ab_test_efficientnet", {}, "where='conv'"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, words):
    with pytest.raises(ValueError, match=words) as error:
        timm.create_model(name, **options)
    assert "\n" not in str(error.value)


def test_our_own_create_model_boosts_only_by_its_own_option():
    with pytest.raises(ValueError, match=r"nearest: timm/test_resnet.*give the block apart"):
        ab.create_model(f"timm/{NAME}.ab")
    assert not any("/ab_" in name for name in ab.list_models("timm/*resnet*"))


# --- timm's options and configs


def test_the_config_says_what_the_network_is():
    base, model = timm.create_model("test_resnet", in_chans=1), made(f"{NAME}.se", in_chans=1)
    assert model.default_cfg is model.pretrained_cfg
    changed = {k for k, v in base.pretrained_cfg.items() if model.pretrained_cfg[k] != v}
    assert changed == {"architecture", "tag"}
    assert (model.pretrained_cfg["architecture"], model.pretrained_cfg["tag"]) == (NAME, "se")
    assert resolve_data_config(model=model) == resolve_data_config(model=base)
    assert models.safe_model_name(f"{NAME}.se") == "ab_test_resnet_se"


def test_an_older_timm_is_refused_and_told(monkeypatch):
    """timm 1.0.30 and older write no arguments into config.json."""
    monkeypatch.delattr(models._hub, "get_model_args")
    with pytest.raises(ValueError, match=r"need timm 1\.0\.31 or newer.*pip install -U timm"):
        register()


def test_a_resolved_name_keeps_its_block():
    """timm's scripts may hand a name on as its architecture and config."""
    resolved = models.resolve_model_input_args(f"{NAME}.se", num_classes=4)
    model = timm.create_model(**resolved)
    assert str(next(iter(attached(model).values())).recipe) == str(ab.recipe("se").as_identity())


def test_options_of_the_base_go_through(images):
    model = made(drop_path_rate=0.2, drop_rate=0.1, global_pool="max", in_chans=1, exportable=True)
    assert model.layer4[0].drop_path.drop_prob == pytest.approx(0.2)
    assert model.drop_rate == 0.1
    assert model.global_pool.pool_type == "max"
    assert model(images[:, :1]).shape == (2, 4)


def test_where_skip_and_the_size_of_images():
    assert list(attached(made(where="conv", skip=["layer*", "conv1"]))) == ["bn1"]
    assert list(attached(made(where="/layer[34].*bn2$/"))) == ["layer3.0.bn2", "layer4.0.bn2"]
    sides = [made(block="design_g", input_size=(3, s, s)) for s in (64, 96)]
    shapes = [gates_of(model)["layer1.0.bn2.recalibrate.0.dwconv.weight"].shape for model in sides]
    assert [shape[-1] for shape in shapes] == [16, 24]


def test_features_have_the_gates_of_the_whole_network(network, images, tmp_path, boosted_file):
    whole = dict(zip(range(5), network.forward_intermediates(images)[1], strict=True))
    for options in ({}, {"feature_cls": "getter"}, {"feature_cls": "fx"}, {"feature_cls": "hook"}):
        features = timm.create_model(
            NAME,
            features_only=True,
            pretrained=True,
            pretrained_cfg_overlay=boosted_file,
            out_indices=(2, 4),
            **options,
        ).eval()
        assert len(attached(features)) == 4
        for index, found in zip((2, 4), features(images), strict=True):
            torch.testing.assert_close(found, whole[index])


# --- weights


@pytest.mark.parametrize("options", [{}, {"num_classes": 7}, {"in_chans": 1}])
def test_weights_of_the_base(options, weights, images):
    torch.manual_seed(0)
    base = timm.create_model(
        "test_resnet", pretrained=True, pretrained_cfg_overlay=weights, **options
    )
    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=weights, **options)
    assert len(attached(model)) == 4
    x = images[:, : options.get("in_chans", 3)]
    assert torch.equal(model.eval()(x), base.eval()(x))
    assert model.pretrained_cfg["file"] == weights["file"]


@pytest.mark.parametrize("options", [{}, {"num_classes": 7}, {"in_chans": 1}])
def test_weights_with_gates(options, network, boosted_file):
    options = {"num_classes": 4, **options}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=boosted_file, **options)
    assert_same(gates_of(model), gates_of(network))
    assert torch.equal(model.layer4[0].conv2.weight, network.layer4[0].conv2.weight)
    assert model.pretrained_cfg["file"] == boosted_file["file"]
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize(
    "options", [{"block": "eca"}, {"block": "ab_plus"}, {"where": "conv"}, {"skip": "layer1"}]
)
def test_weights_with_other_gates_are_refused(options, boosted_file):
    with pytest.raises(ValueError, match=r"with other gates.*with which it was trained") as error:
        timm.create_model(
            NAME, pretrained=True, pretrained_cfg_overlay=boosted_file, num_classes=4, **options
        )
    assert "'layer1.0.bn2.recalibrate" in str(error.value) or "'bn1.recal" in str(error.value)


@pytest.mark.parametrize("network_has_gates", [True, False])
def test_a_checkpoint_of_the_other_kind_is_an_error(network_has_gates, boosted_file, weights):
    """--initial-checkpoint, --checkpoint and --resume load so."""
    name, file = (NAME, weights) if network_has_gates else ("test_resnet", boosted_file)
    classes = 1000 if network_has_gates else 4
    with pytest.raises(RuntimeError, match=r"bn2\.recalibrate"):
        timm.create_model(name, num_classes=classes, checkpoint_path=file["file"])
    model = timm.create_model(name, num_classes=classes)
    with pytest.raises(RuntimeError, match=r"bn2\.recalibrate"):
        models.load_checkpoint(model, file["file"])
    # `remap=True` goes by order and stops where the shapes are others
    with pytest.raises(AssertionError, match="Remap failed"):
        models.load_checkpoint(model, file["file"], remap=True)


def test_a_plain_name_tells_that_it_leaves_gates_out(boosted_file, caplog):
    """timm loads with strict=False where the head has other classes, and then warns."""
    overlay = {**boosted_file, "num_classes": -1}  # as --pretrained-path does
    timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "Unexpected keys (layer1.0.bn2.recalibrate" in warning


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (f"{NAME}.se", {}),
        (NAME, {"block": "gap | dense | sigmoid", "init": "paper"}),
        (NAME, {"where": "conv", "skip": ["layer1"], "in_chans": 1}),
        ("ab_test_byobnet", {"where": "attention"}),
    ],
)
def test_what_timm_saves_comes_back(name, options, images, tmp_path):
    model = made(name, **options)
    models.save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == name.partition(".")[0]
    assert config["model_args"]["block"] == model._model_args["block"]
    x = images[:, : options.get("in_chans", 3)]
    source = f"local-dir:{tmp_path}"
    loaded = timm.create_model(source, pretrained=True).eval()
    assert torch.equal(loaded(x), model(x))
    other_head = timm.create_model(source, pretrained=True, num_classes=9)
    assert_same(gates_of(other_head), gates_of(model))
    # and once more, from what was loaded
    models.save_for_hf(loaded, tmp_path / "again")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))


# --- timm's tools on a boosted network


def test_checkpoints_averages_and_resuming(network, images, tmp_path):
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    averages = [kind(network, decay=0.5) for kind in (ModelEmaV3, ModelEmaV2)]
    network(images).sum().backward()
    before = {name: value.clone() for name, value in gates_of(network).items()}
    optimizer.step()
    for average in averages:
        average.update(network)
        for name, value in gates_of(average.module).items():
            if value.is_floating_point():
                expected = 0.5 * before[name] + 0.5 * gates_of(network)[name]
                torch.testing.assert_close(value, expected)
    saver = CheckpointSaver(network, optimizer, model_ema=averages[0], checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    file = str(tmp_path / "last.pth.tar")
    resumed = made()
    new_optimizer = torch.optim.SGD(resumed.parameters(), 0.1, momentum=0.9)
    assert models.resume_checkpoint(resumed, file, new_optimizer) == 1
    assert torch.equal(resumed(images), network(images))
    for one, other in zip(ab.added_parameters(network), ab.added_parameters(resumed), strict=True):
        momentum = new_optimizer.state[other]["momentum_buffer"]
        assert torch.equal(momentum, optimizer.state[one]["momentum_buffer"])
    averaged = made()
    models.load_checkpoint(averaged, file, use_ema=True)
    assert torch.equal(averaged(images), averages[0].module(images))


def test_norms_that_timm_rebuilds_keep_their_gates(images):
    for convert in (convert_sync_batchnorm, convert_splitbn_model, freeze_batch_norm_2d):
        model = made()
        before = model(images)
        converted = convert(model).eval()
        assert len(attached(converted)) == 4, convert
        torch.testing.assert_close(converted(images), before)
        with ab.disabled(converted):
            assert not torch.allclose(converted(images), before, atol=1e-2), convert


@pytest.mark.parametrize(
    "name",  # each replaces, or deletes, other modules: see docs/trainers/timm.md
    ["repvit_m0_9", "efficientvim_m1", "shvit_s1", "repghostnet_050", "lcnetv2_small"],
)
@pytest.mark.filterwarnings("ignore:a tool rebuilt")
def test_reparameterized_networks_keep_their_gates(name):
    model, images = made(f"ab_{name}"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        fused = models.reparameterize_model(model)
        torch.testing.assert_close(fused(images), before, rtol=1e-3, atol=1e-3)
        assert len(attached(fused)) == len(attached(model)) > 0
        with ab.disabled(fused), ab.disabled(model):
            torch.testing.assert_close(fused(images), model(images), rtol=1e-3, atol=1e-3)
            assert not torch.allclose(fused(images), before, rtol=0.02, atol=0.02)


def test_gates_learn_in_split_norms(images):
    """Their own norms are split too, though timm's split norm takes maps alone."""
    model = convert_splitbn_model(made(), 2).train()
    model(images.repeat(4, 1, 1, 1)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in ab.added_parameters(model))


def test_freeze_and_unfreeze(network, images):
    before = network(images)
    utils.freeze(network, ["layer1"])
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert any("recalibrate" in name for name in frozen)
    assert all(name.startswith("layer1") for name in frozen)
    torch.testing.assert_close(network(images), before)
    utils.unfreeze(network, ["layer1"])
    assert len(attached(network)) == 4
    assert all(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(network.eval()(images), before)


def test_layer_decay_gives_a_gate_the_rate_of_its_layer(network):
    optimizer = optim.create_optimizer_v2(
        network, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7
    )
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    for name, gate in attached(network).items():
        norm = network.get_submodule(name)
        assert {scale[id(p)] for p in gate.parameters()} == {scale[id(norm.weight)]}


def test_a_network_rebuilt_from_a_text_of_shapes_keeps_its_gates(network, images):
    """timm builds its pruned networks so; it makes each convolution and norm anew."""
    shapes = "***".join(f"{n}:{list(value.shape)}" for n, value in network.state_dict().items())
    rebuilt = models.adapt_model_from_string(network, shapes)
    assert_same(gates_of(rebuilt), gates_of(network))
    assert rebuilt.layer1[0].bn2 is not network.layer1[0].bn2
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt.eval()(images), network(images))


def test_heads_checkpointing_and_pruning(network, images):
    plain = network(images)
    gradients = []
    for enable in (False, True):
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        network(images).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    network.reset_classifier(7)
    assert network(images).shape == (2, 7)
    network.reset_classifier(0)
    assert network(images).shape != plain.shape
    whole = network.forward_intermediates(images, indices=[2], intermediates_only=True)
    network.prune_intermediate_layers([2])
    assert list(attached(network)) == ["layer1.0.bn2", "layer2.0.bn2"]
    part = network.forward_intermediates(images, indices=[2], intermediates_only=True)
    assert torch.equal(part[0], whole[0])


def test_exporting(network, images, tmp_path):
    before = network(images)
    exported = torch.export.export(network, (images,))
    torch.testing.assert_close(exported.module()(images), before)
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    file = str(tmp_path / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (images,), file, dynamo=False, input_names=["x"])
    (found,) = runtime.InferenceSession(file).run(None, {"x": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), before, rtol=1e-4, atol=1e-4)
